"""What a block sees of the past while it learns: Neighbor Forcing, and the ways it is compared with.

    neighbor   all blocks of a clip at one noise level; a block sees what earlier blocks left behind at that level, as
               it will when a video is made, where every denoise step has a memory of its own
    diffusion  every block at a noise level of its own (Diffusion Forcing); it sees earlier blocks at theirs
    teacher    a block sees earlier blocks as they are, without noise
    self       a block sees what its own last denoise step left behind in a rollout of the model

All are flow matching: noisy = (1 - sigma) x0 + sigma noise with sigma = t / 1000; the velocity noise - x0 is learnt.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import vmap

from liveact_model.dit import DiT
from liveact_train.clips_at_once import AtOnce, Conditions, blocks_of

FORCINGS = ("neighbor", "diffusion", "teacher", "self")
SILENT_SHARE = 0.1
"""How often t is 1000: the first denoise step hears nothing, so it has batches of its own."""
SHIFT = 3.0
"""Noise levels are drawn as SHIFT u / (1 + (SHIFT - 1) u), u even in 0..1: the sampler's lie near 1."""


def draw_timesteps(clips: int, blocks: int, forcing: str, timesteps: tuple[float, ...] = ()) -> tuple[Tensor, bool]:
    """Timesteps [clips, blocks] in 0..1000 and whether the batch hears, by torch's generator.

    One per clip, or with diffusion forcing one per block; of `timesteps`, a sampler's, if that names any.
    """
    each = blocks if forcing == "diffusion" else 1
    if torch.rand(()) < SILENT_SHARE:
        return torch.full((clips, blocks), 1000.0), False
    if timesteps:
        heard = torch.tensor(timesteps[1:])
        return heard[torch.randint(len(heard), (clips, each))].expand(-1, blocks), True
    u = torch.rand(clips, each)
    return (1000.0 * SHIFT * u / (1.0 + (SHIFT - 1.0) * u)).expand(-1, blocks), True


def tokens_of(latent: Tensor) -> Tensor:
    """[Z, F, Y, X] -> the head's tokens [F*Y*X/4, 4*Z], channel fastest."""
    z, f, y, x = latent.shape
    return latent.reshape(z, f, y // 2, 2, x // 2, 2).permute(1, 2, 4, 3, 5, 0).reshape(f * y * x // 4, 4 * z)


def latents_of(tokens: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What `tokens_of` undoes: [F*Y*X/4, 4*Z] -> [Z, F, Y, X] = shape."""
    z, f, y, x = shape
    return tokens.reshape(f, y // 2, x // 2, 2, 2, z).permute(5, 0, 1, 3, 2, 4).reshape(shape)


def velocity_errors(
    dit: DiT, z: Tensor, x: Conditions, t: Tensor, noise: Tensor, audible: bool, forcing: str = "neighbor",
    timesteps: tuple[float, ...] = (), hidden: tuple[int, ...] = (),
) -> Tensor:  # fmt: skip
    """Errors [B, L, 4 * Z] of the velocities of clips z [B, Z, F, Y, X] at timesteps t [B, blocks].

    noise is like z. Activations are dit.dtype. `timesteps` are the sampler's, of the rollout that "self" sees; `hidden`
    are memory slots that no block sees.
    """
    blocks = blocks_of(z.shape[2], dit.config)
    z, noise = (latents[:, :, : blocks[-1].stop] for latents in (z, noise))
    lengths = torch.tensor([b.stop - b.start for b in blocks], device=t.device)
    sigma = (t / 1000).repeat_interleave(lengths, 1, output_size=blocks[-1].stop)[:, None, :, None, None]
    clips, given = AtOnce(dit, x, hidden), None
    if forcing == "teacher":
        given = clips.run(z, torch.zeros_like(t), True, remember=True).seen
    elif forcing == "self":
        drawn = torch.randn(len(z), len(timesteps), *z.shape[1:]).to(z.device)
        own = clips.rollout(drawn, timesteps, every_step=False)
        given = clips.run(own.entered, torch.full_like(t, timesteps[-1]), True, remember=True).seen
    tokens = clips.run((1 - sigma) * z + sigma * noise, t, audible, given).tokens
    return tokens.float() - vmap(tokens_of)(noise - z)


def velocity_loss(
    dit: DiT, z: Tensor, x: Conditions, t: Tensor, noise: Tensor, audible: bool, forcing: str = "neighbor",
    timesteps: tuple[float, ...] = (), counted: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """The mean square of `velocity_errors`, or what `counted` makes of them as latents [B, Z, F, Y, X]."""
    errors = velocity_errors(dit, z, x, t, noise, audible, forcing, timesteps)
    if counted is None:
        return errors.square().mean()
    frames = blocks_of(z.shape[2], dit.config)[-1].stop
    return counted(vmap(latents_of, in_dims=(0, None))(errors, z[0, :, :frames].shape))
