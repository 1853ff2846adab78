"""Replay of recorded denoiser runs (kinds dit and dit_sp2): every call, teacher-forced, through `model.DiT`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from liveact_kernels import ops
from liveact_kernels.common.rope import rotate
from liveact_model.dit import TWO_RANK_RELEASED, DiT, Window
from liveact_model.errors import InputError
from liveact_model.loading import infer_config, load
from liveact_model.parallel import ALONE, SeqParallel
from liveact_model.schedule import coefficients

from .golden import Golden, Row, rel_l2

FLOAT32, BF16, ACCURACY = 2e-5, 3e-2, 1.2


class Remembering(Window):
    """A window that also keeps layer 0's view of the last call, to be compared with a recorded cache."""

    def _update(self, layer, mem, k, v, taps, taps_v, *scales):
        """As Window._update, which sees the whole block's keys and values."""
        if layer == 0 and not self.eight_bit:
            past = [] if mem is None else [(mem.k.clone(), k), (mem.v.clone(), v)]
            self.seen = [torch.cat(pair) for pair in past] or [k, v]
        super()._update(layer, mem, k, v, taps, taps_v, *scales)

    def unroped(self) -> tuple[Tensor, Tensor]:
        """Keys before RoPE and values of the window as the last call saw it, [1, tokens, H, D]."""
        k, v = self.seen
        return rotate(k.float(), self.rope[: k.shape[0]], inverse=True)[None], v[None]


