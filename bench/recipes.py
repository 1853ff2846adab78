"""Which recipe is better, measured: small denoisers trained in the same way but for one thing, on held-out clips.

    python bench/recipes.py --data data/tiny --work data/tiny/recipes --out bench/results/cpu/recipes.jsonl

All begin from one common start, a denoiser trained with every memory slot hidden: it can draw and has never seen a
past, so no recipe is ahead. Seeds differ in clips, noise and noise levels from there on.

--data is a folder in which the stages data, vae, latents and probe of `python -m liveact_train` have run. One seed of
everything first, then the next. A row that is in --out with the same settings is not measured again, and a training
that was cut off goes on from its last checkpoint in --work. docs/recipes.py makes the tables and the picture.

forcing  what a block sees of the past while it learns; then videos of many blocks, measured block by block
sizes    memory slots / block latent frames, measured the same way (6/8 is the row "neighbor" of forcing)
memory   what the long-term slots hold, alone: the picture is withheld from all blocks but the first, and reference and
         short-term slots are hidden. Trained on clips in which a colour is shown, hidden and shown again; measured is
         the loss of later blocks, and which colour the model draws when it comes back
weights  with --weights FILE: which colour a trained denoiser draws, with all its slots and with some hidden
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from manifest import manifest
from root import ROOT
from rows import Rows, read, writable
from torch import Tensor
from torch.func import vmap

from liveact_app.cli import answer
from liveact_kernels import ops
from liveact_model.dit import DiT
from liveact_model.errors import InputError
from liveact_model.schedule import coefficients, sigmas
from liveact_model.text.words import ACTIONS
from liveact_train.clips_at_once import AtOnce, Conditions, blocks_of
from liveact_train.data.clips import Clip, block_starts, make_clip, open_array
from liveact_train.data.faces import POSE, render_uint8
from liveact_train.data.identity import SECRETS, Colour, Identity
from liveact_train.dit import TINY_TIMESTEPS, Latents, load_dit, save_dit
from liveact_train.evaluate import BACKGROUND, correlation
from liveact_train.forcing import draw_timesteps, tokens_of, velocity_errors
from liveact_train.latents import encode_folder
from liveact_train.probe import Probe, load_probe
from liveact_train.runs import Run, write_whole
from liveact_train.start import initialise
from liveact_train.vae import load_vae, sharpness

LEAST_PIXELS = 100  # of all video frames of a block together: below that a colour is not asked for
LONG_SEED, RETURNING_SEED = 3001, 4001  # of held-out clips; training has 1, the stages' validation 1001
CONTEXTS = {"neighbor": ("step",), "diffusion": ("step", "clean"), "teacher": ("clean",), "self": ("last",)}
"""What a block sees of the past in a rollout, by forcing: earlier blocks at the same denoise step, what the last
denoise step has left behind, or the finished blocks without noise. Diffusion Forcing has learnt both of the former and
the latter."""
ALL_BUT_LONG_TERM, EVERY = (0, 1, 4, 5), (0, 1, 2, 3, 4, 5)
HIDDEN = {"nothing": (), "long-term": (2, 3), "long- and short-term": (2, 3, 4, 5), "all": EVERY}
"""Slots that are hidden from given weights while a colour is read."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large and how long: the same for all recipes."""

    start_steps: int = 900  # of the common start
    steps: int = 180  # of every recipe after it
    memory_steps: int = 300  # of those of the kind memory
    batch: int = 6
    rate: float = 3e-3  # peak learning rate of the start; of what follows, half of it
    dim: int = 96
    num_heads: int = 2
    num_layers: int = 3
    ffn_dim: int = 256
    audio_hidden: int = 96
    audio_dim: int = 48
    clips: int = 6  # held-out videos
    blocks: int = 12  # of each
    returning: int = 60  # held-out clips in which a colour comes back
    marks: int = 3  # measurements on the way

    def model(self) -> dict[str, int]:
        """Fields of DiTConfig."""
        names = ("dim", "num_heads", "num_layers", "ffn_dim", "audio_hidden", "audio_dim")
        return {name: getattr(self, name) for name in names}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One training run; a row's "settings" are these fields but kind, what and seed."""

    kind: str
    what: str
    seed: int
    steps: int
    batch: int
    rate: float
    model: dict[str, int]
    start: int = 0  # steps of the common start that it goes on from
    forcing: str = "neighbor"
    memory: str = "conv"
    grouping: str = "temporal"
    memory_slots: int = 6
    block_latent_frames: int = 8
    hidden: tuple[int, ...] = ()
    picture: bool = True  # whether all blocks see the picture, or the first one alone
    returning: bool = False  # only clips in which a colour comes back
    weight: float = 0.0  # of tokens where a secret may show, beyond 1

    def settings(self) -> dict:
        """Everything that another run of the same thing must have in common, as JSON reads it."""
        return json.loads(json.dumps({k: v for k, v in dataclasses.asdict(self).items() if k not in NAMES}))

    def window(self) -> dict:
        """Fields of DiTConfig that are compared."""
        return {k: getattr(self, k) for k in WINDOW}

    def told(self, x: Conditions) -> Conditions:
        """Conditions with what this recipe withholds taken away (later blocks see the picture by `image` alone)."""
        return x if self.picture else x._replace(image=torch.zeros_like(x.image))


