"""What the config files of a checkpoint may hold: types, ranges and how values fit together, each stated once.

A field's `description` is what the sentence about a wrong value says was expected.
"""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..config import WAV2VEC2_BASE, DiTConfig
from ..errors import InputError
from ..inputs import shown

Model = TypeVar("Model", bound=BaseModel)


def validated(schema: type[Model], values: dict[str, Any], where: str | Path, what: str = "model") -> Model:
    """The values of a file in their schema.

    Raises:
        InputError: naming the file, the first wrong key, what was expected and what came.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join(path)
    if first["type"] == "value_error":
        inside = f"{key}: " if key else ""
        raise InputError(f"{what}: {where}: {inside}{first['ctx']['error']}")
    if first["type"] == "extra_forbidden":
        raise InputError(f"{what}: expected no key {key:.80} in {where}, found {shown(first['input'])}")
    expected = _description(schema, path)
    if first["type"] == "missing":
        raise InputError(f"{what}: expected {key} in {where} to be {expected}, found none")
    raise InputError(f"{what}: expected {key} in {where} to be {expected}, found {shown(first['input'])}")


def _description(schema: type[BaseModel], path: list[str]) -> str:
    """What the innermost field on a path says of itself."""
    said: str = ""
    inner: Any = schema
    for name in path:
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)) or name not in inner.model_fields:
            break
        field = inner.model_fields[name]
        said, inner = field.description or said, field.annotation
        inner = next((a for a in typing.get_args(inner) if a is not type(None)), inner)
    return said


def _whole(low: int, high: int, **options: Any) -> Any:
    return Field(ge=low, le=high, description=f"a whole number from {low} to {high}", **options)


_WIDE = 1 << 20  # widths and counts: far above any model, far below what overflows a product of three
_DEEP = 1024  # layers
_LONG = 1 << 14  # rows of a prompt or a picture


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Loose(BaseModel):
    """Of files that others write: what nothing here reads is none of our business."""

    # `model_type` is the file's name for it; early pydantic would warn about the prefix
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False, protected_namespaces=())


class Denoiser(_Strict):
    """`dit` of our config.json: the fields of DiTConfig, which also says how they fit together."""

    dim: int = _whole(1, _WIDE)
    num_heads: int = _whole(1, _WIDE)
    num_layers: int = _whole(1, _DEEP)
    ffn_dim: int = _whole(1, _WIDE)
    in_dim: int = _whole(1, _WIDE)
    out_dim: int = _whole(1, _WIDE)
    freq_dim: int = _whole(1, _WIDE)
    text_dim: int = _whole(1, _WIDE)
    text_len: int = _whole(1, _LONG)
    clip_dim: int = _whole(1, _WIDE)
    clip_tokens: int = _whole(1, _LONG)
    audio_window: int = Field(5, ge=5, le=5, description="5")
    audio_blocks: int = _whole(1, _DEEP)
    audio_channels: int = _whole(1, _WIDE)
    audio_hidden: int = _whole(1, _WIDE)
    audio_tokens: int = _whole(1, _WIDE)
    audio_dim: int = _whole(1, _WIDE)
    eps: float = Field(1e-6, gt=0, description="1e-06")
    rope_theta: float = Field(10000.0, ge=1, le=1e9, description="a number from 1 to 1e9")
    memory: Literal["conv", "mean"] = Field("conv", description="'conv' or 'mean'")
    grouping: Literal["raster", "temporal"] = Field("raster", description="'raster' or 'temporal'")
    separate_v_taps: bool = Field(False, description="true or false")
    memory_slots: int = _whole(4, 64, default=6)
    block_latent_frames: int = _whole(3, 64, default=8)

    @model_validator(mode="after")
    def _fits(self) -> Denoiser:
        self.config()
        return self

    def config(self) -> DiTConfig:
        """The denoiser's own form of it. Raises InputError where values do not fit together."""
        return DiTConfig(**self.model_dump())


Channels = Annotated[int, Field(ge=8, le=8192, multiple_of=8)]
_CHANNELS = "two multiples of 8 from 8 to 8192"


class TinyVAEOptions(_Strict):
    """`vae` of our config.json: the arguments of TinyVAE."""

    z_dim: int = _whole(1, 4096)
    encoder_channels: list[Channels] = Field(min_length=2, max_length=2, description=_CHANNELS)
    decoder_channels: list[Channels] = Field(min_length=2, max_length=2, description=_CHANNELS)
    overlap: bool = Field(False, description="true or false")


Side = Annotated[int, Field(ge=16, le=4096, multiple_of=16)]
Step = Annotated[float, Field(gt=0, le=1000)]


class Ours(_Strict):
    """config.json of a checkpoint made here (weights.FORMAT)."""

    format: str = Field(description="'liveact-1'")
    name: str = Field(min_length=1, max_length=200, description="a name of 1 to 200 characters")
    size: list[Side] = Field(min_length=2, max_length=2, description="[W, H], multiples of 16 from 16 to 4096")
    fps: float = Field(ge=1, le=60, description="a number from 1 to 60")
    timesteps: list[Step] = Field(
        min_length=1, max_length=32, description="1 to 32 falling numbers, above 0 and at most 1000"
    )
    dit: Denoiser = Field(description="an object with the denoiser's sizes")
    vae: TinyVAEOptions = Field(description="an object with the VAE's sizes")
    most_lost: float | None = Field(None, gt=0, le=100, description="a number above 0, at most 100")

    @model_validator(mode="after")
    def _fits(self) -> Ours:
        if any(b >= a for a, b in zip(self.timesteps, self.timesteps[1:])):
            raise ValueError(f"expected timesteps that fall, found {shown(self.timesteps)}")
        if self.dit.out_dim != self.vae.z_dim:
            raise ValueError(f"expected dit.out_dim to be vae.z_dim, found {self.dit.out_dim} and {self.vae.z_dim}")
        return self


