"""How wrong a result may be against the float64 reference, and why."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch

from .spec import cast


def _steps(x: torch.Tensor) -> torch.Tensor:
    """Integers whose order is the value's order: a difference counts representable steps."""
    if x.dtype in (torch.int8, torch.uint8):
        return x.long()
    bits = x.contiguous().view({1: torch.int8, 2: torch.int16, 4: torch.int32}[x.element_size()]).long()
    return torch.where(bits < 0, -(bits & ((1 << (8 * x.element_size() - 1)) - 1)), bits)


class Measured(NamedTuple):
    """One output against float64: accepted or not, its worst error and the bound in the tolerance's unit, and words."""

    ok: bool
    error: float
    bound: float
    said: str


class Tolerance(ABC):
    """What the tolerances share: `measure(got, ref) -> Measured`, `ref` in float64."""

    def check(self, got: torch.Tensor, ref: torch.Tensor) -> tuple[bool, str]:
        """(accepted, explanation) of `got` against the float64 `ref`."""
        found = self.measure(got, ref)
        return found.ok, found.said

    @abstractmethod
    def measure(self, got: torch.Tensor, ref: torch.Tensor) -> Measured:
        """Judge `got` against the float64 `ref`."""


@dataclass(frozen=True)
class Ulp(Tolerance):
    """Element-wise: within `max` steps of the rounded reference, at most a fraction `frac` off at all.

    `floor` (relative to the row's largest magnitude) excuses elements that cancel to almost nothing.
    """

    max: int
    frac: float
    why: str
    floor: float = 0.0

    def measure(self, got: torch.Tensor, ref: torch.Tensor) -> Measured:
        """The error is the worst element's steps."""
        if got.double().isnan().any():
            return Measured(False, math.inf, self.max, f"{int(got.double().isnan().sum())} NaN; {self.why}")
        steps = (_steps(got) - _steps(cast(ref, got.dtype))).abs()
        if self.floor:
            row = ref.abs().amax(-1, keepdim=True)
            small = (got.double() - ref).abs() <= self.floor * row
            steps = torch.where(small, steps.clamp(max=self.max), steps)
        worst, off = steps.max().item(), (steps > 0).double().mean().item()
        said = f"worst {worst} ulp (max {self.max}), {off:.2%} off (max {self.frac:.2%}); {self.why}"
        return Measured(worst <= self.max and off <= self.frac, worst, self.max, said)


@dataclass(frozen=True)
class Nibbles(Tolerance):
    """Two 4-bit codes to a byte, sign and magnitude: within `max` codes, at most a fraction `frac` off; -0 is 0."""

    max: int
    frac: float
    why: str

    def measure(self, got: torch.Tensor, ref: torch.Tensor) -> Measured:
        """The error is the worst code's steps."""

        def codes(packed: torch.Tensor) -> torch.Tensor:
            nibbles = torch.stack((packed & 15, packed >> 4))
            return (nibbles & 7) * (1 - 2 * (nibbles >> 3))

        steps = (codes(got.long()) - codes(ref.round().long())).abs()
        worst, off = steps.max().item(), (steps > 0).double().mean().item()
        said = f"worst {worst} codes (max {self.max}), {off:.2%} off (max {self.frac:.2%}); {self.why}"
        return Measured(worst <= self.max and off <= self.frac, worst, self.max, said)


@dataclass(frozen=True)
class Rel(Tolerance):
    """Worst row's ||got - ref|| / ||ref|| in unit roundoffs of the output dtype: a zeroed row or tile shows.

    A truncating store hides inside a wide bound, but it shrinks every value: the mean magnitude may be off by at most
    SHRINK unit roundoffs (0 when rounding to nearest, 0.7 when truncating).
    """

    u: float
    why: str

    SHRINK = 0.35

    def measure(self, got: torch.Tensor, ref: torch.Tensor) -> Measured:
        """The error is the worst row's, in unit roundoffs."""
        unit, narrow = torch.finfo(got.dtype).eps / 2, got.element_size() < 4
        got, ref = got.double().flatten(1), ref.flatten(1)
        error = ((got - ref).norm(dim=-1) / ref.norm(dim=-1).clamp_min(1e-30)).max().item() / unit
        shrink = abs(got.abs().sum() / ref.abs().sum() - 1).item() / unit
        limit = self.SHRINK if narrow else self.u  # an op computes in fp32: only narrower stores can truncate unseen
        said = f"worst row {error:.2f} u (max {self.u} u), mean magnitude off {shrink:.2f} u (max {limit})"
        return Measured(error <= self.u and shrink <= limit, error, self.u, f"{said}; {self.why}")


@dataclass(frozen=True)
class Exact(Tolerance):
    """Same bytes as the rounded reference: for ops that only move data."""

    why: str = "moves bytes only"

    def measure(self, got: torch.Tensor, ref: torch.Tensor) -> Measured:
        """The error is the number of bytes that differ."""
        want = cast(ref, got.dtype).contiguous().view(torch.uint8)
        n = (got.contiguous().view(torch.uint8) != want).sum().item()
        return Measured(n == 0, n, 0, f"{n} bytes differ; {self.why}")


class ByDtype(Tolerance):
    """A tolerance per output dtype, for ops whose output follows their input."""

    def __init__(self, rules: dict):
        self.rules = rules

    def measure(self, got: torch.Tensor, ref: torch.Tensor) -> Measured:
        """By the rule of the output's dtype."""
        return self.rules[got.dtype].measure(got, ref)
