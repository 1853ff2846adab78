"""Generate held-out identities with unseen speech and measure what a viewer would notice."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from liveact_model.avatar import Avatar
from liveact_model.loading import load_avatar
from liveact_model.session import Session
from liveact_train.data.clips import BLOCK_STARTS, make_clip
from liveact_train.data.faces import POSE
from liveact_train.probe import load_probe

BACKGROUND = (slice(0, 10), slice(0, 6))  # a corner no head reaches: it drifts first


@dataclass(frozen=True)
class EvaluateConfig:
    """Measure a model on held-out clips: mouth, expression, drift, block borders."""

    model: str = "tiny"  # name or directory
    probe: str = "data/tiny/probe/probe.safetensors"  # attribute regressor of the probe stage
    clips: int = 12
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


def measures(video: np.ndarray, seen: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Numbers of one clip. video [F, H, W, 3] uint8, seen and truth [F, attributes] as POSE names them."""
    open_, late = POSE.index("open"), slice(40, None)
    x = video.astype(np.float32) / 255
    corner = x[:, BACKGROUND[0], BACKGROUND[1]].mean((1, 2))
    out = {
        "mouth_correlation": correlation(seen[:, open_], truth[:, open_]),
        "mouth_amplitude": float(seen[:, open_].std() / max(truth[:, open_].std(), 1e-6)),
        "background_drift": float(np.abs(corner[-16:].mean(0) - corner[0]).mean()),
        "border_step": border_step(video),
    }
    for name in ("smile", "brow_angle", "brow_height", "wave"):
        k = POSE.index(name)
        out[f"{name}_error"] = float(abs(seen[late, k].mean() - truth[late, k].mean()))
    return out


@torch.no_grad()
def evaluate(c: EvaluateConfig) -> None:
    """The `evaluate` stage: prints the means, writes them and a contact sheet (truth above generated)."""
    avatar, probe = load_avatar(c.model), load_probe(c.probe)
    rows, results = [], []
    for i in range(c.clips):
        clip = make_clip(c.seed, i)
        video = generate(avatar, clip.video[0], clip.samples, clip.prompts, c).numpy()
        count = min(len(video), len(clip.attributes))
        seen = probe(torch.from_numpy(video).permute(0, 3, 1, 2).float() / 127.5 - 1).numpy()
        truth = np.asarray(clip.video).transpose(0, 2, 3, 1)
        found = measures(video[:count], seen[:count], np.asarray(clip.attributes)[:count])
        results.append(found | {"border_step_of_truth": border_step(truth)})
        rows += [np.concatenate(v[: count : count // 10][:10], 1) for v in (truth, video)]
    summary = {k: round(float(np.mean([r[k] for r in results])), 4) for k in results[0]}
    print(json.dumps(summary, indent=1))
    Path(c.out).write_text(json.dumps({"config": c.__dict__, "mean": summary, "clips": results}, indent=1) + "\n")
    sheet = Image.fromarray(np.concatenate(rows[:16]))
    sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(c.sheet)
