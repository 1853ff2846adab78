"""Every convolution of the causal video VAE but the upsampling one: any kernel, history as an argument."""

from typing import Any

import torch

from liveact_kernels.contract import ACT, ByDtype, Case, Op, Rel, T, bf16, compute_kind, f32

from .reference import causal_conv3d as _reference


def unit_rows(g, shape, d):
    """Weights whose output has about unit variance, as in a trained network."""
    return torch.randn(shape, generator=g) / torch.tensor(shape[1:]).prod().sqrt()


CONV_TOL = ByDtype(
    {
        f32: Rel(32.0, "a float32 sum over up to KH*KW*KT*C = 10368 products in any order"),
        bf16: Rel(0.75, "fp32 sum, one rounding (0.4 u); without a fused epilogue one more before the residual"),
    }
)

_333: dict[str, Any] = {"KT": 3, "KH": 3, "KW": 3}
_331: dict[str, Any] = {"KT": 3, "KH": 1, "KW": 1}
_111: dict[str, Any] = {"KT": 1, "KH": 1, "KW": 1}
_133: dict[str, Any] = {"KT": 1, "KH": 3, "KW": 3}
_LIVE: dict[str, Any] = {"rung": "device", "A": bf16, "has_prev": True}

causal_conv3d = Op(
    "causal_conv3d",
    reference=_reference,
    args={
        "x": T("F H W C", ACT),
        "w": T("O KH KW KT C", ACT, draw=unit_rows),
        "bias": T("O", ACT),
        "prev": T("KT-stride_t H W C", ACT, optional=True),
        "residual": T("FO HO WO O//interleave", ACT, optional=True),
    },
    out={"out": T("FO HO WO O//interleave", ACT)},
    where={"FO": "F // stride_t * interleave", "HO": "H // stride", "WO": "W // stride"},
    require=(
        "F % stride_t == 0", "H % stride == 0 and W % stride == 0", "O % interleave == 0",
        "KT >= stride_t and KH >= stride and KW >= stride", "stride > 1 or KH % 2 == KW % 2 == 1",
    ),
    flops=lambda d: {compute_kind(d.A): 2 * d.F // d.stride_t * d.HO * d.WO * d.O * d.KT * d.KH * d.KW * d.C},
    tol=CONV_TOL,
    cases=[
        Case("res", F=3, H=5, W=4, C=8, O=6, A=f32, has_prev=True, has_residual=True, **_333),
        Case("res_bf16", F=3, H=6, W=7, C=16, O=24, A=bf16, has_prev=True, has_residual=True, **_333),
        Case("first_chunk", F=4, H=4, W=5, C=3, O=8, A=bf16, **_333),
        Case("one_frame", F=1, H=4, W=5, C=8, O=8, A=bf16, has_prev=True, **_333),
        Case("head", F=2, H=5, W=4, C=32, O=3, A=bf16, has_prev=True, **_333),
        Case("wide", F=2, H=3, W=4, C=32, O=96, A=bf16, has_residual=True, **_333),
        Case("pointwise", F=2, H=3, W=4, C=32, O=16, A=bf16, has_residual=True, **_111),
        Case("down_space", F=2, H=6, W=4, C=16, O=16, A=bf16, stride=2, **_133),
        Case("down_time", F=4, H=3, W=4, C=16, O=16, A=bf16, stride_t=2, has_prev=True, **_331),
        Case("up_time", F=2, H=3, W=4, C=16, O=32, A=bf16, interleave=2, has_prev=True, **_331),
        Case("live_512x512_res96", F=32, H=512, W=512, C=96, O=96, has_residual=True, **_333, **_LIVE),
        Case("live_512x512_res192", F=32, H=256, W=256, C=192, O=192, has_residual=True, **_333, **_LIVE),
        Case("live_512x512_res384", F=16, H=128, W=128, C=384, O=384, has_residual=True, **_333, **_LIVE),
        Case("live_512x512_head", F=32, H=512, W=512, C=96, O=3, **_333, **_LIVE),
        Case("live_512x512_up_time", F=16, H=128, W=128, C=384, O=768, interleave=2, **_331, **_LIVE),
        Case("live_720x416_res96", F=32, H=720, W=416, C=96, O=96, has_residual=True, **_333, **_LIVE),
        Case("live_720x416_latent", F=8, H=90, W=52, C=16, O=384, **_333, **_LIVE),
    ],
    backends={
        "torch": f"{__name__}.torch_backend:causal_conv3d", "triton": f"{__name__}.triton_kernel:launch",
        "cuda": f"{__name__}.cuda_kernel:launch",
    },
)  # fmt: skip
