"""e4m3 x e4m3 linear layers with fused epilogues; activations carry one scale per token or per group of K."""

import torch

from liveact_kernels.contract import ACT, ByDtype, Case, Op, Rel, T, Ulp, bf16, f32, fp8

from . import reference as ref


def _positive(g, shape, d):
    return torch.rand(shape, generator=g) * 0.3 + 0.1


_ARGS = {
    "a8": T("M K", fp8),
    "a_scale": T("M G", f32, draw=_positive),
    "w8": T("N K", fp8),
    "w_scale": T("N", f32, draw=_positive),
    "b": T("N", f32, optional=True),
}
_WHY = "fp32 accumulate and epilogue, one rounding of the output"
_TOL = ByDtype({bf16: Rel(1.2, _WHY), f32: Rel(32.0, "an fp32 sum over K")})
_BACKENDS = (("torch", "backend"), ("triton", "kernel"), ("cuda", "kernel"))


def _cases(*live, **extra):
    """Cases of one op; `live` are (name, N, K, G) of the layers that call it."""
    device = [
        Case(f"live_{layer}_{size}", rung="device", M=M, N=N, K=K, G=G, has_b=True, **extra)
        for layer, N, K, G in live
        for size, M in (("512x512", 8192), ("416x720", 9360))
    ]
    return [
        Case("tiny", M=8, N=256, K=64, G=1, has_b=True, **extra),
        Case("groups", M=6, N=48, K=256, G=2, has_b=True, **extra),
        Case("ragged", M=130, N=384, K=400, G=1, has_b=True, **extra),
        Case("ragged_groups", M=70, N=200, K=384, G=3, has_b=False, **extra),
        Case("unaligned", M=3, N=40, K=36, G=2, has_b=True, **extra),
        *device,
    ]


def _op(name, args, out, tol, cases, backends=None, **more):
    own = {b: f"{__name__}.{b}_{kind}:{name}" for b, kind in _BACKENDS}
    return Op(
        name,
        reference=getattr(ref, name),
        args=args,
        out=out,
        require=("K % G == 0",),
        flops=lambda d: {"fp8": 2 * d.M * d.N * d.K},
        tol=tol,
        rows="M",
        cases=cases,
        backends=own | (backends or {}),
        **more,
    )


fp8_linear = _op(
    "fp8_linear",
    _ARGS,
    {"out": T("M N", "out_dtype")},
    _TOL,
    [
        # one step of K: what is wrong with an address, a map or a descriptor shows here first
        Case("one_tile", M=128, N=256, K=128, G=1, has_b=False, out_dtype=bf16),
        *_cases(("qkv", 15360, 5120, 1), ("q", 5120, 5120, 1), out_dtype=bf16),
    ],
    backends={"scaled_mm": f"{__name__}.vendor_backend:scaled_mm"},
)

fp8_linear_gelu = _op(
    "fp8_linear_gelu",
    _ARGS,
    {"x8": T("M N", fp8), "x_scale": T("M GN", f32)},
    {
        "x8": Ulp(1, 0.02, "fp32 GELU and scale move a value across a rounding boundary", floor=2e-3),
        "x_scale": Ulp(256, 1.0, "the group's maximum carries the fp32 sum over K"),
    },
    _cases(("ffn_up", 13824, 5120, 1)),
    where={"GN": "N // 128 if N % 128 == 0 else 1"},
)

fp8_linear_gate = _op(
    "fp8_linear_gate",
    _ARGS | {"x": T("M N", ACT), "gate": T("N", f32)},
    {"out": T("M N", ACT)},
    _TOL,
    _cases(("ffn_down", 5120, 13824, 108), ("o", 5120, 5120, 40), A=bf16),
)

fp8_linear_residual = _op(
    "fp8_linear_residual",
    _ARGS | {"x": T("M N", ACT)},
    {"out": T("M N", ACT)},
    _TOL,
    _cases(("o", 5120, 5120, 40), A=bf16),
)
