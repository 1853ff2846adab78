"""The window's end-of-block update: compress old slots, move the newest ones, in one launch."""

import torch

from liveact_kernels.common.rope import draw_rope
from liveact_kernels.contract import ACT, ByDtype, Case, DType, Op, Rel, T, Ulp, bf16, f32, fp8

from .reference import kv_compress as _reference

MEM = DType("MEM", (f32, bf16, fp8))

FIRST = tuple((slot, (slot,)) for slot in range(6))
"""After the first block: its six latent frames become the memory as they are."""

STEADY = ((2, (2, 3, 4, 5, 6)), (3, (7, 8, 9, 10, 11)), (4, (12,)), (5, (13,)))
"""After every later block, as released for one GPU."""


def _cost_bytes(d):
    """Every source slot read once, every destination slot written once; K and V; scales; rope and taps are small."""
    token, old_slots = d.H * d.D, d.P // d.tokens if d.has_k_mem else 0
    scale = 4 * d.H if d.mem_dtype == fp8 else 0
    old = token * d.mem_dtype.itemsize + scale
    sources = [s for _, srcs in d.schedule for s in srcs]
    read = sum(old if s < old_slots else token * d.A.itemsize for s in sources)
    tables = 8 * d.W * d.E + 4 * d.S * token
    return 2 * d.tokens * (read + len(d.schedule) * old) + tables


def _flops(d):
    taps = sum(len(srcs) for _, srcs in d.schedule)
    return {"f32": 2 * d.tokens * d.H * d.D * (taps * (2 + 3) + 3 * len(d.schedule))}


def _taps(g, shape, d):
    return torch.randn(shape, generator=g) * 0.1 + 0.2


def _wide(g, shape, d):
    x = torch.randn(shape, generator=g)
    return x * 150 if fp8 == d.MEM else x


def _scale(g, shape, d):
    return (torch.rand(shape, generator=g) + 0.5) / 448


def _memory(dtype, n=6, tokens=6, **more):
    """Dims of a steady case: n memory slots, eight new ones."""
    fp8_scales = {"has_k_scale": True, "has_v_scale": True} if dtype == fp8 else {}
    dims = {"P": n * tokens, "R": 8 * tokens, "tokens": tokens, "MEM": dtype, "mem_dtype": dtype, "schedule": STEADY}
    return dims | {"has_k_mem": True, "has_v_mem": True, "S": 5} | fp8_scales | more


_LIVE = {"H": 40, "E": 64, "A": bf16}
_CODES = "fp32 rotations and taps, one rounding; an fp32 scale moves codes across rounding boundaries"
_STORED = ByDtype(
    {
        f32: Rel(4.0, "two fp32 rotations, five products"),
        bf16: Rel(0.7, "fp32 inside, one rounding to nearest: a truncating store has twice the error"),
        fp8: Ulp(1, 0.01, _CODES, floor=1e-3),
    }
)


_SCALE = Ulp(64, 1.0, "fp32 rotations and taps before the maximum")

kv_compress = Op(
    "kv_compress",
    reference=_reference,
    args={
        "k_new": T("R H D", ACT),
        "v_new": T("R H D", ACT),
        "k_mem": T("P H D", MEM, optional=True, draw=_wide),
        "v_mem": T("P H D", MEM, optional=True, draw=_wide),
        "k_scale": T("P H", f32, optional=True, draw=_scale),
        "v_scale": T("P H", f32, optional=True, draw=_scale),
        "taps": T("S H D", f32, draw=_taps),
        "taps_v": T("S H D", f32, optional=True, draw=_taps),
        "rope": T("W E 2", f32, draw=draw_rope),
    },
    where={"W": "R + (P if has_k_mem else 0)", "D": "2 * E", "Q": "len(schedule) * tokens"},
    require=(
        "W % tokens == 0",
        "has_k_mem == has_v_mem",
        "has_k_scale == has_v_scale",
        "has_k_scale == (has_k_mem and mem_dtype == fp8)",
        "not has_k_mem or MEM == mem_dtype",
        "grouping == 'raster' or grouping == 'temporal'",
    ),
    out={
        "k_out": T("Q H D", "mem_dtype"),
        "v_out": T("Q H D", "mem_dtype"),
        "k_out_scale": T("Q H", f32, when="mem_dtype == fp8"),
        "v_out_scale": T("Q H", f32, when="mem_dtype == fp8"),
    },
    flops=_flops,
    bytes=_cost_bytes,
    tol={"k_out": _STORED, "v_out": _STORED, "k_out_scale": _SCALE, "v_out_scale": _SCALE},
    cases=[
        Case("raster", H=2, E=8, A=f32, **_memory(f32)),
        Case("raster_straddle", H=3, E=10, A=bf16, **_memory(bf16, tokens=7)),
        Case("temporal", H=2, E=8, A=bf16, **_memory(bf16, grouping="temporal")),
        Case("separate_v", H=2, E=8, A=f32, **_memory(f32, has_taps_v=True)),
        Case("fp8", H=2, E=16, A=bf16, **_memory(fp8)),
        Case("first_block", H=2, E=8, A=bf16, R=36, tokens=6, MEM=bf16, mem_dtype=bf16, schedule=FIRST, S=5),
        Case("first_block_fp8", H=2, E=16, A=bf16, R=36, tokens=6, MEM=fp8, mem_dtype=fp8, schedule=FIRST, S=5),
        Case("live_512x512", rung="device", **_LIVE, **_memory(bf16, tokens=1024)),
        Case("live_416x720_fp8", rung="device", **_LIVE, **_memory(fp8, tokens=1170)),
    ],
    backends={"torch": f"{__name__}.torch_backend:kv_compress"},
)
