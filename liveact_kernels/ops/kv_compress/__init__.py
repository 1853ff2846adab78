"""The window's end-of-block update: compress old slots, move the newest ones, in one launch."""

import torch

from liveact_kernels.common.rope import draw_rope
from liveact_kernels.contract import ByDtype, Case, DType, Op, Rel, T, Ulp, bf16, f32, fp8, int8

from ..attention import KM, VM, draw_keys, draw_scale, draw_values, memory_dims
from .reference import kv_compress as _reference

FIRST = tuple((slot, (slot,)) for slot in range(6))
"""After the first block: its six latent frames become the memory as they are."""

STEADY = ((2, (2, 3, 4, 5, 6)), (3, (7, 8, 9, 10, 11)), (4, (12,)), (5, (13,)))
"""After every later block, as released for one GPU."""


def _cost_bytes(d):
    """Every source slot read once, every destination slot written once; K and V; scales; rope and taps are small."""
    row, old_slots = d.H * d.D, d.P // d.tokens if d.has_k_mem else 0
    old = row * (d.k_dtype.itemsize + d.v_dtype.itemsize) + 4 * d.H * ((d.k_dtype == int8) + (d.v_dtype == fp8))
    new = row * (d.KN.itemsize + d.VN.itemsize) + 4 * d.H * (d.has_k_new_scale + d.has_v_new_scale)
    sources = [s for _, srcs in d.schedule for s in srcs]
    read = sum(old if s < old_slots else new for s in sources)
    tables = 8 * d.W * d.E + 4 * d.S * row
    return d.tokens * (read + len(d.schedule) * old) + tables


def _flops(d):
    taps = sum(len(srcs) for _, srcs in d.schedule)
    return {"f32": 2 * d.tokens * d.H * d.D * (taps * (2 + 3) + 3 * len(d.schedule))}


def _taps(g, shape, d):
    return torch.randn(shape, generator=g) * 0.1 + 0.2


KN, VN = DType("KN", (f32, bf16, int8)), DType("VN", (f32, bf16, fp8))
"""Dtypes of the block's own keys and values: the activations', or the codes of `qkv_norm_rope_8bit`."""


def _draw_new(kind, most):
    """The block's keys or values; codes as they are made, the largest of a head's row is `most`."""

    def draw(g, shape, d):
        x = torch.randn(shape, generator=g)
        return x / x.abs().amax(-1, keepdim=True) * most if getattr(d, kind.name).itemsize == 1 else x

    return draw


def _new(act):
    """Dims of the block's own slots, `act` or "codes"."""
    if act == "codes":
        return {"KN": int8, "VN": fp8, "has_k_new_scale": True, "has_v_new_scale": True}
    return {"KN": act, "VN": act}


def _memory(eight_bit, act=bf16, tokens=6, **more):
    """Dims of a steady case: six memory slots, eight new ones; `act` is the dtype of these, or "codes"."""
    dims = memory_dims(eight_bit, act)
    window = {"P": 6 * tokens, "R": 8 * tokens, "tokens": tokens, "S": 5, "schedule": STEADY}
    return dims | _new(act) | window | {"k_dtype": dims["KM"], "v_dtype": dims["VM"]} | more


def _first(k_dtype, v_dtype, act=bf16):
    dims = {"R": 36, "tokens": 6, "S": 5, "k_dtype": k_dtype, "v_dtype": v_dtype, "schedule": FIRST}
    return dims | _new(act)


def _slots(tokens):
    return {"tokens": tokens, "R": 6 * tokens}


_LIVE = {"H": 40, "E": 64}
_CODES = "fp32 rotations and taps, one rounding; an fp32 scale moves codes across rounding boundaries"
_STORED = ByDtype(
    {
        f32: Rel(4.0, "two fp32 rotations, five products"),
        bf16: Rel(0.7, "fp32 inside, one rounding to nearest: a truncating store has twice the error"),
        fp8: Ulp(1, 0.01, _CODES, floor=1e-3),
        int8: Ulp(1, 0.01, _CODES),
    }
)


