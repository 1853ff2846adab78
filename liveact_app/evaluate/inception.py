"""Inception v3 as FID uses it: 2048 features of a picture.

Szegedy et al., "Rethinking the Inception architecture" (2015), with what the weights of 2015-12-05 differ in: average
pools do not count padding, the last block pools by maximum, 1008 classes, no auxiliary classifier. Names of the
parameters are those of the file in docs/evaluate.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE_PX = 299
FEATURES = 2048


class Conv(nn.Module):
    """Convolution, batch norm (epsilon 0.001), ReLU."""

    def __init__(self, before: int, after: int, kernel: int | tuple[int, int], stride: int = 1, same: bool = False):
        super().__init__()
        h, w = kernel if isinstance(kernel, tuple) else (kernel, kernel)
        padding = (h // 2, w // 2) if same else 0
        self.conv = nn.Conv2d(before, after, (h, w), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, after, H', W']."""
        return F.relu(self.bn(self.conv(x)))


class Branches(nn.Module):
    """Branches side by side: each a chain of named convolutions, a pool of 3x3 before some, a fork at the end of some.

    Args:
        before: channels that come in. chains: for each branch the names and (channels, kernel) of its convolutions; a
        list of pairs at the end is a fork. pool: "average" (without padding), "maximum", or "" where the pooled
        branch has no convolution. stride: of the last convolution of each chain and of that pool: 2 halves the
        picture.
    """

    def __init__(self, before: int, chains: list[list], pool: str = "average", stride: int = 1):
        super().__init__()
        self._pool, self._stride, self._order = pool, stride, []
        for chain in chains:
            channels, names = before, []
            for place, step in enumerate(chain):
                last = place == len(chain) - 1
                forks = step if isinstance(step, list) else [step]
                for name, after, kernel in forks:
                    halves = last and stride == 2
                    self.add_module(name, Conv(channels, after, kernel, 2 if halves else 1, same=not halves))
                names.append([name for name, _, _ in forks])
                channels = sum(after for _, after, _ in forks)
            self._order.append(names)

    def forward(self, x: Tensor) -> Tensor:
        """Channels of all branches one after the other."""
        out = []
        for names in self._order:
            y = self._pooled(x) if names[0][0] == "branch_pool" else x
            for forks in names:
                y = torch.cat([getattr(self, name)(y) for name in forks], 1)
            out.append(y)
        if self._stride == 2:
            out.append(F.max_pool2d(x, 3, 2))
        return torch.cat(out, 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self._pool == "maximum":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def _a(before: int, pooled: int) -> Branches:
    return Branches(before, [
        [("branch1x1", 64, 1)],
        [("branch5x5_1", 48, 1), ("branch5x5_2", 64, 5)],
        [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
        [("branch_pool", pooled, 1)],
    ])  # fmt: skip


def _c(inner: int) -> Branches:
    wide, high, name = (1, 7), (7, 1), "branch7x7dbl_{}".format
    return Branches(768, [
        [("branch1x1", 192, 1)],
        [("branch7x7_1", inner, 1), ("branch7x7_2", inner, wide), ("branch7x7_3", 192, high)],
        [(name(1), inner, 1), (name(2), inner, high), (name(3), inner, wide), (name(4), inner, high),
         (name(5), 192, wide)],
        [("branch_pool", 192, 1)],
    ])  # fmt: skip


def _e(before: int, pool: str) -> Branches:
    def fork(name: str) -> list:
        return [(f"{name}a", 384, (1, 3)), (f"{name}b", 384, (3, 1))]

    return Branches(before, [
        [("branch1x1", 320, 1)],
        [("branch3x3_1", 384, 1), fork("branch3x3_2")],
        [("branch3x3dbl_1", 448, 1), ("branch3x3dbl_2", 384, 3), fork("branch3x3dbl_3")],
        [("branch_pool", 192, 1)],
    ], pool)  # fmt: skip


class Inception(nn.Module):
    """uint8 RGB pictures [B, 3, H, W] of any size -> features [B, 2048] before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, 2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3, same=True)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = _a(192, 32), _a(256, 64), _a(288, 64)
        self.Mixed_6a = Branches(288, [
            [("branch3x3", 384, 3)],
            [("branch3x3dbl_1", 64, 1), ("branch3x3dbl_2", 96, 3), ("branch3x3dbl_3", 96, 3)],
        ], stride=2)  # fmt: skip
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d, self.Mixed_6e = _c(128), _c(160), _c(160), _c(192)
        self.Mixed_7a = Branches(768, [
            [("branch3x3_1", 192, 1), ("branch3x3_2", 320, 3)],
            [("branch7x7x3_1", 192, 1), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1)),
             ("branch7x7x3_4", 192, 3)],
        ], stride=2)  # fmt: skip
        self.Mixed_7b, self.Mixed_7c = _e(1280, "average"), _e(2048, "maximum")
        self.fc = nn.Linear(FEATURES, 1008)

    def forward(self, pictures: Tensor) -> Tensor:
        """Bilinear to 299x299 without antialiasing, to [-1, 1], through every block, the mean over all places."""
        x = F.interpolate(pictures.float(), (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False) / 127.5 - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        return x.mean((2, 3))
