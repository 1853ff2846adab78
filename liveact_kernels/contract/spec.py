"""How an op states its tensors: dim names, dtypes, dtype variables and test cases."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch

bf16, f32, fp8, int8, u8 = torch.bfloat16, torch.float32, torch.float8_e4m3fn, torch.int8, torch.uint8
FP8_MAX, INT8_MAX = 448.0, 127.0
SHORT = {bf16: "bf16", f32: "f32", fp8: "e4m3", int8: "int8", u8: "u8", torch.float64: "f64", torch.float16: "f16"}


@dataclass(frozen=True)
class DType:
    """A dtype variable: bound by the first tensor that uses it, equal in every other."""

    name: str
    allowed: tuple[torch.dtype, ...] = (f32, bf16)


ACT = DType("A")
"""The activation dtype: float32 or bfloat16."""


class Dims(SimpleNamespace):
    """Named sizes, dtype variables and scalar arguments of one call: the one currency of an op."""

    def label(self) -> str:
        """`M=9360,N=15360,K=5120,A=bf16`: what NVTX, the budget and error messages print."""
        shown = {k: SHORT.get(v, v) for k, v in vars(self).items() if not k.startswith("has_")}
        return ",".join(f"{k}={v}" for k, v in shown.items() if isinstance(v, (int, str)) and not isinstance(v, bool))


@dataclass(frozen=True)
class T:
    """One tensor of a signature.

    dims      dim names and expressions, e.g. "L H D" or "M K//128"
    dtype     a torch dtype, a DType variable, or the name of a scalar argument that holds a dtype
    optional  the argument may be None; `has_<name>` is then False in the dims
    when      (outputs) expression over dims: the output exists only when it is true
    draw      (generator, shape, dims) -> tensor for test inputs; the default is N(0, 1)
    """

    dims: str
    dtype: torch.dtype | DType | str
    optional: bool = False
    when: str | None = None
    draw: Callable | None = field(default=None, compare=False)

    def shape(self, d: Dims) -> tuple[int, ...]:
        """Sizes under the given dims."""
        return tuple(int(evaluate(n, d)) for n in self.dims.split())

    def dtype_of(self, d: Dims) -> torch.dtype:
        """The torch dtype under the given dims."""
        if isinstance(self.dtype, torch.dtype):
            return self.dtype
        return getattr(d, self.dtype if isinstance(self.dtype, str) else self.dtype.name)

    def present(self, d: Dims) -> bool:
        """Whether this output exists under the given dims."""
        return self.when is None or bool(evaluate(self.when, d))

    def nbytes(self, d: Dims) -> int:
        """Bytes of the tensor under the given dims."""
        return math.prod(self.shape(d)) * self.dtype_of(d).itemsize


class Case:
    """A named set of dims to test or time. rung "cpu" runs everywhere, "device" only on a GPU."""

    def __init__(self, id: str, rung: str = "cpu", **dims):
        self.id, self.rung, self.dims = id, rung, dims

    def __repr__(self) -> str:
        return self.id


def evaluate(expression: str, d: Dims):
    """Evaluate one of an op's own expressions (never user input) over its dims."""
    value = vars(d).get(expression)
    if value is not None:
        return value
    return eval(expression, {"__builtins__": {}, "len": len, "fp8": fp8, "int8": int8, "u8": u8}, vars(d))


def to_fp8(x: torch.Tensor) -> torch.Tensor:
    """Cast to e4m3 with saturation.

    torch 2.11 gives NaN above 464 where 2.13 saturates, so the clamp is ours on every version.
    """
    return x.clamp(-FP8_MAX, FP8_MAX).to(fp8)


def cast(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Round to dtype once, to nearest, saturating where the format has no infinity."""
    if x.dtype == dtype:
        return x
    if dtype == int8:
        return x.round().clamp(-INT8_MAX, INT8_MAX).to(int8)
    return to_fp8(x) if dtype == fp8 else x.to(dtype)  # u8 holds codes and exponents, whole numbers by themselves


def compute_kind(dtype: torch.dtype) -> str:
    """Which peak rate of a chip a matrix product in this dtype runs at."""
    return {bf16: "bf16", fp8: "fp8"}.get(dtype, "f32")
