"""Self attention of a block's queries over the window: memory slots, then the block's own keys."""

from liveact_kernels.contract import ACT, Case, DType, Op, Rel, T, bf16, f32, fp8
from liveact_kernels.spec import compute_kind

from .reference import attention as _reference

MEM = DType("MEM", (f32, bf16, fp8))
"""Storage dtype of the memory slots; e4m3 comes with one scale per token and head."""


def _scale(g, shape, d):
    return (g_rand(g, shape) + 0.5) / 448


def g_rand(g, shape):
    """Uniform [0, 1) test input."""
    import torch

    return torch.rand(shape, generator=g)


def _wide(g, shape, d):
    import torch

    x = torch.randn(shape, generator=g)
    return x * 150 if fp8 == d.MEM else x


attention = Op(
    "attention",
    reference=_reference,
    args={
        "q": T("L H D", ACT),
        "k_new": T("R H D", ACT),
        "v_new": T("R H D", ACT),
        "k_mem": T("P H D", MEM, optional=True, draw=_wide),
        "v_mem": T("P H D", MEM, optional=True, draw=_wide),
        "k_scale": T("P H", f32, optional=True, draw=_scale),
        "v_scale": T("P H", f32, optional=True, draw=_scale),
    },
    out={"out": T("L H D", ACT)},
    where={"W": "R + (P if has_k_mem else 0)"},
    require=("has_k_mem == has_v_mem", "has_k_scale == has_v_scale", "has_k_scale == (has_k_mem and MEM == fp8)"),
    flops=lambda d: {compute_kind(d.A): 4 * d.L * d.W * d.H * d.D},
    tol=Rel(5.0, "fp32 softmax; probabilities rounded to the activation dtype before the second product"),
    cases=[
        Case("first_block", L=6, R=6, H=2, D=16, A=f32),
        Case("memory", L=8, R=8, P=6, H=3, D=20, A=f32, MEM=f32, has_k_mem=True, has_v_mem=True),
        Case("bf16", L=9, R=8, P=7, H=2, D=32, A=bf16, MEM=bf16, has_k_mem=True, has_v_mem=True),
        Case(
            "fp8_memory", L=8, R=8, P=6, H=2, D=32, A=bf16, MEM=fp8,
            has_k_mem=True, has_v_mem=True, has_k_scale=True, has_v_scale=True,
        ),
        Case("live_512x512", rung="device", L=8192, R=8192, P=6144, H=40, D=128, A=bf16, MEM=bf16,
             has_k_mem=True, has_v_mem=True),
    ],
    backends={"torch": f"{__name__}.torch_backend:attention"},
)  # fmt: skip
