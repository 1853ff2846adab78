"""The networks of an evaluation from the user's weight files, and what a reader of their scores must know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from liveact_app.evaluate.arcface import IResNet
from liveact_app.evaluate.i3d import I3D
from liveact_app.evaluate.inception import Inception
from liveact_app.evaluate.judge import Judged, Networks
from liveact_app.evaluate.syncnet import SyncNet
from liveact_app.evaluate.weights import filled, identified, state_of
from liveact_app.generate.loading import device_of
from liveact_app.say import note

MAKERS = {"inception": Inception, "i3d": I3D, "syncnet": SyncNet}


def networks_of(files: Mapping[str, str], device: str, every: int) -> tuple[Networks, dict[str, Any]]:
    """The networks whose files are given (by name), and what each file is: path, bytes, SHA-256.

    Raises:
        InputError: a file that is not of its network's layout, or a device that is not there.
    """
    if not files:
        return Networks(), {}
    place, made, known = device_of(device), {}, {}
    for name, path in files.items():
        what = f"--{name}"
        state = state_of(path, what)

        def arcface(state: Mapping = state, what: str = what) -> IResNet:
            return IResNet.like(state, what)

        made[name] = filled(MAKERS.get(name, arcface), state, what).to(place)
        file, remark = identified(name, path)
        known[name] = {"file": path} | file.model_dump()
        if remark:
            note(remark)
    return Networks(**made, device=place, every=every), known


def remarks(networks: Networks, real: list[Judged], found: list[Judged], boxed: bool) -> list[str]:
    """Sentences on figures that cannot be, or should not be compared with published ones.

    Args:
        real: reference videos.
        boxed: whether the face's box was given.
    """
    out = []
    for name, network, part in (("FID", networks.inception, "pictures"), ("FVD", networks.i3d, "clips")):
        if network is None:
            continue
        if not real:
            out.append(f"{name} compares with reference videos, and there is none: --reference takes them")
            continue
        gaussians = [getattr(j, part) for j in (*real, *found)]
        least = min(g.count for g in gaussians)
        if least <= gaussians[0].size:
            out.append(f"{name} of {least} {part} with {gaussians[0].size} features: too few to compare with published "
                       f"figures")  # fmt: skip
    if not boxed and (networks.syncnet is not None or networks.arcface is not None):
        out.append("without --face SyncNet and ArcFace look at the centre square: published figures are of found faces")
    return out
