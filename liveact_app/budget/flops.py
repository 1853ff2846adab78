"""TFLOP per video frame: what the released inference path computes, what ours does, and what the paper says.

The released path is counted by formula from the model's sizes (its code path is described by the goldens and by
`verify`); ours is the recorded dry run, sorted into the same parts. 2 flop per multiply-add, steady block.
"""

from __future__ import annotations

from collections import Counter

from liveact_kernels.contract import Call, record
from liveact_kernels.cost.budget import group_of
from liveact_kernels.cost.outside import Outside, Plain
from liveact_model.config import (
    BLOCK_LATENT_FRAMES,
    BLOCK_VIDEO_FRAMES,
    MEMORY_SLOTS,
    PATCH,
    WINDOW_SLOTS,
    DiTConfig,
)
from liveact_model.schedule import TIMESTEPS

RELEASED_AUDIO_VIDEO_FRAMES = 55
"""Video frames of audio that the released streaming loop feeds its audio network for each block."""
RELEASED_OLD_LATENT_FRAMES = 3
"""Latent frames that the released loop decodes again in front of each block."""

WHY = {
    "q, k, v, o": "",
    "self attention": "",
    "cross q, o": "",
    "cross attention": "padding rows of the prompt are one key; here the longest prompt is counted",
    "cross keys, values": "once per prompt and image, not per denoise step",
    "feed-forward": "",
    "audio q, projection": "",
    "audio attention": "",
    "audio keys, values": "once per block, for the 8 latent frames that are heard, not 14",
    "embeddings": "time once per checkpoint, text and image once per prompt, audio once per block",
    "VAE decode": f"goes on from its state; the released one decodes {RELEASED_OLD_LATENT_FRAMES} old latent frames",
    "audio network": "a longer window: 6 s of context, where the released loop has under 1 s",
    "norms, rope, memory": "(counted for ours only)",
}
"""Parts of a frame, and why ours differs from the released one."""


def tokens(size: tuple[int, int]) -> int:
    """Tokens of one latent frame of (width, height) pixels."""
    return size[0] // (8 * PATCH) * (size[1] // (8 * PATCH))


def denoiser(
    c: DiTConfig, t: int, current: int = BLOCK_LATENT_FRAMES, memory: int = MEMORY_SLOTS
) -> dict[str, float]:
    """Flops of the released denoiser over one block of `current` latent frames with t tokens each, by part.

    The window is `memory` + `current` latent frames; every forward embeds and projects everything anew, and the audio
    of the whole window. The first denoise step hears nothing.
    """
    m, r, dim, steps = current * t, (memory + current) * t, c.dim, len(TIMESTEPS)
    every, hearing, keys = c.num_layers * steps, c.num_layers * (steps - 1), c.text_len + c.clip_tokens
    audio_rows = (c.audio_window + 3) * c.audio_blocks * c.audio_channels
    embeddings = m * dim * (c.in_dim + c.out_dim) * PATCH**2 + dim * (c.freq_dim + 7 * dim)
    embeddings += c.text_len * dim * (c.text_dim + dim) + c.clip_tokens * c.clip_dim * (c.clip_dim + dim)
    embeddings += WINDOW_SLOTS * c.audio_hidden * (audio_rows + c.audio_hidden + c.audio_tokens * c.audio_dim)
    return {
        "q, k, v, o": 2 * 4 * m * dim * dim * every,
        "self attention": 4 * m * r * dim * every,
        "cross q, o": 2 * 2 * m * dim * dim * every,
        "cross attention": 4 * m * keys * dim * every,
        "cross keys, values": 2 * 2 * keys * dim * dim * every,
        "feed-forward": 2 * 2 * m * dim * c.ffn_dim * every,
        "audio q, projection": 2 * 2 * m * dim * dim * hearing,
        "audio attention": 4 * m * c.audio_tokens * dim * hearing,
        "audio keys, values": 2 * 2 * WINDOW_SLOTS * c.audio_tokens * c.audio_dim * dim * hearing,
        "embeddings": 2 * embeddings * steps,
    }


def total_flops(calls: list[Call]) -> float:
    """Sum over recorded calls."""
    return sum(sum(call.op.flops(call.dims).values()) for call in calls)


