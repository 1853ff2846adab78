"""Replay of the recorded sampler arithmetic, masks and audio ranges (kind sampler)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from liveact_kernels import ops
from liveact_model.audio.windows import latent_indices
from liveact_model.avatar import conditioning
from liveact_model.schedule import TIMESTEPS, coefficients, released_blocks, sigmas

from .golden import Golden, Row, mismatches, rel_l2

FLOAT32_MAX_ABS, BF16 = 1e-6, 3e-2


def _tokens(velocity: torch.Tensor) -> torch.Tensor:
    """[Z, F, Y, X] -> the head's token order, so that the op under test undoes it."""
    z, f, y, x = velocity.shape
    return velocity.reshape(z, f, y // 2, 2, x // 2, 2).permute(1, 2, 4, 3, 5, 0).reshape(f * y * x // 4, 4 * z)


class _Grey:
    """A stand-in encoder: the mask of the conditioning does not depend on the latents."""

    def encode(self, video):
        """Zeros of the latent's shape."""
        return video.new_zeros(16, (video.shape[1] + 3) // 4, video.shape[2] // 8, video.shape[3] // 8)


@torch.no_grad()
def replay(g: Golden) -> Iterator[Row]:
    """Updates in float32 and bf16, x0, the conditioning mask, the audio range and the released block count."""
    levels = sigmas(TIMESTEPS)
    yield g.row("sigmas", (torch.tensor(levels) - g.get("out.sigmas_float32")).abs().max().item(), FLOAT32_MAX_ABS)
    for dtype, prefix, tolerance in ((torch.float32, "out.latent", FLOAT32_MAX_ABS), (torch.bfloat16, None, BF16)):
        worst = 0.0
        for i in range(len(levels) - 1):
            latent, v, noise = (g.get(f"in.{n}.{i}").to(dtype) for n in ("latent", "noise_pred", "renoise"))
            c = coefficients("renoise", levels[i], levels[i + 1])
            got = ops.denoise_update(tokens=_tokens(v), latent=latent, noise=noise, **c._asdict())
            if prefix:
                worst = max(worst, (got - g.get(f"{prefix}.{i}")).abs().max().item())
                c0 = coefficients("renoise", levels[i], 0.0)._asdict() | {"c_noise": 0.0}
                x0 = ops.denoise_update(tokens=_tokens(v), latent=latent, noise=None, **c0)
                worst = max(worst, (x0 - g.get(f"out.x0.{i}")).abs().max().item())
            else:
                recorded = [g.get(f"out.{n}.latent.{i}") for n in ("bf16_cpu", "bf16_cuda_emulated")]
                worst = max(worst, min(rel_l2(got, r) for r in recorded))
        yield g.row(f"update {str(dtype).removeprefix('torch.')}", worst, tolerance, "x0 and renoise")
    h, w = int(g.number("h")), int(g.number("w"))
    mask = conditioning(_Grey(), torch.zeros(3, 8 * h, 8 * w))[:4]
    yield g.row("mask", mismatches(mask, g.get("out.msk")[0]), 0)
    yield g.row("audio range", _audio_range(g.get("out.audio_range_per_iteration")), 0, "video frames of each block")
    for name in g.tensors.names("out.iter_total_num.fps"):
        fps = int(name.rpartition("fps")[2])
        got = torch.tensor([released_blocks(s, fps) for s in g.get("in.audio_len_s").tolist()])
        yield g.row(f"blocks at {fps} fps", mismatches(got, g.get(name)), 0, "the released count")


def _audio_range(recorded: torch.Tensor) -> float:
    """Wrong iterations: our absolute indices must fall where the released 53-frame windows put them."""
    wrong = 0
    for i, (start, stop) in enumerate(recorded.tolist()):
        first, count = (1, 5) if i == 0 else (6 + 8 * (i - 1), 8)
        window_latent = first if i == 0 else 6
        ours = latent_indices(first, count)
        theirs = start + 4 * torch.arange(window_latent, window_latent + count)[:, None] - 5 + torch.arange(8)
        wrong += int(not torch.equal(ours, theirs.clamp(min=0)) or stop - start != 53)
    return float(wrong)
