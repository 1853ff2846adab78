"""The wav2vec2 network without values, and released weights brought to its names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from liveact_model.audio.wide import WideConv1d
from liveact_model.checkpoint.jsonfile import read_json
from liveact_model.checkpoint.statedict import load_pickle
from liveact_model.errors import InputError

SAMPLE_RATE = 16000
WHAT = "audio encoder weights"
UNUSED = ("masked_spec_embed", "quantizer.", "project_hid.", "project_q.", "lm_head.")  # pre-training and CTC heads
POSITION_CONV = "encoder.pos_conv_embed.conv"
WEIGHT_NORM_NAMES = (
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
    ("weight_g", "weight_v"),
)


def build(settings: Mapping[str, Any], where: str | Path = "its settings") -> Any:
    """transformers' Wav2Vec2Model on the meta device, the positional convolution with a plain weight and in float32.

    Raises:
        InputError: `settings` (names of schema.Speech, which has defaults for all) do not describe a network.
    """
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    from liveact_model.checkpoint.schema import Speech, validated

    settings = validated(Speech, dict(settings), where, "audio encoder config").model_dump()
    off = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "layerdrop")
    options: dict[str, Any] = dict.fromkeys((*off, "mask_time_prob", "mask_feature_prob"), 0.0)
    options["attn_implementation"] = "sdpa"
    try:
        config = Wav2Vec2Config(**settings, **options)
        with torch.device("meta"):
            model = Wav2Vec2Model(config)
            width, kernel = config.hidden_size, config.num_conv_pos_embeddings
            groups = config.num_conv_pos_embedding_groups
            model.encoder.pos_conv_embed.conv = WideConv1d(width, width, kernel, padding=kernel // 2, groups=groups)
    except Exception as error:  # another library's own checks, of any kind
        reason = " ".join(str(error).split())
        raise InputError(
            f"audio encoder config: expected the settings of a wav2vec2 network in {where}, got: {reason:.200}"
        ) from error
    return model


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A Hugging Face state dict as the bare network's: prefix and unused heads gone, weight norm multiplied out.

    The positional convolution is stored as a direction v and a length g per tap (either of transformers' two names
    for the pair): weight = g * v / |v|, the norm taken over both channel axes.

    Raises:
        InputError: v and g do not fit each other.
    """
    if any(key.startswith("wav2vec2.") for key in state):
        state = {key.removeprefix("wav2vec2."): value for key, value in state.items()}
    plain = {key: value for key, value in state.items() if not key.startswith(UNUSED)}
    for names in WEIGHT_NORM_NAMES:
        g, v = (plain.pop(f"{POSITION_CONV}.{name}", None) for name in names)
        if g is None and v is None:
            continue
        if g is None or v is None or v.ndim != 3 or g.shape != (1, 1, v.shape[2]):
            found = " and ".join("none" if t is None else str(list(t.shape)) for t in (g, v))
            raise InputError(f"{WHAT}: {POSITION_CONV}: weight norm [1, 1, k] and [out, in, k] expected, found {found}")
        wide = v.float()
        plain[f"{POSITION_CONV}.weight"] = (g.float() * wide / wide.norm(dim=(0, 1), keepdim=True)).to(v.dtype)
    return plain


def read_directory(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """State dict, config.json and `do_normalize` of a Hugging Face folder.

    Raises:
        InputError: a file is missing or unreadable, or the audio is not expected at 16 kHz.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from liveact_model.checkpoint.schema import SpeechInput, validated

    settings, extra = read_json(path / "config.json", "wav2vec_dir"), path / "preprocessor_config.json"
    audio = validated(SpeechInput, read_json(extra, "wav2vec_dir") if extra.exists() else {}, extra, "wav2vec_dir")
    weights = path / "model.safetensors"
    try:
        state = load_file(weights) if weights.exists() else load_pickle(path / "pytorch_model.bin", WHAT)
    except (OSError, RuntimeError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"wav2vec_dir: expected a safetensors file {weights}, got: {reason:.200}") from error
    return state, settings, audio.do_normalize
