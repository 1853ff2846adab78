"""Make Triton's CPU interpreter round, multiply and cast as the chip does.

Stock 3.6 to 3.9: float32 to bf16 truncates; float32 to e4m3 drops the mantissa's carry (0.488 becomes 0.25, triton
issue 8322), rounds subnormals down and wraps above 448; bf16 subnormals widen wrongly; `tl.dot` multiplies the raw
bits of bf16 (triton issue 11584); a cast to int8 out of range wraps, which on the chip is undefined. test_interp.py
shows each fault on the stock functions kept in STOCK: when a probe fails there, its patch can go.
"""

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

FLOATS = {
    tl.float32: torch.float32,
    tl.float16: torch.float16,
    tl.bfloat16: torch.bfloat16,
    tl.float8e4nv: torch.float8_e4m3fn,
    tl.float8e5: torch.float8_e5m2,
}
STOCK = {
    "convert": interpreter._convert_float,
    "dot": interpreter.InterpreterBuilder.create_dot,
    "cast": interpreter.InterpreterBuilder.cast_impl,
}
"""The interpreter's own functions, for the probes."""


def _unsigned(dtype) -> np.dtype:
    return np.dtype(f"uint{dtype.primitive_bitwidth}")


def _tensor(data: np.ndarray, dtype) -> torch.Tensor:
    """Interpreter data (numbers or raw bits) as a torch tensor of the dtype it stands for."""
    bits = np.ascontiguousarray(data).view(_unsigned(dtype))
    signed = bits if bits.itemsize == 1 else bits.view(f"int{8 * bits.itemsize}")
    return torch.from_numpy(signed.copy()).view(FLOATS[dtype])


def convert(data, src, dst, mode):
    """Round to nearest even; e4m3 and e5m2 saturate, as the chip's cvt.rn.satfinite does; NaN stays NaN."""
    src, dst = src.scalar, dst.scalar
    toward_zero = mode is not None and mode == interpreter._ir.ROUNDING_MODE.RTZ
    if src not in FLOATS or dst not in FLOATS or toward_zero:
        return STOCK["convert"](data, src, dst, mode)
    x = _tensor(data, src).float()
    if dst.primitive_bitwidth == 8 and src.primitive_bitwidth > 8:
        limit = torch.finfo(FLOATS[dst]).max
        x = x.clamp(-limit, limit)
    raw = x.to(FLOATS[dst]).view({8: torch.uint8, 16: torch.int16, 32: torch.int32}[dst.primitive_bitwidth])
    return raw.numpy().view(_unsigned(dst)).reshape(np.shape(data))


def dot(self, a, b, d, *rest):
    """Widen the operands to float32 first: exact for bf16, float16 and both 8-bit formats."""

    def wide(h):
        dtype = h.dtype.scalar
        if dtype not in FLOATS or dtype == tl.float32:
            return h
        return interpreter.TensorHandle(_tensor(h.data, dtype).float().numpy(), tl.float32)

    return STOCK["dot"](self, wide(a), wide(b), d, *rest)


def cast(self, src, dst_type):
    """Float to int8 truncates toward zero; out of range is undefined on the chip, so here it is an error."""
    narrow = dst_type.scalar == tl.int8 and src.dtype.scalar == tl.float32
    if narrow and not np.all((src.data > -129) & (src.data < 128)):
        raise OverflowError(f"cast to int8 out of range: {src.data.min()} .. {src.data.max()}")
    return STOCK["cast"](self, src, dst_type)


def install() -> None:
    """Patch the interpreter of this process."""
    interpreter._convert_float = convert
    interpreter.InterpreterBuilder.create_dot = dot
    interpreter.InterpreterBuilder.cast_impl = cast
