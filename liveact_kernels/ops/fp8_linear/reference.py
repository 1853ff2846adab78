"""FP8 linear layers in float64, on the dequantised inputs."""

import torch
import torch.nn.functional as F


def _sum(a8, a_scale, w8, w_scale, b):
    a = (a8.double().unflatten(-1, (a_scale.shape[-1], -1)) * a_scale.double().unsqueeze(-1)).flatten(-2)
    out = a @ (w8.double() * w_scale.double()[:, None]).T
    return out if b is None else out + b.double()


def fp8_linear(a8, a_scale, w8, w_scale, b, out_dtype: torch.dtype = torch.bfloat16):
    """out = (a8 * a_scale) @ (w8 * w_scale).T + b.

    a8 [M, K] e4m3 with a_scale [M, G] f32 (one scale per K / G channels of a token; G = 1 is per token);
    w8 [N, K] e4m3 with w_scale [N] f32; b [N] f32 or None; out [M, N] in out_dtype.
    Source: the released FP8 wrapper (e4m3 weights and activations, bf16 out, bias in the GEMM), with finer scales.
    """
    return _sum(a8, a_scale, w8, w_scale, b)


def fp8_linear_gelu(a8, a_scale, w8, w_scale, b):
    """GELU_tanh of the product, quantised for the next GEMM.

    x8 [M, N] e4m3; x_scale [M, N / 128] f32 (one group when 128 does not divide N).
    """
    y = F.gelu(_sum(a8, a_scale, w8, w_scale, b), approximate="tanh")
    n = y.shape[-1]
    g = y.unflatten(-1, (n // 128 if n % 128 == 0 else 1, -1))
    scale = (g.abs().amax(-1) / 448).clamp_min(1e-12)
    return (g / scale.unsqueeze(-1)).flatten(-2), scale


def fp8_linear_gate(a8, a_scale, w8, w_scale, b, x, gate):
    """out = x + gate * product, the product as in fp8_linear.  x [M, N] activations, gate [N] f32; out in x's dtype."""
    return x.double() + gate.double() * _sum(a8, a_scale, w8, w_scale, b)


def fp8_linear_residual(a8, a_scale, w8, w_scale, b, x):
    """out = x + product, the product as in fp8_linear.  x [M, N] activations; out in x's dtype."""
    return x.double() + _sum(a8, a_scale, w8, w_scale, b)
