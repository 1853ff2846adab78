"""Decoding one picture by several processes, exactly: each takes a band of rows, with what it depends on around it.

The convolutions and the attention at latent size see the whole picture on every process (a few percent of the work);
from the first stage on a process has its own rows and as many around them as the later layers look at.
"""

from __future__ import annotations

from torch import Tensor

from liveact_model.parallel import SeqParallel

from .wan_blocks import Upsample
from .wan_coder import Decoder
from .wan_decoder import Decodes, Decoding


def halos(decoder: Decoder) -> list[int]:
    """Rows around its own that a band needs at the input of each layer of `upsamples`, and of the head."""
    need = [1]  # the head's convolution
    for layer in reversed(decoder.upsamples):
        # two 3x3 convolutions, or one behind the doubling of rows
        need.append((need[-1] + 2) // 2 if isinstance(layer, Upsample) else need[-1] + 2)
    return need[::-1]


class SplitDecoder(Decoding):
    """Like WanDecoder. Every process of a group has one; the leading one gets the video, the others None."""

    def __init__(self, vae: Decodes, chunk: int, parallel: SeqParallel):
        super().__init__(vae, chunk)
        self._parallel = parallel
        self._halos = halos(vae.decoder)

    def decode(self, latents: Tensor, clamp: bool = True) -> Tensor | None:
        """As WanDecoder.decode; called by all processes alike."""
        return self._parallel.collect(self._next(latents, clamp), 2, latents.shape[2], self._vae.spatial)

    def _decode(self, x: Tensor) -> Tensor:
        """Latent frames [n, h, w, C] of the whole picture -> this process's rows of [m, 8h, 8w, 3]."""
        decoder, history, height = self._vae.decoder, self._history, x.shape[1]
        own = self._parallel.piece(height)
        band = own or range(1)  # more processes than rows: the shapes of one, and then nothing of it
        scale, top = 1, 0
        x = decoder.conv1(x, history)
        for layer in decoder.middle:
            x = layer(x, history)
        for i, layer in enumerate((*decoder.upsamples, None)):
            if i == 0 or isinstance(decoder.upsamples[i - 1], Upsample):  # rows that no later layer looks at
                low = max(0, scale * band.start - self._halos[i])
                high = min(scale * height, scale * band.stop + self._halos[i])
                x, top = x[:, low - top : high - top].contiguous(), low
            if layer is not None:
                x = layer(x, history)
            if isinstance(layer, Upsample):
                scale, top = 2 * scale, 2 * top
        x = decoder.head["2"](decoder.head["0"](x), history)
        start = scale * band.start - top
        return x[:, start : start + scale * len(own)]
