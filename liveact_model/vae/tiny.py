"""The tiny causal video VAE: 1 + 4k video frames <-> 1 + k latent frames, 8x smaller in height and width.

Four video frames are packed into channels, so temporal causality needs memory in few places only: 1x1 convolutions over
this latent frame and the previous one. A linear encoder and decoder over 4 x 8 x 8 pixel cells (set to the data's
principal components before training) carry most of the picture; the convolutions add what they miss.

Four frames decoded from one latent frame alone move too little within and jump where the next one begins. `overlap`
lets the linear decoder and the finest convolutions see the previous latent frame, too: motion then is drawn between two
latent frames instead of around one.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveact_model.errors import InputError

CELL = 4  # pixels per side folded into channels before the first convolution
PACKED = 3 * 4 * CELL * CELL  # RGB x 4 video frames x cell


def _silence(layer: nn.Module) -> None:
    """Weights and bias 0: what adds its output adds nothing at first."""
    for p in layer.parameters():
        nn.init.zeros_(p)


class _Residual(nn.Module):
    """Two normalised 3x3 convolutions; the identity at initialisation."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        _silence(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class _TimeMix(nn.Module):
    """Adds a 1x1 convolution of this and the previous latent frame; zero at initialisation."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, channels, 1)
        _silence(self.conv)

    def forward(self, x: Tensor, batch: int, previous: Tensor | None) -> tuple[Tensor, Tensor]:
        """`previous` [B, 1, C, h, w] or None at the start, where the first frame stands in for it; also returned."""
        frames = x.unflatten(0, (batch, -1))
        before = torch.cat([frames[:, :1] if previous is None else previous, frames[:, :-1]], 1)
        return x + self.conv(torch.cat([frames, before], 2).flatten(0, 1)), frames[:, -1:].clone()


State = tuple[Tensor, Tensor | None, Tensor | None]
"""What a decoder hands on of its last latent frame, [B, 1, C, h, w] each: coarse features; with `overlap` fine ones and
the latent frame itself."""


class TinyVAE(nn.Module):
    """Causal video VAE for small pictures.

    Args:
        z_dim: channels of a latent frame.
        encoder_channels: widths at 1/4 and 1/8 of the picture size; multiples of 8.
        decoder_channels: the same for the decoder.
        overlap: decode each latent frame together with the one before (the first shipped model does not).

    `mean` and `std` [z_dim] normalise the latents that `encode` returns and `stream` takes. Everything is computed in
    the parameters' dtype.
    """

    spatial = 8
    temporal = 4
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        z_dim: int = 24,
        encoder_channels: tuple[int, int] = (96, 144),
        decoder_channels: tuple[int, int] = (96, 160),
        overlap: bool = False,
    ):
        super().__init__()
        self.z_dim = z_dim
        self.options = {
            "z_dim": z_dim,
            "encoder_channels": list(encoder_channels),
            "decoder_channels": list(decoder_channels),
        } | ({"overlap": True} if overlap else {})
        fine, coarse = encoder_channels
        self.linear_in = nn.Conv2d(PACKED, z_dim, 2, 2)
        self.enc_fine = nn.Sequential(nn.Conv2d(PACKED, fine, 3, padding=1), _Residual(fine))
        self.enc_coarse = nn.Sequential(nn.Conv2d(fine, coarse, 4, 2, 1), _Residual(coarse))
        self.enc_time = _TimeMix(coarse)
        self.enc_out = nn.Sequential(_Residual(coarse), nn.SiLU(), nn.Conv2d(coarse, 2 * z_dim, 1))
        fine, coarse = decoder_channels
        self.linear_out = nn.ConvTranspose2d(z_dim, PACKED, 2, 2)
        self.dec_coarse = nn.Sequential(nn.Conv2d(z_dim, coarse, 3, padding=1), _Residual(coarse))
        self.dec_time = _TimeMix(coarse)
        self.dec_up = nn.Sequential(
            _Residual(coarse), _Residual(coarse), nn.Conv2d(coarse, 4 * fine, 1), nn.PixelShuffle(2)
        )
        self.dec_out = nn.Sequential(_Residual(fine), _Residual(fine), nn.SiLU(), nn.Conv2d(fine, PACKED, 3, padding=1))
        self.linear_before = nn.ConvTranspose2d(z_dim, PACKED, 2, 2, bias=False) if overlap else None
        self.dec_fine_time = _TimeMix(fine) if overlap else None
        for last in (self.enc_out[-1], self.dec_out[-1], *([self.linear_before] if self.linear_before else [])):
            _silence(last)
        with torch.no_grad():
            self.enc_out[-1].get_parameter("bias")[z_dim:] = -5.0  # a nearly noiseless posterior to start from
        self.register_buffer("mean", torch.zeros(z_dim))
        self.register_buffer("std", torch.ones(z_dim))

    @staticmethod
    def pack(video: Tensor) -> Tensor:
        """Video [B, 3, 1 + 4k, H, W] -> [B * (1 + k), 192, H/4, W/4]; the first video frame stands for four."""
        frames = video.transpose(1, 2)
        frames = torch.cat([frames[:, :1].expand(-1, 3, -1, -1, -1), frames], 1)
        cells = F.pixel_unshuffle(frames, CELL)
        return cells.reshape(-1, PACKED, *cells.shape[-2:]).contiguous(memory_format=torch.channels_last)

    def posterior(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Unnormalised mean and log variance of video [B, 3, F, H, W]; both [B, z, 1 + k, h, w] float32."""
        batch, packed = len(video), self.pack(video)
        x, _ = self.enc_time(self.enc_coarse(self.enc_fine(packed)), batch, None)
        mean, log_var = self.enc_out(x).float().chunk(2, 1)
        mean = mean + self.linear_in(packed).float()

        def shape(z: Tensor) -> Tensor:
            return z.unflatten(0, (batch, -1)).transpose(1, 2)

        return shape(mean), shape(log_var.clamp(-12.0, 4.0))

    def generate(self, raw: Tensor, previous: State | None = None) -> tuple[Tensor, State]:
        """Decode unnormalised latents [B, z, n, h, w] -> all 4n video frames [B, 3, 4n, H, W] and the state to pass on.

        The frames are not clamped; after a start (`previous` None) the caller drops the first three, which have no
        place in the video.
        """
        batch, count = raw.shape[0], raw.shape[2]
        frames = raw.transpose(1, 2)
        z = frames.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        coarse, fine, last = previous or (None, None, None)
        x, coarse = self.dec_time(self.dec_coarse(z), batch, coarse)
        x, packed = self.dec_up(x), self.linear_out(z)
        if self.linear_before is not None and self.dec_fine_time is not None:
            x, fine = self.dec_fine_time(x, batch, fine)
            before = torch.cat([frames[:, :1] if last is None else last, frames[:, :-1]], 1).flatten(0, 1)
            packed = packed + self.linear_before(before.contiguous(memory_format=torch.channels_last))
            last = frames[:, -1:].clone()
        cells = (self.dec_out(x) + packed).reshape(batch, count * 4, PACKED // 4, *packed.shape[-2:])
        return F.pixel_shuffle(cells, CELL).transpose(1, 2), (coarse, fine, last)

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw latents [..., z, n, h, w] -> zero mean and unit variance per channel over the training data."""
        return (raw - self.mean.view(-1, 1, 1, 1)) / self.std.view(-1, 1, 1, 1)

    def denormalise(self, latents: Tensor) -> Tensor:
        """The inverse of `normalise`."""
        return latents * self.std.view(-1, 1, 1, 1) + self.mean.view(-1, 1, 1, 1)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        """Encode one video [3, F, H, W] in [-1, 1], F = 1 + 4k -> normalised latents [z_dim, 1 + k, H/8, W/8]."""
        ok = video.dim() == 4 and video.shape[0] == 3 and video.shape[1] % 4 == 1
        if not ok or video.shape[2] % 8 or video.shape[3] % 8:
            raise InputError(
                f"video must be [3, 1 + 4k frames, H, W] with H and W multiples of 8, got {list(video.shape)}"
            )
        mean, _ = self.posterior(video[None].to(self.mean.dtype))
        return self.normalise(mean)[0]

    def stream(self) -> "TinyDecoder":
        """A decoder that keeps one latent frame of state; see `TinyDecoder.decode`."""
        return TinyDecoder(self)


class TinyDecoder:
    """Streaming decoder of one video; any chunking of the latents gives the same video frames."""

    def __init__(self, vae: TinyVAE):
        self._vae = vae
        self._previous: State | None = None

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Decode the next latents [z_dim, n, h, w] -> video [3, m, H, W] in [-1, 1]; m = 4n - 3 first, then 4n."""
        vae, first = self._vae, self._previous is None
        if latents.dim() != 4 or latents.shape[0] != vae.z_dim or latents.shape[1] < 1:
            raise InputError(f"latents must be [{vae.z_dim}, n >= 1, h, w], got {list(latents.shape)}")
        raw = vae.denormalise(latents[None].to(vae.mean.dtype))
        video, self._previous = vae.generate(raw, self._previous)
        return video[0, :, 3 if first else 0 :].float().clamp(-1.0, 1.0)