NAMES = ("kind", "what", "seed")
VIDEOS = ("forcing", "sizes")  # kinds that are measured on videos
WINDOW = ("memory", "grouping", "memory_slots", "block_latent_frames")


def recipes(s: Sizes, seed: int) -> list[Recipe]:
    """Everything that is compared, for one seed."""

    def one(kind: str, what: str, **more) -> Recipe:
        steps = s.memory_steps if kind == "memory" else s.steps
        return Recipe(kind, what, seed, steps, s.batch, s.rate / 2, s.model(), s.start_steps, **more)

    memory = {"returning": True, "weight": 4.0, "picture": False}
    folds = [(taps, grouping) for taps in ("learnt", "mean") for grouping in ("temporal", "raster")]
    long_term = memory | {"hidden": ALL_BUT_LONG_TERM}
    return [
        *(one("forcing", name, forcing=name) for name in CONTEXTS),
        *(one("memory", f"{taps}, {grouping}", grouping=grouping, memory="conv" if taps == "learnt" else taps,
              **long_term) for taps, grouping in folds),
        one("memory", "off", hidden=EVERY, **memory),
        *(one("sizes", f"{a}/{b}", memory_slots=a, block_latent_frames=b) for a, b in ((6, 6), (8, 8))),
    ]  # fmt: skip


def common_start(s: Sizes) -> Recipe:
    """What all go on from."""
    return Recipe("start", "start", 0, s.start_steps, s.batch, s.rate, s.model(), hidden=EVERY)


def folder_of(work: Path, recipe: Recipe) -> Path:
    """Where a recipe's weights lie."""
    return work / f"{recipe.kind}-{recipe.what}-{recipe.seed}".replace("/", "-").replace(", ", "-")


# ---- training -------------------------------------------------------------------------------------------------------

BOXES = {
    "nod": [(0, 1), (0, 2)],
    "wave": [(row, column) for row in (1, 2, 3) for column in (2, 3)],
    "shake": [(row, column) for row in (1, 2) for column in range(4)],
}
"""Rows and columns of the 4x4 tokens of a latent frame in which an action shows its secret."""


def comes_back(prompt_ids: np.ndarray) -> np.ndarray:
    """Of clips [N, blocks] the block in which an action is shown again after a pause; 0 where none is."""
    actions, found = prompt_ids % len(ACTIONS), np.zeros(len(prompt_ids), int)
    for i, acts in enumerate(actions):
        for b in range(2, len(acts)):
            before = [a for a in range(b) if acts[a] == acts[b]]
            if acts[b] and before and before[-1] < b - 1:
                found[i] = b
    return found


def first_seen(prompt_ids: np.ndarray) -> np.ndarray:
    """Of clips [N, blocks] the first block with the action of the block that `comes_back` names."""
    actions = prompt_ids % len(ACTIONS)
    return np.array([list(acts).index(acts[b]) for acts, b in zip(actions, comes_back(prompt_ids))])


def weights(data: Latents, prompt_ids: np.ndarray, weight: float) -> Tensor:
    """Weight [B, L] of each token: 1, and `weight` more where an action that is asked for shows a secret; mean 1."""
    names, tokens = tuple(ACTIONS), torch.ones(len(prompt_ids), data.blocks[-1].stop, 4, 4)
    for clip, ids in zip(tokens, prompt_ids):
        for frames, prompt in zip(data.blocks, ids):
            for row, column in BOXES.get(names[prompt % len(names)], ()):
                clip[frames, row, column] += weight
    return (tokens / tokens.mean()).flatten(1)


