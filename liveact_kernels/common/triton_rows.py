"""Rows of any width in registers: for kernels that read a row once, reduce over it and write it."""

import triton
import triton.language as tl


def split(width: int) -> tuple[int, int]:
    """(head, tail): powers of two that cover `width`, the head its largest power of two, the tail 0 when that is all.

    5120 is 4096 + 1024, exactly: one padded block of 8192 would spend 60% more instructions on lanes that are masked.
    """
    head = 1 << (width.bit_length() - 1)
    return head, triton.next_power_of_2(width - head) if width > head else 0


@triton.jit
def rsqrt(x):
    """1 / sqrt(x), each step rounded to nearest: the chip's own rsqrt is off by two units of float32."""
    return tl.div_rn(1.0, tl.sqrt_rn(x))