class Released(_Loose):
    """config.json of the released denoiser. Sizes that the tensors show are compared with them in released.py."""

    model_type: Literal["i2v"] = Field("i2v", description="'i2v'")
    audio_window: int = Field(5, ge=5, le=5, description="5")
    vae_scale: int = Field(4, ge=4, le=4, description="4")
    eps: float = Field(1e-6, ge=1e-6, le=1e-6, description="1e-06")
    num_heads: int | None = _whole(1, _WIDE, default=None)
    text_len: int = _whole(1, _LONG, default=512)
    dim: int | None = _whole(1, _WIDE, default=None)
    ffn_dim: int | None = _whole(1, _WIDE, default=None)
    num_layers: int | None = _whole(1, _WIDE, default=None)
    in_dim: int | None = _whole(1, _WIDE, default=None)
    out_dim: int | None = _whole(1, _WIDE, default=None)
    freq_dim: int | None = _whole(1, _WIDE, default=None)
    intermediate_dim: int | None = _whole(1, _WIDE, default=None)
    context_tokens: int | None = _whole(1, _WIDE, default=None)
    output_dim: int | None = _whole(1, _WIDE, default=None)
    # what training adds where it has not kept to the released memory
    memory: Literal["conv", "mean"] | None = Field(None, description="'conv' or 'mean'")
    grouping: Literal["raster", "temporal"] | None = Field(None, description="'raster' or 'temporal'")
    separate_v_taps: bool | None = Field(None, description="true or false")

    @model_validator(mode="before")
    @classmethod
    def _stated(cls, values: Any) -> Any:
        """None stands for what a file does not state; a file that says null states something wrong."""
        nulls = [name for name in cls.model_fields if isinstance(values, dict) and name in values]
        nulls = [name for name in nulls if values[name] is None]
        if nulls:
            raise ValueError(f"expected {nulls[0]} to be {cls.model_fields[nulls[0]].description}, found None")
        return values


class Index(_Loose):
    """The index of sharded safetensors; files are named, not paths: a shard lies beside its index."""

    weight_map: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,200}\.safetensors$")]] = Field(
        min_length=1, description="an object that names a .safetensors file beside it for every key"
    )


Kernel = Annotated[int, Field(ge=1, le=1024)]
Activation = Literal["gelu", "gelu_new", "relu", "silu", "swish"]
_KERNELS = "1 to 32 whole numbers from 1 to 1024"
_ACTIVATIONS = "one of 'gelu', 'gelu_new', 'relu', 'silu', 'swish'"


_BASE: Any = WAV2VEC2_BASE


class Speech(_Loose):
    """What of a wav2vec2 config.json shapes the network, with transformers' defaults (the base model)."""

    hidden_size: int = _whole(1, 1 << 15, default=_BASE["hidden_size"])
    num_hidden_layers: int = _whole(1, _DEEP, default=_BASE["num_hidden_layers"])
    num_attention_heads: int = _whole(1, 1 << 15, default=_BASE["num_attention_heads"])
    intermediate_size: int = _whole(1, 1 << 17, default=_BASE["intermediate_size"])
    conv_dim: list[Annotated[int, Field(ge=1, le=1 << 15)]] = Field(
        [*_BASE["conv_dim"]], min_length=1, max_length=32, description=f"1 to 32 whole numbers from 1 to {1 << 15}"
    )
    conv_stride: list[Kernel] = Field([*_BASE["conv_stride"]], min_length=1, max_length=32, description=_KERNELS)
    conv_kernel: list[Kernel] = Field([*_BASE["conv_kernel"]], min_length=1, max_length=32, description=_KERNELS)
    conv_bias: bool = Field(False, description="true or false")
    feat_extract_norm: Literal["group", "layer"] = Field("group", description="'group' or 'layer'")
    feat_extract_activation: Activation = Field("gelu", description=_ACTIVATIONS)
    hidden_act: Activation = Field("gelu", description=_ACTIVATIONS)
    num_conv_pos_embeddings: int = _whole(2, 4096, default=_BASE["num_conv_pos_embeddings"])
    num_conv_pos_embedding_groups: int = _whole(1, 4096, default=_BASE["num_conv_pos_embedding_groups"])
    do_stable_layer_norm: bool = Field(False, description="true or false")
    layer_norm_eps: float = Field(1e-5, gt=0, le=1, description="a number above 0, at most 1")

    @model_validator(mode="after")
    def _fits(self) -> Speech:
        lengths = len(self.conv_dim), len(self.conv_stride), len(self.conv_kernel)
        if len(set(lengths)) > 1:
            raise ValueError(f"expected conv_dim, conv_stride and conv_kernel of one length, found {lengths}")
        for name in ("num_attention_heads", "num_conv_pos_embedding_groups"):
            if self.hidden_size % getattr(self, name):
                found = f"{self.hidden_size} and {getattr(self, name)}"
                raise ValueError(f"expected {name} to divide hidden_size, found {found}")
        return self


class SpeechInput(_Loose):
    """What of a wav2vec2 preprocessor_config.json is read."""

    sampling_rate: int = Field(16000, ge=16000, le=16000, description="16000")
    do_normalize: bool = Field(True, description="true or false")
