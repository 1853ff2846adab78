"""Loudness statistics that wav2vec2 takes over a whole recording, gathered in one cheap pass of constant memory.

Two things in the network look at all of the audio: the waveform is brought to zero mean and unit variance, and (in
"group" networks) the first convolution's output is normalised per channel over time. Both are sums, so they can be
kept up to date while audio streams in. Because of them a constant gain on the audio changes nothing (up to their
epsilons): the released code's factor of 3 has no effect.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WAVEFORM_EPS = 1e-7  # of transformers' Wav2Vec2FeatureExtractor


@dataclass(frozen=True)
class Levels:
    """Mean and variance of the samples (floats), and of the first convolution's output per channel (float64 [C])."""

    mean: float
    variance: float
    conv_mean: Tensor | None = None
    conv_variance: Tensor | None = None

    @property
    def scale(self) -> float:
        """What samples are divided by: sqrt(variance + 1e-7)."""
        return (self.variance + WAVEFORM_EPS) ** 0.5


class LevelMeter:
    """Running `Levels` of everything `update` has seen.

    Args:
        conv: the first convolution when its output is normalised over time, else None. Its bias is left out.
        sample_rate: samples per second; audio is taken in pieces of a second to bound memory.
    """

    def __init__(self, conv: nn.Conv1d | None, sample_rate: int = 16000):
        self._conv, self._piece = conv, sample_rate
        self._tail = torch.empty(0)  # samples the next outputs of the convolution still need
        self._sums = torch.zeros(3, dtype=torch.float64)  # count, sum, sum of squares of the samples
        self._conv_sums = None if conv is None else torch.zeros(3, conv.out_channels, dtype=torch.float64)

    def update(self, samples: Tensor) -> None:
        """Add samples [n] that follow the ones before."""
        for piece in samples.split(self._piece):
            wide = piece.to(torch.float64)
            self._sums += torch.stack([torch.tensor(float(len(piece))).double(), wide.sum(), wide.square().sum()])
            if self._conv is not None and self._conv_sums is not None:
                self._conv_sums += self._sums_of(self._conv, torch.cat([self._tail, piece]))

    @torch.no_grad()
    def _sums_of(self, conv: nn.Conv1d, samples: Tensor) -> Tensor:
        (kernel,), (stride,) = conv.kernel_size, conv.stride
        outputs = max(0, (len(samples) - kernel) // stride + 1)
        self._tail = samples[outputs * stride :].clone()
        if not outputs:
            return torch.zeros(3, conv.out_channels, dtype=torch.float64)
        weight = conv.weight.float()
        out = F.conv1d(samples.to(weight.device)[None, None], weight, stride=stride)[0]
        sums = torch.stack([torch.full_like(out[:, 0], outputs), out.sum(1), out.square().sum(1)])
        return sums.cpu().double()

    def levels(self) -> Levels:
        """The statistics so far (of at least one sample)."""
        mean, variance = _moments(self._sums)
        conv = (None, None) if self._conv_sums is None else _moments(self._conv_sums)
        return Levels(float(mean), float(variance), *conv)


def _moments(sums: Tensor) -> tuple[Tensor, Tensor]:
    count = sums[0].clamp(min=1)
    mean = sums[1] / count
    return mean, (sums[2] / count - mean.square()).clamp(min=0)
