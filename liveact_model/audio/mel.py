"""Streaming log-mel front end of the tiny model: four mel frames of 32 bands per video frame."""

from collections.abc import Callable, Iterable
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from liveact_model.audio.loudness import RecordingLevel, RunningLevel, loudness_db
from liveact_model.errors import InputError

SAMPLE_RATE = 16000
WINDOW = 512  # samples per Hann window (32 ms); each window is centred on its mel frame
BANDS = 32
FRAMES_PER_VIDEO = 4  # mel frames per video frame
CHANNELS = FRAMES_PER_VIDEO * BANDS


def mel_filters(bands: int = BANDS, low_hz: float = 60.0, high_hz: float = 7600.0) -> Tensor:
    """Triangular filters, equally spaced on the mel scale 2595 log10(1 + f/700); returns [bands, WINDOW//2 + 1]."""
    to_mel = 2595.0 * torch.log10(1.0 + torch.tensor([low_hz, high_hz], dtype=torch.float64) / 700.0)
    edges_mel = torch.linspace(float(to_mel[0]), float(to_mel[1]), bands + 2, dtype=torch.float64)
    edges = 700.0 * (10.0 ** (edges_mel / 2595.0) - 1.0)
    hz = torch.linspace(0.0, SAMPLE_RATE / 2, WINDOW // 2 + 1, dtype=torch.float64)
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (hz - left) / (centre - left), (right - hz) / (right - centre)
    return torch.minimum(rising, falling).clamp_min(0.0).float()


class MelEncoder:
    """Audio encoder of the tiny model; nothing in it is learned.

    One embedding per video frame: four log-mel frames of 32 bands, ``(log(power + 1e-4) + 4) / 4``, so silence is
    about -1.3 and loud speech about 2. Speech of any level is first brought to that of training (`loudness.py`).
    Embeddings have ``blocks = 1`` and ``channels = 128``.
    """

    blocks = 1
    channels = CHANNELS
    sample_rate = SAMPLE_RATE
    measured = float  # what `measure` returns

    def stream(self, fps: float, gain_db: float | None = None) -> "MelStream":
        """A fresh stream whose frame index is the video frame index at `fps` (video frames per second, 1 to 60).

        `gain_db` is what `measure` found for a whole recording; None follows the level while the audio arrives.
        """
        return MelStream(fps, gain_db)

    def measure(self, pieces: Iterable[Tensor], fps: float) -> float:
        """The gain in dB that brings the speech of a recording, pieces [n] at 16 kHz, to the level of training."""
        stream, level = MelStream(fps, 0.0), RecordingLevel()
        stream.heard = level.update
        for piece in pieces:
            stream.push(piece)
            stream.forget(stream.ready)
        stream.close()
        return level.gain_db()

    def encode(self, samples: Tensor, fps: float, gain_db: float | None = 0.0) -> Tensor:
        """Embeddings of a whole recording at its own level: samples [n] at 16 kHz -> [video frames, 1, 128]."""
        stream = self.stream(fps, gain_db)
        stream.push(samples)
        stream.close()
        return stream.embeddings(0, stream.ready)


class MelStream:
    """Exact streaming: any chunking of `push` gives the embeddings of one big push.

    Attributes:
        ready: number of video frames, from 0, whose embedding is final.
        total: number of video frames of the whole audio (a started frame counts, at least 1); None until `close`.
    """

    def __init__(self, fps: float, gain_db: float | None = 0.0):
        if not 1 <= fps <= 60:
            raise InputError(f"fps must be between 1 and 60 video frames per second, got {fps}")
        # An exact rational keeps frame positions free of drift however long the stream runs.
        self._hop = Fraction(SAMPLE_RATE, FRAMES_PER_VIDEO) / Fraction(fps).limit_denominator(1001)
        self._gain_db, self._level = gain_db, RunningLevel(fps, FRAMES_PER_VIDEO)
        self.heard: Callable[[Tensor], object] | None = None  # called with the loudness of new mel frames, dB [n]
        self._window = torch.hann_window(WINDOW)
        self._filters = mel_filters()
        self._samples = torch.zeros(WINDOW // 2)  # the audio is preceded by silence
        self._offset = -(WINDOW // 2)  # time, in samples, of self._samples[0]
        self._received = 0
        self._done = 0  # mel frames computed since the start
        self._frames: list[Tensor] = []
        self._first = 0  # video frame index of self._frames[0]
        self.total: int | None = None

    @property
    def ready(self) -> int:
        """Number of video frames whose embedding is final."""
        return self._done // FRAMES_PER_VIDEO if self.total is None else self.total

    def push(self, samples: Tensor) -> None:
        """Append mono float32 samples [n] at 16 kHz; n may be anything, zero included."""
        if self.total is not None:
            raise RuntimeError("push after close")
        if samples.dim() != 1:
            raise InputError(f"samples must be one-dimensional (mono), got shape {list(samples.shape)}")
        self._received += len(samples)
        self._samples = torch.cat([self._samples, samples.detach().to(self._window)])
        self._advance(self._computable())

    def close(self) -> None:
        """No more audio: pad with silence and finish the last started video frame."""
        if self.total is not None:
            return
        total = max(1, -(-Fraction(self._received) // (self._hop * FRAMES_PER_VIDEO)))
        last = total * FRAMES_PER_VIDEO
        end = self._position(last) + WINDOW
        missing = end - self._offset - len(self._samples)
        self._samples = F.pad(self._samples, (0, max(0, missing)))
        self._advance(last)
        self._samples = self._samples[:0]
        self.total = int(total)

    def embeddings(self, start: int, stop: int) -> Tensor:
        """Embeddings of video frames start..stop-1, [stop - start, 1, 128].

        Indices below 0 repeat frame 0; after `close`, indices past the end repeat the last frame. Raises RuntimeError
        for frames that are not ready yet or were forgotten.
        """
        index = torch.arange(start, stop).clamp_min(0)
        if self.total is not None:
            index = index.clamp_max(self.total - 1)
        rows = []
        for i in index.tolist():
            if i >= self.ready:
                raise RuntimeError(f"video frame {i} is not ready: {self.ready} are")
            if i < self._first:
                raise RuntimeError(f"video frame {i} was forgotten: frames from {self._first} are kept")
            rows.append(self._frames[i - self._first])
        return torch.stack(rows)[:, None] if rows else torch.zeros(0, 1, CHANNELS)

    def forget(self, before: int) -> None:
        """Free every embedding that only video frames < before need; the newest one is always kept."""
        drop = min(before - self._first, len(self._frames) - 1)
        if drop > 0:
            del self._frames[:drop]
            self._first += drop

    def _position(self, mel_frame: int) -> int:
        """Centre of a mel frame in samples, rounded half up in exact arithmetic."""
        samples, frames = self._hop.as_integer_ratio()
        return (2 * mel_frame * samples + frames) // (2 * frames)

    def _computable(self) -> int:
        """Number of mel frames, from the start, whose whole window has arrived."""
        count = max(self._done, int(Fraction(max(0, self._received - WINDOW // 2)) // self._hop) - 1)
        while self._position(count) + WINDOW // 2 <= self._received:
            count += 1
        return count

    def _advance(self, upto: int) -> None:
        """Finish the video frames whose mel frames, up to `upto`, are there; drop samples no later window needs.

        One video frame at a time, whatever arrived at once: the last bits of vectorised arithmetic depend on how many
        numbers it is given.
        """
        while self._done + FRAMES_PER_VIDEO <= upto:
            centres = torch.tensor([self._position(self._done + i) for i in range(FRAMES_PER_VIDEO)])
            index = (centres - WINDOW // 2 - self._offset)[:, None] + torch.arange(WINDOW)
            power = torch.fft.rfft(self._samples[index] * self._window).abs() ** 2
            power = power @ self._filters.T
            loudness = loudness_db(power)
            if self.heard is not None:
                self.heard(loudness)
            gain_db = self._level(loudness) if self._gain_db is None else self._gain_db
            mels = (torch.log(power * 10 ** (gain_db / 10) + 1e-4) + 4.0) / 4.0
            self._frames.append(mels.reshape(CHANNELS))
            self._done += FRAMES_PER_VIDEO
        keep = self._position(self._done) - WINDOW // 2 - self._offset
        keep = min(max(0, keep), len(self._samples))
        self._samples = self._samples[keep:].clone()
        self._offset += keep