def train(recipe: Recipe, work: Path, judge: Judge) -> tuple[DiT, list[dict], float]:
    """The averaged weights, what was measured on the way, and processor seconds of the training alone."""
    sets, folder, marks = judge.sets / "latents", folder_of(work, recipe), judge.sizes.marks
    data = Latents(sets / "train", **recipe.window())
    ids = np.array(open_array("--data", sets / "train", "prompt_ids"))
    pool = np.flatnonzero(comes_back(ids)).tolist() if recipe.returning else list(range(len(data)))
    if len(pool) < recipe.batch:
        raise InputError(
            f"--data: expected {recipe.batch} clips or more to train on, found {len(pool)} in {sets}/train"
        )
    torch.manual_seed(recipe.seed)
    dit = initialise(DiT(data.config.with_(**recipe.model)))
    if recipe.start:
        dit.load_state_dict(load_dit(str(folder_of(work, common_start(judge.sizes)) / "dit.safetensors")).state_dict())
    dit.dtype = torch.bfloat16
    optimiser = torch.optim.AdamW(dit.parameters(), recipe.rate, betas=(0.9, 0.98), weight_decay=0.01)
    name = f"{recipe.kind}, {recipe.what}, seed {recipe.seed}"
    run = Run(name, folder, recipe, dit, optimiser, ema=0.99, warm_up=50, report_every_s=30.0, save_every_s=60.0)
    run.average.dtype = torch.bfloat16
    notes = folder / "curve.json"
    curve = json.loads(notes.read_text()) if notes.exists() else []
    spent = curve[-1]["cpu_seconds"] if curve else 0.0
    at = {max(1, round(recipe.steps * (i + 1) / marks)) for i in range(marks)}
    began = time.process_time()
    for rng in run:
        chosen = rng.sample(pool, recipe.batch)
        z, x = data.batch(chosen)
        x = recipe.told(x)
        t, audible = draw_timesteps(len(z), len(data.blocks), recipe.forcing, TINY_TIMESTEPS)
        noise = torch.randn(z.shape)
        errors = velocity_errors(dit, z, x, t, noise, audible, recipe.forcing, TINY_TIMESTEPS, recipe.hidden)
        run.update((errors.square().mean(-1) * weights(data, ids[chosen], recipe.weight)).mean())
        if run.step in at:
            spent, measuring = spent + time.process_time() - began, time.process_time()
            found = judge.on_the_way(recipe, run.average)
            curve = [c for c in curve if c["step"] < run.step]
            curve.append({"step": run.step, "cpu_seconds": round(spent, 1), **found})
            run.save()
            text = json.dumps(curve)
            write_whole(notes, lambda part, text=text: part.write_text(text + "\n") and None)
            began = time.process_time()
            print(f"{name}: {json.dumps(curve[-1])}, measured in {began - measuring:.1f} s", flush=True)
    return run.average, curve, spent


# ---- measuring ------------------------------------------------------------------------------------------------------


def drawn_colours(clip: Clip, block: int) -> Tensor:
    """A block with the secret of its action in each colour of SECRETS, [6, F, 3, 64, 64] uint8; others as they are."""
    action = tuple(ACTIONS)[clip.prompt_ids[block] % len(ACTIONS)]
    frames = slice(*block_starts(block + 2)[-2:])
    pose = {name: values[frames] for name, values in clip.pose.items()}

    def with_(colour: Colour) -> Identity:
        who = clip.identity
        secret = {"wave": {"mitten": colour}, "shake": {"mark": who.mark and (colour, who.mark[1])},
                  "nod": {"bow": who.bow and colour}}  # fmt: skip
        return dataclasses.replace(who, **secret[action])

    return torch.stack([render_uint8(with_(c), pose, clip.video.shape[-1]) for c in SECRETS.values()])


def read_colour(video: Tensor, drawn: Tensor) -> tuple[str, int]:
    """Which of `drawn` [6, F, 3, H, W] uint8 is nearest to a video [F, 3, H, W] in 0..255 where they differ.

    Also how many pixels that are, over all video frames: 0 where no secret is in sight.
    """
    drawn = drawn.float()
    where = (drawn.amax(0) - drawn.amin(0)).amax(1) > 32
    apart = (drawn - video.float()).square().sum(2)[:, where].sum(1)
    return tuple(SECRETS)[int(apart.argmin())], int(where.sum())


