"""Image encoder of the tiny model: the latent of the reference picture itself, cut into 2x2 patches."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from liveact_model.errors import InputError

PATCH = 2
POSITION_FEATURES = 16


def position_features(rows: int, columns: int) -> Tensor:
    """Sine and cosine of 1, 2, 4, 8 half turns over the height and the width: [rows * columns, 16]."""
    y = (torch.arange(rows) + 0.5) / rows
    x = (torch.arange(columns) + 0.5) / columns
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2, 1)
    angle = grid * math.pi * torch.tensor([1.0, 2.0, 4.0, 8.0])
    return torch.cat([angle.sin(), angle.cos()], -1).flatten(1)


class PatchEncoder:
    """Tokens from the conditioning latent: 4 * z_dim latent values and 16 fixed position features each.

    `clip_tokens` states the count for the size named at construction; other latent sizes give (h/2) * (w/2) tokens.
    """

    def __init__(self, z_dim: int = 24, height: int = 8, width: int = 8):
        self.z_dim = z_dim
        self.clip_dim = PATCH * PATCH * z_dim + POSITION_FEATURES
        self.clip_tokens = (height // PATCH) * (width // PATCH)

    def encode(self, image: Tensor, latent: Tensor) -> Tensor:
        """Encode latent [z, h, w], the first latent frame of the conditioning -> [(h/2) * (w/2), 4 * z + 16].

        `image` [3, H, W] is not read: everything this encoder knows about the picture is in its latent. Raises
        InputError when the latent has other channels or an odd size.
        """
        if latent.dim() != 3 or latent.shape[0] != self.z_dim or latent.shape[1] % PATCH or latent.shape[2] % PATCH:
            raise InputError(
                f"latent must be [{self.z_dim}, h, w] with even h and w, got {list(latent.shape)}",
            )
        rows, columns = latent.shape[1] // PATCH, latent.shape[2] // PATCH
        patches = F.pixel_unshuffle(latent[None].float(), PATCH)[0].flatten(1).T
        return torch.cat([patches, position_features(rows, columns).to(patches.device)], 1)
