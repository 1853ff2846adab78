"""Split, norm, rope and store in hand-written CUDA: a block keeps its part's weights and walks tokens; NOTES.md."""

from __future__ import annotations

from liveact_kernels.common.cuda import addresses, enqueue
from liveact_kernels.contract import Dims, bf16, mark


def takes(d: Dims) -> str | None:
    """Why the kernel does not take these dims, or None."""
    if d.A != bf16:
        return f"needs bf16, got {d.A}"
    if d.C > 5120:
        return f"needs at most 5120 channels, got {d.C}"
    return None if d.D in (8, 16, 32, 64, 128, 256) else f"needs D of 8, 16, 32, 64, 128 or 256, got {d.D}"


def launch(*outs, **args):
    """See reference.qkv_norm_rope, and `operands` for peer."""
    enqueue("qkv_norm_rope", args["qkv"].device, *operands(*outs, **args))


def operands(q, k, v, qkv, norm_q, norm_k, rope, eps=1e-6, peer=(None, None)) -> list[int | float]:
    """What the C++ function takes, without the stream.

    peer: tensors like k and v, in another GPU's window; the same rows go there.
    """
    named = {"q": q, "k": k, "v": v, "peer k": peer[0], "peer v": peer[1]}
    named |= {"qkv": qkv, "norm_q": norm_q, "norm_k": norm_k, "rope": rope}
    return [*addresses("qkv_norm_rope", **named), *q.shape, eps]


def launch_8bit(*outs, **args):
    """See reference.qkv_norm_rope_8bit."""
    enqueue("qkv_norm_rope_8bit", args["qkv"].device, *operands_8bit(*outs, **args))


def operands_8bit(q, k, v, q_scale, k_scale, v_scale, qkv, norm_q, norm_k, rope, eps=1e-6) -> list[int | float]:
    """What the C++ function takes, without the stream."""
    named = {"q": q, "k": k, "v": v, "q_scale": q_scale, "k_scale": k_scale, "v_scale": v_scale}
    named |= {"qkv": qkv, "norm_q": norm_q, "norm_k": norm_k, "rope": rope}
    return [*addresses("qkv_norm_rope_8bit", **named), *q.shape, eps]


mark(launch, takes=takes, requires_sass=("LDG.128", "STG.128"))
mark(launch_8bit, takes=takes, requires_sass=("LDG.128", "STG.64"))