_SCALE = Ulp(64, 1.0, "fp32 rotations and taps before the maximum")

kv_compress = Op(
    "kv_compress",
    reference=_reference,
    args={
        "k_new": T("R H D", KN, draw=_draw_new(KN, 127)),
        "v_new": T("R H D", VN, draw=_draw_new(VN, 448)),
        "k_mem": T("P H D", KM, optional=True, draw=draw_keys),
        "v_mem": T("P H D", VM, optional=True, draw=draw_values),
        "k_scale": T("P H", f32, optional=True, draw=draw_scale),
        "v_scale": T("P H", f32, optional=True, draw=draw_scale),
        "k_new_scale": T("R H", f32, optional=True, draw=draw_scale),
        "v_new_scale": T("R H", f32, optional=True, draw=draw_scale),
        "taps": T("S H D", f32, draw=_taps),
        "taps_v": T("S H D", f32, optional=True, draw=_taps),
        "rope": T("W E 2", f32, draw=draw_rope),
    },
    where={"W": "R + (P if has_k_mem else 0)", "D": "2 * E", "Q": "len(schedule) * tokens"},
    require=(
        "W % tokens == 0",
        "has_k_mem == has_v_mem",
        "has_k_scale == (has_k_mem and k_dtype == int8)",
        "has_v_scale == (has_k_mem and v_dtype == fp8)",
        "has_k_new_scale == (KN == int8)",
        "has_v_new_scale == (VN == fp8)",
        "not has_k_mem or (KM == k_dtype and VM == v_dtype)",
        "grouping == 'raster' or grouping == 'temporal'",
    ),
    out={
        "k_out": T("Q H D", "k_dtype"),
        "v_out": T("Q H D", "v_dtype"),
        "k_out_scale": T("Q H", f32, when="k_dtype == int8"),
        "v_out_scale": T("Q H", f32, when="v_dtype == fp8"),
    },
    flops=_flops,
    bytes=_cost_bytes,
    tol={"k_out": _STORED, "v_out": _STORED, "k_out_scale": _SCALE, "v_out_scale": _SCALE},
    rows="H",
    cases=[
        Case("raster", H=2, E=8, **_memory(False, f32)),
        Case("raster_straddle", H=3, E=10, **_memory(False, tokens=7)),
        Case("temporal", H=2, E=8, **_memory(False, grouping="temporal")),
        Case("separate_v", H=2, E=8, **_memory(False, f32, has_taps_v=True)),
        Case("eight_bit", H=2, E=16, **_memory(True)),
        Case("eight_bit_codes", H=2, E=16, **_memory(True, "codes")),
        Case("first_block", H=2, E=8, **_first(bf16, bf16)),
        Case("first_block_eight_bit", H=2, E=16, **_first(int8, fp8)),
        Case("first_block_codes", H=2, E=16, **_first(int8, fp8, "codes")),
        Case("live_512x512", rung="device", **_LIVE, **_memory(False, tokens=1024)),
        Case("live_512x512_eight_bit", rung="device", **_LIVE, **_memory(True, tokens=1024)),
        Case("live_416x720_eight_bit", rung="device", **_LIVE, **_memory(True, tokens=1170)),
        Case("live_512x512_codes", rung="device", **_LIVE, **_memory(True, "codes", tokens=1024)),
        Case("live_416x720_codes", rung="device", **_LIVE, **_memory(True, "codes", tokens=1170)),
        Case("live_first_512x512_codes", rung="device", **_LIVE, **_first(int8, fp8, "codes") | _slots(1024)),
    ],
    backends={
        "torch": f"{__name__}.torch_backend:kv_compress",
        "triton": f"{__name__}.triton_kernel:launch",
        "cuda": f"{__name__}.cuda_kernel:launch",
    },
)
