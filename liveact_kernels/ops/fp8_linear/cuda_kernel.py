"""e4m3 linear layers in CUDA C++ for sm_90a (csrc/ops/fp8_linear): which tile a shape gets, and the call.

Two blocks of a cluster share one operand; a cluster's tile is two blocks' tiles, one below the other (side 0: they
share w) or side by side (side 1: they share a).
"""

from __future__ import annotations

import functools

from liveact_kernels import tuned
from liveact_kernels.common.cuda import addresses, enqueue
from liveact_kernels.contract import SHORT, Dims, mark

ROWS, STEP, GROUP, CLUSTER = 128, 128, 128, 2  # as csrc/ops/fp8_linear has them: tile rows, K of a step, scale group
KINDS = {"bf16": 0, "f32": 1, "e4m3": 2}
WIDTHS = {"bf16": (256, 160, 128), "f32": (128,), "e4m3": (256, 128)}
"""Tile widths compiled for each output, the one with the fewest bytes per product first."""
CLOCKS = {
    "bf16": {256: (1024, 7856), 160: (640, 5320), 128: (542, 4528)},
    "e4m3": {256: (1024, 12791), 128: (545, 4515)},
    "f32": {128: (542, 4528)},
}  # fmt: skip
"""Predicted, not measured: clocks of a step of K, and of a tile beyond its steps, on one SM, promoted, as
`python -m liveact_kernels.compiled.predict` replays them (tests hold them together); float32 has no choice: as bf16."""
L2 = 39
"""Bytes per clock that an SM gets of tiles that many SMs fetch at once, as the predictor assumes."""


def step_clocks(bn: int, side: int, out: str) -> float:
    """Predicted clocks of one step of K (128): the replayed code, or the copies when L2 is slower."""
    shared = bn if side == 0 else ROWS  # half of it is the other block's copy
    return max(CLOCKS[out][bn][0], STEP * (ROWS + bn - shared / 2) / L2)


def waves(M: int, N: int, bn: int, side: int, sms: int) -> int:
    """Tiles that the busiest block makes: clusters walk over pairs of tiles."""
    rows, columns = (ROWS, CLUSTER * bn) if side else (CLUSTER * ROWS, bn)
    return -(-(-(-M // rows) * -(-N // columns)) // max(1, sms // CLUSTER))


def tile(M: int, N: int, K: int, sms: int, out: str) -> tuple[int, int]:
    """(bn, side) with the least predicted clocks; a narrower tile, or sharing a, must save 3% to be chosen."""
    chosen, least = (WIDTHS[out][0], 0), float("inf")
    for bn in WIDTHS[out]:
        for side in (0, 1):
            clocks = waves(M, N, bn, side, sms) * (-(-K // STEP) * step_clocks(bn, side, out) + CLOCKS[out][bn][1])
            if clocks < 0.97 * least:
                chosen, least = (bn, side), clocks
    return chosen


def _heuristic(at: tuned.Limits, M: int, N: int, K: int, G: int, out: str) -> dict[str, int]:
    """Promotion every 128 of K unless a table says otherwise: NOTES.md has what the unpromoted sum loses."""
    bn, side = tile(M, N, K, at.sms, out)
    return {"bn": bn, "side": side, "band": 8, "promote": 1}


def takes(d: Dims, columns: int = 8) -> str | None:
    """Why the kernel does not take these dims, or None; `columns` must divide N."""
    if d.K % 16:
        return f"needs K in multiples of 16, got {d.K}"
    if d.N % columns:
        return f"needs N in multiples of {columns}, got {d.N}"
    if d.G > 1 and d.K // d.G % STEP:
        return f"needs one a_scale per token or per {STEP} channels (or a multiple), got one per {d.K // d.G}"
    return None


def operands(op, out, out_scale, a8, a_scale, w8, w_scale, b, x=None, gate=None) -> list[int]:
    """What the C++ function takes, without the stream."""
    (M, K), (N, G) = a8.shape, (w8.shape[0], a_scale.shape[1])
    at = tuned.limits(a8.device)
    c = tuned.config(f"{op}.cuda", _heuristic, at, M=M, N=N, K=K, G=G, out=SHORT[out.dtype])
    pointers = addresses(op, out=out) + addresses(op, aligned=4, out_scale=out_scale) + addresses(op, a8=a8)
    pointers += addresses(op, aligned=4, a_scale=a_scale) + addresses(op, w8=w8, w_scale=w_scale, b=b, x=x, gate=gate)
    return [*pointers, M, N, K, G, KINDS[SHORT[out.dtype]], c["bn"], c["promote"], c["band"], c["side"], at.sms]


def _launch(op, out, out_scale, a8, *rest):
    enqueue("fp8_linear", a8.device, *operands(op, out, out_scale, a8, *rest))


def fp8_linear(out, a8, a_scale, w8, w_scale, b, out_dtype=None):
    """See reference.fp8_linear; out already has out_dtype."""
    _launch("fp8_linear", out, None, a8, a_scale, w8, w_scale, b)


def fp8_linear_gate(out, a8, a_scale, w8, w_scale, b, x, gate):
    """See reference.fp8_linear_gate."""
    _launch("fp8_linear_gate", out, None, a8, a_scale, w8, w_scale, b, x, gate)


def fp8_linear_residual(out, a8, a_scale, w8, w_scale, b, x):
    """See reference.fp8_linear_residual."""
    _launch("fp8_linear_residual", out, None, a8, a_scale, w8, w_scale, b, x)


def fp8_linear_gelu(x8, x_scale, a8, a_scale, w8, w_scale, b):
    """See reference.fp8_linear_gelu."""
    _launch("fp8_linear_gelu", x8, x_scale, a8, a_scale, w8, w_scale, b)


for _op in (fp8_linear, fp8_linear_gate, fp8_linear_residual, fp8_linear_gelu):
    mark(
        _op,
        takes=functools.partial(takes, columns=GROUP) if _op is fp8_linear_gelu else takes,
        requires_sass=("QGMMA", "UTMALDG.2D.MULTICAST", "USETMAXREG", "LDG.E.128", "STG.E.128"),
    )