class Judge:
    """The held-out clips, made once in a folder, and what is measured on them.

    long       speech and faces for a video of many blocks: source (clips) and latents
    returning  clips in which an action shows its colour again: source, latents and the six drawings of that block
    """

    def __init__(self, sets: Path, folder: Path, s: Sizes):
        self.sets, self.folder, self.sizes = sets, folder, s
        self.vae = load_vae(str(sets / "vae" / "vae.safetensors")).requires_grad_(False)
        self.probe: Probe = load_probe(str(sets / "probe" / "probe.safetensors")).requires_grad_(False)
        self.long = self._made("long", s.clips, LONG_SEED, {"blocks": s.blocks, "silence": 0.0})
        self.returning = self._made("returning", s.returning, RETURNING_SEED, {"returning": 1.0})
        self.truth = open_array("--work", self.long, "video")
        self.said = np.array(open_array("--work", self.long, "attributes"))[..., POSE.index("open")]

    def _made(self, name: str, count: int, seed: int, how: dict) -> Path:
        told = json.dumps({"count": count, "seed": seed, **how})
        folder = self.folder / name
        if (folder / "made.json").exists() and (folder / "made.json").read_text() == told:
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        clips = [make_clip(seed, i, **how) for i in range(count)]
        for part in ("video", "attributes", "mel"):
            np.save(folder / f"{part}.npy", torch.stack([getattr(c, part) for c in clips]).numpy())
        ids = np.array([c.prompt_ids for c in clips], np.uint8)
        np.save(folder / "prompt_ids.npy", ids)
        (folder / "prompts.json").write_text(json.dumps([c.prompts for c in clips]))
        encode_folder(self.vae, folder, folder / "latents", 4)
        if name == "returning":
            drawn = [drawn_colours(clip, int(b)) for clip, b in zip(clips, comes_back(ids))]
            np.save(folder / "drawn.npy", torch.stack(drawn).numpy())
        (folder / "made.json").write_text(told)
        return folder

    def _latents(self, of: Path, recipe: Recipe) -> Latents:
        return Latents(of / "latents", **recipe.window())

    def on_the_way(self, recipe: Recipe, dit: DiT) -> dict:
        """Loss on the validation clips, and the mouth in videos of four blocks."""
        found: dict = {"loss": self.loss(recipe, dit)}
        if recipe.kind in VIDEOS:
            contexts = CONTEXTS[recipe.forcing]
            found["mouth"] = {c: self.video(recipe, dit, c, 4)["mouth_all"] for c in contexts}
        return found

    def loss(self, recipe: Recipe, dit: DiT) -> dict[str, float]:
        """Velocity loss at the three timesteps, every block with the memory that its recipe trains with.

        Of a recipe of memory, that of blocks whose long-term slots are folds: from the third on.
        """
        data = Latents(self.sets / "latents" / "val", **recipe.window())
        z, x = data.batch(list(range(min(24, len(data)))))
        x, measured = recipe.told(x), data.blocks[2 if recipe.kind == "memory" else 0 :]
        n, g = len(data.blocks), torch.Generator().manual_seed(5)
        noise = torch.randn(z.shape, generator=g)
        levels = [torch.full((len(z), n), t) for t in TINY_TIMESTEPS]
        if recipe.forcing == "diffusion":  # of each level, the blocks that drew it
            mixed = torch.randint(len(TINY_TIMESTEPS) - 1, (len(z), n), generator=g)
            heard = torch.tensor(TINY_TIMESTEPS[1:])
            levels[1:] = [heard[mixed], heard[len(heard) - 1 - mixed]]
        parts: dict[float, list[Tensor]] = {t: [] for t in TINY_TIMESTEPS}
        for t in levels:
            torch.manual_seed(5)
            audible = bool((t < 1000).all())
            errors = velocity_errors(dit, z, x, t, noise, audible, recipe.forcing, TINY_TIMESTEPS, recipe.hidden)
            errors = errors.square().mean(-1).unflatten(1, (data.blocks[-1].stop, -1)).mean(-1)
            each = torch.stack([errors[:, b].mean(1) for b in measured], 1)
            for level in parts:
                parts[level].append(each[t[:, n - len(measured) :] == level])
        return {f"{t:g}": round(torch.cat(part).mean().item(), 4) for t, part in parts.items()}

    @torch.no_grad()
    def video(self, recipe: Recipe, dit: DiT, context: str, blocks: int) -> dict:
        """Make the held-out videos and measure them, see `measured`."""
        data = self._latents(self.long, recipe)
        z, x = data.batch(list(range(len(data))))
        frames = min(blocks_of(z.shape[2], data.config)[-1].stop, 6 + 8 * (blocks - 1))
        n = len(blocks_of(frames, data.config))
        x = x._replace(text=x.text[:, :n], audio=x.audio[:, :frames])
        g = torch.Generator().manual_seed(7)
        noise = torch.randn(len(z), len(TINY_TIMESTEPS), *z.shape[1:], generator=g)[:, :, :, :frames]
        made = AtOnce(dit, x).rollout(noise, TINY_TIMESTEPS, context == "step", context == "clean").latents
        return self.measured(self.decoded(made))

    @torch.no_grad()
    def decoded(self, latents: Tensor) -> Tensor:
        """Latents [B, Z, F, Y, X] from a clip's start -> video [B, n, 3, H, W] in -1..1, clip by clip."""
        return torch.stack([self.vae.stream().decode(one.float()) for one in latents]).transpose(1, 2)

    @torch.no_grad()
    def measured(self, video: Tensor) -> dict:
        """Per block of the released sizes, of all clips together; video [B, F, 3, H, W] in -1..1.

        mouth      correlation of what the probe reads with the truth ("mouth_all": of all blocks)
        corner     mean difference of a corner no head reaches from the reference picture, of 1
        picture    mean difference of the block's mean picture from that of the truth, of 1
        sharpness  of the truth's
        """
        truth = torch.from_numpy(np.array(self.truth[:, : video.shape[1]])).float() / 127.5 - 1
        read = self.probe(video.flatten(0, 1))[:, POSE.index("open")].view(len(video), -1).numpy()
        said, out = self.said[:, : video.shape[1]], {"mouth": [], "corner": [], "picture": [], "sharpness": []}
        starts = block_starts(self.sizes.blocks + 1)
        rows, columns = BACKGROUND
        for a, b in itertools.pairwise(starts):
            if b > video.shape[1]:
                break
            mine, real = video[:, a:b], truth[:, a:b]
            out["mouth"].append(correlation(read[:, a:b].ravel(), said[:, a:b].ravel()))
            off = mine[..., rows, columns] - truth[:, :1, :, rows, columns]
            out["corner"].append(off.abs().mean().item() / 2)
            out["picture"].append((mine.mean(1) - real.mean(1)).abs().mean().item() / 2)
            out["sharpness"].append(sharpness(mine, real))
        rounded = {name: [round(v, 4) for v in values] for name, values in out.items()}
        end = starts[len(out["mouth"])]
        return rounded | {"mouth_all": round(correlation(read[:, :end].ravel(), said[:, :end].ravel()), 4)}

    def colours(self, recipe: Recipe, dit: DiT) -> dict[str, dict]:
        """The block in which a colour comes back, made with the true past as its memory: right colours and loss.

        By where the colour was first seen: in the first block, with which the reference slots attend, or later. `loss`
        is the velocity loss of that block at the second timestep, `secret` that where the secret may show.
        """
        data = self._latents(self.returning, recipe)
        ids = np.array(open_array("--work", self.returning, "prompt_ids"))
        drawn = open_array("--work", self.returning, "drawn")
        right: dict[str, list[float]] = {}
        losses: dict[str, list[tuple[float, float]]] = {}
        back, seen = comes_back(ids), first_seen(ids)
        for b in sorted({*back.tolist()} - {0}):
            clips = np.flatnonzero(back == b).tolist()
            z, x = data.batch(clips)
            made, errors = block_again(
                AtOnce(dit, recipe.told(x), recipe.hidden), z, data.blocks[b], weights(data, ids[clips], 1.0)
            )
            before = data.blocks[b].start - 1
            for i, clip in enumerate(clips):
                run = self.vae.stream()
                run.decode(z[i, :, before : before + 1])
                colour, pixels = read_colour(
                    (run.decode(made[i]).transpose(0, 1) + 1) * 127.5, torch.tensor(drawn[clip])
                )
                if pixels < LEAST_PIXELS:
                    continue
                name = "first block" if seen[clip] == 0 else "later block"
                right.setdefault(name, []).append(colour == self._secret(clip))
                losses.setdefault(name, []).append(errors[i])
        found = {}
        for name, hits in sorted(right.items()):
            block, secret = np.mean(losses[name], 0)
            found[name] = {"right": int(sum(hits)), "of": len(hits), "loss": round(float(block), 4)}
            found[name]["secret"] = round(float(secret), 4)
        return found

    def _secret(self, clip: int) -> str:
        """The colour that comes back in a held-out clip, read off its true video."""
        video, drawn = open_array("--work", self.returning, "video"), open_array("--work", self.returning, "drawn")
        ids = np.array(open_array("--work", self.returning, "prompt_ids"))
        start = block_starts(ids.shape[1])[comes_back(ids)[clip]]
        return read_colour(torch.tensor(video[clip, start : start + drawn.shape[2]]), torch.tensor(drawn[clip]))[0]


