"""Building blocks of the Wan2.1 VAE on channels-last frames [F, H, W, C], with the released parameter names.

Every block takes the frames of one chunk and the History of the stream: a causal convolution sees the frames before the
chunk through it, so chunks of any length give the frames of the whole video at once.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from liveact_kernels.ops.causal_conv3d import causal_conv3d
from liveact_kernels.ops.frame_attention import frame_attention
from liveact_kernels.ops.norm_silu import norm_silu
from liveact_kernels.ops.upsample_conv import upsample_conv


class History:
    """The last input frames of each causal convolution of one stream.

    A buffer is allocated once and then only written to, so that its address holds for the life of the stream.
    """

    def __init__(self) -> None:
        self._frames: dict[nn.Module, Tensor] = {}

    def get(self, conv: nn.Module) -> Tensor | None:
        """Frames before the next chunk [n, H, W, C]; None before the first chunk."""
        return self._frames.get(conv)

    def keep(self, conv: nn.Module, x: Tensor, count: int) -> None:
        """Remember the last `count` frames of what is held and then x [F, H, W, C]; zeros come before the video."""
        if conv not in self._frames:
            self._frames[conv] = x.new_zeros(count, *x.shape[1:])
        buffer, new = self._frames[conv], min(count, x.shape[0])
        for i in range(count - new):  # one by one: source and target overlap
            buffer[i].copy_(buffer[i + new])
        buffer[count - new :].copy_(x[-new:])


class Conv(nn.Module):
    """A convolution; `kernel` (time, height, width), or (height, width) for the 2-D ones. Never looks ahead in time."""

    def __init__(self, cin: int, cout: int, kernel: tuple[int, ...], stride_t: int = 1, stride: int = 1):
        super().__init__()
        self.stride_t, self.stride = stride_t, stride
        self.interleave = 1
        self.weight = nn.Parameter(torch.empty(cout, cin, *kernel))
        self.bias = nn.Parameter(torch.zeros(cout))
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)

    def taps(self) -> Tensor:
        """The weight as the ops read it, [O, KH, KW, KT, C]; a view once `arrange_` has run."""
        w = self.weight if self.weight.dim() == 5 else self.weight.unsqueeze(2)
        return w.permute(0, 3, 4, 2, 1).contiguous()

    @torch.no_grad()
    def arrange_(self) -> None:
        """Store the weight in the order of `taps`; its shape and name stay."""
        w = self.taps().permute(0, 4, 3, 1, 2)
        self.weight = nn.Parameter(w if self.weight.dim() == 5 else w.squeeze(2), requires_grad=False)

    def forward(self, x: Tensor, history: History | None = None, residual: Tensor | None = None) -> Tensor:
        """x [F, H, W, C] -> [F/stride_t * interleave, H/stride, W/stride, O/interleave] (+ residual)."""
        w = self.taps()
        before = w.shape[3] - self.stride_t
        past = history if before else None
        assert past is not None or not before, "a kernel longer than its stride looks back"
        prev = None if past is None else past.get(self)
        out = causal_conv3d(
            x=x, w=w, bias=self.bias, prev=prev, residual=residual,
            stride_t=self.stride_t, stride=self.stride, interleave=self.interleave,
        )  # fmt: skip
        if past is not None:
            past.keep(self, x, before)
        return out


class Norm(nn.Module):
    """Channel RMS norm, then SiLU unless it is switched off; `ndim` is how many dimensions the released gamma has."""

    def __init__(self, channels: int, ndim: int = 4):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * (ndim - 1)))

    def forward(self, x: Tensor, silu: bool = True) -> Tensor:
        """x [F, H, W, C] -> the same shape."""
        return norm_silu(x=x, gamma=self.gamma.flatten(), silu=silu)


class ResBlock(nn.Module):
    """x + two normalised convolutions; a pointwise shortcut where the channels change."""

    def __init__(self, cin: int, cout: int):
        super().__init__()
        layers = {
            "0": Norm(cin), "2": Conv(cin, cout, (3, 3, 3)),
            "3": Norm(cout), "6": Conv(cout, cout, (3, 3, 3)),
        }  # fmt: skip
        self.residual = nn.ModuleDict(layers)
        self.shortcut = Conv(cin, cout, (1, 1, 1)) if cin != cout else None

    def forward(self, x: Tensor, history: History) -> Tensor:
        """x [F, H, W, Cin] -> [F, H, W, Cout]."""
        r = self.residual
        skip = x if self.shortcut is None else self.shortcut(x)
        return r["6"](r["3"](r["2"](r["0"](x), history)), history, skip)


class Attention(nn.Module):
    """x + single-head attention over the pixels of each frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = Norm(channels, 3)
        self.to_qkv = Conv(channels, 3 * channels, (1, 1))
        self.proj = Conv(channels, channels, (1, 1))

    def forward(self, x: Tensor, history: History) -> Tensor:
        """x [F, H, W, C] -> the same shape."""
        return self.proj(frame_attention(qkv=self.to_qkv(self.norm(x, silu=False))), residual=x)


class Downsample(nn.Module):
    """Half the height and width; half the frames too when `temporal`, but the video's first one is passed on."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.resample = nn.ModuleDict({"1": Conv(channels, channels, (3, 3), stride=2)})
        self.time_conv = Conv(channels, channels, (3, 1, 1), stride_t=2) if temporal else None

    def forward(self, x: Tensor, history: History) -> Tensor:
        """x [F, H, W, C] -> [F or (F+1)//2, H/2, W/2, C]."""
        x = self.resample["1"](x)
        if self.time_conv is None:
            return x
        if history.get(self.time_conv) is not None:
            return self.time_conv(x, history)
        history.keep(self.time_conv, x[:1], 1)
        return x if len(x) == 1 else torch.cat((x[:1], self.time_conv(x[1:], history)))


class Upsample(nn.Module):
    """Twice the height and width at half the channels; twice the frames too when `temporal`, except the first one."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.resample = nn.ModuleDict({"1": Conv(channels, channels // 2, (3, 3))})
        self.time_conv = Conv(channels, 2 * channels, (3, 1, 1)) if temporal else None
        if self.time_conv is not None:
            self.time_conv.interleave = 2

    def forward(self, x: Tensor, history: History) -> Tensor:
        """x [F, H, W, C] -> [F, 2F or 2F-1, 2H, 2W, C/2]."""
        if self.time_conv is not None:
            x = self._double(self.time_conv, x, history)
        conv = cast(Conv, self.resample["1"])
        return upsample_conv(x=x, w=conv.taps().squeeze(3), bias=conv.bias)

    def _double(self, conv: Conv, x: Tensor, history: History) -> Tensor:
        if history.get(conv) is not None:
            return conv(x, history)
        # the video's first frame is not doubled, and counts as zeros in what the frames after it look back on
        history.keep(conv, torch.zeros_like(x[:1]), 2)
        return x if len(x) == 1 else torch.cat((x[:1], conv(x[1:], history)))
