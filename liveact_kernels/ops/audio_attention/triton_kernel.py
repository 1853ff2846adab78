"""Audio attention: one tile of one latent frame's queries against that latent frame's keys, heads in a loop."""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.flash import LOG2E, attend, empty_state, rows_of
from liveact_kernels.common.tiles import OPTIONS, load_tile, store_tile
from liveact_kernels.common.triton_rows import head_codes
from liveact_kernels.contract import mark


@triton.jit
def audio_attention_kernel(
    out, out_scale, q, k, v, T, N, heads, out_pitch, q_pitch, k_pitch, scale2,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, HEADS: tl.constexpr, TAIL: tl.constexpr,
    SINGLE: tl.constexpr,
):  # fmt: skip
    """HEADS heads of BM of the T tokens of latent frame program_id(1): neighbouring heads are one run of memory.

    out_scale None: no quantisation.
    """
    frame = tl.program_id(1)
    om, rows = frame * T + tl.program_id(0) * BM, (frame + 1) * T
    for head in range(tl.program_id(2) * HEADS, tl.minimum(tl.program_id(2) * HEADS + HEADS, heads)):
        col = head * D
        tile = load_tile(q, om, col, q_pitch, rows, col + D, BM, BD, False)
        acc, _, total = attend(
            empty_state(BM, BD), tile, k, v, None, None, None, scale2, frame * N, frame * N + N, k_pitch, head, heads,
            BN, D, BD, TAIL, False, SINGLE,
        )  # fmt: skip
        y = acc / total[:, None]
        if out_scale is not None:
            y = head_codes(y, out_scale, om + tl.arange(0, BM), rows, head, heads)
        store_tile(out, y, om, col, out_pitch, rows, col + D, False)


def _heuristic(at: tuned.Limits, L: int, F: int, N: int, H: int, D: int, bits: int) -> dict[str, int]:
    """All keys of a latent frame in one tile up to 64 of them; 64 queries, few enough for several blocks on an SM."""
    bn = min(64, max(16, triton.next_power_of_2(N)))
    return {"bm": 32 if bits == 32 else 64, "bn": bn, "heads": 4, "warps": 4, "stages": 2}


def _launch(op, out, out_scale, q, k, v):
    (L, H, D), (F, N) = q.shape, k.shape[:2]
    at = tuned.limits(q.device)
    c = tuned.config(op, _heuristic, at, L=L, F=F, N=N, H=H, D=D, bits=8 * q.element_size())
    out, q, k, v = (rows_of(x) for x in (out, q, k, v))
    grid = (triton.cdiv(L // F, c["bm"]), F, triton.cdiv(H, c["heads"]))
    audio_attention_kernel[grid](
        out, out_scale, q, k, v, L // F, N, H, out.stride(0), q.stride(0), k.stride(0), LOG2E * D**-0.5,
        c["bm"], c["bn"], D, max(16, triton.next_power_of_2(D)), c["heads"], N % c["bn"] != 0, N <= c["bn"],
        num_warps=c["warps"], num_stages=c["stages"], **OPTIONS,
    )  # fmt: skip


def launch(out, q, k, v):
    """See reference.audio_attention."""
    _launch("audio_attention", out, None, q, k, v)


def launch_quant(x8, x_scale, q, k, v):
    """See reference.audio_attention_quant."""
    _launch("audio_attention_quant", x8, x_scale, q, k, v)


for _op in (launch, launch_quant):
    mark(
        _op,
        requires_sass=("HGMMA", "LDGSTS"),
        candidates=tuned.grid(bm=(32, 64, 128), heads=(1, 2, 4, 8), warps=(4, 8), stages=(1, 2)),
    )
