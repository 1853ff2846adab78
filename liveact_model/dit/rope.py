"""3-D rotary positions: latent frame, row and column of a token."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def pair_split(head_dim: int) -> tuple[int, int, int]:
    """Channel pairs for (frame, row, column): the thirds of D/2, the remainder goes to the frame."""
    pairs = head_dim // 2
    third = pairs // 3
    return pairs - 2 * third, third, third


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # whoever asks first: training may be the next to take the same table
def rope_table(head_dim: int, slots: int, rows: int, columns: int, theta: float = 10000.0) -> Tensor:
    """cos and sin of every token of `slots` latent frames at positions 0 .. slots-1.

    Returns [slots*rows*columns, D/2, 2] f32, token order (frame, row, column), computed in float64.
    Angle of pair i of an axis with n pairs: position * theta^(-i/n).  Source: the released 3-D RoPE.
    """
    angles = []
    for n, count, axis in zip(pair_split(head_dim), (slots, rows, columns), range(3)):
        speed = theta ** (-torch.arange(n, dtype=torch.float64) / n)
        angle = torch.arange(count, dtype=torch.float64)[:, None] * speed
        shape = [1, 1, 1, n]
        shape[axis] = count
        angles.append(angle.view(shape).expand(slots, rows, columns, n))
    angle = torch.cat(angles, -1).flatten(0, 2)
    return torch.stack((angle.cos(), angle.sin()), -1).float()
