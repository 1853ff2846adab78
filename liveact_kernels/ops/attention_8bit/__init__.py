"""Self attention on 8-bit tensor cores: int8 queries and keys, e4m3 values; memory slots, then the block's own."""

import math
from typing import Any

import torch

from liveact_kernels.common.mma_order import to_mma_order
from liveact_kernels.contract import ByDtype, Case, Op, Rel, T, Ulp, bf16, f32, fp8, int8

from .reference import attention_8bit as _reference

# Cases with e4m3 output draw queries, keys and scales whose probabilities are powers of two, which e4m3
# holds exactly: what is left is the quantisation of the output, whose scales can then be held to float32's rounding.


def _queries(g, shape, d):
    """Codes over their range; or three of them 1, so that with small keys a score is a small integer."""
    if d.out_dtype != fp8:
        return torch.randn(shape, generator=g) * 40
    return torch.zeros(shape).scatter(-1, torch.randint(shape[-1], (*shape[:-1], 3), generator=g), 1.0)


def _keys(g, shape, d):
    """Codes over their range; or -2 .. 2."""
    if d.out_dtype != fp8:
        return torch.randn(shape, generator=g) * 40
    return torch.randint(-2, 3, shape, generator=g).float()


def _queries_scale(g, shape, d):
    """With the keys' scales: scores of about one unit; or integers in units of log2 after the division by sqrt(D)."""
    if d.out_dtype != fp8:
        return (torch.rand(shape, generator=g) + 0.5) * 0.02
    return torch.full(shape, 32 * math.log(2) * math.sqrt(d.D))


def _powers(g, shape, d):
    """Powers of two of a few sizes."""
    return 0.125 * 2.0 ** -torch.randint(4, shape, generator=g)


def _padded(tokens: str):
    """Draws of V^T [H, D, padded] and keys' scales [H, padded] of d.<tokens> tokens; zeros beyond them."""

    def cut(x, d):
        x[..., getattr(d, tokens) :] = 0
        return x

    def values(g, shape, d):
        return to_mma_order(cut(torch.randn(shape, generator=g) * 80 + 150, d))

    def key_scales(g, shape, d):
        if d.out_dtype != fp8:
            return cut((torch.rand(shape, generator=g) + 0.5) / 30, d)
        return cut(torch.full(shape, 1 / 32), d)

    return values, key_scales


(_V_NEW, _K_NEW_SCALE), (_V_MEM, _K_MEM_SCALE) = _padded("R"), _padded("P")
_MEMORY: dict[str, Any] = dict.fromkeys(("has_k_mem", "has_k_mem_scale", "has_v_mem", "has_v_mem_scale"), True)
_ROUGH = Rel(1.3, "e4m3 probabilities over their own sum, values that hardly cancel: 1.0 measured; NOTES.md has others")
_CHIP = "exact probabilities; Hopper sums 8-bit products in some 14 bits"

attention_8bit = Op(
    "attention_8bit",
    reference=_reference,
    args={
        "q": T("L H D", int8, draw=_queries),
        "q_scale": T("L H", f32, draw=_queries_scale),
        "k_new": T("R H D", int8, draw=_keys),
        "k_new_scale": T("H RP", f32, draw=_K_NEW_SCALE),
        "v_new": T("H D RP", fp8, draw=_V_NEW),
        "v_new_scale": T("H RP//128", f32, draw=_powers),
        "k_mem": T("P H D", int8, optional=True, draw=_keys),
        "k_mem_scale": T("H PP", f32, optional=True, draw=_K_MEM_SCALE),
        "v_mem": T("H D PP", fp8, optional=True, draw=_V_MEM),
        "v_mem_scale": T("H PP//128", f32, optional=True, draw=_powers),
    },
    out={"out": T("L H D", "out_dtype"), "out_scale": T("L H", f32, when="out_dtype == fp8")},
    where={
        "RP": "(R + 127) // 128 * 128",
        "PP": "(P + 127) // 128 * 128 if has_k_mem else 0",
        "W": "R + (P if has_k_mem else 0)",
    },
    require=("has_k_mem == has_v_mem == has_k_mem_scale == has_v_mem_scale",),
    flops=lambda d: {"fp8": 4 * d.L * d.W * d.H * d.D},  # int8 products have the rate of e4m3 ones
    tol={
        "out": ByDtype({bf16: _ROUGH, f32: Rel(1.3 * 2**16, _ROUGH.why), fp8: Ulp(1, 0.02, _CHIP)}),
        "out_scale": Rel(12e3, _CHIP),
    },
    rows="L",
    cases=[
        Case("first_block", L=100, R=100, H=8, D=32, out_dtype=bf16),
        Case("memory", L=70, R=70, P=50, H=12, D=20, out_dtype=bf16, **_MEMORY),
        Case("ragged", L=140, R=200, P=140, H=6, D=32, out_dtype=bf16, **_MEMORY),
        Case("quantised", L=140, R=130, P=300, H=6, D=128, out_dtype=fp8, **_MEMORY),
        Case("live_first_512x512", rung="device", L=6144, R=6144, H=40, D=128, out_dtype=fp8),
        Case("live_512x512", rung="device", L=8192, R=8192, P=6144, H=40, D=128, out_dtype=fp8, **_MEMORY),
        Case("live_512x512_bf16", rung="device", L=8192, R=8192, P=6144, H=40, D=128, out_dtype=bf16, **_MEMORY),
        Case("live_416x720", rung="device", L=9360, R=9360, P=7020, H=40, D=128, out_dtype=fp8, **_MEMORY),
    ],
    backends={
        "torch": f"{__name__}.torch_backend:attention_8bit",
        "triton": f"{__name__}.triton_kernel:launch",
        "cuda": f"{__name__}.cuda_kernel:launch",
    },
)
