"""What videos are compared with: a picture of the person, or a video of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from liveact_app.evaluate.series import PARTS
from liveact_app.media.image import fit_image, read_image
from liveact_app.media.watch import VideoFile, is_video, look, watch
from liveact_model.errors import InputError

LEAST_FRAMES = PARTS  # or a tenth would be empty


@dataclass(frozen=True)
class Reference:
    """A picture uint8 [H, W, 3]: a file, or the first video frame of `video`."""

    pixels: np.ndarray
    video: VideoFile | None = None

    def fitted(self, size: tuple[int, int]) -> np.ndarray:
        """The picture as `liveact generate` would fit it to (W, H): uint8 [H, W, 3]."""
        if self.pixels.shape[1::-1] == size:
            return self.pixels
        fitted = fit_image(Image.fromarray(self.pixels), size)
        return ((fitted.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()


def one_each(references: list[str], count: int) -> list[str]:
    """The reference's path of each of `count` videos, "" for none. Raises InputError for another number of them."""
    if len(references) == count:
        return references
    if len(references) > 1:
        raise InputError(f"--reference: expected one for all videos or one for each of {count}, got {len(references)}")
    return (references or [""]) * count


def look_at(videos: list[str], references: list[str]) -> tuple[list[VideoFile], dict[str, Reference]]:
    """Videos, and references by path.

    Raises:
        InputError: no video, too short a one, or a reference that is neither video nor picture.
    """
    found, known = [_long_enough(path, "VIDEO") for path in videos], {}
    for path in references:
        if is_video(path, "--reference"):
            video = _long_enough(path, "--reference")
            known[path] = Reference(next(watch(video, "--reference")).pixels, video)
        else:
            known[path] = Reference(np.asarray(read_image(path, "--reference")))
    return found, known


def _long_enough(path: str, argument: str) -> VideoFile:
    video = look(path, argument)
    if video.frames < LEAST_FRAMES:
        raise InputError(
            f"{argument}: expected at least {LEAST_FRAMES} video frames, {video.path!r} has {video.frames}"
        )
    return video