def block_again(clips: AtOnce, z: Tensor, frames: slice, weight: Tensor) -> tuple[Tensor, list[tuple[float, float]]]:
    """Make one block of each clip z [B, Z, F, Y, X] in three denoise steps, with the true past at each step's level.

    Returns latents [B, Z, n, Y, X], and of each clip the velocity loss at the second step with the true block noisy,
    over all of it and over tokens whose weight [B, L] is above the least.
    """
    g, levels = torch.Generator().manual_seed(11), sigmas(TINY_TIMESTEPS)
    made, errors, blocks = (
        torch.randn(z[:, :, frames].shape, generator=g),
        [],
        len(blocks_of(z.shape[2], clips.dit.config)),
    )
    per = z.shape[3] * z.shape[4] // 4
    rows = slice(frames.start * per, frames.stop * per)
    for i, timestep in enumerate(TINY_TIMESTEPS):
        noise = torch.randn(z.shape, generator=g)
        noisy, t = (1 - levels[i]) * z + levels[i] * noise, torch.full((len(z), blocks), timestep)
        if i == 1:
            off = clips.run(noisy, t, timestep < 1000).tokens.float() - vmap(tokens_of)(noise - z)
            off, secret = off.square().mean(-1)[:, rows], weight[:, rows] > weight.amin(1, keepdim=True)
            errors = [(e.mean().item(), e[s].mean().item()) for e, s in zip(off, secret)]
        noisy[:, :, frames] = made
        tokens = clips.run(noisy, t, timestep < 1000).tokens[:, rows].float()
        update, last = coefficients("renoise", levels[i], levels[i + 1])._asdict(), i == len(TINY_TIMESTEPS) - 1
        fresh = torch.randn(made.shape, generator=g)
        made = torch.stack([
            ops.denoise_update(tokens=v.contiguous(), latent=m.contiguous(), noise=None if last else f, **update)
            for v, m, f in zip(tokens, made, fresh)
        ])  # fmt: skip
    return made, errors