@dataclass
class Replay:
    """One variant of a recorded run.

    latents  which variant's recorded latents and outputs drive the run (teacher forcing)
    parallel the processes that share the run; every one of them has all outputs
    """

    golden: Golden
    source: Golden
    variant: str
    latents: str
    precision: str = "float32"
    memory: str = "conv"
    eight_bit: bool = False
    eight_bit_attention: bool = False
    schedule: tuple | None = None
    parallel: SeqParallel = ALONE
    outputs: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weights = self.source.weights()
        config = infer_config(weights, self.source.config).with_(memory=self.memory)
        with torch.device("meta"):
            dit = DiT(config)
        self.dit = load(dit, weights, self.precision)
        self.grid = (int(self.source.number("lat_h")) // 2, int(self.source.number("lat_w")) // 2)
        self.timesteps = [float(t) for t in self.source.meta["timesteps"]]
        self.sigmas = [t / 1000 for t in self.timesteps]
        self.windows: list[Remembering] = []

    def iterations(self) -> int:
        """Iterations recorded for the driving variant."""
        prefix = f"out.{self.latents}.noise_pred."
        names = self.golden.tensors.names(prefix)
        return 1 + max(int(n.removeprefix(prefix).split(".")[0]) for n in names)

    def window(self) -> Remembering:
        """An empty window of this variant's kind."""
        plain = self.dit.window(*self.grid, eight_bit=self.eight_bit)
        schedule = self.schedule or plain.schedule
        made = Remembering(plain.tokens, plain.rope, plain.eight_bit, plain.grouping, schedule, self.parallel)
        made.eight_bit_attention = self.eight_bit_attention
        return made

    @torch.no_grad()
    def run(self) -> Replay:
        """Fill `outputs` with noise_pred, noise_pred_null, noise_pred_cfg and latent of every call."""
        steps = len(self.timesteps) - 1
        self.windows = [self.window() for _ in range(steps)]
        nulls = [self.window() for _ in range(steps)] if self.variant == "cfg" else None
        times = [self.dit.at(t) for t in self.timesteps[:steps]]
        image = self.dit.image_kv(self.source.get("in.clip_fea")[0])
        prompt = self.dit.prompt(self.source.get("in.context"), image)
        for i in range(self.iterations()):
            y = self.source.get("in.y")[0].to(self.dit.dtype)
            y = y[:, :6] if i == 0 else y[:, 6:]
            rows = self._audio(i)
            heard, silent = self.dit.hear(rows), self.dit.hear(torch.zeros_like(rows)) if nulls else None
            latent = self.source.get(f"in.init_noise.{i}").to(self.dit.dtype)
            for s in range(steps):
                call = (latent, y, times[s], prompt)
                tokens = self.dit(*call, heard if s else None, self.windows[s], i == 0)
                self._keep(f"noise_pred.{i}.{s}", tokens, latent)
                if nulls and s:
                    null = self.dit(*call, silent, nulls[s], i == 0)
                    self._keep(f"noise_pred_null.{i}.{s}", null, latent)
                    tokens = null + self._guidance() * (tokens - null)
                    self._keep(f"noise_pred_cfg.{i}.{s}", tokens, latent)
                noise = self._noise(i, s)
                c = coefficients("renoise", self.sigmas[s], self.sigmas[s + 1])
                own = ops.denoise_update(tokens=tokens, latent=latent, noise=noise, **c._asdict())
                self.outputs[f"latent.{i}.{s}"] = own
                latent = self._forced(i, s, latent, noise, c)
        return self

    def _keep(self, name: str, tokens: Tensor, latent: Tensor) -> None:
        velocity = ops.denoise_update(tokens=tokens, latent=latent, noise=None, c_latent=0.0, c_velocity=1.0)
        self.outputs[name] = velocity

    def _guidance(self) -> float:
        """The recorded strength: a field of the sidecar, or `audio_cfg=..` in the variant's description."""
        stated = re.search(r"audio_cfg\s*=\s*([0-9.]*[0-9])", str(self.golden.meta["variants"]["cfg"]))
        found = self.golden.meta.get("audio_cfg", stated and stated[1])
        if found is None:
            raise InputError(f"golden sidecar {self.golden.path.name}: expected audio_cfg=.. in variants.cfg, got none")
        return float(found)

    def _noise(self, i: int, s: int) -> Tensor | None:
        name = f"in.renoise.{i}.{s}"
        return self.source.get(name).to(self.dit.dtype) if name in self.source.tensors else None

    def _forced(self, i, s, latent, noise, c) -> Tensor:
        """The recorded latent after step s: stored, or from the recorded output by the sampler's own formula."""
        stored = f"out.{self.latents}.latent.{i}.{s}"
        if stored in self.golden.tensors:
            return self.golden.get(stored).to(self.dit.dtype)
        kind = "noise_pred_cfg" if self.variant == "cfg" and s else "noise_pred"
        v = self.golden.get(f"out.{self.latents}.{kind}.{i}.{s}").float()
        out = c.c_latent * latent.float() + c.c_velocity * v
        return (out if noise is None else out + c.c_noise * noise.float()).to(self.dit.dtype)

    def _audio(self, i: int) -> Tensor:
        """[5 or 8, 8, blocks, channels]: the rows that this block's latent frames hear, from the recorded indices."""
        index = self.source.get("in.audio_idx")[i].long()
        rows = []
        for g in range(1, 6) if i == 0 else range(6, 14):
            f = 4 * g - 3
            rows.append(torch.cat((index[f, :3], index[f + 1, 2:3], index[f + 2, 2:3], index[f + 3, 2:])))
        return self.source.get("in.audio_embedding")[torch.stack(rows)].to(self.dit.dtype)

    # ---- comparisons ------------------------------------------------------------------------------------------

    def worst(self, kind: str, against: str) -> tuple[float, str]:
        """Largest error of a kind of output against a recorded variant, and where."""
        errors = [(0.0, "none recorded")]
        for name, got in self.outputs.items():
            recorded = f"out.{against}.{name}"
            if name.startswith(f"{kind}.") and recorded in self.golden.tensors:
                errors.append((rel_l2(got, self.golden.get(recorded)), name.removeprefix(f"{kind}.")))
        return max(errors)

    def cache_error(self, prefix: str = "cache", slots: Sequence[int] = range(14)) -> float:
        """Largest error of layer 0's keys (before RoPE) and values against the recorded caches of every step.

        slots  which window slots the recorded cache holds, in its order; a run of one block has filled only six
        """
        errors, tokens = [], self.windows[0].tokens
        for s, window in enumerate(self.windows):
            for kind, got in zip("kv", window.unroped()):
                name = f"out.{self.variant}.{prefix}.{kind}.step{s}.layer0"
                if name in self.golden.tensors:
                    got = got.unflatten(1, (-1, tokens))
                    want = self.golden.get(name).unflatten(1, (-1, tokens))
                    held = [(i, slot) for i, slot in enumerate(slots) if slot < got.shape[1]]
                    here, there = [slot for _, slot in held], [i for i, _ in held]
                    errors.append(rel_l2(got[:, here], want[:, there]))
        return max(errors, default=float("inf"))

    def by_iteration(self, against: str) -> list[float]:
        """rel L2 of the velocities of each iteration (all steps together) against a recorded variant."""
        out = []
        for i in range(self.iterations()):
            names = [n for n in self.outputs if n.startswith(f"noise_pred.{i}.")]
            got = torch.cat([self.outputs[n].float().flatten() for n in names])
            want = torch.cat([self.golden.get(f"out.{against}.{n}").float().flatten() for n in names])
            out.append(rel_l2(got, want))
        return out


def replay(g: Golden) -> Iterator[Row]:
    """Kind dit: float32 and bf16 variants against their recordings, fp8 variants by their accuracy."""
    for name in g.meta["variants"]:
        if name in ("fp8", "bf16_fp8"):
            yield from _accuracy(g, name)
            continue
        half = name.startswith("bf16")
        run = Replay(g, g, name, name, "bfloat16" if half else "float32", "mean" if name == "mean" else "conv").run()
        tolerance = BF16 if half else FLOAT32
        for kind in ("noise_pred", "noise_pred_null", "noise_pred_cfg", "latent"):
            error, where = run.worst(kind, name)
            if where != "none recorded":
                yield g.row(f"{name} {kind}", error, tolerance, f"worst at iteration.step {where}")
        yield g.row(f"{name} cache", run.cache_error(), tolerance, "layer 0, all slots, after the last iteration")


def _accuracy(g: Golden, name: str) -> Iterator[Row]:
    """Our 8-bit memory, and with it 8-bit attention, against the recorded FP8 cache: their errors to the unquantised
    run as a ratio, worst iteration.

    Both are judged against the float32 recording, so rounding of the activations counts on both sides alike.
    """
    precision = "bfloat16" if name == "bf16_fp8" else "float32"
    runs = [Replay(g, g, name, "conv", precision, eight_bit=True, eight_bit_attention=a).run() for a in (False, True)]
    errors, run = [r.by_iteration("conv") for r in runs], runs[0]
    run.outputs = {n.removeprefix(f"out.{name}."): g.get(n) for n in g.tensors.names(f"out.{name}.noise_pred.")}
    recorded = run.by_iteration("conv")
    for what, ours in zip(("memory", "attention"), errors):
        ratio = max(o / max(r, FLOAT32) for o, r in zip(ours, recorded))
        note = f"error ratio to the released FP8 cache; ours {max(ours):.2e}, recorded {max(recorded):.2e}"
        yield g.row(f"{name} 8-bit {what}", ratio, ACCURACY, note)


def replay_two_ranks(g: Golden, parallel: SeqParallel = ALONE) -> Iterator[Row]:
    """Kind dit_sp2: the released two-rank memory schedule, by one process or by several."""
    source = g.sibling(str(g.meta["weights_and_inputs_from"]))
    local = {0: [0, 1, 2, 6, 7, 8, 9], 1: [3, 4, 5, 10, 11, 12, 13]}
    for name in g.meta["variants"]:
        half = name.startswith("bf16")
        run = Replay(
            g, source, name, name, "bfloat16" if half else "float32", "mean" if name == "mean" else "conv",
            schedule=TWO_RANK_RELEASED, parallel=parallel,
        ).run()  # fmt: skip
        tolerance = BF16 if half else FLOAT32
        for kind in ("noise_pred", "latent"):
            error, where = run.worst(kind, name)
            yield g.row(f"{name} {kind}", error, tolerance, f"worst at iteration.step {where}")
        error = max(run.cache_error(f"rank{r}.cache", slots) for r, slots in local.items())
        yield g.row(f"{name} cache", error, tolerance, "layer 0 of both ranks")
