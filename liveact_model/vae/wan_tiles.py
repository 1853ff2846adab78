"""The released multi-device VAE: the picture is cut into tiles that are coded on their own, by one process or several.

A tile also reads some of its neighbours' pixels and drops what they give. That is less than the network's receptive
field, and the middle attention sees only its tile, so the result is near the whole picture's, not equal: this is for
parity only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from liveact_model.errors import InputError
from liveact_model.parallel import ALONE, SeqParallel

from .wan import WanVAE

# latent pixels borrowed on each inner side; a tile at the border borrows both shares on its one side
DECODE_OVERLAP = 2
ENCODE_OVERLAP = 1


class Span(NamedTuple):
    """One tile along one axis, in latent pixels: it reads [start, stop) and keeps [low, high) of that."""

    start: int
    stop: int
    low: int
    high: int


def tile_grid(height: int, width: int, tiles: int) -> tuple[int, int]:
    """(rows, columns) that cut height x width latent pixels into equal tiles nearest to squares, fewer rows in a tie.

    Raises:
        InputError: no grid of `tiles` tiles divides the picture.
    """
    if tiles < 1:
        raise InputError(f"tiles must be at least 1, got {tiles}")
    grids = [(rows, tiles // rows) for rows in range(1, tiles + 1) if tiles % rows == 0]
    grids = [(r, c) for r, c in grids if height % r == 0 and width % c == 0]
    if not grids:
        raise InputError(f"tiles must cut {height} x {width} latent pixels into equal parts, got {tiles}")

    def elongation(grid: tuple[int, int]) -> float:
        tall, wide = height / grid[0], width / grid[1]
        return max(tall, wide) / min(tall, wide)

    return min(grids, key=elongation)


def spans(size: int, parts: int, overlap: int) -> list[Span]:
    """The tiles of one axis: every one reads 2 * `overlap` borrowed pixels, as far as the picture has them."""
    tile, out = size // parts, []
    for i in range(parts):
        first, last = i == 0, i == parts - 1
        before = 0 if first else 2 * overlap if last else overlap
        after = 0 if last else 2 * overlap if first else overlap
        start, stop = max(0, i * tile - before), min(size, (i + 1) * tile + after)
        out.append(Span(start, stop, i * tile - start, (i + 1) * tile - start))
    return out


def decode_tiled(vae: WanVAE, latents: Tensor, tiles: int, parallel: SeqParallel = ALONE) -> Tensor:
    """Decode a video's latents [z_dim, n, h, w] in `tiles` tiles -> video [3, 4n - 3, 8h, 8w] in [-1, 1].

    The processes of `parallel` share the tiles; all of them have the video.

    Raises:
        InputError: as `WanDecoder.decode` and `tile_grid`.
    """
    s = vae.spatial

    def code(y: Span, x: Span) -> Tensor:
        frames = vae.stream().decode(latents[:, :, y.start : y.stop, x.start : x.stop])
        return frames[:, :, s * y.low : s * y.high, s * x.low : s * x.high]

    return _assemble(code, (latents.shape[-2], latents.shape[-1]), tiles, DECODE_OVERLAP, parallel)


def encode_tiled(vae: WanVAE, video: Tensor, tiles: int, parallel: SeqParallel = ALONE) -> Tensor:
    """Encode a video [3, F, H, W] in [-1, 1] in `tiles` tiles -> normalised latents [z_dim, 1 + k, H/8, W/8].

    Raises:
        InputError: as `WanVAE.encode` and `tile_grid`.
    """
    s = vae.spatial
    if any(side % s for side in video.shape[-2:]):
        raise InputError(f"video must have H and W that are multiples of {s}, got {list(video.shape)}")

    def code(y: Span, x: Span) -> Tensor:
        z = vae.encode(video[:, :, s * y.start : s * y.stop, s * x.start : s * x.stop])
        return z[:, :, y.low : y.high, x.low : x.high]

    return _assemble(code, (video.shape[-2] // s, video.shape[-1] // s), tiles, ENCODE_OVERLAP, parallel)


def _assemble(
    code: Callable[[Span, Span], Tensor], size: tuple[int, int], tiles: int, overlap: int, parallel: SeqParallel
) -> Tensor:
    rows, columns = tile_grid(*size, tiles)
    tall, wide = spans(size[0], rows, overlap), spans(size[1], columns, overlap)
    done = parallel.spread([partial(code, y, x) for y in tall for x in wide])
    return torch.cat([torch.cat(done[i * columns : (i + 1) * columns], -1) for i in range(rows)], -2)
