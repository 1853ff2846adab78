"""Tiles of row-major matrices in Triton kernels: TMA where the layout allows, masked pointers elsewhere."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

OPTIONS = {"enable_fp_fusion": True}
"""Compiler options of every kernel here: a product and a sum may become one instruction. Triton 3.10 wants it said."""


def tma_takes(*matrices: torch.Tensor) -> bool:
    """Whether the tensor copy engine can address these: 16-byte aligned base and row pitch, columns adjacent."""
    return all(
        m.stride(-1) == 1 and m.data_ptr() % 16 == 0 and m.stride(0) * m.element_size() % 16 == 0 for m in matrices
    )


def described(matrix: torch.Tensor, rows: int, columns: int) -> TensorDescriptor:
    """[R, C] as a descriptor that copies [rows, columns] boxes; outside the matrix they read 0 and write nothing.

    Made on the host, so that a launch needs no scratch memory for it.
    """
    return TensorDescriptor(matrix, list(matrix.shape), list(matrix.stride()), [rows, columns])


def scratch(size: int, alignment: int, stream: int | None) -> torch.Tensor:
    """Device memory for descriptors made on the chip, from torch's pool: some 128 bytes per program and descriptor."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


@triton.jit
def describe(src, rows, cols, pitch, R: tl.constexpr, C: tl.constexpr):
    """A pointer as a descriptor made on the chip: what automatic warp specialisation on Hopper asks for."""
    return tl.make_tensor_descriptor(src, [rows, cols], [pitch, 1], [R, C])


@triton.jit
def load_tile(src, row, col, pitch, rows, cols, R: tl.constexpr, C: tl.constexpr, TMA: tl.constexpr):
    """Box [R, C] at (row, col) of a [rows, cols] matrix with `pitch` elements between rows; 0 outside."""
    if TMA:
        box = src.load([row, col])
    else:
        r = row + tl.arange(0, R)
        c = col + tl.arange(0, C)
        inside = (r[:, None] < rows) & (c[None, :] < cols)
        box = tl.load(src + r[:, None].to(tl.int64) * pitch + c[None, :], mask=inside, other=0.0)
    return box


@triton.jit
def store_tile(dst, tile, row, col, pitch, rows, cols, TMA: tl.constexpr):
    """Write a box at (row, col), rounded once to the destination's dtype; nothing outside [rows, cols]."""
    if TMA:
        dst.store([row, col], tile.to(dst.dtype))
    else:
        r = row + tl.arange(0, tile.shape[0])
        c = col + tl.arange(0, tile.shape[1])
        inside = (r[:, None] < rows) & (c[None, :] < cols)
        at = dst + r[:, None].to(tl.int64) * pitch + c[None, :]
        tl.store(at, tile.to(dst.dtype.element_ty), mask=inside)


@triton.jit
def tile_at(t, tiles_m, tiles_n, BAND: tl.constexpr):
    """Row and column of tile t when the grid is walked in bands of BAND rows: tiles in flight share operands in L2."""
    band = t // (BAND * tiles_n)
    height = tl.minimum(tiles_m - band * BAND, BAND)
    within = t % (BAND * tiles_n)
    return band * BAND + within % height, within // height


@triton.jit
def gelu_tanh(x):
    """0.5 x (1 + tanh(u)), u = sqrt(2 / pi) (x + 0.044715 x^3), written as x / (1 + exp(-2 u)): no cancellation."""
    u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
    return x / (1.0 + tl.exp(-2.0 * u))
