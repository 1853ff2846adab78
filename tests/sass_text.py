"""Machine code for tests: instructions written by hand with their control bits, and a compiled product of ours."""

from __future__ import annotations

from pathlib import Path

from liveact_kernels.compiled.predict import code
from liveact_kernels.compiled.predict.launches import Launch
from liveact_kernels.compiled.predict.work import TILES, Work

NONE = 7  # no scoreboard


def line(
    address: int, text: str, stall: int = 1, sets: int = NONE, reads: int = NONE, waits: tuple[int, ...] = ()
) -> str:
    """One instruction as nvdisasm -hex prints it."""
    control = stall | sets << 5 | reads << 8 | sum(1 << s for s in waits) << 11
    return f"        /*{address:04x}*/    {text} ;   /* 0x0000000000000000 */\n            /* 0x{control << 41:016x} */"


def listing(*instructions: str | tuple, name: str = "k") -> code.Listing:
    """A function of instructions (text, or (text, {control bits})) and labels."""
    out, address = [f".text.{name}:"], 0
    for item in instructions:
        text, control = item if isinstance(item, tuple) else (item, {})
        if text.endswith(":"):
            out.append(text)
            continue
        out.append(line(address, text, **control))
        address += 16
    return code.parse("\n".join(out))[name]


PRODUCT = Launch("calibration_product", b"product", (16,), 4, 2, 24 * 1024, {}, 1)
"""The launch of sass/product.sass: e4m3, M = N = K = 512, tiles of 64 x 32, 128 of K a step, one tile a block here."""
PRODUCT_WORK = Work(TILES, macs=512**3, useful=512**3, shared=128 * 4 * 96 * 128, tiles=128, per_block=8, steps=4)


def product_cubin(_: bytes) -> code.Cubin:
    """What code.load gives for PRODUCT."""
    text = (Path(__file__).parent / "sass" / "product.sass").read_text()
    return code.Cubin(code.parse(text), {"calibration_product": {"REG": 64, "STACK": 0, "SHARED": 0, "LOCAL": 0}})
