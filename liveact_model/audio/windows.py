"""Which audio embeddings a latent frame hears.

Latent frame 0 is video frame 0 and hears the 5 video frames around it. Latent frame G >= 1 is video frames
4G-3 .. 4G; two more on either side make 8 consecutive video frames 4G-5 .. 4G+2. Indices outside the audio are
clamped to its first and last video frame. So a block looks 2 video frames ahead of its own last one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from liveact_model.errors import InputError

REACH = 2  # video frames heard on either side
FIRST_ROWS = 2 * REACH + 1
LATTER_ROWS = 4 + 2 * REACH


def window_indices(start: int, count: int, total: int | None = None) -> Tensor:
    """Video frames heard by each of `count` video frames from `start`: int64 [count, 5], offsets -2 .. +2, clamped.

    The released code cuts windows of 53 video frames this way. `total` (video frames of audio) clamps on the right;
    None does not.
    """
    return _clamp(torch.arange(start, start + count)[:, None] + torch.arange(-REACH, REACH + 1), total)


def latent_indices(first_latent: int, n: int, total: int | None = None) -> Tensor:
    """Video frames heard by `n` latent frames from `first_latent` >= 1: int64 [n, 8], 4G-5 .. 4G+2, clamped."""
    latent = torch.arange(first_latent, first_latent + n)
    return _clamp(4 * latent[:, None] - 3 - REACH + torch.arange(LATTER_ROWS), total)


def latent_rows(
    embeddings: Tensor | Callable[[int, int], Tensor], first_latent: int, n: int, total: int | None = None
) -> tuple[Tensor | None, Tensor]:
    """Audio rows of `n` latent frames from the absolute latent frame `first_latent`.

    Args:
        embeddings: one row per video frame from video frame 0, [frames, blocks, channels]; or a function
            (start, stop) -> rows of that range, such as an audio stream's `embeddings`, called once.
        first_latent: index of the first latent frame, from 0.
        n: number of latent frames, at least 1.
        total: video frames of the whole audio; None while unknown (a tensor's own length is used for a tensor).

    Returns:
        (first [5, blocks, channels] or None, latter [m, 8, blocks, channels]): `first` and m = n - 1 when the range
        begins with latent frame 0, else None and m = n.

    Raises:
        InputError: `first_latent` is negative, or `n` or `total` is below 1.
    """
    if isinstance(embeddings, Tensor) and total is None:
        total = len(embeddings)
    if first_latent < 0 or n < 1 or (total is not None and total < 1):
        raise InputError(f"latent frames: expected first >= 0, n >= 1, total >= 1, got {first_latent}, {n}, {total}")
    has_first = first_latent == 0
    first = window_indices(0, int(has_first), total)
    latter = latent_indices(first_latent + has_first, n - has_first, total)
    both = torch.cat([first.flatten(), latter.flatten()])
    low, high = int(both.min()), int(both.max()) + 1
    rows = embeddings[low:high] if isinstance(embeddings, Tensor) else embeddings(low, high)
    latter = rows[(latter - low).to(rows.device)]
    return (rows[(first[0] - low).to(rows.device)] if has_first else None), latter


def _clamp(indices: Tensor, total: int | None) -> Tensor:
    return indices.clamp(min=0) if total is None else indices.clamp(min=0, max=total - 1)
