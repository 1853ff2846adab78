"""I3D (Inception v1 inflated to three dimensions): the 400 Kinetics logits that FVD compares.

Carreira and Zisserman, "Quo vadis, action recognition?" (2017). Names of the parameters are those of the file in
docs/evaluate.md. Padding is "same" in TensorFlow's sense: the odd pixel goes to the end.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE_PX = 224
CLIP = 16  # video frames
FEATURES = 400

# Channels of a module's branches: 1x1x1; 1x1x1 then 3x3x3; the same, thinner; pool then 1x1x1.
MIXED = {
    "3b": (64, (96, 128), (16, 32), 32), "3c": (128, (128, 192), (32, 96), 64),
    "4b": (192, (96, 208), (16, 48), 64), "4c": (160, (112, 224), (24, 64), 64),
    "4d": (128, (128, 256), (24, 64), 64), "4e": (112, (144, 288), (32, 64), 64),
    "4f": (256, (160, 320), (32, 128), 128), "5b": (256, (160, 320), (32, 128), 128),
    "5c": (384, (192, 384), (48, 128), 128),
}  # fmt: skip
Three = tuple[int, int, int]


def padded(x: Tensor, kernel: Three, stride: Three) -> Tensor:
    """[B, C, T, H, W] with zeros around, so that every dim n becomes ceil(n / stride)."""
    out: list[int] = []
    for n, k, s in zip(reversed(x.shape[2:]), reversed(kernel), reversed(stride)):
        missing = max(0, k - (n % s or s))
        out += [missing // 2, missing - missing // 2]
    return F.pad(x, out)


def pool(x: Tensor, kernel: Three, stride: Three) -> Tensor:
    """Maximum of what ReLUs gave, so that zeros around change nothing."""
    return F.max_pool3d(padded(x, kernel, stride), kernel, stride)


class Unit(nn.Module):
    """Convolution, then batch norm (epsilon 0.001) and ReLU, or a bias alone."""

    def __init__(self, before: int, after: int, side: int = 1, stride: int = 1, bias: bool = False):
        super().__init__()
        self._kernel, self._stride = (side,) * 3, (stride,) * 3
        self.conv3d = nn.Conv3d(before, after, side, stride, bias=bias)
        self.bn = None if bias else nn.BatchNorm3d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, T, H, W] -> [B, after, T', H', W']."""
        x = self.conv3d(padded(x, self._kernel, self._stride))
        return x if self.bn is None else F.relu(self.bn(x))


class Mixed(nn.Module):
    """Four branches, their channels one after the other."""

    def __init__(self, before: int, one: int, two: tuple[int, int], three: tuple[int, int], pooled: int):
        super().__init__()
        self.b0 = Unit(before, one)
        self.b1a, self.b1b = Unit(before, two[0]), Unit(*two, 3)
        self.b2a, self.b2b = Unit(before, three[0]), Unit(*three, 3)
        self.b3b = Unit(before, pooled)
        self.channels = one + two[1] + three[1] + pooled

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, T, H, W] -> [B, channels, T, H, W]."""
        pooled = self.b3b(pool(x, (3, 3, 3), (1, 1, 1)))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), pooled], 1)


class I3D(nn.Module):
    """uint8 RGB clips [B, 3, T, H, W], T at least 9, of any size -> logits [B, 400], their mean over time."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1, self.Conv3d_2c_3x3 = Unit(64, 64), Unit(64, 192, 3)
        channels = 192
        for name, branches in MIXED.items():
            block = Mixed(channels, *branches)
            channels = block.channels
            self.add_module(f"Mixed_{name}", block)
        self.logits = Unit(channels, FEATURES, bias=True)

    def forward(self, clips: Tensor) -> Tensor:
        """Bilinear to 224x224 without antialiasing and regard to the sides' ratio, to [-1, 1], through every block."""
        b, _, t = clips.shape[:3]
        flat = clips.float().transpose(1, 2).flatten(0, 1)
        flat = F.interpolate(flat, (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False) / 127.5 - 1
        x = self.Conv3d_1a_7x7(flat.unflatten(0, (b, t)).transpose(1, 2))
        x = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(pool(x, (1, 3, 3), (1, 2, 2))))
        x = pool(x, (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            if name in ("4b", "5b"):
                side = 3 if name == "4b" else 2
                x = pool(x, (side,) * 3, (2, 2, 2))
            x = getattr(self, f"Mixed_{name}")(x)
        return self.logits(F.avg_pool3d(x, (2, 7, 7), 1)).mean((2, 3, 4))
