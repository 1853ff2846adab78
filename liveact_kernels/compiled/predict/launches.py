"""The launches of a steady block, compiled for sm_90 on a machine without a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import cast

import torch

from liveact_kernels.contract import Call, Case, Dims, Op

from . import rates


@dataclass(frozen=True)
class Launch:
    """One kernel launch: its machine code, its size, and its arguments by name (tensors left out)."""

    kernel: str
    cubin: bytes = field(repr=False)
    grid: tuple[int, ...]
    warps: int
    stages: int
    shared: int
    args: dict[str, int | float | bool] = field(repr=False)
    itemsize: int = 2
    function: str | None = None  # which one of the cubin; None: its only one

    @property
    def blocks(self) -> int:
        """Blocks of the grid."""
        return math.prod(self.grid)


@dataclass
class Called:
    """An op at one shape, how often a block calls it, and what the op itself says it costs."""

    op: Op
    dims: Dims
    count: int
    launches: list[Launch] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The dims in words."""
        return self.dims.label()


def grouped(calls: Iterable[Call]) -> list[Called]:
    """Distinct shapes in the order of their first call."""
    found: dict[tuple, Called] = {}
    for call in calls:
        key = (call.op.name, str(sorted((k, str(v)) for k, v in vars(call.dims).items())))
        # what is recorded outside the registry has what is asked of it here: a name and a floor
        found.setdefault(key, Called(cast(Op, call.op), call.dims, 0)).count += 1
    return list(found.values())


def launched(op: Op, case: Case) -> list[Launch]:
    """What one call of the op's Triton backend launches on sm_90; raises what the compiler raises."""
    from triton.runtime.jit import JITFunction

    from liveact_kernels.compiled import aot

    found, run = [], JITFunction.run

    def compile_only(self, *args, grid, warmup, **kw):
        kernel = run(self, *args, grid=grid, warmup=True, **kw)
        named = dict(zip(self.arg_names, args)) | {n: v for n, v in kw.items() if n in self.arg_names}
        found.append(compiled_launch(kernel, grid, named))
        return kernel

    aot.called(op, case, rates.ARCH, compile_only)
    return found


def compiled_launch(kernel, grid, named: dict) -> Launch:
    """Of a compiled Triton kernel, its grid and all its arguments by name."""
    plain = {
        n: int(v) if isinstance(v, bool | int) else v for n, v in named.items() if isinstance(v, bool | int | float)
    }
    sizes = [dtype.itemsize for v in named.values() if (dtype := _dtype(v)) is not None and dtype != torch.float32]
    meta = kernel.metadata
    return Launch(
        meta.name, kernel.asm["cubin"], tuple(int(n) for n in grid), meta.num_warps, meta.num_stages, meta.shared,
        plain, _operand_size(named, sizes),
    )  # fmt: skip


def _dtype(value) -> torch.dtype | None:
    """Of a tensor or of the tensor behind a descriptor."""
    return getattr(getattr(value, "base", value), "dtype", None)


def _operand_size(named: dict, sizes: list[int]) -> int:
    """Bytes per element of what a kernel multiplies: its `w`, `k` or `k_new`, whichever it has."""
    for name in ("w", "k", "k_new", "k_text"):
        if (dtype := _dtype(named.get(name))) is not None:
            return dtype.itemsize
    return max(sizes, default=2)


def case_of(dims: Dims) -> Case:
    """The case of a recorded call."""
    return Case("block", rung="device", **vars(dims))


def compile_all(shapes: Iterable[Called], say: Callable[[str], None] = lambda text: None) -> None:
    """Fill in the launches of every shape whose op has a Triton backend."""
    for n, shape in enumerate(shapes, 1):
        if "triton" in shape.op.backends:
            say(f"compiling {shape.op.name} ({n})")
            shape.launches = launched(shape.op, case_of(shape.dims))
