"""bf16 linear layers on common.gemm; float32 goes through exact multiply-adds, for parity runs."""

from __future__ import annotations

import torch
import triton

from liveact_kernels import tuned
from liveact_kernels.common.gemm import launch_gemm
from liveact_kernels.common.tiles import tma_takes
from liveact_kernels.contract import mark


def _heuristic(at: tuned.Limits, M: int, N: int, K: int, bits: int) -> dict[str, int]:
    """128x256x64 when such tiles fill the chip, else 128x128, else 64x64: then more SMs share the weights' stream."""
    large = at.shared >= 200_000
    common = {"band": 8, "flatten": 0, "ws": 0, "halves": 1, "bk": 64, "warps": 8, "stages": 4 if large else 2}
    if bits == 32:
        return common | {"bm": 64, "bn": 64, "bk": 32, "warps": 4, "stages": 2}
    if large and triton.cdiv(M, 128) * triton.cdiv(N, 256) >= at.sms:
        return common | {"bm": 128, "bn": 128, "halves": 2}
    if triton.cdiv(M, 128) * triton.cdiv(N, 128) >= at.sms:
        return common | {"bm": 128, "bn": 128}
    return common | {"bm": 64, "bn": 64, "bk": 128, "warps": 4}


_CANDIDATES = (
    *tuned.grid(bn=(128,), halves=(1, 2), bk=(64, 128), stages=(2, 3, 4), band=(4, 8, 16), flatten=(0, 1)),
    *tuned.grid(ws=(1,), warps=(4,), flatten=(0,), halves=(1, 2), stages=(3, 4), band=(4, 8)),
    *tuned.grid(bm=(64,), bn=(128,), warps=(4,), halves=(1, 2), stages=(3, 4)),
)


def _launch(op, out, a, w, b, x=None, gate=None, gelu=False):
    at = tuned.limits(a.device)
    c = tuned.config(op, _heuristic, at, M=a.shape[0], N=w.shape[0], K=a.shape[1], bits=8 * a.element_size())
    narrow = a.dtype != torch.float32  # exact float32 products read registers: nothing for the copy engine to feed
    tma = narrow and at.arch >= 90 and tma_takes(a, w, out, *([] if x is None else [x]))
    launch_gemm(at, c, out, a, w, b=b, x=x, gate=gate, gelu=gelu, tma=tma)


def linear(out, a, w, b):
    """See reference.linear."""
    _launch("linear", out, a, w, b)


def linear_gelu(out, a, w, b):
    """See reference.linear_gelu."""
    _launch("linear_gelu", out, a, w, b, gelu=True)


def linear_gate(out, a, w, b, x, gate):
    """See reference.linear_gate."""
    _launch("linear_gate", out, a, w, b, x, gate)


def linear_residual(out, a, w, b, x):
    """See reference.linear_residual."""
    _launch("linear_residual", out, a, w, b, x)


for _op in (linear, linear_gelu, linear_gate, linear_residual):
    mark(_op, candidates=_CANDIDATES, requires_sass=("HGMMA", "UTMALDG"))
