"""What a plan saves: a steady block of the denoiser without values, priced call by call for a chip."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from liveact_kernels.compiled.predict import LABEL, Unpredictable
from liveact_kernels.contract import Call, record
from liveact_kernels.cost.hw import CHIPS
from liveact_kernels.cost.memory import nbytes
from liveact_model.avatar import Avatar
from liveact_model.config import DiTConfig
from liveact_model.dit import DiT, Precision
from liveact_model.dry import Rows, Silence
from liveact_model.errors import InputError
from liveact_model.session import Session

COSTS = ("predicted", "floor")
FLOOR = "floors at datasheet rates, not a measurement"
STEADY_BLOCK = 1
"""The first whose calls are those of all later ones."""


class _Still:
    """A VAE that only has shapes."""

    def __init__(self, z_dim: int):
        self.z_dim = z_dim

    def encode(self, video: Tensor) -> Tensor:
        """[z, latent frames, h, w] without data."""
        frames, height, width = video.shape[1:]
        return torch.empty(self.z_dim, (frames + 3) // 4, height // 8, width // 8, device="meta")

    def stream(self) -> None:
        """Nothing is decoded."""


def calls_of(config: DiTConfig, timesteps: tuple[float, ...], size: tuple[int, int], plan: Precision) -> list[Call]:
    """Every op that the denoiser calls in a steady block at (width, height) pixels."""
    with torch.device("meta"):
        dit = DiT(config).to_precision(plan).requires_grad_(False).eval()
    text, image = Rows(config.text_len, config.text_dim), Rows(config.clip_tokens, config.clip_dim)
    audio: Any = Silence(config.audio_blocks, config.audio_channels)
    avatar = Avatar("", dit, _Still(config.out_dim), text, image, audio, size, 20.0, timesteps)  # type: ignore[arg-type]
    bits = {"eight_bit_memory": plan.eight_bit_memory, "eight_bit_attention": plan.eight_bit_attention}
    session = Session(avatar, torch.empty(3, size[1], size[0], device="meta"), "", graphs=False, **bits)
    for _ in range(STEADY_BLOCK):
        session.next_latents()
    with record() as calls:
        session.next_latents()
    return calls


class Costs:
    """Ms per video frame of a model's denoiser by plan, at a size, on a chip; `kind` is one of COSTS.

    Raises InputError for a chip that nobody knows, and where "predicted" is asked for and nothing here can predict.
    """

    def __init__(
        self, config: DiTConfig, timesteps: tuple[float, ...], size: tuple[int, int], chip: str, kind: str | None
    ):
        if chip not in CHIPS:
            raise InputError(f"--chip: expected one of {', '.join(CHIPS)}, got {chip!r:.60}")
        self._config, self._times, self._size, self.chip = config, timesteps, size, chip
        self._known: dict[tuple, float] = {}
        lack = _lack(chip)
        if kind == "predicted" and lack:
            raise InputError(f"--cost: expected floor here, since nothing can be predicted: {lack}")
        self.kind = kind or ("floor" if lack else "predicted")

    @property
    def label(self) -> str:
        """What its numbers are."""
        return FLOOR if self.kind == "floor" else LABEL

    @functools.cache  # noqa: B019 - one of these lives as long as the command
    def ms(self, plan: Precision, layers: int | None = None) -> float:
        """Of a plan; `layers`: of a model with so many layers, for which the plan is then."""
        config = self._config if layers is None else self._config.with_(num_layers=layers)
        calls = calls_of(config, self._times, self._size, plan)
        return sum(map(self._us, calls)) / 1e3 / config.block_video_frames

    def knows(self, name: str) -> bool:
        """Whether the chip has a rate for all that a feed-forward in this format does."""
        plan, rates = Precision("bfloat16", (("blocks.0.ffn", name),)), CHIPS[self.chip].flops
        try:
            calls = calls_of(self._config.with_(num_layers=1), self._times, self._size, plan)
        except InputError:  # a width that its groups do not divide
            return False
        return all(kind in rates for call in calls for kind in call.op.flops(call.dims))

    def fits(self, name: str) -> bool:
        """Whether a model that is loaded in a format has no layer whose width its groups do not divide."""
        with torch.device("meta"), contextlib.suppress(InputError):
            DiT(self._config.with_(num_layers=1)).to_precision(name)
            return True
        return False

    @functools.cache  # noqa: B019
    def saved(self, kind: str, name: str) -> float:
        """Ms per video frame that one unit of a kind saves in a format: "blocks.*.ffn" is one block's.

        What a steady block does not run, such as keys and values of a prompt, counts by the bytes of its weights, as if
        they were read once a block.
        """
        linears = ((kind.replace("*", "0"), name),)
        try:
            self._bytes(linears)
        except InputError:  # a width that its groups do not divide
            return 0.0
        if (found := self._one(()) - self._one(linears)) != 0:
            return found
        fewer = self._bytes(()) - self._bytes(linears)
        return 1e3 * fewer / CHIPS[self.chip].bandwidth / self._config.block_video_frames

    @functools.cache  # noqa: B019
    def _bytes(self, linears: tuple[tuple[str, str], ...]) -> int:
        with torch.device("meta"):
            dit = DiT(self._config.with_(num_layers=1)).to_precision(Precision("bfloat16", linears))
        return nbytes([*dit.parameters(), *dit.buffers()])

    @functools.cache  # noqa: B019
    def saved_by(self, **bits: bool) -> float:
        """Ms per video frame that an option of eight bits saves, of all layers."""
        return (self._one(()) - self._one((), **bits)) * self._config.num_layers

    def _one(self, linears: tuple[tuple[str, str], ...], **bits: bool) -> float:
        return self.ms(Precision("bfloat16", linears, **bits), 1)

    def _us(self, call: Call) -> float:
        key = call.op.name, str(sorted((k, str(v)) for k, v in vars(call.dims).items()))
        if key not in self._known:
            self._known[key] = self._price(call)
        return self._known[key]

    def _price(self, call: Call) -> float:
        chip = CHIPS[self.chip]
        if self.kind == "floor":
            return call.op.floor_us(call.dims, chip)
        from liveact_kernels.compiled.predict import frame, rates
        from liveact_kernels.compiled.predict.launches import Called

        shape, machine = Called(call.op, call.dims, 1), rates.MACHINES[self.chip]
        for cubins in (_cubins(), {}):  # the CUDA library where it takes the shape, else Triton alone
            with contextlib.suppress(Unpredictable):
                found = frame.line(shape, chip, machine, cubins)
                return found.us(found.parts) + max(1, len(found.parts)) * rates.GAP_US
        return frame.TORCH * call.op.floor_us(call.dims, chip) + rates.GAP_US


@functools.cache
def _cubins() -> dict[str, bytes]:
    from liveact_kernels.compiled.predict import frame

    return frame.code_of()


def _lack(chip: str) -> str:
    """Why nothing can be predicted of a chip here; empty where it can."""
    from liveact_kernels.compiled import sass
    from liveact_kernels.compiled.predict.rates import MACHINES

    if chip not in MACHINES:
        return f"the model of kernels has no rates for {CHIPS[chip].name}"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install liveact[triton])"
    try:
        sass.tools()
    except (Unpredictable, ModuleNotFoundError, OSError) as error:
        return str(error)
    return ""


def kinds(units: Iterable[str]) -> list[str]:
    """Units without their block's number, each once."""
    return list(dict.fromkeys(map(kind_of, units)))


def kind_of(unit: str) -> str:
    """"blocks.3.ffn" -> "blocks.*.ffn"."""
    parts = unit.split(".")
    return ".".join("*" if part.isdigit() else part for part in parts)
