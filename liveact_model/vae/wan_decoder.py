"""Decoding one video of the Wan2.1 VAE as a stream: latents come in any pieces, the history is kept between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from liveact_kernels.contract import scope
from liveact_model.errors import InputError

from .wan_blocks import History
from .wan_coder import Decoder


class Decodes(Protocol):
    """What a decoder takes of the VAE: its sizes, the statistics of its latents and its layers."""

    z_dim: int
    spatial: int
    mean: Tensor
    inv_std: Tensor
    decoder: Decoder

    @property
    def conv2(self) -> Callable[[Tensor], Tensor]:
        """The product in front of the decoder."""


class Decoding:
    """The decoding of one video as far as it has come."""

    def __init__(self, vae: Decodes, chunk: int):
        self._vae, self._chunk = vae, chunk
        self._history = History()
        self._size: torch.Size | None = None

    @torch.no_grad()
    def _next(self, latents: Tensor, clamp: bool) -> Tensor:
        z_dim, size = self._vae.z_dim, latents.shape[2:]
        if latents.dim() != 4 or latents.shape[0] != z_dim or min(latents.shape) < 1:
            raise InputError(f"latents must be [{z_dim}, n, h, w], none of them 0, got {list(latents.shape)}")
        if self._size not in (None, size):
            raise InputError(f"latents must stay {list(self._size)} high and wide within a stream, got {list(size)}")
        self._size = size
        with scope("vae_decode"):
            frames = torch.cat([self._part(part) for part in latents.split(self._chunk, 1)]).float()
        return (frames.clamp_(-1.0, 1.0) if clamp else frames).permute(3, 0, 1, 2)

    def _part(self, latents: Tensor) -> Tensor:
        vae = self._vae
        z = latents.permute(1, 2, 3, 0).float() / vae.inv_std.float() + vae.mean.float()
        return self._decode(vae.conv2(z.to(vae.mean.dtype).contiguous()))

    def _decode(self, x: Tensor) -> Tensor:
        return self._vae.decoder(x, self._history)


class WanDecoder(Decoding):
    """Streaming decoder of one video; any chunking of the latent frames gives the same video frames."""

    def decode(self, latents: Tensor, clamp: bool = True) -> Tensor:
        """Decode the next latents [z_dim, n, h, w] -> video [3, m, 8h, 8w] in [-1, 1], float32.

        m = 4n - 3 on the first call, 4n later. `clamp=False` leaves values outside [-1, 1] as the network gives them.
        Raises InputError for another shape, or a picture size that differs from the first call's.
        """
        return self._next(latents, clamp)
