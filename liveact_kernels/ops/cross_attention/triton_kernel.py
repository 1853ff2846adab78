"""Text and image cross attention of one tile of queries and one head: two softmaxes, one launch, one rounding."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.flash import LOG2E, attend, empty_state, rows_of
from liveact_kernels.common.tiles import OPTIONS, described, load_tile, store_tile, tma_takes
from liveact_kernels.common.triton_rows import head_codes
from liveact_kernels.contract import mark


@triton.jit
def cross_attention_kernel(
    out, out_scale, q, k_text, v_text, k_image, v_image, L, texts, images, heads,
    out_pitch, q_pitch, text_pitch, image_pitch, bias, scale2,
    BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    IMAGE_TAIL: tl.constexpr, TMA: tl.constexpr,
):  # fmt: skip
    """softmax over the text keys (the last with `bias` on its score) plus softmax over the image keys.

    out_scale None: no quantisation.
    """
    om, head = tl.program_id(0) * BM, tl.program_id(1)
    col = head * D
    tile = load_tile(q, om, col, q_pitch, L, col + D, BM, BD, TMA)
    acc, _, total = attend(
        empty_state(BM, BD), tile, k_text, v_text, None, None, bias, scale2, 0, texts, text_pitch, head, heads,
        BN, D, BD, True, TMA,
    )  # fmt: skip
    text = acc / total[:, None]
    acc, _, total = attend(
        empty_state(BM, BD), tile, k_image, v_image, None, None, None, scale2, 0, images, image_pitch, head, heads,
        BN, D, BD, IMAGE_TAIL, TMA,
    )  # fmt: skip
    y = text + acc / total[:, None]
    if out_scale is not None:
        y = head_codes(y, out_scale, om + tl.arange(0, BM), L, head, heads)
    store_tile(out, y, om, col, out_pitch, L, col + D, TMA)


def _heuristic(at: tuned.Limits, L: int, texts: int, images: int, H: int, D: int, bits: int) -> dict[str, int]:
    """128 queries and 64 keys: 257 image keys waste less of their last tile than with 128."""
    if bits == 32:
        return {"bm": 32, "bn": 32, "warps": 4, "stages": 1}
    if at.shared < 200_000:
        return {"bm": 64, "bn": 32, "warps": 8, "stages": 2}
    return {"bm": 128, "bn": 64, "warps": 8, "stages": 2}


def _launch(op, out, out_scale, q, k_text, v_text, k_image, v_image, pad):
    """log(pad) goes to the kernel in units of the raw score, before the scale D^-0.5."""
    (L, H, D), texts, images = q.shape, k_text.shape[0], k_image.shape[0]
    at = tuned.limits(q.device)
    bits = 8 * q.element_size()
    c = tuned.config(op, _heuristic, at, L=L, texts=texts, images=images, H=H, D=D, bits=bits)
    bm, bn, bd = c["bm"], c["bn"], max(16, triton.next_power_of_2(D))
    out, q, *keys = (rows_of(x) for x in (out, q, k_text, v_text, k_image, v_image))
    pitches = out.stride(0), q.stride(0), keys[0].stride(0), keys[2].stride(0)
    tma = q.dtype != torch.float32 and bd == D and at.arch >= 90 and tma_takes(out, q, *keys)
    if tma:
        out, q = described(out, bm, bd), described(q, bm, bd)
        keys = [described(x, bn, bd) for x in keys]
    cross_attention_kernel[(triton.cdiv(L, bm), H)](
        out, out_scale, q, *keys, L, texts, images, H, *pitches, math.log(pad) * D**0.5, LOG2E * D**-0.5,
        bm, bn, D, bd, images % bn != 0, tma, num_warps=c["warps"], num_stages=c["stages"], **OPTIONS,
    )  # fmt: skip


def launch(out, q, k_text, v_text, k_image, v_image, pad=1):
    """See reference.cross_attention."""
    _launch("cross_attention", out, None, q, k_text, v_text, k_image, v_image, pad)


def launch_quant(x8, x_scale, q, k_text, v_text, k_image, v_image, pad=1):
    """See reference.cross_attention_quant."""
    _launch("cross_attention_quant", x8, x_scale, q, k_text, v_text, k_image, v_image, pad)


for _op in (launch, launch_quant):
    mark(
        _op,
        requires_sass=("HGMMA", "UTMALDG"),
        candidates=tuned.grid(bm=(64, 128), bn=(32, 64, 128), warps=(4, 8), stages=(1, 2, 3)),
    )
