"""What formats do to a model: to every linear layer's output on real activations, and to the latents at the end."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from liveact_kernels.contract import STATE
from liveact_model.avatar import Avatar
from liveact_model.dit import Activation, Format, Linear, Precision, Weights, stored, tried
from liveact_model.errors import InputError
from liveact_model.session import Session

ONCE = "once"  # what a layer does outside the denoise steps: prompts, pictures, time, audio
STEP = re.compile(r"step\[([0-9]+)\]")


@dataclass
class Errors:
    """Energies of a layer's differences and outputs by (path, format, denoise step), added up over a run."""

    apart: dict[tuple[str, str, str], float] = field(default_factory=dict)
    whole: dict[tuple[str, str, str], float] = field(default_factory=dict)

    def add(self, path: str, name: str, got: Tensor, want: Tensor) -> None:
        """Take one output [L, N] in a format, and the wide one."""
        step = next((m[1] for s in reversed(STATE.scopes) if (m := STEP.fullmatch(s))), ONCE)
        key = path, name, step
        want = want.float()
        self.apart[key] = self.apart.get(key, 0.0) + (got.float() - want).square().sum().item()
        self.whole[key] = self.whole.get(key, 0.0) + want.square().sum().item()

    def of(self, path: str, name: str) -> dict[str, float]:
        """Relative L2 errors of a layer in a format, by step; 1 where the output was zero and is not."""
        keys = [k for k in self.apart if k[:2] == (path, name)]
        return {k[2]: ratio(self.apart[k], self.whole[k]) for k in keys}

    def square(self, path: str, name: str) -> float:
        """The mean of the squares over the steps."""
        found = self.of(path, name).values()
        return sum(e * e for e in found) / max(1, len(found))


def ratio(apart: float, whole: float) -> float:
    """The relative L2 error of energies."""
    return 0.0 if apart == 0 else (apart / whole) ** 0.5 if whole else 1.0


class Probe(Format):
    """A wide format that also multiplies in other ones, one after the other, and notes how far they are off."""

    def __init__(self, base: Format, path: str, names: tuple[str, ...], errors: Errors):
        self.name, self._base, self._path, self._names, self._errors = base.name, base, path, names, errors
        self._again: Callable[[Weights], Activation] = lambda layer: layer

    def store(self, layer: Weights) -> None:
        """The layer is stored already: raises RuntimeError."""
        raise RuntimeError("Probe: a layer that is measured is not stored")

    def feeds(self, other: Format) -> bool:
        """As the wide format."""
        return self._base.feeds(other)

    def accept(self, layer: Weights, x: Tensor) -> Activation:
        """As the wide format."""
        self._again = lambda other: other.format.accept(other, x)
        return self._base.accept(layer, x)

    def norm(self, layer: Weights, x: Tensor, mul: Tensor, add: Tensor) -> Activation:
        """As the wide format."""
        self._again = lambda other: other.format.norm(other, x, mul, add)
        return self._base.norm(layer, x, mul, add)

    def _compare(self, layer: Weights, a: Activation) -> Tensor:
        want = self._base.linear(layer, a)
        for name in self._names:
            made = stored(layer, name)
            self._errors.add(self._path, name, made(self._again(made)), want)
        self._again = lambda other: other  # the activations need not stay
        return want

    def linear(self, layer: Weights, a: Activation) -> Tensor:
        """As the wide format."""
        return self._compare(layer, a)

    def gelu(self, layer: Weights, a: Activation, then: Weights) -> Activation:
        """As the wide format."""
        self._compare(layer, a)
        return self._base.gelu(layer, a, then)

    def gate(self, layer: Weights, a: Activation, x: Tensor, gate: Tensor) -> Tensor:
        """As the wide format."""
        self._compare(layer, a)
        return self._base.gate(layer, a, x, gate)

    def residual(self, layer: Weights, a: Activation, x: Tensor) -> Tensor:
        """As the wide format."""
        self._compare(layer, a)
        return self._base.residual(layer, a, x)


class Once:
    """A part of an avatar whose `encode` is always asked the same, and answers from memory from the second time on."""

    def __init__(self, part: Any):
        self._part, self._known = part, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def encode(self, *given: Any) -> Tensor:
        """What the part said the first time."""
        self._known = self._part.encode(*given) if self._known is None else self._known
        return self._known


def _takes(layer: Linear, name: str) -> bool:
    """Whether a layer can be stored in a format: groups of a row need not divide its width."""
    try:
        stored(layer, name)
    except InputError:
        return False
    return True


@dataclass
class Runner:
    """Runs of one Session on fixed inputs, with the same noise each time.

    picture  [3, H, W];  sound  mono samples [n] at 16 kHz;  heard  is told the video frames that each block covers
    """

    avatar: Avatar
    picture: Tensor
    prompt: str
    sound: Tensor
    blocks: int
    seed: int
    heard: Callable[[int], None] = lambda frames: None
    wide: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Remember what does not change from run to run."""
        a = self.avatar
        self.avatar = replace(a, text=Once(a.text), image=Once(a.image), vae=Once(a.vae))
        self._levels = a.measure_audio([self.sound], a.default_fps)

    def latents(self, **bits: bool) -> Iterator[Tensor]:
        """Latents of block after block; `bits` are the Session's options of eight bits."""
        fixed = {"seed": self.seed, "audio_levels": self._levels, "graphs": False}
        session = Session(self.avatar, self.picture, self.prompt, **fixed, **bits)
        session.push_audio(self.sound)
        session.close_audio()
        for _ in range(self.blocks):
            before = session.video_frames_made
            yield session.next_latents()
            self.heard(session.video_frames_made - before)

    def errors(self, names: tuple[str, ...]) -> Errors:
        """Run wide, keep its latents, and measure every layer in the formats `names`."""
        found, layers = Errors(), self.avatar.dit.linears()
        with contextlib.ExitStack() as back:
            for path, layer in layers.items():
                back.callback(setattr, layer, "format", layer.format)
                layer.format = Probe(layer.format, path, tuple(n for n in names if _takes(layer, n)), found)
            self.wide = [latent.cpu() for latent in self.latents()]
        return found

    def apart(self, plan: Precision) -> float:
        """The relative L2 error of the latents of all blocks by `plan`, against the wide run's."""
        bits = {"eight_bit_memory": plan.eight_bit_memory, "eight_bit_attention": plan.eight_bit_attention}
        off = whole = 0.0
        with tried(self.avatar.dit, plan):
            for got, want in zip(self.latents(**bits), self.wide):
                off += (got.cpu().double() - want.double()).square().sum().item()
                whole += want.double().square().sum().item()
        return ratio(off, whole)
