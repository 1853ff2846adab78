"""Put trained weights into a model directory that `liveact generate --model` loads."""

import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path

from liveact_model.avatar import VideoVAE, lost_detail
from liveact_model.errors import InputError
from liveact_model.loading import ASSETS, load_avatar, save_ours
from liveact_model.schedule import TIMESTEPS
from liveact_train.data.faces import render, still_pose
from liveact_train.data.identity import random_identity
from liveact_train.dit import hold_taps, load_dit
from liveact_train.passes import teacher_timesteps

FACES, SPARE = 500, 1.02
"""Faces drawn to see how much detail the VAE loses of its own kind; what is above the worst by SPARE is doubted. docs/
training.md has what lies on either side."""


@dataclass(frozen=True)
class ShipConfig:
    """Write config.json, dit.safetensors and vae.safetensors of a finished model."""

    dit: str = "data/tiny/distill/dit.safetensors"  # averaged weights of the distill stage (or of the dit stage)
    vae: str = "data/tiny/decoder/vae.safetensors"  # weights of the decoder stage, with their .json beside them
    out: str = str(ASSETS / "tiny")
    name: str = "tiny"
    pixels: int = 64
    fps: float = 20.0
    steps: int = len(TIMESTEPS)  # denoise steps: the released three, or a multiple of four as a teacher takes them


def most_lost(vae: VideoVAE, pixels: int, faces: int = FACES, seed: int = 0) -> float:
    """What Avatar.most_lost should be: a little more than the VAE loses of the worst of its own faces."""
    pose = still_pose()
    drawn = (render(random_identity(random.Random(f"{seed}/{i}")), pose, pixels)[0] * 2 - 1 for i in range(faces))
    return round(SPARE * max(lost_detail(vae, face) for face in drawn), 3)


def ship(c: ShipConfig) -> None:
    """The `ship` stage."""
    if c.steps != len(TIMESTEPS) and (c.steps < 4 or c.steps % 4):
        raise InputError(f"--steps: expected {len(TIMESTEPS)} or a multiple of four, got {c.steps}")
    dit, timesteps = load_dit(c.dit), TIMESTEPS if c.steps == len(TIMESTEPS) else teacher_timesteps(c.steps)
    hold_taps(dit)  # of runs that did not
    out, vae = Path(c.out), Path(c.vae)
    arguments = json.loads(vae.with_suffix(".json").read_text(encoding="utf-8"))
    save_ours(out, c.name, dit, arguments, (c.pixels, c.pixels), c.fps, timesteps)
    if vae.resolve() != (out / "vae.safetensors").resolve():
        shutil.copy(vae, out / "vae.safetensors")
    most = most_lost(load_avatar(str(out)).vae, c.pixels)
    save_ours(out, c.name, dit, arguments, (c.pixels, c.pixels), c.fps, timesteps, most)
    print(f"ship {out}: {sum(p.stat().st_size for p in out.iterdir()) / 1e6:.1f} MB")
