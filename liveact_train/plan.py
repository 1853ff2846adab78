"""What training would cost: GPU hours and memory of each stage, from one pass of the real denoiser without values.

Every number is predicted, none was measured. The ops of a clip are recorded on the meta device, block by block (the
parallel pass of training does the same work); the rest is stated here. A pass backward is two forward, recomputing
activations one more. Weights, gradients, optimiser and average lie in equal shares on all GPUs (fully sharded); each
layer's weights are gathered in bf16 where it computes, and the next one's beside it. `dit --dry-run` counts what one
step of the stage itself holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from liveact_kernels.cost import hw
from liveact_kernels.cost.budget import recorded
from liveact_model.config import DiTConfig
from liveact_model.dit import DiT
from liveact_model.errors import InputError
from liveact_train.clips_at_once import blocks_of
from liveact_train.sizes import MODELS, SIZES

OPTIMISER_BYTES = {"float32": 4, "bfloat16": 2}
WEIGHT, GATHERED, GRADIENT = 4, 2, 4  # bytes: float32 masters and gradients, bf16 where they compute
NODE = 8  # GPUs that NVLink joins
BACKWARD, RECOMPUTE = 2, 1
ROLLOUT = 3  # denoise steps of the distilled model
CRITIC_PASSES = 1  # of the critic on the generator's clip
GUIDED = 2  # passes of the teacher: with and without the prompt
GIB = 1 << 30


@dataclass(frozen=True)
class PlanConfig:
    """Predict GPU hours and memory of training, stage by stage; nothing is run and nothing measured."""

    model: str = "liveact-18b"  # or tiny
    size: str = ""  # W*H in pixels; 512*512, tiny 64*64
    latent_frames: int = 30  # of a clip
    gpus: int = 64  # that share weights, gradients and optimiser
    batch: int = 1  # clips per GPU and step
    chip: str = "h200"  # rates of its datasheet
    efficiency: float = 0.4  # share of these rates that training reaches: assumed
    network: float = 50.0  # GB/s per GPU and direction between nodes of eight: assumed, 400 Gb/s
    optimiser: str = "float32"  # or bfloat16: Adam's two moments
    checkpointing: bool = True  # recompute a layer's activations in the backward pass
    neighbor_steps: int = 10000  # of Neighbor Forcing with ConvKV
    distill_steps: int = 1000  # of distillation
    critic_updates: int = 5  # per step of distillation
    json: bool = False  # print everything as JSON


@dataclass(frozen=True)
class ClipCost:
    """One clip through the denoiser: flops by the rate they run at, bytes that a backward pass needs.

    saved    the results of all ops
    deepest  those of the layer that has most
    inputs   what every layer takes in
    """

    flops: dict[str, float]
    saved: int
    deepest: int
    inputs: int


@dataclass(frozen=True)
class StagePlan:
    """A stage: forward passes a step, counted as such; seconds, hours and GiB per GPU."""

    stage: str
    steps: int
    passes: int
    tflop_per_gpu_step: float
    compute_s: float
    exchange_s: float
    gpu_hours: float
    memory_gib: dict[str, float]

    @property
    def step_s(self) -> float:
        """Of one step: what is exchanged travels beside the computing."""
        return max(self.compute_s, self.exchange_s)


def clip_cost(c: DiTConfig, size: tuple[int, int], latent_frames: int) -> tuple[DiT, ClipCost]:
    """The denoiser on the meta device, and what a clip of `size` pixels (W, H) costs it; activations are bf16."""
    with torch.device("meta"):
        dit = DiT(c).to_precision("bfloat16")
    x, y = (side // 8 for side in size)

    def run() -> None:
        def rows(*shape: int) -> torch.Tensor:
            return torch.empty(*shape, device="meta", dtype=dit.dtype)

        with torch.no_grad():
            image, window = dit.image_kv(rows(c.clip_tokens, c.clip_dim)), dit.window(y // 2, x // 2)
            for b, block in enumerate(blocks_of(latent_frames, c)):
                frames = block.stop - block.start
                heard = dit.hear(rows(frames - (b == 0), 8, c.audio_blocks, c.audio_channels))
                text = dit.prompt(rows(c.text_len, c.text_dim), image)
                at = dit.at(torch.empty(1, device="meta"))
                dit(
                    rows(c.out_dim, frames, y, x),
                    rows(c.in_dim - c.out_dim, frames, y, x),
                    at,
                    text,
                    heard,
                    window,
                    b == 0,
                )

    flops: dict[str, float] = {}
    layers: dict[str, int] = {}
    for call in recorded(run):
        for kind, n in call.op.flops(call.dims).items():
            flops[kind] = flops.get(kind, 0.0) + n
        layer = next((s for s in call.scope if s.startswith("layer[")), "")
        results = getattr(call.op, "out", {}).values()
        layers[layer] = layers.get(layer, 0) + sum(t.nbytes(call.dims) for t in results if t.present(call.dims))
    frames = blocks_of(latent_frames, c)[-1].stop
    inputs = c.num_layers * frames * (x // 2) * (y // 2) * c.dim * GATHERED
    deepest = max(n for layer, n in layers.items() if layer)
    return dit, ClipCost(flops, sum(layers.values()), deepest, inputs)


def plan(config: PlanConfig) -> dict[str, Any]:
    """Predicted cost of both stages as plain values. Raises InputError for a choice that does not exist."""
    size, chip = _check(config)
    dit, clip = clip_cost(MODELS[config.model], size, config.latent_frames)
    learn = 1 + BACKWARD + RECOMPUTE * config.checkpointing
    generator = ROLLOUT - 1 + learn + GUIDED + CRITIC_PASSES  # one of the denoise steps leads the gradient
    critic = ROLLOUT + learn
    stages = [
        _stage("neighbor forcing, ConvKV", config, chip, dit, clip, config.neighbor_steps, learn, updates=1, trained=1),
        _stage(
            "distillation", config, chip, dit, clip, config.distill_steps, generator + config.critic_updates * critic,
            updates=1 + config.critic_updates, trained=2, frozen=1,
        ),
    ]  # fmt: skip
    return {
        "note": "predicted, not measured",
        "config": asdict(config) | {"size": f"{size[0]}*{size[1]}"},
        "chip": {"name": chip.name, "rates": chip.source},
        "parameters": _size(dit.parameters()),
        "clip": {"tflop": {kind: n / 1e12 for kind, n in clip.flops.items()}, "video_frames": _video_frames(config)},
        "stages": [asdict(stage) | {"step_s": stage.step_s} for stage in stages],
    }


def _stage(
    name: str, config: PlanConfig, chip: hw.Chip, dit: DiT, clip: ClipCost, steps: int, passes: int, updates: int,
    trained: int, frozen: int = 0,
) -> StagePlan:  # fmt: skip
    """`passes` counts forward passes of a step, a backward one as two; `updates` how often a model is changed in it."""
    size, n = _size(dit.parameters()), config.gpus
    seconds = sum(count / chip.rate(kind) for kind, count in clip.flops.items())
    compute = passes * config.batch * seconds / config.efficiency
    # a backward pass, with what it recomputes, gathers once; gradients travel once per update
    gathers = passes - updates * (BACKWARD + RECOMPUTE * config.checkpointing - 1)
    travels = (gathers * GATHERED + updates * GRADIENT) * size * (n - 1) / n
    link = chip.link if n <= NODE else min(chip.link, config.network * 1e9)
    moments = 2 * OPTIMISER_BYTES[config.optimiser]
    layer = max(_size(block.parameters()) for block in dit.blocks)
    rest = size - sum(_size(block.parameters()) for block in dit.blocks)
    # what is no layer, with its gradients, until the step ends; a layer, the next one, and gradients on their way
    gathered = 2 * (rest + layer) * GATHERED + layer * (GATHERED + GRADIENT)
    kept = clip.inputs + clip.deepest if config.checkpointing else clip.saved
    memory = {
        "weights": trained * WEIGHT * size / n,
        "gradients": trained * GRADIENT * size / n,
        "optimiser": trained * moments * size / n,
        "average": WEIGHT * size / n,
        "frozen teacher": frozen * GATHERED * size / n,
        "gathered layers": gathered if n > 1 else size * GATHERED,
        "activations": config.batch * kept,
    }
    exchange = travels / link if n > 1 else 0.0
    return StagePlan(
        name, steps, passes, passes * config.batch * sum(clip.flops.values()) / 1e12, compute, exchange,
        max(compute, exchange) * steps * n / 3600, {k: v / GIB for k, v in memory.items()},
    )  # fmt: skip


def _size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def _video_frames(config: PlanConfig) -> int:
    return 4 * (blocks_of(config.latent_frames, MODELS[config.model])[-1].stop - 1) + 1


def _check(c: PlanConfig) -> tuple[tuple[int, int], hw.Chip]:
    for flag, value, names in (
        ("--model", c.model, MODELS), ("--chip", c.chip, hw.CHIPS), ("--optimiser", c.optimiser, OPTIMISER_BYTES),
    ):  # fmt: skip
        if value not in names:
            raise InputError(f"{flag}: expected one of {', '.join(names)}, got {value!r}")
    sides = (c.size or "{}*{}".format(*SIZES[c.model])).split("*")
    if len(sides) != 2 or not all(re.fullmatch("[0-9]{2,4}", s) and int(s) in range(16, 4097, 16) for s in sides):
        raise InputError(f"--size: expected W*H, both multiples of 16 from 16 to 4096, got {c.size!r}")
    least = MODELS[c.model].memory_slots
    for flag, number, low in (
        ("--latent-frames", c.latent_frames, least), ("--gpus", c.gpus, 1), ("--batch", c.batch, 1),
        ("--neighbor-steps", c.neighbor_steps, 0), ("--distill-steps", c.distill_steps, 0),
        ("--critic-updates", c.critic_updates, 0),
    ):  # fmt: skip
        if not low <= number <= 10**9:
            raise InputError(f"{flag}: expected {low} to 1000000000, got {number}")
    if not 0 < c.efficiency <= 1:
        raise InputError(f"--efficiency: expected more than 0 and at most 1, got {c.efficiency}")
    if not 0 < c.network <= 1e6:
        raise InputError(f"--network: expected more than 0 and at most 1000000, got {c.network}")
    return (int(sides[0]), int(sides[1])), hw.chip(c.chip)


def show_plan(config: PlanConfig) -> None:
    """The `plan` stage."""
    found = plan(config)
    print(json.dumps(found, indent=1) if config.json else _table(found))


def _table(found: dict[str, Any]) -> str:
    c, stages = found["config"], found["stages"]
    each, total = "clip" if c["batch"] == 1 else "clips", sum(found["clip"]["tflop"].values())
    lines = [
        f"{c['model']}, {found['parameters'] / 1e9:.3g} billion weights, {c['size']}, {c['batch']} {each} of "
        f"{found['clip']['video_frames']} video frames",
        f"on each of {c['gpus']} {found['chip']['name']}: {found['note']}",
        f"{c['efficiency']:.0%} of the rates ({found['chip']['rates']}) is assumed; a clip: {total:.4g} TFLOP forward",
        "",
        f"{'':26}{'steps':>8}{'passes':>8}{'compute s':>11}{'exchange s':>12}{'s a step':>10}{'GPU hours':>12}",
    ]
    lines += [
        f"{s['stage']:26}{s['steps']:>8}{s['passes']:>8}{s['compute_s']:>11.3g}{s['exchange_s']:>12.3g}"
        f"{s['step_s']:>10.3g}{s['gpu_hours']:>12.4g}" for s in stages
    ]  # fmt: skip
    lines += ["", f"{'GiB per GPU':26}" + "".join(f"{s['stage'].split(',')[0]:>20}" for s in stages)]
    for name in stages[0]["memory_gib"]:
        lines.append(f"{name:26}" + "".join(f"{s['memory_gib'][name]:>20.4g}" for s in stages))
    lines.append(f"{'all':26}" + "".join(f"{sum(s['memory_gib'].values()):>20.4g}" for s in stages))
    return "\n".join(
        [*lines, "", "Activations are the results of ops alone; what a framework keeps besides is not in it."]
    )
