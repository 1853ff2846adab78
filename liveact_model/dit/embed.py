"""Everything in front of the blocks: patches, time, text, image and audio; and the head behind them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveact_kernels import ops

from ..config import PATCH, DiTConfig
from .attention import f32
from .precision import Linear


def patchify(x: Tensor) -> Tensor:
    """[C, F, Y, X] -> tokens [F*Y/2*X/2, 4*C], value order (channel, row in patch, column in patch)."""
    c, f, y, w = x.shape
    x = x.reshape(c, f, y // PATCH, PATCH, w // PATCH, PATCH).permute(1, 2, 4, 0, 3, 5)
    return x.reshape(f * (y // PATCH) * (w // PATCH), c * PATCH * PATCH)


def sinusoid(t: Tensor, dim: int) -> Tensor:
    """Timestep t (one element, 0..1000, used as a position) -> [1, dim] f32: cosines, then sines; in float64."""
    half = dim // 2
    speed = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=t.device) / half)
    angle = t.double().reshape(1, 1) * speed
    return torch.cat((angle.cos(), angle.sin()), -1).float()


class TimeEmbedding(nn.Module):
    """Timestep -> e [1, C] (for the head) and e0 [6, C] (for the blocks)."""

    def __init__(self, c: DiTConfig):
        super().__init__()
        self.freq_dim = c.freq_dim
        self.fc1, self.fc2, self.proj = Linear(c.freq_dim, c.dim), Linear(c.dim, c.dim), Linear(c.dim, 6 * c.dim)

    def forward(self, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """t has one element."""
        h = self.fc1(self.fc1.accept(sinusoid(t, self.freq_dim).to(dtype)))
        e = self.fc2(self.fc2.accept(F.silu(h)))
        e0 = self.proj(self.proj.accept(F.silu(e)))
        return e, e0.unflatten(-1, (6, -1)).squeeze(0)


class TextEmbedding(nn.Module):
    """Text encoder rows -> rows of the model width.

    Their number is a multiple of ROWS (or text_len), so that prompts come in few shapes; attention takes keys in tiles
    of that many, so the padding rows that fill one up cost nothing.
    """

    ROWS = 64

    def __init__(self, c: DiTConfig):
        super().__init__()
        self.text_len = c.text_len
        self.fc1, self.fc2 = Linear(c.text_dim, c.dim), Linear(c.dim, c.dim)

    def forward(self, rows: Tensor) -> tuple[Tensor, int]:
        """rows [N, T], N <= text_len -> ([n, C], pad): the last row stands for `pad` rows of padding."""
        n = next(n for n in self.sizes() if n > rows.shape[0] or n == self.text_len)
        rows = F.pad(rows, (0, 0, 0, n - rows.shape[0]))
        h = self.fc1(self.fc1.accept(rows))
        return self.fc2(self.fc2.accept(F.gelu(h, approximate="tanh"))), self.text_len - n + 1

    def sizes(self) -> list[int]:
        """How many rows a prompt can have."""
        return [*range(self.ROWS, self.text_len, self.ROWS), self.text_len]


class ImageEmbedding(nn.Module):
    """Image encoder rows -> rows of the model width: LayerNorm, Linear, GELU(erf), Linear, LayerNorm (eps 1e-5)."""

    def __init__(self, c: DiTConfig):
        super().__init__()
        self.norm_in = nn.ParameterDict({"weight": f32(c.clip_dim), "bias": f32(c.clip_dim)})
        self.fc1, self.fc2 = Linear(c.clip_dim, c.clip_dim), Linear(c.clip_dim, c.dim)
        self.norm_out = nn.ParameterDict({"weight": f32(c.dim), "bias": f32(c.dim)})

    def forward(self, rows: Tensor) -> Tensor:
        """[I, clip_dim] -> [I, C]."""
        h = ops.modulate(x=rows, mul=self.norm_in["weight"], add=self.norm_in["bias"], eps=1e-5)
        h = self.fc2(self.fc2.accept(F.gelu(self.fc1(self.fc1.accept(h)))))
        return ops.modulate(x=h, mul=self.norm_out["weight"], add=self.norm_out["bias"], eps=1e-5)


class AudioProjection(nn.Module):
    """Eight consecutive audio embeddings of a latent frame -> its audio tokens.

    The released projection of the very first latent frame (proj1) never reaches the output and is left out.
    """

    def __init__(self, c: DiTConfig):
        super().__init__()
        self.tokens = (c.audio_tokens, c.audio_dim)
        width = (c.audio_window + 3) * c.audio_blocks * c.audio_channels
        self.proj1_vf, self.proj2 = Linear(width, c.audio_hidden), Linear(c.audio_hidden, c.audio_hidden)
        self.proj3 = Linear(c.audio_hidden, c.audio_tokens * c.audio_dim)
        self.norm = nn.ParameterDict({"weight": f32(c.audio_dim), "bias": f32(c.audio_dim)})

    def forward(self, rows: Tensor) -> Tensor:
        """rows [F, 8, blocks, channels] -> [F, tokens, audio_dim]."""
        h = F.relu(self.proj1_vf(self.proj1_vf.accept(rows.flatten(1))))
        h = F.relu(self.proj2(self.proj2.accept(h)))
        h = self.proj3(self.proj3.accept(h)).reshape(-1, self.tokens[1])
        h = ops.modulate(x=h, mul=self.norm["weight"], add=self.norm["bias"], eps=1e-5)
        return h.unflatten(0, (-1, self.tokens[0]))


class Head(nn.Module):
    """Modulated LayerNorm and projection to 4 * out_dim values per token, channel fastest."""

    def __init__(self, c: DiTConfig):
        super().__init__()
        self.modulation = f32(2, c.dim)
        self.head = Linear(c.dim, c.out_dim * PATCH * PATCH)

    def modulate(self, e: Tensor) -> tuple[Tensor, Tensor]:
        """e [1, C] of a timestep -> (multiplier, offset), [C] f32."""
        shift, scale = (self.modulation + e.float()).unbind(-2)
        return 1 + scale, shift

    def forward(self, x: Tensor, mul: Tensor, add: Tensor) -> Tensor:
        """[L, C] -> [L, 4 * out_dim]."""
        return self.head(self.head.norm(x, mul, add))
