"""Moments of a live session as H.264 and AAC in fragments of MP4: one fragment a video frame, its sound with it."""

from __future__ import annotations

from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np

from liveact_app.media.audio import MODEL_RATE_HZ
from liveact_app.media.video import BT709, MPEG_RANGE, X264
from liveact_app.serve.boxes import AAC_SAMPLES, AudioTrack, VideoTrack, fragment, init_segment
from liveact_app.serve.live import Moment
from liveact_app.serve.picture import Pictures

GLOBAL_HEADER = 1 << 22
AAC_BIT_RATE = 64_000
KEY_EVERY_S = 1.0  # who joins later waits for the next one
LARGE_PIXELS = 512 * 512  # from here on one core is not enough for an encoder
UNITS = 1000  # of the video's clock per numerator of its rate
SLICES = (1, 5)


class Fragment(NamedTuple):
    """Bytes for a player; one that starts here needs a `key` one first."""

    data: bytes
    key: bool


def units_of(data: bytes) -> list[bytes]:
    """The NAL units of a byte stream (ITU-T H.264, annex B)."""
    starts, at = [], data.find(b"\0\0\1")
    while at >= 0:
        starts.append(at)
        at = data.find(b"\0\0\1", at + 3)
    return [data[a + 3 : b].rstrip(b"\0") for a, b in zip(starts, [*starts[1:], len(data)])]


class Muxer:
    """Encodes a session's moments.

    Args:
        size: (W, H) of the video frames, pixels.
        fps: video frames per second.
        scale: whole-number enlargement (Lanczos).

    Attributes:
        init: ftyp and moov.
        mime: type and codecs, as a browser asks for them.
        size: (W, H) of the video.
    """

    def __init__(self, size: tuple[int, int], fps: Fraction, scale: int = 1):
        self._pictures, self._fps = Pictures(size, scale, "yuv420p"), fps
        self.size = self._pictures.size
        self._video, self._audio = self._video_encoder(), self._audio_encoder()
        units = {unit[0] & 31: unit for unit in units_of(bytes(self._video.extradata))}
        sps, pps = units[7], units[8]
        track = VideoTrack(*self.size, fps.numerator * UNITS, fps.denominator * UNITS, sps, pps)
        sound = AudioTrack(MODEL_RATE_HZ, AAC_BIT_RATE, bytes(self._audio.extradata))
        self._duration = track.duration
        self.init = init_segment(track, sound)
        self.mime = f'video/mp4; codecs="avc1.{sps[1:4].hex()}, mp4a.40.2"'
        self._count, self._fed, self._encoded, self._sent = 0, 0, 0, 0
        self._planes = np.zeros(0, np.float32)

    def _video_encoder(self) -> av.VideoCodecContext:
        context = av.CodecContext.create("libx264", "w")
        context.width, context.height = self.size
        context.pix_fmt, context.framerate, context.time_base = "yuv420p", self._fps, 1 / self._fps
        context.options = X264 | {"tune": "zerolatency", "sc_threshold": "0"}  # no key frame but those in time
        context.gop_size = max(1, round(float(self._fps) * KEY_EVERY_S))
        context.thread_count = 1 if self.size[0] * self.size[1] < LARGE_PIXELS else 2
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = MPEG_RANGE
        context.flags |= GLOBAL_HEADER
        context.open()
        return context

    def _audio_encoder(self) -> av.AudioCodecContext:
        context = av.CodecContext.create("aac", "w")
        context.sample_rate, context.layout, context.format = MODEL_RATE_HZ, "mono", "fltp"
        context.bit_rate, context.time_base = AAC_BIT_RATE, Fraction(1, MODEL_RATE_HZ)
        context.flags |= GLOBAL_HEADER
        context.open()
        return context

    def close(self) -> None:
        """Free the encoders and their threads at once, not when the garbage is collected; `init` and `mime` stay."""
        del self._video, self._audio, self._pictures

    def write(self, moment: Moment) -> Fragment:
        """The fragment of a moment; they come in order, none left out."""
        frame = self._pictures.frame(moment.pixels)
        frame.pts, frame.time_base = moment.index, 1 / self._fps
        (packet,) = self._video.encode(frame)
        units = [unit for unit in units_of(bytes(packet)) if unit[0] & 31 in SLICES]
        video = b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)
        sound, start = self._sound(moment), self._sent
        self._sent += AAC_SAMPLES * len(sound)
        self._count += 1
        key = bool(packet.is_keyframe)
        return Fragment(fragment(self._count, video, moment.index * self._duration, key, sound, start), key)

    def _sound(self, moment: Moment) -> list[bytes]:
        """AAC frames that the sound up to this moment completes, and a little more: the encoder looks ahead."""
        begin = int(moment.index * MODEL_RATE_HZ / self._fps)
        ready = moment.heard[: moment.samples + 2 * AAC_SAMPLES]
        self._planes = np.concatenate([self._planes, ready[self._fed - begin :]])
        self._fed = max(self._fed, begin + len(ready))
        out: list[bytes] = []
        while len(self._planes) >= AAC_SAMPLES:
            part, self._planes = self._planes[:AAC_SAMPLES], self._planes[AAC_SAMPLES:]
            frame = av.AudioFrame.from_ndarray(part[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = MODEL_RATE_HZ, self._encoded, Fraction(1, MODEL_RATE_HZ)
            self._encoded += AAC_SAMPLES
            # The encoder's first frame lies before the sound (priming): nobody shall hear it.
            out += [bytes(packet) for packet in self._audio.encode(frame) if (packet.pts or 0) >= 0]
        return out
