"""Which tokens, heads and rows of a picture each rank has: contiguous pieces, as even as they come."""

from __future__ import annotations

import torch
from torch import Tensor


def pieces(count: int, parts: int) -> list[range]:
    """`count` things in `parts` contiguous runs whose lengths differ by one at most."""
    return [range(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def cut(x: Tensor, frames: int, piece: range) -> Tensor:
    """The tokens `piece` of each of `frames` latent frames: [F*T, ...] -> [F*t, ...], contiguous."""
    return x.unflatten(0, (frames, -1))[:, piece.start : piece.stop].flatten(0, 1)


def join(parts: list[Tensor], frames: int) -> Tensor:
    """The inverse of `cut` for the pieces of all ranks in order: one copy."""
    return torch.cat([p.unflatten(0, (frames, -1)) for p in parts], 1).flatten(0, 1)
