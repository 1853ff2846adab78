"""Measures that networks give: features of pictures and clips for FID and FVD, SyncNet's distances, ArcFace's angle."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from liveact_app.evaluate import i3d, inception, syncnet
from liveact_app.evaluate.arcface import IResNet
from liveact_app.evaluate.frechet import Gaussian
from liveact_app.evaluate.mfcc import Mfcc
from liveact_app.evaluate.picture import Picture, cut
from liveact_app.evaluate.series import Tenths, plain

BATCH = 8


def tensor_of(pixels: np.ndarray, device: str) -> Tensor:
    """uint8 [H, W, 3] -> [3, H, W] on a device."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device).permute(2, 0, 1)


class PictureFeatures:
    """Inception features of every n-th video frame, as a Gaussian: FID compares two of them."""

    def __init__(self, network: inception.Inception, device: str, every: int = 1):
        self.gaussian, self._network, self._device = Gaussian(inception.FEATURES), network, device
        self._every, self._held = every, []

    def take(self, picture: Picture) -> None:
        """Add a video frame."""
        if picture.number % self._every == 0:
            self._held.append(tensor_of(picture.pixels, self._device))
            if len(self._held) == BATCH:
                self.finish()

    def finish(self) -> None:
        """Compute what waits."""
        if self._held:
            self.gaussian.add(self._network(torch.stack(self._held)).cpu().numpy())
            self._held = []


class ClipFeatures:
    """I3D logits of the clips of 16 video frames that follow each other, as a Gaussian: FVD compares two of them."""

    def __init__(self, network: i3d.I3D, device: str):
        self.gaussian, self._network, self._device = Gaussian(i3d.FEATURES), network, device
        self._held: list[Tensor] = []

    def take(self, picture: Picture) -> None:
        """Add a video frame."""
        small = F.interpolate(tensor_of(picture.pixels, self._device)[None].float(), (i3d.SIDE_PX,) * 2,
                              mode="bilinear", align_corners=False)[0]  # fmt: skip
        self._held.append(small)
        if len(self._held) == i3d.CLIP:
            clip = torch.stack(self._held, 1)[None]
            self.gaussian.add(self._network(clip).cpu().numpy())
            self._held = []

    def finish(self) -> None:
        """A clip that is not whole does not count."""


class FaceIdentity:
    """Cosine of the angle between ArcFace's embeddings of the face in a video frame and in the reference.

    Args:
        total: video frames of the video.
        reference: uint8 [H, W, 3], the face's box of the reference; None takes the first video frame's.
    """

    def __init__(self, network: IResNet, device: str, total: int, reference: np.ndarray | None, every: int = 1):
        self._network, self._device, self._every, self._over_time = network, device, every, Tenths(total)
        self._known = None if reference is None else self._of(tensor_of(reference, device)[None])[0]
        self._held: list[tuple[int, Tensor]] = []

    def _of(self, faces: Tensor) -> Tensor:
        return self._network(faces)

    def take(self, picture: Picture) -> None:
        """Add a video frame."""
        if picture.number % self._every == 0:
            face = tensor_of(cut(picture.pixels, picture.box), self._device)
            self._held.append((picture.number, face))
            if len(self._held) == BATCH:
                self.finish()

    def finish(self) -> None:
        """Compute what waits."""
        if not self._held:
            return
        found = self._of(torch.stack([face for _, face in self._held]))
        if self._known is None:
            self._known = found[0]
        for (number, _), value in zip(self._held, (found @ self._known).tolist()):
            self._over_time.add(number, value)
        self._held = []

    def result(self) -> dict[str, object]:
        """`arcface` and `arcface_tenths`."""
        return {"arcface": plain(self._over_time.mean()), "arcface_tenths": plain(self._over_time.means())}


class Sync:
    """SyncNet's Sync-C, Sync-D and lag of a video with sound; its face is the box, scaled to 224x224.

    Pictures are taken to 25 a second by the nearest one in time; windows of five of them and of 20 rows of MFCC begin
    together, and the last five pictures begin none, as in the published evaluation.

    Args:
        chunks: mono at 16 kHz.
        sound_after: seconds from the first video frame to the first sound.
    """

    def __init__(self, network: syncnet.SyncNet, device: str, chunks: Iterable[np.ndarray], sound_after: float = 0.0):
        self._network, self._device, self._distances = network, device, syncnet.Distances()
        self._mfcc = Mfcc(_shifted(chunks, sound_after))
        self._rows: deque[np.ndarray] = deque(maxlen=syncnet.MFCC_WINDOW)
        self._faces: deque[Tensor] = deque(maxlen=syncnet.WINDOW)
        self._waiting: list[tuple[Tensor, Tensor]] = []
        self._last: tuple[float, Tensor] | None = None
        self._before: Tensor | None = None  # the five pictures before the newest
        self._made, self._over = 0, False

    def take(self, picture: Picture) -> None:
        """Add a video frame."""
        bgr = tensor_of(cut(picture.pixels, picture.box), self._device).flip(0)[None].float()
        face = F.interpolate(bgr, (syncnet.SIDE_PX,) * 2, mode="bilinear", align_corners=False, antialias=True)[0]
        if self._last is not None:
            self._emit((self._last[0] + picture.at) / 2)
        self._last = (picture.at, face)

    def _emit(self, until: float) -> None:
        """Pictures at 25 per second before a time, all of them the last one taken."""
        while self._last is not None and self._made / syncnet.FPS < until:
            self._faces.append(self._last[1])
            self._made += 1
            if self._before is not None and not self._over:  # used once a sixth picture is there
                self._moment(self._before)
            if len(self._faces) == syncnet.WINDOW:
                self._before = torch.stack(list(self._faces), 1)

    def _moment(self, clip: Tensor) -> None:
        wanted = syncnet.MFCC_STEP if self._rows else syncnet.MFCC_WINDOW
        self._rows.extend(rows := list(islice(iter(self._mfcc), wanted)))
        if len(rows) < wanted:
            self._over = True
            return
        self._waiting.append((clip, torch.from_numpy(np.stack(self._rows, 1))[None].to(self._device)))
        if len(self._waiting) == BATCH:
            self._compute()

    def _compute(self) -> None:
        if self._waiting:
            seen = self._network.see(torch.stack([clip for clip, _ in self._waiting]))
            heard = self._network.hear(torch.stack([rows for _, rows in self._waiting]))
            for pair in zip(seen.cpu(), heard.cpu()):
                self._distances.add(*pair)
            self._waiting = []

    def finish(self) -> None:
        """Compute what waits."""
        if self._last is not None:
            self._emit(self._last[0] + 0.5 / syncnet.FPS)
        self._compute()

    def result(self) -> dict[str, object]:
        """`sync_c`, `sync_d`, `sync_lag_ms` (positive: the sound is later than the mouth)."""
        c, d, lag = self._distances.result() or (None, None, None)
        late = None if lag is None else 1000 * lag / syncnet.FPS
        return {"sync_c": plain(c), "sync_d": plain(d), "sync_lag_ms": plain(late, 0)}


def _shifted(chunks: Iterable[np.ndarray], after: float) -> Iterable[np.ndarray]:
    """The sound from the first video frame on: silence first, or without what came before it."""
    drop = round(-after * 16_000)
    if drop < 0:
        yield np.zeros(-drop, np.float32)
    for chunk in chunks:
        if drop >= len(chunk):
            drop -= len(chunk)
            continue
        yield chunk[max(0, drop) :]
        drop = 0
