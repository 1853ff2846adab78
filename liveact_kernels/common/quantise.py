"""8-bit codes with one float32 scale per group of a row."""

import torch

from liveact_kernels.contract import FP8_MAX, INT8_MAX, cast, fp8

SCALE_FLOOR = 1e-12  # an all-zero group keeps a finite scale


def per_group(
    y: torch.Tensor, groups: int, dtype: torch.dtype = fp8, power_of_two: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """y [..., C] -> codes [..., C] e4m3 or int8 and scales [..., groups] f32 with y ~ codes * scale.

    The maximum of a group maps to 448 (e4m3) or 127 (int8); the quotient is clamped before the cast. power_of_two:
    see `next_power_of_two`.
    """
    g = y.float().unflatten(-1, (groups, -1))
    scale = (g.abs().amax(-1) / (FP8_MAX if dtype == fp8 else INT8_MAX)).clamp_min(SCALE_FLOOR)
    scale = next_power_of_two(scale) if power_of_two else scale
    return cast(g / scale.unsqueeze(-1), dtype).flatten(-2), scale


def next_power_of_two(scale: torch.Tensor) -> torch.Tensor:
    """Scales rounded up to powers of two: e4m3 is a floating format, so it loses no accuracy, and codes can be moved
    to the scale of their neighbours without rounding again."""
    mantissa, exponent = torch.frexp(scale)
    return torch.ldexp(torch.ones_like(scale), exponent - (mantissa == 0.5).int())


def dequantise(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Codes [..., C] and scales [..., G] -> float32 [..., C]."""
    return (codes.float().unflatten(-1, (scale.shape[-1], -1)) * scale.unsqueeze(-1)).flatten(-2)
