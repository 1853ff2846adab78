"""ArcFace's IResNet: 512 numbers of a face, whose angle tells persons apart.

Deng et al., "ArcFace: additive angular margin loss" (2018), the improved residual network of Duta et al. (2020).
Depths 18, 34, 50, 100 and 200; names of the parameters are those of the files in docs/evaluate.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from liveact_model.checkpoint.statedict import count_layers
from liveact_model.errors import InputError

SIDE_PX = 112
FEATURES = 512
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 200: (6, 26, 60, 6)}


class Block(nn.Module):
    """Norm, 3x3, norm, PReLU, 3x3 (which may halve the picture), norm, plus what came in."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.bn2, self.prelu = nn.BatchNorm2d(after), nn.PReLU(after)
        self.conv2 = nn.Conv2d(after, after, 3, stride, padding=1, bias=False)
        self.bn3, self.downsample = nn.BatchNorm2d(after), None
        if stride > 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        """[B, before, H, W] -> [B, after, H / stride, W / stride]."""
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """uint8 RGB faces [B, 3, H, W] -> embeddings [B, 512] of norm 1.

    Published scores align faces by five landmarks first; here a face is its box, scaled to 112x112 (antialiased).
    """

    def __init__(self, depths: tuple[int, ...]):
        super().__init__()
        self.conv1, self.bn1, self.prelu = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        before = 64
        for number, (count, after) in enumerate(zip(depths, (64, 128, 256, 512)), 1):
            blocks = [Block(before, after, 2), *(Block(after, after, 1) for _ in range(count - 1))]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            before = after
        self.bn2, self.fc = nn.BatchNorm2d(512), nn.Linear(512 * 7 * 7, FEATURES)
        self.features = nn.BatchNorm1d(FEATURES)

    @classmethod
    def like(cls, state: Mapping[str, Tensor], what: str) -> IResNet:
        """The depth that a file has. Raises InputError for none of DEPTHS."""
        depths = tuple(count_layers(state, f"layer{i}.") for i in range(1, 5))
        if depths not in DEPTHS.values():
            known = ", ".join(f"{n} {d}" for n, d in DEPTHS.items())
            raise InputError(f"{what}: expected layer1 to layer4 of an IResNet ({known}), found {depths}")
        return cls(depths)

    def forward(self, faces: Tensor) -> Tensor:
        """To 112x112, to [-1, 1], through every layer."""
        x = F.interpolate(faces.float(), (SIDE_PX, SIDE_PX), mode="bilinear", align_corners=False, antialias=True)
        x = self.prelu(self.bn1(self.conv1(x / 127.5 - 1)))
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        return F.normalize(self.features(self.fc(self.bn2(x).flatten(1))))
