"""Unquantised linear layers with the epilogues of the block: plain, GELU, gated residual, residual."""

from liveact_kernels.contract import ACT, ByDtype, Case, Op, Rel, T, bf16, compute_kind, f32

from . import reference as ref

_ARGS = {"a": T("M K", ACT), "w": T("N K", ACT), "b": T("N", ACT, optional=True)}
_OUT = {"out": T("M N", ACT)}
_TOL = ByDtype(
    {
        bf16: Rel(2.0, "fp32 accumulation; the torch backend rounds the product and the epilogue"),
        f32: Rel(32.0, "an fp32 sum over K"),
    }
)


def _cases(**extra):
    return [
        Case("tiny", M=8, N=48, K=64, A=f32, has_b=True, **extra),
        Case("tiny_bf16", M=7, N=40, K=96, A=bf16, has_b=True, **extra),
        Case("ragged", M=130, N=300, K=144, A=bf16, has_b=True, **extra),
        Case("odd", M=70, N=77, K=33, A=f32, has_b=False, **extra),
        Case("wide", M=70, N=160, K=112, A=f32, has_b=True, **extra),  # as much as products.LEAST
        Case("live_o_512x512", rung="device", M=8192, N=5120, K=5120, A=bf16, has_b=True, **extra),
        Case("live_o_416x720", rung="device", M=9360, N=5120, K=5120, A=bf16, has_b=True, **extra),
    ]


def _op(name, args, cases=None):
    return Op(
        name,
        reference=getattr(ref, name),
        args=args,
        out=_OUT,
        flops=lambda d: {compute_kind(d.A): 2 * d.M * d.N * d.K},
        tol=_TOL,
        rows="M",
        cases=cases or _cases(),
        backends={b: f"{__name__}.{b}_{kind}:{name}" for b, kind in (("torch", "backend"), ("triton", "kernel"))},
    )


linear = _op("linear", _ARGS)
linear_gelu = _op("linear_gelu", _ARGS)
linear_gate = _op("linear_gate", _ARGS | {"x": T("M N", ACT), "gate": T("N", f32)})
linear_residual = _op("linear_residual", _ARGS | {"x": T("M N", ACT)})
