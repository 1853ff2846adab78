"""One segment of 8-bit keys and values made ready for attention_8bit: V^T and scales with tokens side by side."""

import torch

from liveact_kernels.contract import Case, Exact, Op, T, f32, fp8

from .reference import head_major as _reference


def _codes(g, shape, d):
    """Codes of both signs, none of them zero: no row looks like padding."""
    return torch.randn(shape, generator=g) * 100 + 0.5


def _powers(g, shape, d):
    """Powers of two, as the ops that quantise values give."""
    return 2.0 ** -torch.randint(4, 12, shape, generator=g)


head_major = Op(
    "head_major",
    reference=_reference,
    args={"v": T("R H D", fp8, draw=_codes), "k_scale": T("R H", f32), "v_scale": T("R H", f32, draw=_powers)},
    where={"RP": "(R + 127) // 128 * 128"},
    out={"v_t": T("H D RP", fp8), "k_scale_t": T("H RP", f32), "v_scale_t": T("H RP//128", f32)},
    flops=lambda d: {"f32": d.R * d.H},
    tol=Exact(),
    rows="H",
    cases=[
        Case("tiny", R=6, H=2, D=16),
        Case("odd_heads", R=150, H=3, D=20),
        Case("whole_tiles", R=128, H=1, D=32),
        Case("live_memory_512x512", rung="device", R=6144, H=40, D=128),
        Case("live_block_512x512", rung="device", R=8192, H=40, D=128),
        Case("live_memory_416x720", rung="device", R=7020, H=40, D=128),
        Case("live_block_416x720", rung="device", R=9360, H=40, D=128),
    ],
    backends={"torch": f"{__name__}.torch_backend:head_major", "triton": f"{__name__}.triton_kernel:launch"},
)
