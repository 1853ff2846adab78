"""A run of the dit stage that does not happen: what it would read, train and hold, counted on tensors without values.

The model, its average, the optimiser and one whole step (forward, backward, what is recomputed, clipping, the
optimiser's update) are those of the stage, shared out by FSDP to processes of which one is there. Memory is counted
operator by operator, beside what `plan` predicts.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from liveact_model.config import DiTConfig
from liveact_model.dit import DiT, rope_table
from liveact_model.errors import InputError
from liveact_train.alive import Alive
from liveact_train.batches import Latents
from liveact_train.clips_at_once import Conditions, blocks_of
from liveact_train.forcing import velocity_loss
from liveact_train.layers import parts_of
from liveact_train.optimiser import optimiser_of
from liveact_train.plan import GIB, PlanConfig, plan
from liveact_train.shards import Shards, local, pretended
from liveact_train.sizes import LATENT_FRAMES, MODELS, SIZES
from liveact_train.start import first_values, made


class Clip(NamedTuple):
    """Latent frames, and rows and columns of latents."""

    frames: int
    y: int
    x: int


class Counted(NamedTuple):
    """Bytes of one process: its share of the weights; after a forward pass and at most in a step, weights included."""

    share: int
    kept: int
    most: int
    optimiser: int


def dry_run(c: Any, window: dict[str, Any]) -> None:
    """Print it; `c` is a DiTConfigStage. Raises InputError as the run would before its first step."""
    if c.dry_run < 1 or c.batch % c.dry_run:
        raise InputError(f"--dry-run: expected processes that share --batch {c.batch} evenly, got {c.dry_run}")
    began, each = time.monotonic(), c.batch // c.dry_run
    folder, lines = Path(c.latents) / "train", []
    if (folder / "z.npy").exists():
        data = Latents(folder, c.model, **window)
        config, (_, frames, _, y, x) = data.config, data.arrays["z"].shape
    else:
        config, frames = MODELS[c.model].with_(**window), LATENT_FRAMES
        y, x = (side // 8 for side in reversed(SIZES[c.model]))
        lines.append(f"no latents are in {folder}; clips as they would be at {x * 8}x{y * 8} pixels")
    if c.start or c.model == "tiny":
        lines += first_values(c.model, config, c.start, c.start_audio, c.seed).said
    else:
        lines.append("nothing is read: --start names nothing")
    with pretended(c.dry_run) as shards:
        found = counted(config, Clip(frames, y, x), each, shards, c)
        if not shards.leads:
            return
        print(*(f"dit: {line}" for line in lines), sep="\n")
        options = {"gpus": c.dry_run, "batch": each, "checkpointing": c.checkpoint_activations}
        expected = plan(PlanConfig(c.model, f"{x * 8}*{y * 8}", frames, **options))
    print(_table(c, expected, found, each), f"dry run: {time.monotonic() - began:.0f} s, no step was made", sep="\n")


def counted(config: DiTConfig, clip: Clip, clips: int, shards: Shards, c: Any) -> Counted:
    """One step of `clips` clips in this process, on tensors without values."""
    rope_table(config.head_dim, config.window_slots, clip.y // 2, clip.x // 2, config.rope_theta)  # kept: with values
    with torch.device("meta"):
        shapes = {path: p.shape for path, p in DiT(config).named_parameters()}
    blocks = len(blocks_of(clip.frames, config))
    with FakeTensorMode(allow_non_fake_inputs=True), Alive() as memory:
        dit, _ = made(config, shards, lambda path: torch.empty(shapes[path]))
        parts_of(dit).recompute = c.checkpoint_activations
        optimiser = optimiser_of(c.optimiser, dit, c.rate)
        z = torch.empty(clips, config.out_dim, clip.frames, clip.y, clip.x)
        x = Conditions(
            torch.empty(clips, config.in_dim - config.out_dim, config.window_slots, clip.y, clip.x),
            torch.empty(clips, blocks, config.text_len, config.text_dim),
            torch.empty(clips, config.clip_tokens, config.clip_dim),
            torch.empty(clips, clip.frames, 8, config.audio_blocks, config.audio_channels),
        )
        start = memory.most = memory.now
        loss = velocity_loss(
            dit, z, x, torch.empty(clips, blocks), torch.empty_like(z), True, c.forcing, (1000.0, 500.0)
        )
        kept = memory.now
        loss.backward()
        most = memory.most
        nn.utils.clip_grad_norm_(dit.parameters(), 1.0)
        optimiser.step()
        share = sum(local(p).numel() * p.itemsize for p in dit.parameters())
        moments = [t for p in dit.parameters() for t in optimiser.state[p].values() if t.ndim]
        return Counted(share, kept - start, most - start, sum(local(t).numel() * t.itemsize for t in moments))


def _table(c: Any, expected: dict[str, Any], found: Counted, each: int) -> str:
    memory = expected["stages"][0]["memory_gib"]
    step = sum(memory[name] for name in ("gradients", "gathered layers", "activations"))
    rows = [
        ("weights", memory["weights"], found.share), ("average", memory["average"], found.share),
        ("optimiser", memory["optimiser"], found.optimiser),
        ("a step: gradients, gathered layers, activations", step, found.most),
    ]  # fmt: skip
    clips = f"{each} {'clip' if each == 1 else 'clips'} of {expected['clip']['video_frames']} video frames"
    flop = sum(expected["clip"]["tflop"].values())
    lines = [
        f"dit: all {expected['parameters']:,} values are trained, shared by {c.dry_run} processes; {clips} each",
        f"dit: {flop:.4g} TFLOP forward a clip; {expected['stages'][0]['passes']} such passes a step",
        "",
        f"{'GiB in each process':50}{'predicted':>12}{'counted':>12}",
    ]
    lines += [f"{name:50}{guess:>12.4g}{here / GIB:>12.4g}" for name, guess, here in rows]
    lines.append(f"{'all':50}{sum(r[1] for r in rows):>12.4g}{sum(r[2] for r in rows) / GIB:>12.4g}")
    lines.append(f"{'of which a forward pass leaves behind':50}{'':12}{found.kept / GIB:>12.4g}")
    return "\n".join(lines)
