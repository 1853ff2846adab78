"""Generate held-out identities with unseen speech and measure what a viewer would notice."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from liveact_model.avatar import Avatar
from liveact_model.errors import InputError
from liveact_model.loading import load_avatar
from liveact_model.session import Session
from liveact_train.data.clips import BLOCK_STARTS, Clip, make_clip
from liveact_train.data.faces import POSE
from liveact_train.data.motion import EMOTION_POSE, RAMP
from liveact_train.data.processes import FPS, SWAY
from liveact_train.probe import Probe, load_probe
from liveact_train.runs import write_whole
from liveact_train.vae import latent_step, sharpness

BACKGROUND = (slice(0, 10), slice(0, 6))  # a corner no head reaches: it drifts first
ASKED = (
    ("happy", "none"), ("sad", "none"), ("angry", "none"), ("surprised", "none"),
    ("neutral", "nod"), ("neutral", "wave"), ("neutral", "shake"),
)  # fmt: skip
"""Emotion and action of the clips that are to show one of them from beginning to end."""
SETTLED = 40  # video frames after which a prompt must be seen
EXPRESSION = {"smile": 0.6, "brow_angle": 0.6, "brow_height": 0.5}
"""What an emotion is told by, and how far apart two of them count as one unit; eye_open and width follow them."""
NODDING, WAVING = 0.04, 0.5
"""Standard deviation of pitch (or yaw) above which a head nods (or shakes), and a raised hand: half of what
is drawn."""


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a model on held-out clips: mouth, what a face does by itself, prompts, drift, block borders."""

    model: str = "tiny"  # name or directory
    probe: str = "data/tiny/probe/probe.safetensors"  # attribute regressor of the probe stage
    clips: int = 24
    asked: int = 8  # clips of each emotion and action asked for throughout; 0: none
    blocks: int = len(BLOCK_STARTS)
    seed: int = 1001  # of the held-out clips
    guidance: float = 1.0  # audio_cfg
    sampler: str = "renoise"
    out: str = "data/tiny/evaluation.json"
    sheet: str = "data/tiny/evaluation.png"


def generate(avatar: Avatar, reference: Tensor, samples: Tensor, prompts: list[str], c: EvaluateConfig) -> Tensor:
    """Video frames uint8 [F, H, W, 3] of one clip; one prompt per block, the last one repeats."""
    picture = reference.float() / 127.5 - 1
    options = {"sampler": c.sampler, "audio_cfg": c.guidance, "seed": 7}
    session = Session(avatar, picture, prompts[0], **options)
    session.push_audio(samples)
    session.close_audio()
    out = []
    for block in range(c.blocks):
        session.set_prompt(prompts[min(block, len(prompts) - 1)])
        out.append(session.next_block())
    return torch.cat(out)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of two series; 0 where one is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a * a).sum() * (b * b).sum())
    return float((a * b).sum() / norm) if norm > 0 else 0.0


def border_step(video: np.ndarray) -> float:
    """Mean change of the picture where a block begins, over that at other latent frame borders: 1 is seamless."""
    step = np.abs(np.diff(video.astype(np.float32), axis=0)).mean((1, 2, 3))
    begins = [start - 1 for start in BLOCK_STARTS[1:] if start <= len(step)]
    inner = [i for i in range(4, len(step), 4) if i not in begins]
    return float(step[begins].mean() / step[inner].mean())


def blinks(closing: np.ndarray) -> int:
    """How often eyes close: runs of video frames in which the reading [F] passes one half, two frames apart or more."""
    shut = np.flatnonzero(closing > 0.5)
    return 0 if len(shut) == 0 else 1 + int((np.diff(shut) > 2).sum())


def sways(seen: np.ndarray) -> dict[str, float]:
    """Standard deviation over time of where the head is, from readings [F, attributes] after it has settled in."""
    return {name: float(seen[RAMP:, POSE.index(name)].std()) for name in SWAY}


def shown(seen: np.ndarray) -> tuple[str, str]:
    """The emotion and the action that readings [F, attributes] show after SETTLED video frames."""
    late = seen[SETTLED:]
    names = ("smile", "brow_angle", "brow_height")

    def distance(emotion: str) -> float:
        pose = EMOTION_POSE[emotion]
        return sum(((late[:, POSE.index(n)].mean() - pose[i]) / EXPRESSION[n]) ** 2 for i, n in enumerate(names))

    emotion = min(EMOTION_POSE, key=distance)
    if late[:, POSE.index("wave")].mean() > WAVING:
        return emotion, "wave"
    swing = {"nod": late[:, POSE.index("pitch")].std(), "shake": late[:, POSE.index("yaw")].std() / 1.5}
    action = max(swing, key=swing.get)
    return emotion, action if swing[action] > NODDING else "none"