def released_rest(c: DiTConfig, size: tuple[int, int]) -> dict[str, float]:
    """Flops per block of the released VAE decode and audio network: our modules driven the released way."""
    import torch

    from liveact_app.budget.dryrun import audio_network
    from liveact_model.dry import hear
    from liveact_model.vae.wan import WanVAE

    with torch.device("meta"):
        vae = WanVAE().to(torch.bfloat16)
    latents = torch.empty(
        vae.z_dim, BLOCK_LATENT_FRAMES + RELEASED_OLD_LATENT_FRAMES, size[1] // 8, size[0] // 8, device="meta"
    )
    with record() as decode, torch.no_grad():
        vae.stream().decode(latents)
    network = audio_network(c)
    with record() as speech, Outside(speech):
        if network is not None:
            hear(network, RELEASED_AUDIO_VIDEO_FRAMES)
    return {"VAE decode": total_flops(decode), "audio network": total_flops(speech)}


def ours(calls: list[Call], c: DiTConfig) -> dict[str, float]:
    """Flops per block of recorded calls by part; every call belongs to exactly one."""
    found, squares = dict.fromkeys(WHY, 0.0), Counter()
    for call in calls:
        part = _part(call, c, squares)
        found[part] += sum(call.op.flops(call.dims).values())
    return found


def _part(call: Call, c: DiTConfig, squares: Counter) -> str:
    """The part of one call. A layer's square products come in order: cross q and o, then audio q and projection."""
    name, d = call.op.name, call.dims
    if isinstance(call.op, Plain):
        return "audio network" if name == "wav2vec2" else "norms, rope, memory"
    if group_of(name) == "VAE decode":
        return "VAE decode"
    fixed = {f"{op}_attention{end}": f"{op} attention" for op in ("cross", "audio") for end in ("", "_quant")}
    fixed |= dict.fromkeys(("attention", "attention_8bit"), "self attention")
    if name in fixed or group_of(name) != "linear":
        return fixed.get(name, "norms, rope, memory")
    if "audio" in call.scope:
        return "audio keys, values" if (d.N, d.K) == (2 * c.dim, c.audio_dim) else "embeddings"
    if c.ffn_dim in (d.N, d.K):
        return "feed-forward"
    if d.N == 3 * c.dim or (d.N == d.K == c.dim and name.endswith("_gate")):
        return "q, k, v, o"
    if d.N == d.K == c.dim:
        squares[call.scope] += 1
        return "cross q, o" if squares[call.scope] <= 2 else "audio q, projection"
    return "embeddings"


def per_video_frame(flops: float) -> float:
    """Flops of a steady block -> TFLOP per video frame."""
    return flops / 1e12 / BLOCK_VIDEO_FRAMES


def table(calls: list[Call], c: DiTConfig, size: tuple[int, int]) -> list[dict]:
    """Rows {part, released, ours, why} in TFLOP per video frame, the total last."""
    theirs, mine = denoiser(c, tokens(size)) | released_rest(c, size), ours(calls, c)
    rows = [
        {"part": part, "released": per_video_frame(theirs[part]) if part in theirs else None,
         "ours": per_video_frame(mine[part]), "why": why} for part, why in WHY.items()
    ]  # fmt: skip
    sums = {k: sum(row[k] or 0.0 for row in rows) for k in ("released", "ours")}
    return [*rows, {"part": "total", **sums, "why": ""}]


def not_counted(calls: list[Call], c: DiTConfig, size: tuple[int, int], words: int = 64) -> list[str]:
    """Savings that the totals do not show: one taken that depends on the prompt, one not taken."""
    m, every = BLOCK_LATENT_FRAMES * tokens(size), c.num_layers * len(TIMESTEPS)
    prompt = per_video_frame(4 * m * (c.text_len - words - 1) * c.dim * every)
    folded = per_video_frame(5 / 9 * total_flops([x for x in calls if x.op.name == "upsample_conv"]))
    return [
        f"a prompt of {words} tokens instead of {c.text_len} saves {prompt:.3f} more (taken)",
        f"upsampling convolutions by their 4 distinct taps would save {folded:.3f} more (not taken)",
    ]
