"""One video through every measure that was asked for, in one pass; and what several of them are together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from liveact_app.evaluate.arcface import IResNet
from liveact_app.evaluate.frechet import Gaussian, frechet_distance
from liveact_app.evaluate.i3d import CLIP, I3D
from liveact_app.evaluate.inception import Inception
from liveact_app.evaluate.lipsync import LipSync, Loudness
from liveact_app.evaluate.look import ColourDrift, Flicker, Identity, Sharpness
from liveact_app.evaluate.networks import ClipFeatures, FaceIdentity, PictureFeatures, Sync
from liveact_app.evaluate.picture import Box, Picture, cells, centre_square, cut
from liveact_app.evaluate.series import PARTS, plain
from liveact_app.evaluate.syncnet import SyncNet
from liveact_app.media.audio import AudioReader, model_audio
from liveact_app.media.watch import VideoFile, watch

MEANS = ("lip_sync", "lip_sync_lag_ms", "identity", "colour_drift", "flicker", "pulse", "sharpness", "sync_c", "sync_d",
         "arcface")  # fmt: skip


@dataclass(frozen=True)
class Networks:
    """The networks whose weights were given."""

    inception: Inception | None = None
    i3d: I3D | None = None
    syncnet: SyncNet | None = None
    arcface: IResNet | None = None
    device: str = "cpu"
    every: int = 1


@dataclass
class Judged:
    """A video's row of figures, its notes, and the features that FID and FVD compare."""

    row: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    pictures: Gaussian | None = None
    clips: Gaussian | None = None


@torch.inference_mode()
def judge(
    video: VideoFile, networks: Networks, box: Box | None = None, reference: np.ndarray | None = None,
    argument: str = "VIDEO", told: Callable[[int], None] = lambda done: None,
) -> Judged:  # fmt: skip
    """Every figure of a video but those that need others.

    Args:
        box: where its face is; None: the whole picture for our own measures, the centre square for networks.
        reference: uint8 [H, W, 3], the picture that identity is measured against; None: the first video frame.
        told: called with the number of video frames done.

    Raises:
        InputError: the video or its sound is damaged.
    """
    notes: list[str] = []
    square = box or centre_square(video.size)
    face = None if reference is None else cells(cut(reference, box))
    own = [Identity(video.frames, face), ColourDrift(video.frames), Flicker(), Sharpness(video.frames)]
    lips = sync = None
    if video.sound_after is None:
        notes.append("no sound: no lip sync")
    else:
        with AudioReader(video.path, argument) as reader:
            loudness = Loudness(model_audio(reader))
        lips = LipSync(video.frames, video.fps, loudness, video.sound_after)
        if networks.syncnet is not None:
            sound = model_audio(AudioReader(video.path, argument))
            sync = Sync(networks.syncnet, networks.device, sound, video.sound_after)
    device, every = networks.device, networks.every
    pictures = None if networks.inception is None else PictureFeatures(networks.inception, device, every)
    clips = None if networks.i3d is None else ClipFeatures(networks.i3d, device)
    known = None if reference is None else cut(reference, square)
    person = None if networks.arcface is None else FaceIdentity(networks.arcface, device, video.frames, known, every)
    of_picture, of_face = (_there(*own, lips, pictures, clips), _there(sync, person))
    count = 0
    for shot in watch(video, argument):
        for box_of, measures in ((box, of_picture), (square, of_face)):
            picture = Picture(count, shot.at, shot.pixels, box_of)
            for measure in measures:
                measure.take(picture)
        count += 1
        told(count)
    row: dict[str, Any] = {"video_frames": count, "fps": plain(video.fps, 3), "size": list(video.size)}
    row |= {"lip_sync": None, "lip_sync_lag_ms": None, "lip_sync_tenths": [None] * PARTS, "mouth": None}
    if lips is not None:
        found, why = lips.result()
        row |= {key: value for key, value in found.items() if value is not None}
        notes += [why] if why else []
    for measure in own:
        row |= measure.result()
    row |= dict.fromkeys(("fid", "fvd", "sync_c", "sync_d", "sync_lag_ms", "arcface"))
    for measure in _there(pictures, clips, *of_face):
        measure.finish()
    for measure in of_face:
        row |= measure.result()
    if clips is not None and clips.gaussian.count < 2:
        notes.append(f"{clips.gaussian.count} clips of {CLIP} video frames: no FVD, two are needed")
    return Judged(row, notes, pictures and pictures.gaussian, clips and clips.gaussian)


def _there(*measures: Any) -> list[Any]:
    """Those that are not None."""
    return [m for m in measures if m is not None]


def compare(found: Judged, real: Judged | None) -> None:
    """Put FID and FVD against a reference video into a row."""
    if real is None:
        return
    if found.pictures is not None and real.pictures is not None:
        found.row["fid"] = plain(frechet_distance(found.pictures, real.pictures), 3)
    if found.clips is not None and real.clips is not None:
        found.row["fvd"] = plain(frechet_distance(found.clips, real.clips), 3)


def together(found: list[Judged], real: list[Judged | None]) -> dict[str, Any]:
    """The row of several videos: the mean of what each has of its own, FID and FVD of all features at once."""
    row: dict[str, Any] = {"video_frames": sum(j.row["video_frames"] for j in found)}
    for name in MEANS:
        values = [j.row[name] for j in found if j.row[name] is not None]
        row[name] = plain(float(np.mean(values))) if values else None
    known = {id(j): j for j in real if j is not None}
    for name, part in (("fid", "pictures"), ("fvd", "clips")):
        ours = [getattr(j, part) for j in found]
        theirs = [getattr(j, part) for j in known.values()]
        whole = all(j is not None for j in real) and None not in ours and None not in theirs
        row[name] = plain(frechet_distance(_sum(ours), _sum(theirs)), 3) if whole and theirs else None
    return row


def _sum(parts: list[Gaussian]) -> Gaussian:
    whole = Gaussian(parts[0].size)
    for part in parts:
        whole.merge(part)
    return whole
