"""The frame budget that a generation prints: host time per op while its blocks were made."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from liveact_app.generate.summary import Summary


class FrameBudget:
    """Clocks the blocks of a run; constant in size however many there are.

    Times are the host's around each op call: on a CPU that is the op, on a GPU only its launch (the profiling tools
    measure devices).
    """

    def __init__(self) -> None:
        from liveact_kernels.cost.budget import Tally

        self.tally, self.seconds = Tally(), 0.0

    @contextlib.contextmanager
    def block(self, number: int) -> Iterator[None]:
        """Clock everything inside: audio features, denoising, decoding."""
        from liveact_kernels.contract import record

        began = time.perf_counter()
        try:
            with record(self.tally):
                yield
        finally:
            self.seconds += time.perf_counter() - began

    def print(self, summary: Summary) -> None:
        """Print the table for a finished run."""
        print(self.table(summary.video_frames, summary.encode_seconds, summary.graphs > 0))

    def table(self, video_frames: int, encode_seconds: float, graphs: bool = False) -> str:
        """op, backend, calls, ms per video frame, share of the time in blocks; encoding runs beside it.

        Ops that a CUDA graph replays are not called: with `graphs` they are in the last row.
        """
        from liveact_kernels.cost.budget import OUTSIDE

        lines = [f"{'op':22} {'backend':10} {'calls':>8} {'ms per video frame':>19} {'share':>7}"]
        for op, backend, calls, ms, share in self.tally.rows(video_frames, self.seconds):
            op = ("(graphs, VAE, audio)" if graphs else "(VAE, audio, noise)") if op == OUTSIDE else op
            lines.append(f"{op:22} {backend:10} {calls or '':>8} {ms:>19.3f} {share:>7.1%}")
        lines.append(f"{'total':22} {'':10} {'':>8} {1e3 * self.seconds / video_frames:>19.3f} {1:>7.1%}")
        beside = "H.264, AAC, muxing (on another thread)"
        return "\n".join([*lines, f"{beside:41} {1e3 * encode_seconds / video_frames:>19.3f}"])
