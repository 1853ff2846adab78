"""modulate_quant in hand-written CUDA (csrc/ops/modulate): a block keeps mul and add and walks rows; NOTES.md."""

from __future__ import annotations

from liveact_kernels.common.cuda import addresses, enqueue
from liveact_kernels.contract import Dims, bf16, mark

THREADS, WORDS, BLOCKS = 128, 5, 5  # as csrc/ops/modulate has them; a word is eight channels
MOST = 8 * THREADS * WORDS


def takes(d: Dims) -> str | None:
    """Why the kernel does not take these dims, or None."""
    if d.A != bf16:
        return f"needs bf16, got {d.A}"
    if d.C > MOST:
        return f"needs at most {MOST} channels, got {d.C}"
    return f"needs channels in multiples of 8, got {d.C}" if d.C % 8 else None


def operands(x8, x_scale, x, mul, add, eps=1e-6) -> list[int | float]:
    """What the C++ function takes, without the stream."""
    pointers = addresses("modulate_quant", x8=x8) + addresses("modulate_quant", aligned=4, x_scale=x_scale)
    return [*pointers, *addresses("modulate_quant", x=x, mul=mul, add=add), *x.shape, eps]


def modulate_quant(x8, x_scale, x, mul, add, eps=1e-6):
    """See reference.modulate_quant."""
    enqueue("modulate_quant", x.device, *operands(x8, x_scale, x, mul, add, eps))


mark(modulate_quant, takes=takes, requires_sass=("LDG.128", "STG.64"))