def measures(video: np.ndarray, seen: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Numbers of one clip. video [F, H, W, 3] uint8, seen and truth [F, attributes] as POSE names them."""
    open_, late = POSE.index("open"), slice(SETTLED, None)
    x = video.astype(np.float32) / 255
    corner = x[:, BACKGROUND[0], BACKGROUND[1]].mean((1, 2))
    out = {
        "mouth_correlation": correlation(seen[:, open_], truth[:, open_]),
        "mouth_amplitude": float(seen[:, open_].std() / max(truth[:, open_].std(), 1e-6)),
        "background_drift": float(np.abs(corner[-16:].mean(0) - corner[0]).mean()),
        "border_step": border_step(video),
        "latent_step": latent_step(_tensor(video)),
    }
    for name in ("smile", "brow_angle", "brow_height", "wave"):
        k = POSE.index(name)
        out[f"{name}_error"] = float(abs(seen[late, k].mean() - truth[late, k].mean()))
    return out


def by_itself(seen: Sequence[np.ndarray], still: Sequence[bool]) -> dict[str, float]:
    """What faces do by themselves, from readings of several clips; sway only of those that no action moves."""
    minutes = sum(len(s) - RAMP for s in seen) / FPS / 60
    out = {"blinks_per_minute": sum(blinks(s[RAMP:, POSE.index("blink")]) for s in seen) / minutes}
    found = [sways(s) for s, quiet in zip(seen, still) if quiet]
    for name in SWAY if found else ():
        out[f"sway_{name}"] = math.sqrt(float(np.mean([f[name] ** 2 for f in found])))
    return out


def _tensor(video: np.ndarray) -> Tensor:
    """uint8 [F, H, W, 3] -> float [1, 3, F, H, W] in [-1, 1]."""
    return torch.from_numpy(video).float().permute(3, 0, 1, 2)[None] / 127.5 - 1


def _strip(video: np.ndarray, first: int = 0) -> np.ndarray:
    """Ten of the video frames [F, H, W, 3] from `first` on, side by side."""
    return np.concatenate(video[np.linspace(first, len(video) - 1, 10).round().astype(int)], 1)


class _Watched:
    """Generated clips and their truths, as pixels and as the probe reads them."""

    def __init__(self, c: EvaluateConfig, avatar: Avatar, probe: Probe):
        self.c, self.avatar, self.probe = c, avatar, probe

    def read(self, video: np.ndarray) -> np.ndarray:
        return self.probe(torch.from_numpy(video).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()

    def make(self, clip: Clip) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Generated and true video [F, H, W, 3], then readings of the two."""
        video = generate(self.avatar, clip.video[0], clip.samples, clip.prompts, self.c).numpy()
        truth = np.ascontiguousarray(np.asarray(clip.video).transpose(0, 2, 3, 1))
        count = min(len(video), len(truth))
        video, truth = video[:count], truth[:count]
        return video, truth, self.read(video), self.read(truth)


class _Alive:
    """Readings of generated clips and of their truths, and which of them no action moves."""

    def __init__(self) -> None:
        self.generated: list[np.ndarray] = []
        self.truth: list[np.ndarray] = []
        self.still: list[bool] = []

    def add(self, generated: np.ndarray, truth: np.ndarray, still: bool) -> None:
        """One clip more."""
        self.generated.append(generated)
        self.truth.append(truth)
        self.still.append(still)


def _asked(w: _Watched, rows: list[np.ndarray], alive: _Alive) -> dict[str, dict[str, float]]:
    """Of every prompt in ASKED: how often it is seen, in what is generated and in the truth, and sharpness."""
    out = {}
    for emotion, action in ASKED:
        name, found = action if action != "none" else emotion, []
        for i in range(w.c.asked):
            video, truth, seen, seen_truth = w.make(make_clip(w.c.seed + 1, i, silence=0.0, asked=(emotion, action)))
            which = int(action != "none")
            alive.add(seen, seen_truth, not which)
            found.append(
                {
                    "recognised": float(shown(seen)[which] == (emotion, action)[which]),
                    "recognised_truth": float(shown(seen_truth)[which] == (emotion, action)[which]),
                    "edges": sharpness(_tensor(video[SETTLED:]), _tensor(truth[SETTLED:])),
                }
            )
            if i == 0:
                rows += [_strip(v, SETTLED) for v in (truth, video)]
        out[name] = {key: round(float(np.mean([f[key] for f in found])), 4) for key in found[0]}
    return out


@torch.no_grad()
def evaluate(c: EvaluateConfig) -> None:
    """The `evaluate` stage: prints the means, writes them and a contact sheet (truth above generated)."""
    if c.clips < 1 or c.blocks < 2:
        flag, least, got = ("--clips", 1, c.clips) if c.clips < 1 else ("--blocks", 2, c.blocks)
        raise InputError(f"{flag}: expected at least {least}, got {got}")
    w = _Watched(c, load_avatar(c.model), load_probe(c.probe))
    rows, asked_rows, results, alive = [], [], [], _Alive()
    for i in range(c.clips):
        clip = make_clip(c.seed, i)
        video, truth, seen, seen_truth = w.make(clip)
        found = measures(video, seen, np.asarray(clip.attributes)[: len(seen)])
        results.append(
            found | {"border_step_of_truth": border_step(truth), "latent_step_of_truth": latent_step(_tensor(truth))}
        )
        alive.add(seen, seen_truth, all(p % 4 == 0 for p in clip.prompt_ids))
        rows += [_strip(v) for v in (truth, video)]
    summary = {k: round(float(np.mean([r[k] for r in results])), 4) for k in results[0]}
    asked = _asked(w, asked_rows, alive) if c.asked else {}
    own = {
        name: {k: round(v, 4) for k, v in by_itself(getattr(alive, name), alive.still).items()}
        for name in ("generated", "truth")
    }
    report = {"config": c.__dict__, "mean": summary, "by_itself": own, "asked": asked}
    print(json.dumps({k: report[k] for k in ("mean", "by_itself", "asked")}, indent=1))
    text = json.dumps(report | {"clips": results}, indent=1) + "\n"
    write_whole(Path(c.out), lambda part: part.write_text(text))
    sheet = Image.fromarray(np.concatenate(rows[:16] + asked_rows))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(c.sheet)
