"""SyncNet: mouth and sound in one space, and Sync-C, Sync-D and the lag from their distances.

Chung and Zisserman, "Out of time: automated lip sync in the wild" (2016). Five video frames at 25 per second and 0.2
s of MFCCs become 1024 numbers each. Names of the parameters are those of the file in docs/evaluate.md.
"""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FPS = 25
SIDE_PX = 224
WINDOW, MFCC_WINDOW, MFCC_STEP = 5, 20, 4  # video frames; rows of MFCC; of them a video frame
SHIFTS = 15  # video frames each way
FEATURES = 1024


def _chain(kind: int, steps: list[tuple]) -> nn.Sequential:
    """Convolution, norm, ReLU and, where a step has one, a pool: (before, after, kernel, stride, padding[, pool])."""
    conv, norm, pool = ((nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d), (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d))[kind - 2]
    layers: list[nn.Module] = []
    for before, after, kernel, stride, padding, *pools in steps:
        layers += [conv(before, after, kernel, stride, padding), norm(after), nn.ReLU()]
        layers += [pool(*p) for p in pools]
    return nn.Sequential(*layers)


def _head() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, FEATURES))


class SyncNet(nn.Module):
    """Two networks; `see` and `hear` give features [B, 1024] to be compared by their Euclidean distance."""

    def __init__(self) -> None:
        super().__init__()
        flat, small = (1, 5, 5), (1, 3, 3)
        self.netcnnaud = _chain(2, [
            (1, 64, 3, 1, 1, (1, 1)), (64, 192, 3, 1, 1, (3, (1, 2))), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1),
            (256, 256, 3, 1, 1, (3, 2)), (256, 512, (5, 4), 1, 0),
        ])  # fmt: skip
        self.netfcaud, self.netfclip = _head(), _head()
        halve, edge = (1, 2, 2), (0, 1, 1)
        self.netcnnlip = _chain(3, [
            (3, 96, (5, 7, 7), halve, 0, (small, halve)), (96, 256, flat, halve, edge, (small, halve, edge)),
            (256, 256, small, 1, edge), (256, 256, small, 1, edge), (256, 256, small, 1, edge, (small, halve)),
            (256, 512, (1, 6, 6), 1, 0),
        ])  # fmt: skip

    def see(self, clips: Tensor) -> Tensor:
        """Video frames [B, 3, 5, 224, 224], BGR, 0 to 255."""
        return self.netfclip(self.netcnnlip(clips).flatten(1))

    def hear(self, mfcc: Tensor) -> Tensor:
        """MFCCs [B, 1, 13, 20]."""
        return self.netfcaud(self.netcnnaud(mfcc).flatten(1))


class Distances:
    """Mean distance of mouth and sound at every shift of the sound, from features that come one pair at a time.

    D(s) = mean over i of |v(i) - a(i + s)| for s = -15 .. 15 video frames, a = 0 outside the recording; then

        Sync-D = min over s of D(s),   Sync-C = median over s of D(s) - Sync-D,   lag = argmin: positive, sound later.
    """

    def __init__(self) -> None:
        self._seen: deque[Tensor] = deque(maxlen=SHIFTS + 1)
        self._heard: deque[Tensor] = deque(maxlen=SHIFTS + 1)
        self._sums, self._count = torch.zeros(2 * SHIFTS + 1, dtype=torch.float64), 0

    def add(self, seen: Tensor, heard: Tensor) -> None:
        """Take the features [1024] of one moment."""
        self._seen.append(seen)
        self._heard.append(heard)
        late = F.pairwise_distance(torch.stack(list(self._seen)), heard)  # this sound, and mouths up to now
        early = F.pairwise_distance(seen, torch.stack(list(self._heard)))
        for back, value in enumerate(late.flip(0).double()):
            self._sums[SHIFTS + back] += value
        for back, value in enumerate(early.flip(0).double()):
            if back:
                self._sums[SHIFTS - back] += value
        if self._count < SHIFTS:  # what would come before the first sound
            self._sums[: SHIFTS - self._count] += _length(seen)
        self._count += 1

    def result(self) -> tuple[float, float, int] | None:
        """(Sync-C, Sync-D, lag in video frames at 25 per second); None without any moment."""
        if not self._count:
            return None
        sums = self._sums.clone()
        for back, seen in enumerate(reversed(self._seen)):  # what would come after the last sound
            sums[SHIFTS + back + 1 :] += _length(seen)
        mean = sums / self._count
        best = int(mean.argmin())
        return float(mean.median() - mean[best]), float(mean[best]), best - SHIFTS


def _length(seen: Tensor) -> float:
    """Distance from nothing."""
    return float(F.pairwise_distance(seen, torch.zeros_like(seen)))
