"""x + gate * y, for paths whose GEMM does not fuse it."""

from liveact_kernels.contract import ACT, ByDtype, Case, Op, Rel, T, Ulp, bf16, f32


def reference(x, y, gate):
    """out = x + gate * y, gate per channel.

    x, y [L, C] activations; gate [C] f32; out [L, C] in x's dtype, fp32 inside, one rounding.
    Source: Wan2.1 block, the gated residual after self attention and after the FFN.
    """
    return x.double() + gate.double() * y.double()


def torch_backend(x, y, gate):
    """Plain eager torch: any device, differentiable."""
    return (x.float() + gate * y.float()).to(x.dtype)


_WHY = "one fp32 multiply-add, one rounding"

gate_residual = Op(
    "gate_residual",
    reference=reference,
    args={"x": T("L C", ACT), "y": T("L C", ACT), "gate": T("C", f32)},
    out={"out": T("L C", ACT)},
    flops=lambda d: {"f32": 2 * d.L * d.C},
    tol=ByDtype({bf16: Ulp(1, 0.02, _WHY, floor=1e-6), f32: Rel(2.0, _WHY)}),
    rows="L",
    cases=[
        Case("tiny", L=7, C=96, A=bf16),
        Case("tiny_f32", L=5, C=40, A=f32),
        Case("live_512x512", rung="device", L=8192, C=5120, A=bf16),
    ],
    backends={"torch": torch_backend, "triton": f"{__name__}.triton_kernel:launch"},
)
