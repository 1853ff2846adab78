"""What our kernels are measured against in the same run: the unfused chain of an op, eager and through torch.compile.

An op whose released form is the torch backend itself has no chain of its own here. A chain that wants its inputs in
another form (bf16 activations that it quantises itself, keys before rotation, channels first) gets them from `prepare`,
outside the time. Vendor libraries are backends of the ops, not peers of this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import chains
import root  # noqa: F401
import torch

from liveact_kernels.common.quantise import dequantise
from liveact_kernels.contract import Op


@dataclass(frozen=True)
class Peer:
    """chain(**prepare(**args)) computes the op; `finish` brings its result to the op's layout, for the check only."""

    chain: Callable
    note: str
    prepare: Callable[..., dict] | None = None
    finish: Callable | None = None
    compiles: bool = True


PEERS: dict[str, Peer] = {
    "modulate": Peer(chains.modulate, "norm rounded to bf16 before the modulation"),
    "modulate_quant": Peer(chains.modulate_quant, "norm, modulation and quantisation one after the other"),
    "qkv_norm_rope": Peer(chains.qkv, "rotation in complex128", chains.qkv_prepare, compiles=False),
    "qkv_norm_rope_8bit": Peer(chains.qkv_codes, "the same, then codes", chains.qkv_prepare, compiles=False),
    "attention_8bit": Peer(chains.bf16_attention, "torch's bf16 attention, codes decoded before", chains.codes_prepare),
    "fp8_linear": Peer(chains.scaled_mm, chains.FP8_NOTE, chains.fp8_prepare),
    "fp8_linear_gelu": Peer(chains.fp8_gelu, chains.FP8_NOTE, chains.fp8_prepare),
    "fp8_linear_gate": Peer(chains.fp8_gate, chains.FP8_NOTE, chains.fp8_prepare),
    "fp8_linear_residual": Peer(chains.fp8_residual, chains.FP8_NOTE, chains.fp8_prepare),
    "kv_compress": Peer(chains.compress, "Conv1d, complex128 rotation", chains.compress_prepare, compiles=False),
    "cross_attention": Peer(chains.cross, "two attentions, padding rows written out", chains.cross_prepare),
    "norm_silu": Peer(chains.norm_silu, "float32 passes, channels first", chains.norm_prepare, chains.last),
    "causal_conv3d": Peer(chains.conv3d, "concat, pad, Conv3d, channels first", chains.conv3d_prepare, chains.last),
}
"""Chains as the released path runs them, by op. `compiles` is False where Inductor leaves complex numbers to eager."""

KINDS = ("eager", "compiled")


def peer_of(op: Op, kind: str) -> Peer | None:
    """The peer of a kind: "eager" is the released chain, "compiled" is torch.compile of it or of the torch backend."""
    known = PEERS.get(op.name)
    if kind == "eager":
        return known
    if known is None or not known.compiles:
        known = Peer(op.implementation("torch"), "the torch backend")
    return Peer(torch.compile(known.chain, dynamic=False), known.note, known.prepare, known.finish)


def row_error(got: torch.Tensor, want: torch.Tensor) -> float:
    """Worst row's ||got - want|| / ||want||, infinite for NaN: rows are the first dimension."""
    got, want = (x.float().flatten(1) for x in (got, want))
    error = ((got - want).norm(dim=-1) / want.norm(dim=-1).clamp_min(1e-20)).max().item()
    return error if error == error else float("inf")


LOOSE = 0.15
"""A peer rounds where our tolerance does not allow it (bf16 between steps, one e4m3 scale per token): its worst row may
be this far off. A wrong axis, scale or order is off by about 1."""


def agrees(peer: Peer, op: Op, made: dict, want: object) -> str | None:
    """None when the peer's result on `made` is within LOOSE of `want` (the op's result), else what is wrong."""
    got = peer.chain(**(peer.prepare(**made) if peer.prepare else made))
    got, want = (x if isinstance(x, tuple) else (x,) for x in (got, want))
    finish = peer.finish or (lambda x: x)
    pairs = [(n, finish(g), w) for n, g, w in zip(op.out, got, want) if g is not None]
    if [name for name, _, _ in pairs] == ["x8", "x_scale"]:  # its groups may differ: compare what the codes stand for
        (_, g8, w8), (_, gs, ws) = pairs
        pairs = [("x8", dequantise(g8, gs), dequantise(w8, ws))]
    for name, g, w in pairs:
        error = row_error(g, w)
        if error > LOOSE:
            return f"{name}: worst row off by {error:.2f} (at most {LOOSE})"
    return None
