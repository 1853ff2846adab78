"""The released denoiser checkpoint: its keys and shapes, and where each tensor goes in `model.DiT`."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from liveact_kernels.cost.memory import nbytes

from ..checkpoint.files import Tensors
from ..checkpoint.footprint import must_fit
from ..checkpoint.statedict import check_keys, count_layers
from ..config import PATCH, TAPS, DiTConfig
from ..dit import DiT, Linear, Precision
from ..errors import InputError
from ..needs import WEIGHTS
from .placing import Placing


class Target(NamedTuple):
    """A parameter of ours and the released tensors that make it, stacked along rows in this order."""

    path: str
    keys: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


UNUSED = ("self_attn.memory_proj_v.", "audio_proj.proj1.")
"""Released tensors that never reach the output: values are folded with K's taps, and proj1 feeds a zeroed row."""


def _linear(path: str, keys: Iterable[str], N: int, K: int, tail: tuple[int, ...] = ()) -> list[Target]:
    keys = tuple(keys)
    weights, biases = tuple(f"{k}.weight" for k in keys), tuple(f"{k}.bias" for k in keys)
    return [
        Target(f"{path}.weight", weights, ((N, K, *tail),) * len(keys)),
        Target(f"{path}.bias", biases, ((N,),) * len(keys)),
    ]


def _norm(path: str, key: str, n: int) -> list[Target]:
    return [Target(f"{path}.{kind}", (f"{key}.{kind}",), ((n,),)) for kind in ("weight", "bias")]


def targets(c: DiTConfig) -> list[Target]:
    """Every parameter of a DiT with its released keys, in the order a loader should go."""
    d, width = c.dim, c.audio_blocks * c.audio_channels
    out = _linear("patch", ["patch_embedding"], d, c.in_dim, (1, PATCH, PATCH))
    out += _linear("text.fc1", ["text_embedding.0"], d, c.text_dim) + _linear("text.fc2", ["text_embedding.2"], d, d)
    out += _linear("time.fc1", ["time_embedding.0"], d, c.freq_dim) + _linear("time.fc2", ["time_embedding.2"], d, d)
    out += _linear("time.proj", ["time_projection.1"], 6 * d, d)
    out += _norm("image.norm_in", "img_emb.proj.0", c.clip_dim)
    out += _linear("image.fc1", ["img_emb.proj.1"], c.clip_dim, c.clip_dim)
    out += _linear("image.fc2", ["img_emb.proj.3"], d, c.clip_dim) + _norm("image.norm_out", "img_emb.proj.4", d)
    out += _linear("audio.proj1_vf", ["audio_proj.proj1_vf"], c.audio_hidden, (c.audio_window + 3) * width)
    out += _linear("audio.proj2", ["audio_proj.proj2"], c.audio_hidden, c.audio_hidden)
    out += _linear("audio.proj3", ["audio_proj.proj3"], c.audio_tokens * c.audio_dim, c.audio_hidden)
    out += _norm("audio.norm", "audio_proj.norm", c.audio_dim)
    for i in range(c.num_layers):
        out += _block(c, f"blocks.{i}")
    out += [Target("head.modulation", ("head.modulation",), ((1, 2, d),))]
    return out + _linear("head.head", ["head.head"], c.out_dim * PATCH * PATCH, d)


