"""Self attention of a block's queries over the window: memory slots, then the block's own keys; whole or in parts."""

from typing import Any

import torch

from liveact_kernels.contract import ACT, Case, DType, Op, Rel, T, bf16, compute_kind, f32, fp8, int8

from .reference import attention as _reference
from .reference import attention_segment as _reference_segment

KM, VM = DType("KM", (f32, bf16, int8)), DType("VM", (f32, bf16, fp8))
"""Storage dtypes of the memory slots: the activations', or int8 keys and e4m3 values, scaled per token and head."""


def draw_scale(g, shape, d):
    """Positive scales."""
    return (torch.rand(shape, generator=g) + 0.5) / 448


def draw_keys(g, shape, d):
    """Keys that use the range of their codes."""
    return torch.randn(shape, generator=g) * (40 if d.KM == int8 else 1)


def draw_values(g, shape, d):
    """Values that use the range of their codes."""
    return torch.randn(shape, generator=g) * (150 if d.VM == fp8 else 1)


def draw_lse(g, shape, d):
    """What the keys of an earlier segment of the same length would have summed up to."""
    return torch.randn(shape, generator=g) * 0.3 + 3


_CARRIED: dict[str, Any] = {"has_out_old": True, "has_lse_old": True}


def memory_dims(eight_bit: bool, act: torch.dtype = bf16) -> dict:
    """Dims of a case with memory slots, 8-bit or in the activation dtype."""
    scaled = {"has_k_scale": True, "has_v_scale": True, "KM": int8, "VM": fp8} if eight_bit else {"KM": act, "VM": act}
    return {"A": act, "has_k_mem": True, "has_v_mem": True, **scaled}


attention = Op(
    "attention",
    reference=_reference,
    args={
        "q": T("L H D", ACT),
        "k_new": T("R H D", ACT),
        "v_new": T("R H D", ACT),
        "k_mem": T("P H D", KM, optional=True, draw=draw_keys),
        "v_mem": T("P H D", VM, optional=True, draw=draw_values),
        "k_scale": T("P H", f32, optional=True, draw=draw_scale),
        "v_scale": T("P H", f32, optional=True, draw=draw_scale),
    },
    out={"out": T("L H D", ACT)},
    where={"W": "R + (P if has_k_mem else 0)"},
    require=(
        "has_k_mem == has_v_mem",
        "has_k_scale == (has_k_mem and KM == int8)",
        "has_v_scale == (has_k_mem and VM == fp8)",
    ),
    flops=lambda d: {compute_kind(d.A): 4 * d.L * d.W * d.H * d.D},
    tol=Rel(5.0, "fp32 softmax; probabilities rounded to the activation dtype before the second product"),
    rows="L",
    cases=[
        Case("first_block", L=6, R=6, H=2, D=16, A=f32),
        Case("memory", L=8, R=8, P=6, H=3, D=20, **memory_dims(False, f32)),
        Case("bf16", L=9, R=8, P=7, H=2, D=32, **memory_dims(False)),
        Case("eight_bit", L=8, R=8, P=6, H=2, D=32, **memory_dims(True)),
        Case("ragged_bf16", L=130, R=200, P=90, H=2, D=32, **memory_dims(False)),
        Case("ragged_eight_bit", L=140, R=70, P=140, H=3, D=20, **memory_dims(True)),
        Case("live_first_512x512", rung="device", L=6144, R=6144, H=40, D=128, A=bf16),
        Case("live_512x512", rung="device", L=8192, R=8192, P=6144, H=40, D=128, **memory_dims(False)),
        Case("live_416x720", rung="device", L=9360, R=9360, P=7020, H=40, D=128, **memory_dims(True)),
    ],
    backends={
        "torch": f"{__name__}.torch_backend:attention",
        "triton": f"{__name__}.triton_kernel:launch",
        **{vendor: f"{__name__}.vendor_backend:{vendor}" for vendor in ("sdpa", "cudnn", "flash", "sage")},
    },
)

attention_segment = Op(
    "attention_segment",
    reference=_reference_segment,
    args={
        **attention.args,
        "out_old": T("L H D", ACT, optional=True),
        "lse_old": T("L H", f32, optional=True, draw=draw_lse),
    },
    out={"out": T("L H D", ACT), "lse": T("L H", f32)},
    where=attention.where,
    require=(*attention.require, "has_out_old == has_lse_old"),
    flops=attention.flops,
    tol={
        "out": attention.tol["out"],
        "lse": Rel(16.0, "fp32 scores, exponentials and sum: a logarithm added to a maximum"),
    },
    rows="L",
    cases=[
        Case("alone", L=6, R=6, H=2, D=16, A=f32),
        Case("carried", L=8, R=9, H=3, D=20, A=f32, **_CARRIED),
        Case("memory_bf16", L=9, R=8, P=7, H=2, D=32, **memory_dims(False)),
        Case("carried_eight_bit", L=8, R=8, P=6, H=2, D=32, **memory_dims(True), **_CARRIED),
        Case("ragged_carried_bf16", L=130, R=200, H=2, D=32, A=bf16, **_CARRIED),
        Case("live_local_512x512", rung="device", L=4096, R=4096, P=6144, H=40, D=128, **memory_dims(True)),
        Case("live_remote_512x512", rung="device", L=4096, R=4096, H=40, D=128, A=bf16, **_CARRIED),
        Case("live_remote_416x720", rung="device", L=4680, R=4680, H=40, D=128, A=bf16, **_CARRIED),
    ],
    backends={
        "torch": f"{__name__}.torch_backend:attention_segment",
        "triton": f"{__name__}.triton_kernel:launch_segment",
    },
)
