"""Cached latents as training batches: for the tiny model, or for one with encoders that have weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from liveact_model.audio.windows import latent_indices
from liveact_model.config import MASK_CHANNELS, VIDEO_FRAMES_PER_LATENT
from liveact_model.errors import InputError
from liveact_model.image.patches import PatchEncoder
from liveact_model.text.words import WordEncoder
from liveact_train.clips_at_once import Conditions, blocks_of
from liveact_train.data.clips import block_starts, open_array
from liveact_train.sizes import MODELS, tiny


class Latents:
    """Cached latents of a folder written by the latents stage, as training batches for a denoiser of a config.

    Raises InputError where the folder's latents are not those of `model`.
    """

    def __init__(self, folder: Path, model: str = "tiny", **window):
        self.arrays = {n: open_array("--latents", folder, n) for n in ("z", "y")}
        z = self.arrays["z"]
        own = (folder / "text.npy").exists()
        if own == (model == "tiny"):
            found = "such a model" if own else "the small one"
            raise InputError(f"--latents: expected latents for {model} in {folder}, found some for {found}")
        self.arrays["audio"] = open_array("--latents", folder, "audio" if own else "mel")
        self.config = MODELS[model].with_(**window) if own else tiny(z.shape[2], **window)
        self.blocks = blocks_of(z.shape[1], self.config)
        prompts = json.loads((folder / "prompts.json").read_text())
        self._said = [[clip[_in_force(block)] for block in self.blocks] for clip in prompts]
        self._texts = {text: i for i, text in enumerate(texts_of(prompts))}
        if own:
            self._rows, self._pictures = (open_array("--latents", folder, n) for n in ("text", "image"))
            self._check(folder)
        else:
            words, self._patches = WordEncoder(), PatchEncoder(z.shape[2])
            self._rows = [words.encode(text).numpy() for text in self._texts]
        self.heard = latent_indices(0, z.shape[1], self.arrays["audio"].shape[1])
        self._own = own

    def __len__(self) -> int:
        return len(self.arrays["z"])

    def batch(self, indices: list[int]) -> tuple[Tensor, Conditions]:
        """Latents [B, Z, F, Y, X] of some clips, and their conditions; float32."""
        z, y, audio = (torch.from_numpy(np.stack([a[i] for i in indices])).float() for a in self.arrays.values())
        y = torch.cat([y, y[:, -1:].expand(-1, max(0, self.config.window_slots - y.shape[1]), -1, -1, -1)], 1)
        y = y[:, : self.config.window_slots].transpose(1, 2)
        mask = y.new_zeros(len(indices), MASK_CHANNELS, *y.shape[2:])
        mask[:, :, 0] = 1
        if self._own:
            image = torch.from_numpy(np.stack([self._pictures[i] for i in indices])).float()
        else:
            image, audio = torch.stack([self._patches.encode(None, one[:, 0]) for one in y]), audio[:, :, None]
        text = torch.stack([torch.stack([self._text(said) for said in self._said[i]]) for i in indices])
        return z.transpose(1, 2).contiguous(), Conditions(torch.cat((mask, y), 1), text, image, audio[:, self.heard])

    def _text(self, said: str) -> Tensor:
        rows = torch.from_numpy(np.array(self._rows[self._texts[said]])).float()
        return F.pad(rows, (0, 0, 0, self.config.text_len - len(rows)))

    def _check(self, folder: Path) -> None:
        """The denoiser must take what the encoders gave."""
        c, (_, _, z, *_), audio = self.config, self.arrays["z"].shape, self.arrays["audio"].shape
        for name, got, want in (
            ("z", f"{z} channels", f"{c.out_dim} channels"),
            ("audio", f"{audio[2]} x {audio[3]} values", f"{c.audio_blocks} x {c.audio_channels} values"),
            ("image", f"rows {[*self._pictures.shape[1:]]}", f"rows {[c.clip_tokens, c.clip_dim]}"),
            ("text", f"rows of {self._rows.shape[2]}", f"rows of {c.text_dim}"),
        ):
            if got != want:
                raise InputError(f"--latents: expected {name}.npy in {folder} to have {want}, found {got}")


def texts_of(prompts: list[list[str]]) -> list[str]:
    """The different prompts of all clips, in the order in which their rows are stored."""
    return sorted({text for clip in prompts for text in clip})


def _in_force(block: slice) -> int:
    """Which of a clip's prompts is in force in the middle of a block of latent frames."""
    middle = VIDEO_FRAMES_PER_LATENT * (block.start + block.stop) // 2
    return sum(start <= middle for start in block_starts(block.stop)) - 1