def _block(c: DiTConfig, b: str) -> list[Target]:
    d, sa, ca, aa = c.dim, f"{b}.self_attn", f"{b}.cross_attn", f"{b}.audio_cross_attn"
    ours = f"{b}.audio_attn"
    out = [Target(f"{b}.modulation", (f"{b}.modulation",), ((1, 6, d),))]
    out += _linear(f"{sa}.qkv", [f"{sa}.{n}" for n in "qkv"], d, d) + _linear(f"{sa}.o", [f"{sa}.o"], d, d)
    out += [Target(f"{sa}.norm_{n}", (f"{sa}.norm_{n}.weight",), ((d,),)) for n in "qk"]
    out += [Target(f"{sa}.taps", (f"{sa}.memory_proj_k.weight",), ((d, 1, TAPS),))]
    if c.separate_v_taps:
        out += [Target(f"{sa}.taps_v", (f"{sa}.memory_proj_v.weight",), ((d, 1, TAPS),))]
    out += _norm(f"{ca}.norm", f"{b}.norm3", d)
    for n in ("q", "k", "v", "o", "k_img", "v_img"):
        out += _linear(f"{ca}.{n}", [f"{ca}.{n}"], d, d)
    out += [Target(f"{ca}.{n}", (f"{ca}.{n}.weight",), ((d,),)) for n in ("norm_q", "norm_k", "norm_k_img")]
    out += _norm(f"{ours}.norm", f"{b}.norm_x", d)
    out += _linear(f"{ours}.q", [f"{aa}.q_linear"], d, d) + _linear(f"{ours}.proj", [f"{aa}.proj"], d, d)
    out += _linear(f"{ours}.kv", [f"{aa}.kv_linear"], 2 * d, c.audio_dim)
    out += _linear(f"{b}.ffn.up", [f"{b}.ffn.0"], c.ffn_dim, d)
    return out + _linear(f"{b}.ffn.down", [f"{b}.ffn.2"], d, c.ffn_dim)


def _to_ours(path: str, pieces: list[Tensor], c: DiTConfig) -> Tensor:
    if path.endswith((".taps", ".taps_v")):  # [C, 1, S] -> [S, H, D]
        return pieces[0][:, 0].T.reshape(TAPS, c.num_heads, c.head_dim)
    joined = pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
    if path == "patch.weight":
        return joined.flatten(1)
    return joined[0] if path.endswith("modulation") else joined


def _to_released(path: str, value: Tensor, shapes: tuple[tuple[int, ...], ...]) -> list[Tensor]:
    if path.endswith((".taps", ".taps_v")):
        return [value.flatten(1).T[:, None].contiguous()]
    return [p.reshape(s).contiguous() for p, s in zip(value.chunk(len(shapes)), shapes)]


