"""What an error of the denoiser counts: by itself all latent values alike, here by what they are seen as.

A decoder makes a hundred times more of some directions of a latent cell than of others, and what is small in latents
(a lid, a head half a pixel to the left) is learnt last although it is what a viewer notices. A quadratic loss that
counts directions differently is least at the same velocities: what is drawn in the end is the same, what is learnt
first is not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from liveact_model.errors import InputError
from liveact_model.vae.tiny import TinyVAE
from liveact_train.data.clips import open_array
from liveact_train.data.faces import POSE
from liveact_train.vae import EYES, face_weight, load_vae

PLAIN = 0.15
"""Share of the plain squared error: directions that the decoder does not see must not fill with noise either."""
LIDS = 1.5
"""How much more the cells count that hold the eyes: lids close in one latent frame of twelve."""
BY_ITSELF = ("dx", "dy", "roll", "yaw", "pitch", "blink")
"""What counts on its own with `pose_weight`."""
CLIPS, FRAMES, FITTED = 6, 5, 900
STEP = 0.1  # of a latent value, whose deviation is 1
APART = 4  # cells between two that are changed at once: what they change in the picture does not overlap
RIDGE = 0.02  # of the mean variance


class Emphasis:
    """The mean squared error of velocities, counted by a decoder's metric and by directions of their own.

    metric      [Y, X, Z, Z], or None: all values alike
    directions  unit vectors [Z * Y * X, N] over a latent frame
    weight      how often a direction counts beside being a part of the latent frame
    """

    def __init__(self, metric: Tensor | None = None, directions: Tensor | None = None, weight: float = 0.0):
        self.root = None if metric is None else torch.linalg.cholesky(metric)
        self.directions, self.weight = directions, weight

    def __call__(self, error: Tensor) -> Tensor:
        """error [B, Z, F, Y, X] -> a number."""
        seen = error if self.root is None else torch.einsum("yxij,bifyx->bjfyx", self.root, error)
        loss = seen.square().mean()
        if self.directions is not None:
            along = error.transpose(1, 2).flatten(2) @ self.directions
            loss = loss + self.weight * along.square().sum(-1).mean() / self.directions.shape[0]
        return loss


@torch.no_grad()
def decoder_metric(vae: TinyVAE, latents: Tensor) -> Tensor:
    """What the decoder makes of a change of a latent cell: [Y, X, Z, Z], of mean diagonal 1, positive definite.

    latents [B, Z, F, Y, X]: the middle latent frame is changed, a channel at a time and every fourth cell at once, and
    the pixels of the changed pictures are multiplied with each other, eyes and mouth weighing as in the vae stage.
    """
    _, channels, frames, rows, columns = latents.shape
    weight, cell = face_weight().sqrt(), 64 // rows

    def decoded(z: Tensor) -> Tensor:
        return vae.generate(vae.denormalise(z))[0].float() * weight

    plain, metric = decoded(latents), torch.zeros(rows, columns, channels, channels)
    for top in range(min(APART, rows)):
        for left in range(min(APART, columns)):
            changes = []
            for channel in range(channels):
                z = latents.clone()
                z[:, channel, frames // 2, top::APART, left::APART] += STEP
                changes.append((decoded(z) - plain) / STEP)
            change, half = torch.stack(changes), cell * APART // 2
            for y in range(top, rows, APART):
                for x in range(left, columns, APART):
                    middle = [cell * y + cell // 2, cell * x + cell // 2]
                    rows_, columns_ = (slice(max(0, at - half), at + half) for at in middle)
                    pixels = change[..., rows_, columns_].flatten(1)
                    metric[y, x] = pixels @ pixels.T
    eyes = tuple(slice(s.start // cell, -(-s.stop // cell)) for s in EYES)
    metric[eyes] *= LIDS
    metric /= metric.diagonal(dim1=-2, dim2=-1).mean()
    return PLAIN * torch.eye(channels) + (1.0 - PLAIN) * metric


def pose_directions(latents: np.ndarray, attributes: np.ndarray) -> Tensor:
    """Unit vectors [Z * Y * X, N] along which a latent frame tells BY_ITSELF, by ridge regression.

    latents [N, F, Z, Y, X] and the attributes [N, video frames, attributes] of their clips; both as differences from
    the first latent frame, which is the reference picture.
    """
    frames = latents.shape[1] - 1
    z, pose = np.asarray(latents, np.float32), np.asarray(attributes, np.float32)
    seen = (z[:, 1:] - z[:, :1]).reshape(len(z) * frames, -1)
    told = pose[:, 1 : 1 + 4 * frames].reshape(len(z), frames, 4, -1).mean(2) - pose[:, :1]
    told = told[..., [POSE.index(name) for name in BY_ITSELF]].reshape(len(seen), -1)
    products = seen.T @ seen
    products[np.diag_indices_from(products)] += RIDGE * np.trace(products) / len(products)
    found = torch.from_numpy(np.linalg.solve(products, seen.T @ told)).float()
    return found / found.norm(dim=0)


def emphasis(latents: str, vae: str, data: str, weight: float) -> Emphasis | None:
    """Of the folders and weights that the dit stage is given; None where it is given neither.

    Raises InputError where `vae` has other latents than those in the folder `latents`.
    """
    if not vae and not weight:
        return None
    z = open_array("--latents", Path(latents) / "train", "z")
    metric = directions = None
    if vae:
        decoder = load_vae(vae).float()
        if decoder.z_dim != z.shape[2]:
            raise InputError(f"--vae: expected the VAE of latents with {z.shape[2]} channels, got {decoder.z_dim}")
        spread = np.linspace(0, len(z) - 1, min(CLIPS, len(z))).astype(int)
        start = max(0, z.shape[1] // 2 - FRAMES)
        chosen = np.stack([z[i, start : start + FRAMES] for i in spread])
        metric = decoder_metric(decoder, torch.from_numpy(chosen).float().transpose(1, 2))
    if weight:
        attributes = open_array("--data", Path(data) / "train", "attributes")
        if len(attributes) != len(z):
            raise InputError(f"--data: expected the {len(z)} clips of {latents}, found {len(attributes)} in {data}")
        directions = pose_directions(z[:FITTED], attributes[:FITTED])
    return Emphasis(metric, directions, weight)
