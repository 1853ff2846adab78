"""`--precision`: the format of the denoiser's linear layers, or a plan's file with one for each of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from liveact_model.config import PRECISIONS
from liveact_model.errors import InputError

if TYPE_CHECKING:
    from liveact_model.dit import Precision

SHORT = {"bf16": "bfloat16", "fp32": "float32"}
FRAME = tuple(name for name in PRECISIONS if name not in ("auto", "float32"))
"""What a frame's budget is made for; with codes, attention takes 8 bits, too."""
HELP = "of the denoiser's linear layers: {}, or a plan.json of 'liveact calibrate'"


def precision(names: Sequence[str] = PRECISIONS) -> Callable[[str], str | Precision]:
    """Argument type: one of `names`, or its short form, or a plan's file, which is read and checked."""

    def convert(text: str) -> str | Precision:
        if text.lower().endswith(".json"):
            from liveact_model.loading import read_plan

            try:
                return read_plan(text)
            except InputError as error:
                raise argparse.ArgumentTypeError(str(error).removeprefix("precision: ")) from error
        name = SHORT.get(text, text)
        if name not in names:
            known = ", ".join((*names, *(s for s, long in SHORT.items() if long in names)))
            raise argparse.ArgumentTypeError(f"expected one of {known}, or a plan's .json file, got {text!r:.60}")
        return name

    return convert


def add_precision(add: Callable[..., Any], *flags: str, names: Sequence[str] = PRECISIONS, **more: Any) -> None:
    """Register the option under `flags`; `names` are those that the command takes besides a plan."""
    text = HELP.format(", ".join(SHORT_OF.get(n, n) for n in names))
    if "default" in more:
        text += " (default: %(default)s)"
    add(*flags, type=precision(names), metavar="NAME|FILE", help=text, **more)


SHORT_OF = {long: short for short, long in SHORT.items()}


def eight_bit(precision: str | Precision) -> dict[str, bool]:
    """The options of a Session that go with a precision in a frame's budget: a plan's, or with codes the quickest."""
    from liveact_model.dit import Precision

    if isinstance(precision, Precision):
        return {"eight_bit_memory": precision.eight_bit_memory, "eight_bit_attention": precision.eight_bit_attention}
    return {"eight_bit_attention": Precision.made(precision).codes}


def must_multiply_on(chip: str, precision: str | Precision) -> None:
    """Raise InputError for 4-bit weights on a chip of CHIPS without FP4: what `generate` refuses there."""
    from liveact_kernels.cost.hw import CHIPS
    from liveact_model.dit import Precision

    if precision != "auto" and Precision.made(precision).four_bits and "fp4" not in CHIPS[chip].flops:
        able = " or ".join(name for name, known in CHIPS.items() if "fp4" in known.flops)
        raise InputError(f"--chip: expected one that multiplies FP4 ({able}) for {precision}, got {chip!r}")