def load(
    dit: DiT, state: Mapping[str, Tensor], precision: str | Precision, what: str = "checkpoint",
    device: torch.device | None = None, watch: Callable[[str, int, int], None] = lambda name, done, total: None,
    checked: bool = False, block_offload: bool = False,
) -> DiT:  # fmt: skip
    """Fill a DiT built on the meta device from released tensors, one layer at a time.

    Each tensor moves to `device` (None: stays) and linear layers take their format there as they arrive, so that an FP8
    load never holds the bf16 model; everything else becomes float32. `watch` hears how far it is, see
    `blueprint.Watch`; `checked`: `check` has found nothing; `block_offload`: as `Placing` says. Raises InputError
    naming the first wrong key, its expected and its found shape.
    """
    c, plan = dit.config, Precision.made(precision)
    if not checked:
        check(state, c, what)
    total = stored_bytes(c, plan)
    if device is None or device.type == "cpu":
        must_fit(total, f"{what} in {plan}")
    wanted = targets(c)
    counts = [sum(map(math.prod, target.shapes)) for target in wanted]
    done, whole, placing = 0, sum(counts), Placing(dit, device, block_offload, plan)
    for target, count in zip(wanted, counts):
        watch(WEIGHTS["dit"], total * done // whole, total)
        fill(dit, target, state, plan, placing.of(target.path))
        done += count
    placing.of("")
    watch(WEIGHTS["dit"], total, total)
    dit.dtype = plan.dtype
    return dit.eval()


def stored_bytes(c: DiTConfig, precision: str | Precision) -> int:
    """Bytes of a denoiser's weights in a precision."""
    with torch.device("meta"):
        dit = DiT(c).to_precision(precision)
    return nbytes([*dit.parameters(), *dit.buffers()])


def fill(
    dit: DiT, target: Target, state: Mapping[str, Tensor], plan: Precision, device: torch.device | None
) -> None:
    """Fill one parameter as `load` does; a bias comes after its weight and closes the layer.

    A file's tensor is read through a mapping of its own, so that its pages need not stay beside the codes. How much
    memory that saves has not been settled.
    """
    path = target.path
    value = value_of(target, state, dit.config, device)
    module, name = _owner(dit, path)
    linear = isinstance(module, Linear)
    value = value.to(plan.dtype if linear else torch.float32).contiguous()
    if isinstance(module, nn.ParameterDict):
        module[name] = nn.Parameter(value, requires_grad=False)
    else:
        setattr(module, name, nn.Parameter(value, requires_grad=False))
    if isinstance(module, Linear) and name == "bias":
        module.to_precision(plan.of(path.removesuffix(".bias")))


def value_of(
    target: Target, state: Mapping[str, Tensor], c: DiTConfig, device: torch.device | None = None
) -> Tensor:
    """The value of one parameter from released tensors, in their type."""
    read = state.take if isinstance(state, Tensors) else state.__getitem__
    return _to_ours(target.path, [read(k).to(device) for k in target.keys], c)


def released_of(target: Target, value: Tensor) -> list[Tensor]:
    """`value_of` backwards: the released tensors of one parameter, in the order of the target's keys."""
    return _to_released(target.path, value, target.shapes)


def export(dit: DiT) -> dict[str, Tensor]:
    """The released tensors of an unquantised DiT."""
    out: dict[str, Tensor] = {}
    for path, keys, shapes in targets(dit.config):
        module, name = _owner(dit, path)
        value = module[name] if isinstance(module, nn.ParameterDict) else getattr(module, name)
        out.update(zip(keys, _to_released(path, value.detach(), shapes)))
    return out


def infer_config(state: Mapping[str, Tensor], values: dict, what: str = "checkpoint") -> DiTConfig:
    """Sizes from the tensors themselves, what they cannot tell (heads, text length) from config.json `values`.

    The released class has defaults that are not the released model, so shapes win over every default.
    """

    def size(key: str, dim: int) -> int:
        if key not in state:
            raise InputError(f"{what}: expected key {key}, found none")
        shape = state[key].shape
        if len(shape) <= dim or 0 in shape:
            raise InputError(f"{what}: expected {key} with {dim + 1} or more dimensions, found {list(shape)}")
        return shape[dim]

    c = DiTConfig.from_dict({k: v for k, v in values.items() if k in _FROM_CONFIG})
    d, block = size("patch_embedding.weight", 0), "blocks.0."
    channels = values.get("audio_channels", c.audio_channels)
    rows = c.audio_window + 3
    audio_dim = size(f"{block}audio_cross_attn.kv_linear.weight", 1)
    heads = values.get("num_heads", max(1, d // 128))
    return c.with_(
        dim=d, num_heads=heads, num_layers=count_layers(state, "blocks."), ffn_dim=size(f"{block}ffn.0.weight", 0),
        in_dim=size("patch_embedding.weight", 1), out_dim=size("head.head.weight", 0) // (PATCH * PATCH),
        freq_dim=size("time_embedding.0.weight", 1), text_dim=size("text_embedding.0.weight", 1),
        clip_dim=size("img_emb.proj.1.weight", 0), audio_hidden=size("audio_proj.proj2.weight", 0),
        audio_dim=audio_dim, audio_tokens=size("audio_proj.proj3.weight", 0) // audio_dim,
        audio_channels=channels, audio_blocks=size("audio_proj.proj1_vf.weight", 1) // (rows * channels),
    )  # fmt: skip


_FROM_CONFIG = ("text_len", "clip_tokens", "audio_window", "eps", "rope_theta", "memory", "grouping",
                "separate_v_taps", "audio_channels")  # fmt: skip


def check(state: Mapping[str, Tensor], config: DiTConfig, what: str, without: Container[str] = ()) -> None:
    """Raise InputError naming the first key that is missing, of another shape or type than `config` says, or extra.

    without  paths of parameters that the state need not have
    """
    asked = (target for target in targets(config) if target.path not in without)
    wanted = {key: shape for target in asked for key, shape in zip(target.keys, target.shapes)}
    used = (key for key in state if key in wanted or not any(part in key for part in UNUSED))
    check_keys(_Part(state, used), wanted, what)


class _Part(Mapping[str, Tensor]):
    """Some keys of a state dict whose values are read when they are asked for."""

    def __init__(self, state: Mapping[str, Tensor], keys: Iterable[str]):
        self._state, self._keys = state, dict.fromkeys(keys)

    def __getitem__(self, key: str) -> Tensor:
        return self._state[key]

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _owner(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    parent, _, name = path.rpartition(".")
    return root.get_submodule(parent), name
