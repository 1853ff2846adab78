"""Pixels of moments as video frames for an encoder or a player: enlarged, and in its format."""

from __future__ import annotations

import av
import numpy as np
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter


class Pictures:
    """One session's converter; a new one per picture would spend most of its time on filter tables.

    size    (W, H) of the pixels
    scale   whole-number enlargement (Lanczos)
    format  of FFmpeg: "rgb24", "yuv420p"
    space   matrix of a YUV format
    """

    def __init__(
        self, size: tuple[int, int], scale: int = 1, format: str = "rgb24", space: Colorspace = Colorspace.ITU709
    ):
        self.size = (size[0] * scale, size[1] * scale)
        self._format, self._space = format, space
        self._filter = Interpolation.LANCZOS if scale > 1 else Interpolation.BICUBIC
        self._converter = VideoReformatter()

    def frame(self, pixels: np.ndarray) -> av.VideoFrame:
        """Of uint8 [H, W, 3]."""
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        return self._converter.reformat(
            frame, *self.size, format=self._format, dst_colorspace=self._space, interpolation=self._filter
        )
