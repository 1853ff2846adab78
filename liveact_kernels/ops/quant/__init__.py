"""Activations to e4m3, one scale per token or per group of channels."""

from liveact_kernels.common.quantise import per_group
from liveact_kernels.contract import ACT, Case, Op, T, Ulp, bf16, f32, fp8


def reference(x, groups: int = 1):
    """x ~ x8 * x_scale, one scale per group of C / groups channels.

    x [L, C] activations; x8 [L, C] e4m3; x_scale [L, groups] f32 = max|group| / 448, at least 1e-12.
    Source: the released FP8 linear quantises activations per token (groups = 1); groups of 128 channels need no
    row-wide reduction, so a producer's epilogue can do it.
    """
    g = x.double().unflatten(-1, (groups, -1))
    scale = (g.abs().amax(-1) / 448).clamp_min(1e-12)
    return (g / scale.unsqueeze(-1)).flatten(-2), scale


def torch_backend(x, groups=1):
    """Plain eager torch: any device."""
    return per_group(x, groups)


quant = Op(
    "quant",
    reference=reference,
    args={"x": T("L C", ACT)},
    out={"x8": T("L C", fp8), "x_scale": T("L groups", f32)},
    require=("C % groups == 0",),
    flops=lambda d: {"f32": 3 * d.L * d.C},
    tol={
        "x8": Ulp(1, 0.01, "an fp32 scale moves a value across a rounding boundary"),
        "x_scale": Ulp(1, 1.0, "one fp32 division"),
    },
    rows="L",
    cases=[
        Case("tiny", L=7, C=96, A=bf16),
        Case("groups", L=5, C=256, A=f32, groups=2),
        Case("live_512x512", rung="device", L=8192, C=5120, A=bf16, groups=40),
        Case("live_512x512_rows", rung="device", L=8192, C=5120, A=bf16),
    ],
    backends={"torch": torch_backend, "triton": f"{__name__}.triton_kernel:launch"},
)
