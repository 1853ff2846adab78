"""Sizes, encoder and decoder of the Wan2.1 VAE, on channels-last frames of one chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from liveact_model.checkpoint.statedict import count_layers, shape_of
from liveact_model.errors import InputError

from .wan_blocks import Attention, Conv, Downsample, History, Norm, ResBlock, Upsample

WHAT = "VAE weights"


@dataclass(frozen=True)
class WanVAEConfig:
    """Sizes; the defaults are the released VAE. One stage per multiplier, a resampling between two stages."""

    dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (False, True, True)

    @classmethod
    def of(cls, state: Mapping[str, Tensor], what: str = WHAT) -> WanVAEConfig:
        """Sizes of a state dict. Raises InputError naming a key that must be there to tell them.

        Biases and gammas are asked, not the convolutions: what is wrong with those is then reported against them.
        """
        dim = shape_of(state, "decoder.head.0.gamma", 4, what)[0]
        layers = range(count_layers(state, "encoder.downsamples."))
        down = [i for i in layers if f"encoder.downsamples.{i}.resample.1.bias" in state]
        if not down:
            raise InputError(f"{what}: expected keys encoder.downsamples.*.resample.1.bias, found none")
        last = [i - 1 for i in down] + [layers[-1]]
        widths = [shape_of(state, f"encoder.downsamples.{i}.residual.3.gamma", 4, what)[0] for i in last]
        return cls(
            dim=dim,
            z_dim=shape_of(state, "conv2.bias", 1, what)[0],
            dim_mult=tuple(max(1, width // dim) for width in widths),
            num_res_blocks=down[0],
            temporal_downsample=tuple(f"encoder.downsamples.{i}.time_conv.bias" in state for i in down),
        )


def _middle(channels: int) -> nn.ModuleList:
    return nn.ModuleList([ResBlock(channels, channels), Attention(channels), ResBlock(channels, channels)])


def _head(channels: int, cout: int) -> nn.ModuleDict:
    return nn.ModuleDict({"0": Norm(channels), "2": Conv(channels, cout, (3, 3, 3))})


class Encoder(nn.Module):
    """Video frames -> posterior mean and log variance, 2 z_dim channels."""

    def __init__(self, c: WanVAEConfig):
        super().__init__()
        self.conv1 = Conv(3, c.dim, (3, 3, 3))
        layers: list[nn.Module] = []
        width = c.dim
        for i, mult in enumerate(c.dim_mult):
            for _ in range(c.num_res_blocks):
                layers.append(ResBlock(width, c.dim * mult))
                width = c.dim * mult
            if i < len(c.temporal_downsample):
                layers.append(Downsample(width, c.temporal_downsample[i]))
        self.downsamples = nn.ModuleList(layers)
        self.middle = _middle(width)
        self.head = _head(width, 2 * c.z_dim)

    def forward(self, x: Tensor, history: History) -> Tensor:
        """Next video frames [F, H, W, 3], F = 1 at the start, then 4k -> [1 or k, H/8, W/8, 2 z_dim]."""
        x = self.conv1(x, history)
        for layer in (*self.downsamples, *self.middle):
            x = layer(x, history)
        return self.head["2"](self.head["0"](x), history)


class Decoder(nn.Module):
    """Latent frames -> video frames."""

    def __init__(self, c: WanVAEConfig):
        super().__init__()
        width = c.dim * c.dim_mult[-1]
        self.conv1 = Conv(c.z_dim, width, (3, 3, 3))
        self.middle = _middle(width)
        layers: list[nn.Module] = []
        temporal = c.temporal_downsample[::-1]
        for i, mult in enumerate(c.dim_mult[::-1]):
            for _ in range(c.num_res_blocks + 1):
                layers.append(ResBlock(width, c.dim * mult))
                width = c.dim * mult
            if i < len(temporal):
                layers.append(Upsample(width, temporal[i]))
                width //= 2
        self.upsamples = nn.ModuleList(layers)
        self.head = _head(width, 3)

    def forward(self, x: Tensor, history: History) -> Tensor:
        """Next latent frames [n, h, w, z_dim] -> [m, 8h, 8w, 3], m = 4n - 3 at the start of a video, then 4n."""
        x = self.conv1(x, history)
        for layer in (*self.middle, *self.upsamples):
            x = layer(x, history)
        return self.head["2"](self.head["0"](x), history)
