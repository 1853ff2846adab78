"""e2m1 x e2m1 linear layers with fused epilogues: nvfp4 or mxfp4, by the dtype of the scales."""

import torch

from liveact_kernels.common.fp4 import BLOCK, FP4_TOL, quantise_fp4
from liveact_kernels.contract import ACT, ByDtype, Case, DType, Op, Rel, T, Ulp, bf16, f32, fp8, u8

from . import reference as ref

SCALES = DType("S", (fp8, u8))
"""The dtype of the block scales, which says which of the two formats this is."""


def _quantised(part):
    """Draws the codes (0) or the rows (2) of random values, each of its own: any of them go together."""

    def draw(g, shape, d):
        width = 2 * d.P
        return quantise_fp4(torch.randn((*shape[:1], width), generator=g), d.S)[part]

    return draw


def _exponents(g, shape, d):
    """Block scales: of random values, which are near one another, times powers of two, which are not."""
    spread = torch.randint(-3, 1, shape, generator=g)
    if d.S == u8:
        return 126 + spread
    return quantise_fp4(torch.randn((shape[0], shape[1] * 16), generator=g), fp8)[1].float() * 2.0**spread


_ARGS = {
    "a4": T("M P", u8, draw=_quantised(0)),
    "a_scale": T("M Q", SCALES, draw=_exponents),
    "a_row": T("M", f32, optional=True, draw=_quantised(2)),
    "w4": T("N P", u8, draw=_quantised(0)),
    "w_scale": T("N Q", SCALES, draw=_exponents),
    "w_row": T("N", f32, optional=True, draw=_quantised(2)),
    "b": T("N", f32, optional=True),
}
_WHERE = {"K": "2 * P", "B": "16 if S == fp8 else 32", "scale_dtype": "S"}
_WHY = "fp32 accumulate and epilogue, one rounding of the output"
_TOL = ByDtype({bf16: Rel(1.2, _WHY), f32: Rel(32.0, "an fp32 sum over K")})
_BACKENDS = (("torch", "backend"), ("triton", "kernel"))


def _dims(K, S):
    """P bytes and Q scales of K channels in a format; nvfp4 has row scales."""
    return {"P": K // 2, "Q": K // BLOCK[S], "S": S, "has_a_row": S == fp8, "has_w_row": S == fp8}


def _cases(*live, **extra):
    """Cases of one op; `live` are (name, N, K) of the layers that call it."""
    device = [
        Case(f"live_{layer}_{size}{kind}", rung="device", M=M, N=N, has_b=True, **_dims(K, S), **extra)
        for layer, N, K in live
        for kind, S in (("", fp8), ("_mxfp4", u8))
        for size, M in (("512x512", 8192), ("416x720", 9360))
        if S == fp8 or size == "512x512"
    ]
    return [
        Case("tiny", M=8, N=256, has_b=True, **_dims(64, fp8), **extra),
        Case("tiny_mxfp4", M=8, N=256, has_b=True, **_dims(64, u8), **extra),
        Case("ragged", M=130, N=192, has_b=True, **_dims(400, fp8), **extra),
        Case("ragged_mxfp4", M=70, N=160, has_b=False, **_dims(352, u8), **extra),
        Case("unaligned", M=3, N=48, has_b=True, **_dims(48, fp8), **extra),
        *device,
    ]


def _op(name, args, out, tol, cases, require=(), **more):
    return Op(
        name,
        reference=getattr(ref, name),
        args=args,
        out=out,
        where=_WHERE | more.pop("where", {}),
        require=("2 * P == Q * B", "has_a_row == (S == fp8)", "has_w_row == (S == fp8)", *require),
        flops=lambda d: {"fp4": 2 * d.M * d.N * d.K},
        tol=tol,
        rows="M",
        cases=cases,
        backends={b: f"{__name__}.{b}_{kind}:{name}" for b, kind in _BACKENDS},
        **more,
    )


fp4_linear = _op(
    "fp4_linear",
    _ARGS,
    {"out": T("M N", "out_dtype")},
    _TOL,
    [
        # one step of K: what is wrong with an address, a nibble or a scale shows here first
        Case("one_tile", M=128, N=256, has_b=False, out_dtype=bf16, **_dims(256, fp8)),
        *_cases(("qkv", 15360, 5120), ("q", 5120, 5120), out_dtype=bf16),
    ],
)

fp4_linear_gelu = _op(
    "fp4_linear_gelu",
    _ARGS,
    {
        "x4": T("M N//2", u8),
        "x_scale": T("M N//B", "scale_dtype"),
        "x_row": T("M", f32, when="S == fp8"),
        "x_wide": T("M N//B", bf16, when="S == fp8"),
    },
    FP4_TOL | {"x_wide": Ulp(16, 0.02, "four bits of bf16's eight, and an fp32 sum before them")},
    _cases(("ffn_up", 13824, 5120)),
    require=("N % B == 0",),
)

fp4_linear_gate = _op(
    "fp4_linear_gate",
    _ARGS | {"x": T("M N", ACT), "gate": T("N", f32)},
    {"out": T("M N", ACT)},
    _TOL,
    _cases(("ffn_down", 5120, 13824), ("o", 5120, 5120), A=bf16),
)

fp4_linear_residual = _op(
    "fp4_linear_residual",
    _ARGS | {"x": T("M N", ACT)},
    {"out": T("M N", ACT)},
    _TOL,
    _cases(("o", 5120, 5120), A=bf16),
)
