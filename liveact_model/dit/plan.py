"""Which format every linear layer of a denoiser has: one for all, or a plan of several."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from ..config import DiTConfig
from ..errors import InputError
from .formats import FORMATS, Wide, format_at

SIZES = ("dim", "num_heads", "num_layers", "ffn_dim", "in_dim", "text_dim", "clip_dim", "audio_hidden", "audio_dim")
"""Of a DiTConfig, what shapes its linear layers: a plan is for a model that has these."""
_NUMBERS = r"[0-9]{1,4}(?:-[0-9]{1,4})?"
_PART = re.compile(rf"\*|[A-Za-z_]\w{{0,60}}|{_NUMBERS}(?:,{_NUMBERS})*")
_PATTERN = re.compile(rf"(?:{_PART.pattern})(?:\.(?:{_PART.pattern}))*")


@dataclass(frozen=True)
class Precision:
    """Formats by layer, and what of a Session goes with them.

    default  a name of formats.FORMATS: of every linear layer that `linears` does not name; a wide one is also the type
             of the activations, which are bf16 beside codes
    linears  (pattern, name of FORMATS): a path of a linear layer, or of what holds some, in which a part may be `*`
             and a number a list: "blocks.0,3-5.ffn". No layer is named twice.
    eight_bit_memory, eight_bit_attention  as of Session
    model, sizes  what it was made for: a name, and the values of SIZES; empty: any
    source   how commands and sentences name it: "fp8", or a plan's file

    Raises InputError for a format or a pattern that means nothing.
    """

    default: str
    linears: tuple[tuple[str, str], ...] = ()
    eight_bit_memory: bool = False
    eight_bit_attention: bool = False
    model: str = ""
    sizes: tuple[tuple[str, int], ...] = ()
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for where, name in (("default", self.default), *self.linears):
            if name not in FORMATS:
                self._refuse(f"{where} to be one of {', '.join(FORMATS)}", repr(name)[:60])
        wide = str(self.dtype).removeprefix("torch.")
        for pattern, name in self.linears:
            if not _PATTERN.fullmatch(pattern):
                self._refuse("paths such as blocks.0,3-5.ffn.up or blocks.*.self_attn", f"{pattern!r:.80}")
            if isinstance(FORMATS[name], Wide) and name != wide:
                self._refuse(f"{pattern} in {wide}, as the activations are, or as codes", name)

    @classmethod
    def made(cls, given: str | Precision) -> Precision:
        """A plan as it is; of a name the plan that has this format everywhere."""
        return given if isinstance(given, Precision) else cls(given, source=given)

    def __str__(self) -> str:
        return self.source or self.default

    @property
    def dtype(self) -> torch.dtype:
        """Of the activations."""
        return torch.float32 if self.default == "float32" else torch.bfloat16

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that layers may have, each once."""
        return tuple(dict.fromkeys((self.default, *(name for _, name in self.linears))))

    @property
    def codes(self) -> bool:
        """Whether any layer may multiply codes."""
        return any(FORMATS[name].stored for name in self.formats)

    @property
    def four_bits(self) -> bool:
        """Whether any layer may multiply codes of 4 bits."""
        return any(FORMATS[name].four_bits for name in self.formats)

    def of(self, path: str) -> str:
        """The name of a linear layer's format."""
        named = (name for pattern, name in self.linears if _expression(pattern).match(path))
        return next(named, format_at(self.default, path))

    def check_sizes(self, config: DiTConfig) -> None:
        """Raise InputError unless it is a plan for a model of these sizes."""
        for name, value in self.sizes:
            if value != (found := getattr(config, name)):
                self._refuse(f"a plan for a model of {name} {found}", f"one for {self.model!r:.80} of {name} {value}")

    def check_paths(self, paths: Iterable[str]) -> None:
        """Raise InputError unless every pattern names some of these paths, and their formats go together."""
        paths = list(paths)
        for pattern, _ in self.linears:
            if not any(_expression(pattern).match(path) for path in paths):
                self._refuse("paths of linear layers", f"{pattern!r:.80}, which names none")
        for path in paths if self.linears else ():
            named = [pattern for pattern, _ in self.linears if _expression(pattern).match(path)]
            if len(named) > 1:
                self._refuse(f"one format for {path}", f"{named[0]!r:.80} and {named[1]!r:.80}")
            up, down = path, path.removesuffix("up") + "down"
            if path.endswith("ffn.up") and not FORMATS[self.of(up)].feeds(FORMATS[self.of(down)]):
                both = f"{self.of(up)} and {self.of(down)}"
                self._refuse(f"formats of {up} and {down.rpartition('.')[2]} that go together", both)

    def _refuse(self, expected: str, got: str) -> None:
        where = f" in {self.source!r:.200}" if self.linears or self.sizes else ""
        raise InputError(f"precision: expected {expected}{where}, got {got}")


@functools.cache
def _expression(pattern: str) -> re.Pattern[str]:
    """What matches the paths that a pattern names."""
    return re.compile(r"\.".join(map(_part, pattern.split("."))) + r"(?:\.|$)")


def _part(part: str) -> str:
    if part == "*":
        return r"[^.]+"
    if not part[0].isdigit():
        return part
    ranges = [[int(n) for n in piece.split("-")] for piece in part.split(",")]
    return "(?:" + "|".join(str(n) for r in ranges for n in range(r[0], r[-1] + 1)) + ")"


def patterns(paths: Iterable[str]) -> list[str]:
    """Paths as few patterns: those that differ in a block's number alone become one, with a list of numbers."""
    numbers: dict[str, list[int]] = {}
    for path in paths:
        start, _, rest = path.partition(".")
        number, _, rest = rest.partition(".")
        single = start != "blocks" or not number.isdigit()
        numbers.setdefault(path if single else rest, []).extend([] if single else [int(number)])
    return [f"blocks.{_list(sorted(found))}.{path}" if found else path for path, found in numbers.items()]


def _list(numbers: list[int]) -> str:
    """[0, 1, 2, 5] -> "0-2,5"."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][1] + 1:
            runs[-1][1] = n
        else:
            runs.append([n, n])
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs)
