"""The wav2vec2 network in plain torch with random weights: its cost without transformers or a checkpoint.

Parameters carry transformers' names, so that a test can load one into the other and compare. Features are [1, C, T],
tokens [1, T, C].
"""

from __future__ import annotations

from types import SimpleNamespace

import root  # noqa: F401
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from liveact_model.audio.wav2vec2 import Wav2Vec2AudioEncoder
from liveact_model.audio.wide import WideConv1d
from liveact_model.config import WAV2VEC2_BASE


class _Conv(nn.Module):
    """Convolution (and the group norm of the first layer), GELU."""

    def __init__(self, cin: int, cout: int, kernel: int, stride: int, norm: bool):
        super().__init__()
        self.conv = nn.Conv1d(cin, cout, kernel, stride, bias=False)
        if norm:
            self.layer_norm = nn.GroupNorm(cout, cout)
        self.activation = F.gelu

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.conv(x))  # the encoder normalises after the first layer by given statistics


class _Projection(nn.Module):
    def __init__(self, cin: int, cout: int):
        super().__init__()
        self.layer_norm, self.projection = nn.LayerNorm(cin, eps=1e-5), nn.Linear(cin, cout)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layer_norm(x)
        return self.projection(x), x


class _Positions(nn.Module):
    def __init__(self, width: int, kernel: int, groups: int):
        super().__init__()
        self.conv = WideConv1d(width, width, kernel, padding=kernel // 2, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.conv(x.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        qkv = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (to(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for to in qkv)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2))


class _FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.intermediate_dense, self.output_dense = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.output_dense(F.gelu(self.intermediate_dense(x)))


class _Layer(nn.Module):
    """Post-norm transformer layer."""

    def __init__(self, width: int, heads: int, hidden: int):
        super().__init__()
        self.attention, self.feed_forward = _Attention(width, heads), _FeedForward(width, hidden)
        self.layer_norm, self.final_layer_norm = (nn.LayerNorm(width, eps=1e-5) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer_norm(x + self.attention(x))
        return self.final_layer_norm(x + self.feed_forward(x))


class _Encoder(nn.Module):
    def __init__(self, s: SimpleNamespace):
        super().__init__()
        width = s.hidden_size
        self.pos_conv_embed = _Positions(width, s.num_conv_pos_embeddings, s.num_conv_pos_embedding_groups)
        self.layer_norm = nn.LayerNorm(width, eps=1e-5)
        sizes = (width, s.num_attention_heads, s.intermediate_size)
        self.layers = nn.ModuleList(_Layer(*sizes) for _ in range(s.num_hidden_layers))


class RandomWav2Vec2(Wav2Vec2AudioEncoder):
    """The base network (with `changes`) behind our own encoder: its windows and statistics."""

    def __init__(self, **changes: object):
        nn.Module.__init__(self)
        s = SimpleNamespace(**(dict(WAV2VEC2_BASE) | changes))
        self.normalize, self.blocks, self.channels = True, s.num_hidden_layers, s.hidden_size
        self.pre_norm, self.grouped = False, True
        widths = (1, *s.conv_dim)
        shapes = zip(widths, s.conv_dim, s.conv_kernel, s.conv_stride)
        self.convolutions = nn.ModuleList(_Conv(*shape, norm=i == 0) for i, shape in enumerate(shapes))
        self.projection, self.encoder = _Projection(widths[-1], s.hidden_size), _Encoder(s)
        self.requires_grad_(False).eval()


def noise(seconds: float, seed: int = 1) -> Tensor:
    """Bursts of noise at 16 kHz, as loud as speech."""
    n = int(16000 * seconds)
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=g) * (torch.sin(torch.arange(n) / 900) > 0) * 0.2
