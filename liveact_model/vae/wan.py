"""The Wan2.1 causal video VAE: 1 + 4k video frames <-> 1 + k latent frames, 8x smaller in height and width.

The released 126.9-million-parameter weights load under their own names. Decoding keeps the last input frames of every
causal convolution, so a stream pays for each latent frame once and equals decoding the whole video at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from liveact_kernels.contract import scope
from liveact_model.checkpoint.footprint import must_fit
from liveact_model.checkpoint.statedict import check_keys, load_pickle, only
from liveact_model.errors import InputError
from liveact_model.parallel import SeqParallel

from .wan_blocks import Conv, History
from .wan_coder import WHAT, Decoder, Encoder, WanVAEConfig
from .wan_decoder import WanDecoder
from .wan_split import SplitDecoder

MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip
RELEASED_CONTEXT = 3  # latent frames that the released pipeline decodes again with every block


class WanVAE(nn.Module):
    """The VAE; computes in the parameters' dtype, float32 or bfloat16.

    `mean` and `inv_std` [z_dim] normalise latents: encode returns (mu - mean) * inv_std, decode takes that. They are
    constants, not weights, and may be assigned; a z_dim other than the released 16 starts with zeros and ones.
    """

    mean: Tensor
    inv_std: Tensor

    def __init__(self, config: WanVAEConfig | None = None):
        super().__init__()
        self.config = c = config or WanVAEConfig()
        self.z_dim = c.z_dim
        self.spatial, self.temporal = 2 ** len(c.temporal_downsample), 2 ** sum(c.temporal_downsample)
        self.encoder = Encoder(c)
        self.conv1 = Conv(2 * c.z_dim, 2 * c.z_dim, (1, 1, 1))
        self.conv2 = Conv(c.z_dim, c.z_dim, (1, 1, 1))
        self.decoder = Decoder(c)
        mean, inv_std = _statistics(c.z_dim, torch.float32)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("inv_std", inv_std, persistent=False)

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu",
        what: str = WHAT,
    ) -> WanVAE:  # fmt: skip
        """Build from the released names (any sizes); the tensors are cast, laid out for the ops, and frozen.

        `what` is what errors call the weights.

        Raises:
            InputError: naming the first key that is missing, superfluous or of another shape, expected and found.
        """
        config = WanVAEConfig.of(state, what)
        with torch.device("meta"):
            vae = cls(config)
        wanted = {name: p.shape for name, p in vae.state_dict().items()}
        check_keys(state, wanted, what)
        state = only(state, wanted)
        if torch.device(device).type == "cpu":
            must_fit(sum(t.numel() for t in state.values()) * dtype.itemsize, what)
        vae.load_state_dict({name: t.to(device, dtype) for name, t in state.items()}, assign=True)
        for module in vae.modules():
            if isinstance(module, Conv):
                module.arrange_()
        vae.mean, vae.inv_std = (s.to(device) for s in _statistics(config.z_dim, dtype))
        return vae.requires_grad_(False).eval()

    @classmethod
    def from_released(
        cls, path: str | Path, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> WanVAE:
        """Read `Wan2.1_VAE.pth` (memory-mapped, tensors only).

        Raises:
            InputError: the file is missing or unreadable, or as `from_state_dict`.
        """
        return cls.from_state_dict(load_pickle(path, WHAT), dtype, device, f"{WHAT} {path}")

    @torch.no_grad()
    def encode(self, video: Tensor, chunk: int = 1) -> Tensor:
        """Encode a video [3, F, H, W] in [-1, 1], F = 1 + 4k -> normalised latents [z_dim, 1 + k, H/8, W/8], float32.

        `chunk` latent frames are computed at a time (after the first): memory grows with it, the result stays.
        The posterior's mean is taken, nothing is sampled. Raises InputError for another shape.
        """
        step, multiple, got = self.temporal, self.spatial, list(video.shape)
        fits = len(got) == 4 and got[0] == 3 and got[1] % step == 1 and min(got) > 0
        if not fits or got[2] % multiple or got[3] % multiple:
            raise InputError(f"video must be [3, 1 + {step}k frames, H, W], H and W multiples of {multiple}, got {got}")
        frames, history = video.permute(1, 2, 3, 0), History()
        parts = [frames[:1], *(frames[1:].split(step * _positive(chunk)) if len(frames) > 1 else ())]
        with scope("vae_encode"):
            means = [self._mean_of(part.to(self.mean.dtype), history) for part in parts]
        z = (torch.cat(means).float() - self.mean.float()) * self.inv_std.float()
        return z.permute(3, 0, 1, 2).contiguous()

    def _mean_of(self, frames: Tensor, history: History) -> Tensor:
        return self.conv1(self.encoder(frames.contiguous(), history))[..., : self.z_dim]

    def stream(self, chunk: int = 8) -> WanDecoder:
        """A decoder with its own state; it computes at most `chunk` latent frames at a time."""
        return WanDecoder(self, _positive(chunk))

    def stream_rows(self, parallel: SeqParallel, chunk: int = 8) -> SplitDecoder:
        """A decoder that shares the rows of the picture with the other processes of `parallel`; see wan_split."""
        return SplitDecoder(self, _positive(chunk), parallel)

    def decode_released(self, previous: Tensor | None, latents: Tensor, chunk: int = 8) -> Tensor:
        """Decode one block as the released pipeline does, for parity: video [3, m, H, W], m = 4n - 3 or 4n.

        Each block [z_dim, n, h, w] starts afresh after the last three latent frames of the block before it
        [z_dim, 3, h, w], whose 9 video frames are dropped; None for the first block. A stream is cheaper, and exact.
        """
        if previous is None:
            return self.stream(chunk).decode(latents)
        if previous.shape[1:2] != (RELEASED_CONTEXT,):
            raise InputError(f"previous latents must be [z_dim, {RELEASED_CONTEXT}, h, w], got {list(previous.shape)}")
        repeated = self.temporal * (RELEASED_CONTEXT - 1) + 1
        return self.stream(chunk).decode(torch.cat((previous, latents), 1))[:, repeated:]


def _statistics(z_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation of the latents; rounded before the inversion too, as the released pipeline does."""
    mean, std = (MEAN, STD) if z_dim == len(MEAN) else ([0.0] * z_dim, [1.0] * z_dim)
    return torch.tensor(mean, dtype=dtype), 1.0 / torch.tensor(std, dtype=dtype)


def _positive(chunk: int) -> int:
    if chunk < 1:
        raise InputError(f"chunk must be at least 1 latent frame, got {chunk}")
    return chunk
