"""Channel RMS norm and SiLU in one pass."""

import torch
import torch.nn.functional as F

from liveact_kernels.contract import ACT, ByDtype, Case, Op, Rel, T, Ulp, bf16, f32


def reference(x, gamma, silu: bool = True):
    """out = SiLU(x / max(|x|, 1e-12) * sqrt(C) * gamma), |x| the L2 norm over channels; silu=False leaves SiLU out.

    x      [F, H, W, C] activations
    gamma  [C]
    out    [F, H, W, C] in x's dtype, fp32 inside, one rounding
    Source Wan2.1 VAE: RMS_norm (no bias) before each convolution of a residual block, and before the attention.
    """
    x = x.double()
    y = x / x.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-12) * x.shape[-1] ** 0.5 * gamma.double()
    return y * torch.sigmoid(y) if silu else y


def torch_backend(x, gamma, silu=True):
    """Plain eager torch: any device, differentiable; in place outside autograd: on a CPU new pages cost most."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).clamp_min(1e-12)
    y = x.float() * (x.shape[-1] ** 0.5 / norm)
    anew = torch.is_grad_enabled()
    y = y * gamma.float() if anew else y.mul_(gamma.float())
    return (F.silu(y, inplace=not anew) if silu else y).to(x.dtype)


norm_silu = Op(
    "norm_silu",
    reference=reference,
    args={"x": T("F H W C", ACT), "gamma": T("C", ACT)},
    out={"out": T("F H W C", ACT)},
    flops=lambda d: {"f32": (8 if d.silu else 4) * d.F * d.H * d.W * d.C},
    tol=ByDtype(
        {
            f32: Rel(6.0, "a float32 sum of squares over C and the exponential of SiLU"),
            bf16: Ulp(1, 0.01, "fp32 inside: a value within 1e-6 of a rounding boundary may fall on its other side"),
        }
    ),
    rows="F",
    cases=[
        Case("tiny", F=2, H=3, W=5, C=96, A=bf16),
        Case("tiny_f32", F=2, H=3, W=5, C=24, A=f32),
        Case("norm_only", F=3, H=2, W=2, C=32, A=bf16, silu=False),
        Case("live_512x512", rung="device", F=32, H=512, W=512, C=96, A=bf16),
        Case("live_512x512_middle", rung="device", F=8, H=64, W=64, C=384, A=bf16),
        Case("live_720x416", rung="device", F=32, H=360, W=208, C=192, A=bf16),
    ],
    backends={"torch": torch_backend, "triton": f"{__name__}.triton_kernel:launch"},
)
