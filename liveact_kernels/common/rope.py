"""Rotary embedding of channel pairs: shared by the ops that rotate."""

import torch


def rotate(x: torch.Tensor, rope: torch.Tensor, inverse: bool = False) -> torch.Tensor:
    """Rotate pairs (2i, 2i+1) of x [..., H, D] f32 by rope [..., D/2, 2] (cos, sin); `inverse` turns back."""
    if torch.compiler.is_compiling():  # Inductor makes no code of complex numbers; eager, these are ten times faster
        cos, sin = rope[..., None, :, 0], rope[..., None, :, 1]
        sin = -sin if inverse else sin
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2)
    turn = torch.view_as_complex(rope)[..., None, :]
    if inverse:
        turn = turn.conj_physical()  # `conj` only marks, and inside an op of torch.library nobody reads the mark
    return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turn).flatten(-2)


def draw_rope(g: torch.Generator, shape: tuple[int, ...], d) -> torch.Tensor:
    """Random angles as (cos, sin): test input for any op that takes a rope table."""
    angle = torch.rand(shape[:-1], generator=g, dtype=torch.float64) * 6.283185307179586
    return torch.stack((angle.cos(), angle.sin()), -1)
