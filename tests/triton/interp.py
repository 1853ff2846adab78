"""Make Triton's CPU interpreter round, multiply and cast as the chip does.

Stock 3.6 to 3.9: float32 to bf16 truncates; float32 to e4m3 drops the mantissa's carry (0.488 becomes 0.25, triton
issue 8322), rounds subnormals down and wraps above 448; bf16 subnormals widen wrongly; `tl.dot` multiplies the raw
bits of bf16 (triton issue 11584); a cast to int8 out of range wraps, which on the chip is undefined; `tl.dot_scaled`
does not exist. test_interp.py and test_fp4.py show each fault on the stock functions kept in STOCK: when a probe fails
there, its patch can go.
"""

import numpy as np
import torch
import triton.language as tl
from triton.language.semantic import TritonSemantic
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
    "dot_scaled": TritonSemantic.dot_scaled,
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


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def _fp4_rows(codes: np.ndarray, scale) -> np.ndarray:
    """Values [R, K] of packed e2m1 codes [R, K / 2], the first in the low nibble, by e4m3 scales or by uint8 powers."""
    x = E2M1[np.stack((codes & 15, codes >> 4), -1).reshape(codes.shape[0], -1)]
    if scale.dtype.scalar == tl.uint8:
        s = np.where(scale.data == 255, np.nan, np.exp2(scale.data.astype(np.float32) - 127))
    else:
        s = _tensor(scale.data, scale.dtype.scalar).float().numpy()
    return x * np.repeat(s, x.shape[1] // s.shape[1], 1).astype(np.float32)


def dot_scaled(self, lhs, lhs_scale, lhs_format, rhs, rhs_scale, rhs_format, acc, *rest):
    """The block-scaled product of e2m1 by e2m1: values that float32 holds exactly, summed in float32."""
    if {getattr(f, "value", f) for f in (lhs_format, rhs_format)} != {"e2m1"}:
        raise NotImplementedError(f"dot_scaled of {lhs_format} and {rhs_format}: only e2m1 is done here")
    (M, K), N = lhs.type.shape, rhs.type.shape[1]
    self.verify_scaled_shape(M, N, 2 * K, lhs_scale, rhs_scale)
    out = _fp4_rows(lhs.handle.data, lhs_scale.handle) @ _fp4_rows(rhs.handle.data.T, rhs_scale.handle).T
    out = out if acc is None else acc.handle.data + out
    return self.tensor(interpreter.TensorHandle(out.astype(np.float32), tl.float32), tl.block_type(tl.float32, [M, N]))


def install() -> None:
    """Patch the interpreter of this process."""
    interpreter._convert_float = convert
    interpreter.InterpreterBuilder.create_dot = dot
    interpreter.InterpreterBuilder.cast_impl = cast
    TritonSemantic.dot_scaled = dot_scaled
