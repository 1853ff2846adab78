"""Replay of recorded VAE runs (kinds vae and vae_sp2) at whatever sizes, frame and block counts the golden has."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from liveact_model.errors import InputError
from liveact_model.parallel import ALONE, SeqParallel
from liveact_model.vae.wan import RELEASED_CONTEXT, WanVAE
from liveact_model.vae.wan_tiles import decode_tiled, encode_tiled

from .golden import Golden, Row, rel_l2

FLOAT32, FLOAT32_MAX_ABS = 2e-5, 1e-4
BF16 = 3e-2  # of the float32 recording
BF16_BOTH = 5e-2  # of the bf16 recording: two bf16 runs that round in different places


def build(g: Golden, dtype: torch.dtype = torch.float32) -> WanVAE:
    """The recorded weights in `dtype`, with the recorded latent statistics where there are any."""
    source = g.sibling(str(g.meta["weights_from"])) if "weights_from" in g.meta else g
    vae = WanVAE.from_state_dict(source.weights(), dtype)
    prefix = "in." if dtype == torch.float32 else "out.bf16."
    if f"{prefix}mean" in source.tensors:
        vae.mean, vae.inv_std = (source.get(f"{prefix}{name}").to(dtype) for name in ("mean", "inv_std"))
    return vae


def _runs(g: Golden, vae: WanVAE) -> Iterator[tuple[str, Tensor]]:
    """(recorded name after `out.`, our result) of everything that the golden holds inputs for."""
    if "in.encode.video" in g.tensors:
        video = g.get("in.encode.video")[0]
        yield "encode.latent", vae.encode(video)
        grey = torch.cat((video[:, :1], torch.zeros_like(video[:, 1:])), 1)
        yield "encode_image_pad.latent", vae.encode(grey)
    for name in g.tensors.names("in.decode"):
        stem = name.removeprefix("in.").removesuffix(".latent")
        unclamped = vae.stream().decode(g.get(name), clamp=False)[None]
        yield f"{stem}.unclamped", unclamped
        yield f"{stem}.video", unclamped.clamp(-1.0, 1.0)
    previous = None
    blocks = [int(name.rpartition(".")[2]) for name in g.tensors.names("in.chunk.latent.")]
    for i in sorted(blocks):
        latents = g.get(f"in.chunk.latent.{i}")
        yield f"chunk.video.{i}", vae.decode_released(previous, latents)[None]
        previous = latents[:, -RELEASED_CONTEXT:]


def replay(g: Golden) -> Iterator[Row]:
    """Kind vae: encode, decode and the released block-by-block decode, in float32 and bf16."""
    distances = []
    for name, got in _runs(g, build(g)):
        if f"out.{name}" in g.tensors:
            want = g.get(f"out.{name}")
            yield g.row(f"float32 {name}", rel_l2(got, want), FLOAT32)
            distances.append((got - want).abs().max().item() if got.shape == want.shape else float("inf"))
    if not distances:
        raise InputError(f"golden {g.path.name}: expected recorded out.encode, out.decode or out.chunk, got none")
    yield g.row("float32 max abs", max(distances), FLOAT32_MAX_ABS, "the largest of the above")
    for name, got in _runs(g, build(g, torch.bfloat16)):
        if f"out.{name}" in g.tensors:
            yield g.row(f"bf16 {name}", rel_l2(got, g.get(f"out.{name}")), BF16, "against the float32 recording")
        if f"out.bf16.{name}" in g.tensors:
            error = rel_l2(got, g.get(f"out.bf16.{name}"))
            yield g.row(f"bf16 {name} recorded", error, BF16_BOTH, "against the bf16 recording")


def replay_tiled(g: Golden, parallel: SeqParallel = ALONE) -> Iterator[Row]:
    """Kind vae_sp2: the released tiled decode and encode, tile after tile in one process, or shared by several."""
    vae, tiles = build(g), int(g.number("world_size"))
    for name in g.tensors.names("in.latent_"):
        shape = name.removeprefix("in.latent_")
        got = decode_tiled(vae, g.get(name), tiles, parallel)[None]
        yield g.row(f"decode {shape}", rel_l2(got, g.get(f"out.decode_{shape}")), FLOAT32, f"{tiles} tiles")
    video = g.get("in.video")[0]
    encoded = encode_tiled(vae, video, tiles, parallel)
    yield g.row("encode", rel_l2(encoded, g.get("out.encode")), FLOAT32, f"{tiles} tiles")
    if "out.single.encode" in g.tensors:
        yield g.row("encode whole", rel_l2(vae.encode(video), g.get("out.single.encode")), FLOAT32, "not tiled")


REPLAYS: dict[str, Callable[[Golden], Iterator[Row]]] = {"vae": replay, "vae_sp2": replay_tiled}