# ---- rows -----------------------------------------------------------------------------------------------------------


def ruler(judge: Judge) -> dict:
    """What the measures say of the truth itself and of the VAE's picture of it."""
    video = torch.from_numpy(np.array(judge.truth)).float() / 127.5 - 1
    z = torch.from_numpy(np.array(open_array("--work", judge.long / "latents", "z"))).transpose(1, 2)
    through = judge.decoded(z)
    ids = np.array(open_array("--work", judge.returning, "prompt_ids"))
    latents = open_array("--work", judge.returning / "latents", "z")
    drawn, starts, right = open_array("--work", judge.returning, "drawn"), block_starts(ids.shape[1]), []
    for clip, b in enumerate(comes_back(ids)):
        whole = judge.decoded(torch.from_numpy(np.array(latents[clip]))[None].transpose(1, 2))[0]
        part = (whole[starts[b] : starts[b] + drawn.shape[2]] + 1) * 127.5
        colour, pixels = read_colour(part, torch.tensor(drawn[clip]))
        if pixels >= LEAST_PIXELS:
            right.append(colour == judge._secret(clip))
    return {"blocks": {"truth": judge.measured(video), "VAE alone": judge.measured(through)},
            "colour": {"right": int(sum(right)), "of": len(right)}}  # fmt: skip


