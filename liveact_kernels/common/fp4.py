"""4-bit codes (e2m1) with a scale per block along the last axis: NVFP4 and MXFP4, in plain torch on any device.

    nvfp4  blocks of 16, an e4m3 scale each, and one power of two per row in float32: value = code * scale * row
    mxfp4  blocks of 32, a power of two each as its biased exponent (e8m0) in uint8:  value = code * 2^(scale - 127)

Two codes share a byte: the even index has the low nibble. A nibble is sign, two bits of exponent, one of mantissa:
0, 0.5, 1, 1.5, 2, 3, 4, 6 in order. Scales lie row by row, [.., K / block]: nothing is swizzled in memory.
"""

from __future__ import annotations

import torch

from liveact_kernels.contract import FP8_MAX, ByDtype, Nibbles, T, Ulp, f32, fp8, to_fp8, u8

from .quantise import next_power_of_two

VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes by their three bits."""
E2M1_MAX = VALUES[-1]
MIDDLES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
"""Between neighbours; a tie goes to the code whose last bit is 0."""
SMALLEST = 1e-30
"""Least maximum of a block: one of zeros alone keeps a finite reciprocal of its scale."""
E2M1_EXPONENT = 2
"""Of the largest code, 6 = 1.5 * 2^2."""
BLOCK = {fp8: 16, u8: 32}
"""Values per scale, by the dtype of the scales; that dtype tells the two formats apart everywhere."""
E8M0_BIAS, E8M0_NAN = 127, 255
FP4_BLOCK = "16 if scale_dtype == fp8 else 32"
"""The same as a derived dim of an op whose scalar `scale_dtype` chooses."""
_NEAR = "an fp32 sum before it moves a maximum or a value across a rounding boundary"
FP4_TOL = {
    "x4": Nibbles(2, 0.01, _NEAR),
    "x_scale": ByDtype({fp8: Ulp(8, 0.02, f"{_NEAR}; 8 where that doubles the row's scale"), u8: Ulp(1, 0.02, _NEAR)}),
    "x_row": Ulp(1 << 23, 0.002, f"a power of two; {_NEAR}"),
}
"""Of ops that quantise what they have summed in float32."""


def fp4_rows(rows: str, columns: str) -> dict[str, T]:
    """Outputs of an op that quantises [rows, columns], named by their dims; B is FP4_BLOCK."""
    return {
        "x4": T(f"{rows} {columns}//2", u8),
        "x_scale": T(f"{rows} {columns}//B", "scale_dtype"),
        "x_row": T(rows, f32, when="scale_dtype == fp8"),
    }


def e2m1(q: torch.Tensor) -> torch.Tensor:
    """Nearest code of every value, ties to even, saturating; 0..15 in uint8. NaN has none: its block's scale tells."""
    a = q.abs()
    code = sum((a >= m if i % 2 else a > m).to(u8) for i, m in enumerate(MIDDLES))
    return code | (q.signbit().to(u8) << 3)


def pack(codes: torch.Tensor) -> torch.Tensor:
    """[.., C] of 0..15 -> [.., C / 2], the even index in the low nibble."""
    return codes[..., 0::2] | (codes[..., 1::2] << 4)


def unpack(packed: torch.Tensor) -> torch.Tensor:
    """[.., C / 2] -> codes [.., C]."""
    return torch.stack((packed & 15, packed >> 4), -1).flatten(-2)


def values(packed: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """[.., C / 2] -> the values [.., C] of the codes, exact."""
    code = unpack(packed)
    bits = code & 7
    quarters = torch.where(bits < 2, 2 * bits, ((bits & 1) + 2) << (bits >> 1)).to(dtype)
    return torch.where(code > 7, -quarters, quarters) / 4


def four_bits(scale: torch.Tensor) -> torch.Tensor:
    """Rounded to four significant bits, ties to even: e4m3 with an exponent of any size."""
    mantissa, exponent = torch.frexp(scale)
    return torch.ldexp((mantissa * 16).round() / 16, exponent)


def block_codes(y: torch.Tensor, scale_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """y [.., C] f32 or f64 -> packed codes [.., C / 2] and the blocks' scales [.., C / block] as numbers.

    nvfp4: max / 6 rounded to four bits, so that the largest magnitude of a block becomes about 6. mxfp4: the largest
    power of two in max, less 2, which is the rule of the OCP specification: what is above 6 then becomes 6.
    """
    g = y.unflatten(-1, (-1, BLOCK[scale_dtype]))
    top = g.abs().amax(-1).clamp_min(SMALLEST)
    if scale_dtype == fp8:
        scale = four_bits(top / E2M1_MAX)
    else:
        power = torch.ldexp(torch.ones_like(top), torch.frexp(top)[1] - 1 - E2M1_EXPONENT)
        scale = torch.where(top.isfinite(), power, torch.nan)
    return pack(e2m1((g / scale.unsqueeze(-1)).flatten(-2))), scale


def row_scale(scale: torch.Tensor) -> torch.Tensor:
    """[.., blocks] scales as numbers -> [..]: the least power of two by which e4m3 holds the largest of a row."""
    return next_power_of_two(scale.amax(-1) / FP8_MAX)


def stored(scale: torch.Tensor, row: torch.Tensor | None) -> torch.Tensor:
    """Scales as numbers -> e4m3 over their row's power of two, or the biased exponents of mxfp4 (row None)."""
    if row is not None:
        return to_fp8((scale / row.unsqueeze(-1)).float())
    exponent = torch.frexp(scale)[1] - 1 + E8M0_BIAS
    return torch.where(scale.isfinite(), exponent, E8M0_NAN).to(u8)


def quantise_fp4(
    y: torch.Tensor, scale_dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """y [.., C] -> packed codes [.., C / 2], scales [.., C / block] as they are stored, and rows [..] f32 or None."""
    codes, scale = block_codes(y.float(), scale_dtype)
    row = row_scale(scale) if scale_dtype == fp8 else None
    return codes, stored(scale, row), row


def block_scales(scale: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Stored scales as numbers."""
    if scale.dtype == fp8:
        return scale.to(dtype)
    power = torch.ldexp(torch.ones(scale.shape, dtype=dtype, device=scale.device), scale.int() - E8M0_BIAS)
    return torch.where(scale == E8M0_NAN, torch.nan, power)


def dequantise_fp4(
    codes: torch.Tensor, scale: torch.Tensor, row: torch.Tensor | None, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """The values [.., C] of packed codes."""
    x = values(codes, dtype).unflatten(-1, (scale.shape[-1], -1)) * block_scales(scale, dtype).unsqueeze(-1)
    return x.flatten(-2) if row is None else x.flatten(-2) * row.to(dtype).unsqueeze(-1)


def exact_fp4(y: torch.Tensor, scale_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """`quantise_fp4` of float64 rows, for references: e4m3 scales are not rounded yet, codes and exponents whole."""
    codes, scale = block_codes(y.double(), scale_dtype)
    if scale_dtype != fp8:
        return codes.double(), stored(scale, None).double(), None
    row = row_scale(scale)
    return codes.double(), scale / row.unsqueeze(-1), row
