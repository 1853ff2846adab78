"""Sizes of the denoiser, of its memory window and of the released sampler; units are in the names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from .errors import InputError

FIRST_BLOCK_LATENT_FRAMES = 6
BLOCK_LATENT_FRAMES = 8
MEMORY_SLOTS = 6  # 2 reference, 2 long-term, 2 short-term
WINDOW_SLOTS = MEMORY_SLOTS + BLOCK_LATENT_FRAMES
VIDEO_FRAMES_PER_LATENT = 4
FIRST_BLOCK_VIDEO_FRAMES = VIDEO_FRAMES_PER_LATENT * (FIRST_BLOCK_LATENT_FRAMES - 1) + 1  # 21: the first gives one
BLOCK_VIDEO_FRAMES = VIDEO_FRAMES_PER_LATENT * BLOCK_LATENT_FRAMES  # 32
PRECISIONS = ("auto", "float32", "bfloat16", "fp8", "fp8-128", "nvfp4", "mxfp4")
"""What weights can be loaded as, besides a plan; "auto" is the model's own choice."""
STORED_PRECISIONS = ("fp8", "fp8-128", "nvfp4", "mxfp4")
"""Those that a directory can be converted to once."""
CONVERTED = "liveact-converted-1"
"""The format that such a directory's config.json names."""

PATCH = 2  # tokens are 2x2 latent pixels of one latent frame
TAPS = 5  # slots that one compression folds into one
MASK_CHANNELS = 4
EPS = 1e-6  # of every norm of the denoiser; the ops have it as their default
WAV2VEC2_BASE = MappingProxyType({
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "conv_dim": (512,) * 7, "conv_stride": (5, 2, 2, 2, 2, 2, 2), "conv_kernel": (10, 3, 3, 3, 3, 2, 2),
    "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16,
})  # fmt: skip
"""Sizes of the released model's speech network, which are transformers' defaults."""


@dataclass(frozen=True)
class DiTConfig:
    """The denoiser. Defaults are the released 18.9-billion-parameter model.

    in_dim = out_dim noisy latent + 4 mask + out_dim image latent channels.
    memory: "conv" (learned taps) or "mean" (1/5 each); grouping: "raster" (five neighbouring tokens of the flattened
    span, as released) or "temporal" (one position over five latent frames, as in the paper);
    separate_v_taps: use memory_proj_v for values (the released model uses K's taps for both).
    memory_slots, block_latent_frames: the window's two parts in latent frames; the first block fills the memory.
    """

    dim: int = 5120
    num_heads: int = 40
    num_layers: int = 40
    ffn_dim: int = 13824
    in_dim: int = 36
    out_dim: int = 16
    freq_dim: int = 256
    text_dim: int = 4096
    text_len: int = 512
    clip_dim: int = 1280
    clip_tokens: int = 257
    audio_window: int = 5
    audio_blocks: int = 12
    audio_channels: int = 768
    audio_hidden: int = 512
    audio_tokens: int = 32
    audio_dim: int = 768
    eps: float = EPS
    rope_theta: float = 10000.0
    memory: str = "conv"
    grouping: str = "raster"
    separate_v_taps: bool = False
    memory_slots: int = MEMORY_SLOTS
    block_latent_frames: int = BLOCK_LATENT_FRAMES

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type == "int" and (type(value) is not int or value < 1):
                raise InputError(f"config: {field.name} must be a whole number from 1 on, got {value!r:.60}")
        if not 1 <= self.rope_theta < float("inf"):
            raise InputError(f"config: rope_theta must be a finite number from 1 on, got {self.rope_theta}")
        if self.dim % self.num_heads or (self.dim // self.num_heads) % 2:
            raise InputError(f"config: dim must be num_heads times an even number, got {self.dim} / {self.num_heads}")
        if self.in_dim != 2 * self.out_dim + MASK_CHANNELS:
            raise InputError(f"config: in_dim must be 2 * out_dim + 4, got {self.in_dim} with out_dim {self.out_dim}")
        if self.eps != EPS:
            raise InputError(f"config: eps must be {EPS}, which the norms are built with, got {self.eps}")
        if self.memory not in ("conv", "mean") or self.grouping not in ("raster", "temporal"):
            raise InputError(f"config: unknown memory {self.memory!r} or grouping {self.grouping!r}")
        if self.memory_slots < 4 or self.block_latent_frames < 3:
            got = f"{self.memory_slots} and {self.block_latent_frames}"
            raise InputError(f"config: memory_slots must be at least 4 and block_latent_frames at least 3, got {got}")

    @property
    def head_dim(self) -> int:
        """Channels per head."""
        return self.dim // self.num_heads

    @property
    def window_slots(self) -> int:
        """Latent frames that a steady block's queries see."""
        return self.memory_slots + self.block_latent_frames

    @property
    def block_video_frames(self) -> int:
        """Video frames of every block but the first."""
        return VIDEO_FRAMES_PER_LATENT * self.block_latent_frames

    @property
    def first_block_video_frames(self) -> int:
        """Video frames of the first block, whose first latent frame gives one."""
        return VIDEO_FRAMES_PER_LATENT * (self.memory_slots - 1) + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for config.json."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DiTConfig:
        """From a config.json: ours, or the released one, whose other names are mapped and unknown keys ignored."""
        named = {_RELEASED_NAMES.get(k, k): v for k, v in values.items()}
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in named.items() if k in known})

    def with_(self, **changes: Any) -> DiTConfig:
        """A copy with changes."""
        return replace(self, **changes)

    def with_memory(self, mean: bool) -> DiTConfig:
        """A copy that folds slots by their mean if that is asked for, else as it is."""
        return self.with_(memory="mean") if mean else self


_RELEASED_NAMES = {
    "intermediate_dim": "audio_hidden",
    "context_tokens": "audio_tokens",
    "output_dim": "audio_dim",
    "n_text": "",  # describes one prompt, not the model
}

NAMED = {"liveact-18b": DiTConfig()}
"""Architectures without weights in the package, for budgets, benchmarks and tests on the meta device."""

