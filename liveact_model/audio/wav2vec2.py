"""wav2vec2 audio encoder (chinese-wav2vec2-base for the released model: 12 layers, width 768).

16 kHz samples, zero mean and unit variance -> convolutions (about 50 features per second) -> linear interpolation to
25 per second -> projection -> transformer. The hidden states of all layers are the embedding. The layers are those of
transformers' Wav2Vec2Model; the interpolation in the middle and the running statistics (`levels.py`) are why they
are called one by one here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from liveact_kernels.contract import scope
from liveact_model.audio.levels import LevelMeter, Levels
from liveact_model.audio.stream import Wav2Vec2Stream
from liveact_model.audio.tempo import EMBEDDINGS_PER_SECOND, TempoStream
from liveact_model.audio.wav2vec2_weights import SAMPLE_RATE, WHAT, build, plain_state, read_directory
from liveact_model.checkpoint.statedict import assign, check_keys, check_one_dtype, only
from liveact_model.errors import InputError


def embedding_count(samples: int) -> int:
    """Embeddings the released code takes from `samples` at 16 kHz: its rounding makes it n // 640, rarely one less."""
    return int(samples / SAMPLE_RATE * EMBEDDINGS_PER_SECOND)


class Wav2Vec2AudioEncoder(nn.Module):
    """Speech -> `blocks` hidden states of width `channels`, one set per video frame.

    Args:
        state: state dict of transformers' Wav2Vec2Model (a `wav2vec2.` prefix and pre-training heads are accepted).
        settings: the network's part of a Hugging Face config.json; missing entries are those of the base model.
        normalize: bring the waveform to zero mean and unit variance (the checkpoint's `do_normalize`).
        where, what: what errors call the settings and the weights.

    Raises:
        InputError: a key is missing, extra or has the wrong shape (the first one is named), or the settings do not
            describe a network.
    """

    sample_rate = SAMPLE_RATE
    measured = Levels  # what `measure` returns
    convolutions: Any  # transformers' modules, of which torch knows only that they are modules
    projection: Any
    encoder: Any

    def __init__(
        self, state: Mapping[str, Tensor], settings: Mapping[str, Any], normalize: bool = True,
        where: str | Path = "its settings", what: str = WHAT,
    ):  # fmt: skip
        super().__init__()
        model = build(settings, where)
        state = plain_state(state)
        wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        check_keys(state, wanted, what)
        state = only(state, wanted)
        check_one_dtype(state, what)
        assign(model, state)
        model.encoder.pos_conv_embed.conv.widen()
        config, self.normalize, self.settings = model.config, normalize, dict(settings)
        self.blocks, self.channels = config.num_hidden_layers, config.hidden_size
        self.pre_norm, self.grouped = config.do_stable_layer_norm, config.feat_extract_norm == "group"
        self.convolutions, self.projection, self.encoder = (
            model.feature_extractor.conv_layers,
            model.feature_projection,
            model.encoder,
        )

    @classmethod
    def from_directory(cls, path: str | Path) -> Wav2Vec2AudioEncoder:
        """Load a Hugging Face folder: config.json, preprocessor_config.json (optional) and the weights.

        `model.safetensors` is preferred to `pytorch_model.bin`.

        Raises:
            InputError: a file is missing or unreadable, or the audio is not expected at 16 kHz.
        """
        state, settings, normalize = read_directory(Path(path))
        return cls(state, settings, normalize, Path(path) / "config.json", f"{WHAT} in {path}")

    def meter(self) -> LevelMeter:
        """A new meter of the statistics this network normalises by."""
        return LevelMeter(self.convolutions[0].conv if self.grouped else None, self.sample_rate)

    def measure(self, audio: Iterable[Tensor], fps: float) -> Levels:
        """Statistics of a whole recording for `stream(fps, levels)`: a first pass over it, in pieces [n] at 16 kHz."""
        tempo, meter = TempoStream(fps, self.sample_rate), self.meter()
        for piece in audio:
            meter.update(tempo.push(piece))
        meter.update(tempo.close())
        return meter.levels()

    def normalised(self, waveform: Tensor, levels: Levels) -> Tensor:
        """Samples [n] with the mean taken off, divided by the standard deviation, if the checkpoint wants that."""
        return (waveform - levels.mean) / levels.scale if self.normalize else waveform

    def features(self, waveform: Tensor, levels: Levels) -> Tensor:
        """Convolution features [1, C, T] of samples [n], with the statistics given rather than taken from [n]."""
        first = self.convolutions[0]
        weight = first.conv.weight
        x = self.normalised(waveform.to(weight.device, torch.float32), levels).to(weight.dtype)[None, None]
        x = first.activation(self._channel_norm(first, first.conv(x), levels)) if self.grouped else first(x)
        for layer in self.convolutions[1:]:
            x = layer(x)
        return x

    def _channel_norm(self, layer: Any, x: Tensor, levels: Levels) -> Tensor:
        """The first layer's group norm (one channel per group) with given statistics, in float32: [1, C, T] -> same.

        `levels` measured the convolution of raw samples; of normalised ones its mean is (m - mean * sum(w)) / scale.
        """
        offset, scale = (levels.mean, levels.scale) if self.normalize else (0.0, 1.0)
        assert levels.conv_mean is not None and levels.conv_variance is not None, "measured, if grouped"
        taps = layer.conv.weight.float().sum((1, 2))
        mean = (levels.conv_mean.to(taps.device, torch.float32) - offset * taps) / scale
        if layer.conv.bias is not None:
            mean = mean + layer.conv.bias.float()
        norm = layer.layer_norm
        factor = norm.weight.float() * torch.rsqrt(levels.conv_variance.to(taps) / scale**2 + norm.eps)
        return ((x.float() - mean[:, None]) * factor[:, None] + norm.bias.float()[:, None]).to(x.dtype)

    def at_frames(self, features: Tensor, frames: int) -> Tensor:
        """Features [1, C, T] at `frames` evenly spaced times, both ends included: [1, frames, C]."""
        return F.interpolate(features, size=frames, mode="linear", align_corners=True).transpose(1, 2)

    def hidden_states(self, features: Tensor) -> list[Tensor]:
        """Features [1, frames, C] -> the transformer's input and every layer's output, [1, frames, channels] each."""
        encoder, x = self.encoder, self.projection(features)[0]
        x = x + encoder.pos_conv_embed(x)
        states = [x if self.pre_norm else encoder.layer_norm(x)]
        for layer in encoder.layers:
            x = layer(states[-1])
            states.append(x[0] if isinstance(x, tuple) else x)  # transformers 4 returns a tuple
        if self.pre_norm:
            states[-1] = encoder.layer_norm(states[-1])
        return states

    @scope("wav2vec2")
    @torch.no_grad()
    def embed_window(self, waveform: Tensor, frames: int, levels: Levels) -> Tensor:
        """Samples [n] -> float32 [frames, blocks, channels], normalised with the given statistics."""
        states = self.hidden_states(self.at_frames(self.features(waveform, levels), frames))
        return torch.stack([state[0] for state in states[1:]], dim=1).float()

    def embed(self, waveform: Tensor) -> Tensor:
        """The whole of a recording at once: samples [n] at 16 kHz -> float32 [int(n/16000*25), blocks, channels].

        Memory and time grow with n squared; `stream` does not.

        Raises:
            InputError: `waveform` is not one-dimensional or shorter than one embedding (640 samples).
        """
        frames = embedding_count(waveform.numel())
        if waveform.ndim != 1 or frames < 1:
            raise InputError(f"waveform: expected mono samples [n] with n >= 640, got shape {list(waveform.shape)}")
        meter = self.meter()
        meter.update(waveform.detach().to("cpu", torch.float32))
        return self.embed_window(waveform, frames, meter.levels())

    def stream(self, fps: float, levels: Levels | None = None, **window: Any) -> Wav2Vec2Stream:
        """A stream of embeddings, one per video frame at `fps`; see `Wav2Vec2Stream` for `levels` and `window`."""
        return Wav2Vec2Stream(self, fps, levels, **window)
