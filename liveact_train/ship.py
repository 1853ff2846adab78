"""Put trained weights into a model directory that `liveact generate --model` loads."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from liveact_model.dit import DiT
from liveact_model.loading import ASSETS, save_ours
from liveact_train.dit import TINY, TINY_TIMESTEPS


@dataclass(frozen=True)
class ShipConfig:
    """Write config.json, dit.safetensors and vae.safetensors of a finished model."""

    dit: str = "data/tiny/dit.pt"  # averaged weights of the dit stage
    vae: str = "data/tiny/final/vae.safetensors"  # weights of the decoder stage, with their .json beside them
    out: str = str(ASSETS / "tiny")
    name: str = "tiny"
    pixels: int = 64
    fps: float = 20.0


def ship(c: ShipConfig) -> None:
    """The `ship` stage."""
    dit = DiT(TINY)
    dit.load_state_dict(torch.load(c.dit, weights_only=True))
    out, vae = Path(c.out), Path(c.vae)
    arguments = json.loads(vae.with_suffix(".json").read_text(encoding="utf-8"))
    save_ours(out, c.name, dit, arguments, (c.pixels, c.pixels), c.fps, TINY_TIMESTEPS)
    if vae.resolve() != (out / "vae.safetensors").resolve():
        shutil.copy(vae, out / "vae.safetensors")
    print(f"ship {out}: {sum(p.stat().st_size for p in out.iterdir()) / 1e6:.1f} MB")
