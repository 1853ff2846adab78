"""Streaming tempo change: speech faster or slower at the same pitch.

The audio network gives 25 embeddings per second. Audio stretched to fps/25 of its duration (tempo factor 25/fps)
therefore has one embedding per video frame. The stretch is FFmpeg's atempo filter (waveform similarity overlap-add);
the released code used SoX's tempo, another filter of the same family: equal in timing, not in samples.
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from liveact_model.errors import InputError

EMBEDDINGS_PER_SECOND = 25
BLOCK = 320  # samples; atempo's output depends on how its input is cut when it slows down, so it is always cut here


class TempoStream:
    """Stretch mono float32 audio at `sample_rate` Hz to exactly round(n * fps / 25) samples.

    `push` returns what is ready (about a tenth of a second late), `close` the rest. The result does not depend on
    how the audio is cut into pushes. At 25 fps samples pass through untouched and no filter exists.

    Raises:
        InputError: `fps` is not a finite number above 0.
    """

    def __init__(self, fps: float, sample_rate: int = 16000):
        if not isinstance(fps, (int, float)) or isinstance(fps, bool) or not math.isfinite(fps) or fps <= 0:
            raise InputError(f"fps: expected a finite number above 0, got {fps!r}")
        self.fps, self.sample_rate = float(fps), sample_rate
        self.pushed = 0  # samples in
        self.returned = 0  # samples out
        self._waiting = torch.empty(0)
        self._ready = torch.empty(0)
        self._graph = None if self.fps == EMBEDDINGS_PER_SECOND else _atempo(self.fps, sample_rate)

    @property
    def length(self) -> int:
        """Samples of the stretched audio if it ended now."""
        return round(self.pushed * self.fps / EMBEDDINGS_PER_SECOND)

    def push(self, samples: Tensor) -> Tensor:
        """Add samples [n] of the original audio; returns stretched samples [m], m >= 0.

        Raises:
            InputError: `samples` is not one-dimensional, not floating point or not finite.
        """
        if samples.ndim != 1 or not samples.is_floating_point():
            raise InputError(f"samples: expected mono float audio [n], got {samples.dtype} {list(samples.shape)}")
        if not bool(torch.isfinite(samples).all()):
            raise InputError("samples: expected finite audio, got NaN or infinity")
        samples = samples.detach().to("cpu", torch.float32, copy=True)
        self.pushed += len(samples)
        if self._graph is None:
            return self._give(samples)
        self._waiting = torch.cat([self._waiting, samples])
        whole = len(self._waiting) // BLOCK * BLOCK
        out = [self._filter(block) for block in self._waiting[:whole].split(BLOCK) if len(block)]
        self._waiting = self._waiting[whole:].clone()
        # held back to the length so far: the filter may run ahead of it, and what was returned cannot be cut later
        self._ready = torch.cat([self._ready, *out])
        return self._give_ready(self.length - self.returned)

    def close(self) -> Tensor:
        """End of the audio: the samples still owed, so that the total is exactly `length`."""
        missing = self.length - self.returned
        # the filter keeps a window back and would drop it at its end of stream; silence behind it pushes it out
        block = torch.nn.functional.pad(self._waiting, (0, BLOCK - len(self._waiting)))
        while len(self._ready) < missing:
            self._ready = torch.cat([self._ready, self._filter(block)])
            block = torch.zeros(BLOCK)
        return self._give_ready(missing)

    def _give_ready(self, count: int) -> Tensor:
        given, self._ready = self._ready[:count], self._ready[count:].clone()
        return self._give(given)

    def _give(self, samples: Tensor) -> Tensor:
        self.returned += len(samples)
        return samples

    def _filter(self, block: Tensor) -> Tensor:
        """Pass one block through the graph and collect what comes out."""
        import av

        frame = av.AudioFrame.from_ndarray(block.numpy()[None], format="flt", layout="mono")
        frame.sample_rate, frame.time_base = self.sample_rate, Fraction(1, self.sample_rate)
        assert self._graph is not None, "at 25 fps nothing is filtered"
        self._graph.push(frame)
        out = [torch.empty(0)]
        while True:
            try:
                out.append(torch.from_numpy(self._graph.pull().to_ndarray().reshape(-1)))
            except av.error.BlockingIOError:  # nothing more for now
                return torch.cat(out)


def factors(tempo: float) -> list[float]:
    """Split a tempo factor into equal ones in [0.5, 2]: above 2 a stage drops samples, below 0.5 it refuses."""
    stages = max(1, math.ceil(abs(math.log2(tempo))))
    return [tempo ** (1 / stages)] * stages


def _atempo(fps: float, sample_rate: int):
    """A configured PyAV filter graph: mono float32 source -> atempo stages -> sink."""
    import av.filter  # imported here: audio at 25 fps needs no PyAV

    graph = av.filter.Graph()
    step = Fraction(1, sample_rate)
    chain = [graph.add_abuffer(sample_rate=sample_rate, format="flt", layout="mono", time_base=step)]
    chain += [graph.add("atempo", f"{factor:.9f}") for factor in factors(EMBEDDINGS_PER_SECOND / fps)]
    chain.append(graph.add("abuffersink"))
    for source, sink in pairwise(chain):
        source.link_to(sink)
    graph.configure()
    return graph
