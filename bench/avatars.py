"""Whole avatars with random weights, made on the device they run on: nothing is read, no bf16 copy comes first."""

from __future__ import annotations

import json
import math

import root  # noqa: F401
import torch
from speech import RandomWav2Vec2
from torch import Tensor, nn

from liveact_kernels.contract import to_fp8
from liveact_model.audio.mel import MelEncoder
from liveact_model.avatar import Avatar
from liveact_model.config import NAMED, DiTConfig
from liveact_model.dit import DiT, Linear, Precision
from liveact_model.dry import Rows, Silence
from liveact_model.errors import InputError
from liveact_model.loading import ASSETS, AVATARS
from liveact_model.schedule import TIMESTEPS
from liveact_model.vae.tiny import TinyVAE
from liveact_model.vae.wan import WanVAE
from liveact_model.vae.wan_coder import WanVAEConfig

MODELS = (*NAMED, *AVATARS)
PRECISIONS = ("fp8", "fp8-128", "nvfp4", "mxfp4", "bfloat16", "float32")
CODE_SPREAD = 112.0  # standard deviation of e4m3 codes: four of them reach 448, as a row scaled by its maximum does
FP4_SPREAD = 3.0  # of e2m1 codes that are all as likely
FPS = 25.0  # at which audio passes unstretched; the stretch is FFmpeg's, on the host, and not part of the model


class RandomRows(Rows):
    """A text or image encoder that gives random rows, as many as it can: the dearest prompt."""

    def __init__(self, rows: int, dim: int, device: torch.device):
        super().__init__(rows, dim)
        self._device = device

    def encode(self, *_: object) -> Tensor:
        """[rows, dim]."""
        return torch.randn(self.text_len, self.text_dim, device=self._device)


def fill(module: nn.Module, generator: torch.Generator) -> None:
    """Random weights of the size that trained ones have, in place: unit-variance products, norms near 1."""
    for layer in module.modules():
        if isinstance(layer, Linear) and "w4" in layer.format.stored:
            layer.w4.random_(0, 256, generator=generator)
            power = round(math.log2(layer.K**-0.5 / FP4_SPREAD))
            layer.w_scale.copy_(torch.full_like(layer.w_scale, 127 + power, dtype=torch.uint8)
                                if layer.w_scale.dtype == torch.uint8 else torch.ones_like(layer.w_scale))
            if "w_row" in layer.format.stored:
                layer.w_row.fill_(2.0**power)
        elif isinstance(layer, Linear) and layer.format.stored:
            for rows in layer.w8.split(4096):  # a float32 copy of a whole matrix need not exist
                draw = torch.randn(rows.shape, device=rows.device, generator=generator)
                rows.copy_(to_fp8(draw * CODE_SPREAD))
            layer.w_scale.fill_(layer.K**-0.5 / CODE_SPREAD)
    for name, p in module.named_parameters():
        leaf = name.rpartition(".")[2]
        if leaf.startswith("taps"):
            p.normal_(0.2, 0.06, generator=generator)
        elif "norm" in name and leaf != "bias":
            p.normal_(1.0, 0.1, generator=generator)
        else:
            p.normal_(0.0, p.shape[-1] ** -0.5 if p.ndim > 1 and "modulation" not in name else 0.1, generator=generator)


@torch.no_grad()
def random_dit(config: DiTConfig, precision: str | Precision, device: torch.device, seed: int = 0) -> DiT:
    """A denoiser whose weights never existed elsewhere; on `meta` it has shapes only."""
    with torch.device("meta"):
        dit = DiT(config).to_precision(precision)
    if device.type != "meta":
        dit.to_empty(device=device)
        fill(dit, torch.Generator(device).manual_seed(seed))
    return dit.requires_grad_(False).eval()


@torch.no_grad()
def random_vae(config: WanVAEConfig, dtype: torch.dtype, device: torch.device, seed: int = 0) -> WanVAE:
    """The Wan VAE with random convolutions and unit gammas."""
    with torch.device("meta"):
        shapes = WanVAE(config).state_dict()
    if device.type == "meta":
        return WanVAE.from_state_dict(shapes, dtype, device)
    g = torch.Generator(device).manual_seed(seed)
    state = {}
    for name, t in shapes.items():
        wide = torch.randn(t.shape, device=device, generator=g) * t[0].numel() ** -0.5 if t.ndim else t
        state[name] = torch.ones_like(wide) if name.endswith("gamma") else wide
    return WanVAE.from_state_dict(state, dtype, device)


def _tiny() -> tuple[DiTConfig, dict, tuple[float, ...]]:
    config = json.loads((ASSETS / "tiny" / "config.json").read_text(encoding="utf-8"))
    return DiTConfig.from_dict(config["dit"]), config["vae"], tuple(config["timesteps"])


def avatar(name: str, precision: str | Precision, device: torch.device | str, **changes: object) -> Avatar:
    """An avatar of one of MODELS; `changes` are fields of its DiTConfig. Raises InputError for another name."""
    device = torch.device(device)
    if name not in MODELS:
        raise InputError(f"--model: expected one of {', '.join(MODELS)}, got {name!r}")
    if isinstance(precision, str) and precision not in PRECISIONS:
        raise InputError(f"--precision: expected one of {', '.join(PRECISIONS)}, got {precision!r}")
    config, vae_args, times = (NAMED[name], None, TIMESTEPS) if name in NAMED else _tiny()
    return assemble(name, config.with_(**changes), vae_args, precision, device, times)


def assemble(
    name: str, config: DiTConfig, vae: dict | WanVAEConfig | None, precision: str | Precision, device: torch.device,
    times: tuple[float, ...] = TIMESTEPS, **network: object,
) -> Avatar:  # fmt: skip
    """Denoiser, VAE (TinyVAE arguments, or sizes of the Wan VAE) and encoders; `network` changes the wav2vec2."""
    dit = random_dit(config, precision, device)
    if isinstance(vae, dict):
        with device:
            decoder = TinyVAE(**vae).requires_grad_(False).eval()
        audio = MelEncoder()  # on the host, as in the model
    else:
        decoder = random_vae(vae or WanVAEConfig(), dit.dtype, device)
        with device:
            audio = RandomWav2Vec2(**network)
    if device.type == "meta":
        audio = Silence(config.audio_blocks, config.audio_channels)
    text = RandomRows(config.text_len, config.text_dim, device)
    image = RandomRows(config.clip_tokens, config.clip_dim, device)
    return Avatar(name, dit, decoder, text, image, audio, (64, 64), FPS, times)
