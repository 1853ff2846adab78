"""CUDA graphs: calls on fixed tensors, captured once and replayed, and a count of what still compiles afterwards.

A captured call reads and writes the tensors that it touched while it was captured. Whoever captures hands new inputs in
by copying into them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

Call = Callable[[], None]

_compiled = 0
_watching = False


def supported(device: torch.device) -> bool:
    """Whether calls on this device can be captured."""
    return device.type == "cuda"


def compilations() -> int:
    """Triton kernels that this process has compiled, or loaded from the compiler's cache, since it first asked.

    Stays 0 where Triton was never imported.
    """
    global _watching
    if not _watching and "triton" in sys.modules:
        from triton import knobs

        knobs.runtime.jit_post_compile_hook = _count(knobs.runtime.jit_post_compile_hook)
        _watching = True
    return _compiled


def _count(earlier: Callable | None) -> Callable:
    """A compile hook that counts; one that was set before is still called, and its answer kept."""

    def hook(*args, **kwargs):
        global _compiled
        _compiled += 1
        return earlier(*args, **kwargs) if earlier else None

    return hook


def _warm(call: Call) -> None:
    """Run once on a side stream, as captures do: compiles kernels and lets libraries set themselves up."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call()
    torch.cuda.current_stream().wait_stream(side)


class Graphs:
    """Calls captured into one memory pool.

    Their temporaries share memory, so they must replay one at a time and in the order of capture (a later one may be
    repeated); tensors that the caller keeps are never shared.
    """

    def __init__(self) -> None:
        self.captured = 0
        self._pool: Any = None  # the device's own handle, after the first capture

    def warm(self, call: Call) -> None:
        """Run a call that will be captured, for its side effects on compilers and libraries."""
        _warm(call)

    def capture(self, call: Call) -> Call:
        """Record what `call` launches, without running it; returns the replay. Raises RuntimeError from CUDA."""
        graph = torch.cuda.CUDAGraph()
        # Other threads (the one that encodes video, say) may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            call()
        self._pool = graph.pool()
        self.captured += 1
        return graph.replay
