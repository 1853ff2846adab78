"""What the loops of each Triton kernel do, from the arguments of its launch: trips, tiles, multiply-adds, traffic.

The machine code does not tell how often a loop runs; these few lines do. A kernel without loops needs no entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

Args = Mapping[str, Any]  # numbers: sizes are whole, scales are not
Grid = tuple[int, ...]
TILES: Final = "tiles"
LOOPS: Final = "loops"
ROWS: Final = "rows"


@dataclass(frozen=True)
class Work:
    """kind    how time adds up: a persistent walk over tiles, loops of known trips, or blocks of straight-line code
    trips   of the outermost loops in address order; one number for all of them where `alike`
    macs    multiply-adds of all tiles, edges included; None: the kernel makes no products
    useful  those without the edges and without what the kernel adds by itself: half of the op's flops
    shared  bytes asked of L2 that many SMs ask for at the same time
    own     other bytes asked of L2; None: what the code loads and stores
    dram    share of the loads of a loop that HBM answers
    """

    kind: Literal["tiles", "loops", "rows"]
    trips: tuple[int, ...] = ()
    alike: bool = False
    macs: float | None = None
    useful: float | None = None
    shared: float = 0.0
    own: float | None = 0.0
    dram: float = 0.1
    tiles: int = 0
    per_block: int = 0
    steps: int = 0


def up(a: int, b: int) -> int:
    """a in units of b, rounded up."""
    return -(-a // b)


def _gemm(a: Args, grid: Grid, itemsize: int, moved: float) -> Work:
    wide = a["HALVES"] * a["BN"]
    tiles = up(a["M"], a["BM"]) * up(a["N"], wide)
    steps = a["G"] * a["STEPS"]
    shared = tiles * steps * (a["BM"] + wide) * a["BK"] * itemsize
    return Work(
        TILES, macs=tiles * steps * a["BM"] * wide * a["BK"], useful=a["M"] * a["N"] * a["K"], shared=shared,
        tiles=tiles, per_block=up(tiles, math.prod(grid)), steps=steps,
    )  # fmt: skip


def _attention(a: Args, grid: Grid, itemsize: int, moved: float, ones: int = 0) -> Work:
    """Memory first, then the block's own keys; the last tile of each stands behind its loop."""
    segments = [(a["P"], a["BN_MEM"])] if a["P"] else []
    segments.append((a["R"], a["BN"]))
    tiled, keys, blocks = sum(up(n, bn) * bn for n, bn in segments), a["R"] + a["P"], math.prod(grid)
    return Work(
        LOOPS, tuple((n - 1) // bn for n, bn in segments), macs=blocks * a["BM"] * tiled * (2 * a["BD"] + ones),
        useful=2 * a["L"] * a["heads"] * keys * a["D"], shared=blocks * keys * 2 * a["D"] * itemsize,
    )  # fmt: skip


def _attention_8bit(a: Args, grid: Grid, itemsize: int, moved: float) -> Work:
    return _attention(a, grid, 1, moved, ones=16)  # the sum of probabilities is a product of 16 columns


def _cross(a: Args, grid: Grid, itemsize: int, moved: float) -> Work:
    keys = a["texts"], a["images"]
    tiled, blocks = sum(up(n, a["BN"]) * a["BN"] for n in keys), math.prod(grid)
    return Work(
        LOOPS, tuple((n - 1) // a["BN"] for n in keys), macs=blocks * a["BM"] * tiled * 2 * a["BD"],
        useful=2 * a["L"] * a["heads"] * sum(keys) * a["D"], shared=blocks * sum(keys) * 2 * a["D"] * itemsize,
        own=moved,
    )  # fmt: skip


def _audio(a: Args, grid: Grid, itemsize: int, moved: float) -> Work:
    tiled = up(a["N"], a["BN"]) * a["BN"]
    return Work(
        LOOPS, (a["HEADS"],), macs=math.prod(grid) * a["HEADS"] * a["BM"] * tiled * 2 * a["BD"],
        useful=2 * a["T"] * grid[1] * a["heads"] * a["N"] * a["D"], own=None,
    )  # fmt: skip


def _conv(a: Args, grid: Grid, itemsize: int, moved: float) -> Work:
    taps, chunks, wide = a["KT"] * a["KH"] * a["KW"], up(a["C"], a["BK"]), a["BN"] + a["TAIL"]
    read = taps * a["C"] * itemsize * math.prod(grid)
    return Work(
        LOOPS, (taps * chunks,), macs=math.prod(grid) * a["BM"] * wide * taps * chunks * a["BK"],
        useful=a["HO"] * a["WO"] * grid[2] * a["N"] * taps * a["C"], shared=read * wide, own=read * a["BM"],
    )  # fmt: skip


def _compress(a: Args, grid: Grid, itemsize: int, moved: float) -> Work:
    walked = up(a["tokens"], a["ROWS"]) if a["WALK"] else 1
    return Work(LOOPS, (walked,), alike=True, own=None, dram=0.3)


KERNELS: dict[str, Callable[[Args, Grid, int, float], Work]] = {
    "gemm_kernel": _gemm, "attention_8bit_kernel": _attention_8bit, "attention_kernel": _attention,
    "cross_attention_kernel": _cross, "audio_attention_kernel": _audio, "conv_kernel": _conv,
    "kv_compress_kernel": _compress,
}  # fmt: skip
"""Kernel -> (arguments, blocks, bytes per element of what it multiplies, bytes that the op moves) -> work."""


def work_of(name: str, args: Args, grid: Grid, itemsize: int, moved: float) -> Work | None:
    """Work of a launch; None for a kernel that no entry describes."""
    return KERNELS[name](args, grid, itemsize, moved) if name in KERNELS else None
