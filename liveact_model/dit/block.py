"""One transformer block of the denoiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from ..config import DiTConfig
from .attention import AudioAttention, CrossAttention, FeedForward, KeysValues, Norm, SelfAttention, f32
from .cache import Window


class Modulation(NamedTuple):
    """What the time embedding does to one layer; [C] f32 each."""

    attention: Norm
    attention_gate: Tensor
    ffn: Norm
    ffn_gate: Tensor


@dataclass
class Prompt:
    """Per layer keys and values of the text and the image; the last text row stands for `pad` rows."""

    text: list[KeysValues]
    image: list[KeysValues]
    pad: int

    def take(self, other: Prompt) -> bool:
        """Become `other`; True if that only copied into the tensors that are here (captured calls then still hold)."""
        same = self.pad == other.pad and self.text[0].k.shape == other.text[0].k.shape
        if same:
            for mine, theirs in zip(self.text, other.text):
                mine.k.copy_(theirs.k)
                mine.v.copy_(theirs.v)
        else:
            self.text, self.pad = other.text, other.pad
        return same


class Block(nn.Module):
    """Self attention, text and image attention, audio attention, feed-forward: each adds to x [L, C]."""

    def __init__(self, c: DiTConfig):
        super().__init__()
        self.modulation = f32(6, c.dim)
        self.self_attn, self.cross_attn = SelfAttention(c), CrossAttention(c)
        self.audio_attn, self.ffn = AudioAttention(c), FeedForward(c)

    def modulate(self, e0: Tensor) -> Modulation:
        """e0 [6, C] of a timestep -> shift, scale, gate of the two modulated halves, ready for the ops."""
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = (self.modulation + e0.float()).unbind(-2)
        return Modulation(Norm(1 + scale_a, shift_a), gate_a, Norm(1 + scale_f, shift_f), gate_f)

    def forward(
        self, x: Tensor, mod: Modulation, rope: Tensor, window: Window, layer: int, prompt: Prompt,
        audio: KeysValues | None, frames: int,
    ) -> Tensor:  # fmt: skip
        """x [L, C] of `frames` latent frames -> [L, C]; audio None skips the audio attention."""
        x = self.self_attn(x, mod.attention, mod.attention_gate, rope, window, layer, frames)
        x = self.cross_attn(x, prompt.text[layer], prompt.image[layer], prompt.pad)
        if audio is not None:
            x = self.audio_attn(x, audio, frames)
        return self.ffn(x, mod.ffn, mod.ffn_gate)