def measure(recipe: Recipe, judge: Judge, work: Path) -> dict:
    """Train one recipe and measure it: the row without the manifest."""
    dit, curve, spent = train(recipe, work, judge)
    began, found = time.process_time(), {}
    save_dit(dit, folder_of(work, recipe) / "dit.safetensors")
    if recipe.kind == "memory":
        found["colour"] = judge.colours(recipe, dit)
    elif recipe.kind in VIDEOS:
        every = {c: judge.video(recipe, dit, c, judge.sizes.blocks) for c in CONTEXTS[recipe.forcing]}
        found["blocks"] = every
    return {
        "kind": recipe.kind, "what": recipe.what, "seed": recipe.seed, "settings": recipe.settings(),
        "timesteps": TINY_TIMESTEPS, "curve": curve, **found, "train_cpu_seconds": round(spent, 1),
        "measure_cpu_seconds": round(time.process_time() - began, 1),
    }  # fmt: skip


def of_weights(path: str, judge: Judge) -> tuple[dict, dict]:
    """Colours that given weights draw: what names the row, and what was measured."""
    dit = load_dit(path).requires_grad_(False)
    dit.dtype = torch.bfloat16
    window = {name: getattr(dit.config, name) for name in WINDOW}
    digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    plan = {"kind": "weights", "what": Path(path).name, "seed": 0, "settings": {"sha256": digest, "window": window}}
    found = {}
    for name, hidden in HIDDEN.items():
        recipe = Recipe("weights", plan["what"], 0, 0, 0, 0.0, {}, hidden=hidden, **window)
        found[name] = judge.colours(recipe, dit)
    return plan, {"colour": found}


def there(rows: list[dict], like: dict) -> bool:
    """Whether a row of the same kind, what, seed and settings is among them."""
    keys = (*NAMES, "settings")
    return any(all(row.get(key) == like[key] for key in keys) for row in rows)


def wanted(args: argparse.Namespace, s: Sizes) -> Iterator[Recipe]:
    """Recipes in the order in which they are run."""
    yield common_start(s)
    for seed in range(args.seeds):
        yield from (r for r in recipes(s, seed) if r.kind in args.only.split(","))


def run(argv: Sequence[str] | None) -> int:
    """Train what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data/tiny", help="folder of the stages data, vae, latents and probe")
    parser.add_argument("--work", default="data/tiny/recipes", help="folder of held-out clips and of weights")
    parser.add_argument("--out", default=str(ROOT / "bench/results/cpu/recipes.jsonl"), metavar="FILE")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="forcing,memory,sizes", help="kinds of rows, separated by commas")
    parser.add_argument("--weights", metavar="FILE", help="measure these weights of the dit stage, too")
    for field in dataclasses.fields(Sizes):
        parser.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=field.default)
    args = parser.parse_args(argv)
    s = Sizes(**{f.name: getattr(args, f.name) for f in dataclasses.fields(Sizes)})
    kinds = ("forcing", "memory", "sizes")
    if strange := [k for k in args.only.split(",") if k not in kinds]:
        raise InputError(f"--only: expected kinds out of {', '.join(kinds)}, got {strange[0]!r}")
    for name in ("seeds", "start_steps", "steps", "memory_steps", "batch", "clips", "blocks", "returning", "marks"):
        if getattr(args, name) < 1:
            raise InputError(
                f"--{name.replace('_', '-')}: expected a whole number from 1 on, got {getattr(args, name)}"
            )
    out, data = writable(args.out), Path(args.data)
    rows, before = Rows(out), read(out) if out.stat().st_size else []
    for part in ("latents/train/z.npy", "latents/val/z.npy", "vae/vae.safetensors", "probe/probe.safetensors"):
        if not (data / part).is_file():
            raise InputError(
                f"--data: expected a folder in which the stages of training have run, {data / part} is missing"
            )
    torch.set_num_threads(1)
    judge = Judge(data, Path(args.work), s)
    plan = {
        "kind": "ruler",
        "what": "truth",
        "seed": 0,
        "settings": {k: getattr(s, k) for k in ("clips", "blocks", "returning")},
    }
    if not there(before, plan):
        rows.add(manifest() | plan | ruler(judge))
    if args.weights:
        plan, found = of_weights(args.weights, judge)
        if not there(before, plan):
            print(json.dumps(rows.add(manifest() | plan | found)))
    for recipe in wanted(args, s):
        like = {**{name: getattr(recipe, name) for name in NAMES}, "settings": recipe.settings()}
        if there(before, like):
            continue
        row = rows.add(manifest() | measure(recipe, judge, Path(args.work)))
        print(
            f"{recipe.kind}, {recipe.what}, seed {recipe.seed}: {row['train_cpu_seconds']} s of a processor", flush=True
        )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return answer(lambda: run(argv), "recipes.py")


if __name__ == "__main__":
    sys.exit(main())
