"""RMS norm over all channels, before heads are split."""

import torch

from liveact_kernels.contract import ACT, Case, Op, Rel, T, bf16, f32


def reference(x, weight, eps: float = 1e-6):
    """out = x * rsqrt(mean(x^2) + eps) * weight.

    x [L, C] activations; weight [C] f32; out [L, C] in x's dtype, fp32 inside, one rounding.
    Source: Wan2.1 norm_q / norm_k / norm_k_img of the cross attention (full width, eps 1e-6).
    """
    x = x.double()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.double()


def torch_backend(x, weight, eps=1e-6):
    """Plain eager torch: any device, differentiable."""
    xf = x.float()
    return (xf * torch.rsqrt(xf.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)


rms_norm = Op(
    "rms_norm",
    reference=reference,
    args={"x": T("L C", ACT), "weight": T("C", f32)},
    out={"out": T("L C", ACT)},
    flops=lambda d: {"f32": 4 * d.L * d.C},
    tol=Rel(2.0, "fp32 mean of squares, one rounding"),
    rows="L",
    cases=[
        Case("tiny", L=7, C=96, A=bf16),
        Case("tiny_f32", L=3, C=40, A=f32),
        Case("live_512x512", rung="device", L=8192, C=5120, A=bf16),
        Case("live_416x720", rung="device", L=9360, C=5120, A=bf16),
    ],
    backends={"torch": torch_backend, "triton": f"{__name__}.triton_kernel:launch"},
)
