"""e2m1 codes in Triton kernels, as common.fp4 makes them: for kernels that hold whole blocks of a row."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_rows import next_power_of_two, store_part

SMALLEST = tl.constexpr(1e-30)  # common.fp4.SMALLEST
HALVES = tl.constexpr(4194304.0)  # 2^22, where float32 steps by 0.5: adding it rounds to nearest even multiples of that
SNAP = tl.constexpr(192.0)  # 1.5 * 2^7, where float32 steps by 2^-16


@triton.jit
def e2m1(q):
    """Nearest code of every float32, ties to even, saturating; 0..15 in int32."""
    a = tl.minimum(tl.abs(q), 6.0)
    low = (a + HALVES).to(tl.int32, bitcast=True) & 7  # multiples of 0.5, up to 2
    bits = a.to(tl.int32, bitcast=True)
    high = ((bits + 0x1FFFFF + ((bits >> 22) & 1)) >> 22) - 252  # one bit of mantissa, from 1 on
    sign = (q.to(tl.int32, bitcast=True) >> 28) & 8
    return tl.where(a < 2.0, low, high) | sign


@triton.jit
def four_bits(scale):
    """A positive float32 rounded to four significant bits, ties to even."""
    bits = scale.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)


@triton.jit
def pack(codes):
    """[R, C] of 0..15 -> [R, C / 2] uint8, the even index in the low nibble."""
    low, high = tl.split(tl.reshape(codes, (codes.shape[0], codes.shape[1] // 2, 2)))
    return (low | (high << 4)).to(tl.uint8)


@triton.jit
def block_codes(y, BLOCK: tl.constexpr):
    """y [R, C] float32 -> packed codes [R, C / 2] and the blocks' scales [R, C / BLOCK]: float32 numbers of four
    significant bits (16), or biased exponents in int32 (32).

    A block with NaN has the scale of one with infinity: what it becomes when it is stored is NaN. The quotient's error
    of 2^-22 is rounded away before codes are made, or ties of bf16 values would go either way.
    """
    rows: tl.constexpr = y.shape[0]
    g = tl.reshape(y, (rows, y.shape[1] // BLOCK, BLOCK))
    top = tl.maximum(tl.max(tl.where(g == g, tl.abs(g), float("inf")), 2), SMALLEST)
    if BLOCK == 16:
        scale = four_bits(tl.div_rn(top, 6.0))
        q = tl.minimum(tl.maximum(g * tl.div_rn(1.0, scale)[:, :, None], -6.0), 6.0)
        q = (q + SNAP) - SNAP
    else:
        biased = (top.to(tl.int32, bitcast=True) >> 23) - 2
        q = g * ((254 - biased) << 23).to(tl.float32, bitcast=True)[:, :, None]
        scale = tl.where(biased == 253, 255, biased)
    return pack(e2m1(tl.reshape(q, (rows, y.shape[1])))), scale


@triton.jit
def row_scale(largest):
    """Power of two by which e4m3 holds the largest block scale of a row."""
    return next_power_of_two(tl.div_rn(largest, 448.0))


@triton.jit
def store_fp4(
    x4, x_scale, x_row, a, b, row, L,
    C: tl.constexpr, HEAD: tl.constexpr, TAIL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows of a [L, C] matrix, float32 in two parts (b is not read when TAIL is 0), as codes, block and row scales."""
    codes, scale = block_codes(a, BLOCK)
    store_part(x4, codes, row, L, 0, HEAD // 2, C // 2)
    if BLOCK == 16:
        largest = tl.max(scale, 1)
    if TAIL:
        codes, tail_scale = block_codes(b, BLOCK)
        store_part(x4, codes, row, L, HEAD // 2, TAIL // 2, C // 2)
        if BLOCK == 16:
            largest = tl.maximum(largest, tl.max(tail_scale, 1))
    if BLOCK == 16:
        whole = row_scale(largest)
        tl.store(x_row + row, whole, mask=row < L)
        scale = tl.div_rn(scale, whole[:, None])
        store_part(x_scale, scale, row, L, 0, HEAD // BLOCK, C // BLOCK)
        if TAIL:
            store_part(
                x_scale, tl.div_rn(tail_scale, whole[:, None]), row, L, HEAD // BLOCK, TAIL // BLOCK, C // BLOCK
            )
    else:
        store_part(x_scale, scale, row, L, 0, HEAD // BLOCK, C // BLOCK)
        if TAIL:
            store_part(x_scale, tail_scale, row, L, HEAD // BLOCK, TAIL // BLOCK, C // BLOCK)
