"""umT5 text encoder (umT5-XXL for the released model: 5.68 B parameters, 24 layers, width 4096).

Per layer x += Attn(RMS(x)); x += FFN(RMS(x)), then a final RMS norm. Attention is not scaled and adds
table[bucket(j - i)] per head, with one table per layer; FFN(x) = fc2(fc1(x) * GELU_tanh(gate(x))).
The layers are those of transformers' UMT5 encoder; here are the released key names and shapes.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from liveact_model.checkpoint.statedict import (
    assign,
    check_keys,
    check_one_dtype,
    count_layers,
    load_pickle,
    only,
    shape_of,
)
from liveact_model.errors import InputError

from .tokenizer import Tokenizer, load_tokenizer

WHAT = "text encoder weights"
STRAIGHT = str.maketrans(dict.fromkeys("ʼ‘’‚‛", "'") | dict.fromkeys("“”„‟", '"'))

# released key within a block -> transformers' key within a block
BLOCK_KEYS = {
    "norm1.weight": "layer.0.layer_norm.weight",
    "attn.q.weight": "layer.0.SelfAttention.q.weight",
    "attn.k.weight": "layer.0.SelfAttention.k.weight",
    "attn.v.weight": "layer.0.SelfAttention.v.weight",
    "attn.o.weight": "layer.0.SelfAttention.o.weight",
    "pos_embedding.embedding.weight": "layer.0.SelfAttention.relative_attention_bias.weight",
    "norm2.weight": "layer.1.layer_norm.weight",
    "ffn.gate.0.weight": "layer.1.DenseReluDense.wi_0.weight",
    "ffn.fc1.weight": "layer.1.DenseReluDense.wi_1.weight",
    "ffn.fc2.weight": "layer.1.DenseReluDense.wo.weight",
}


@dataclass(frozen=True)
class UMT5Shape:
    """Sizes of the encoder; all but `max_distance` (tokens) and `eps` can be read off the weights."""

    vocab: int
    dim: int
    dim_attn: int
    dim_ffn: int
    heads: int
    layers: int
    buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6

    @classmethod
    def of(cls, state: Mapping[str, Tensor], max_distance: int = 128, what: str = WHAT) -> UMT5Shape:
        """Infer the sizes from a released state dict; InputError names the key that is missing or odd."""
        vocab, dim = shape_of(state, "token_embedding.weight", 2, what)
        dim_attn, _ = shape_of(state, "blocks.0.attn.q.weight", 2, what)
        dim_ffn, _ = shape_of(state, "blocks.0.ffn.fc1.weight", 2, what)
        buckets, heads = shape_of(state, "blocks.0.pos_embedding.embedding.weight", 2, what)
        return cls(vocab, dim, dim_attn, dim_ffn, heads, count_layers(state, "blocks."), buckets, max_distance)

    def released_keys(self) -> dict[str, tuple[int, ...]]:
        """Shape of every key of the released file."""
        square, out = (self.dim_attn, self.dim), (self.dim, self.dim_attn)
        block = {
            "norm1.weight": (self.dim,),
            "attn.q.weight": square,
            "attn.k.weight": square,
            "attn.v.weight": square,
            "attn.o.weight": out,
            "norm2.weight": (self.dim,),
            "ffn.gate.0.weight": (self.dim_ffn, self.dim),
            "ffn.fc1.weight": (self.dim_ffn, self.dim),
            "ffn.fc2.weight": (self.dim, self.dim_ffn),
            "pos_embedding.embedding.weight": (self.buckets, self.heads),
        }
        blocks = {f"blocks.{i}.{key}": shape for i in range(self.layers) for key, shape in block.items()}
        return {"token_embedding.weight": (self.vocab, self.dim), **blocks, "norm.weight": (self.dim,)}


XXL = UMT5Shape(vocab=256384, dim=4096, dim_attn=4096, dim_ffn=10240, heads=64, layers=24)
"""The released model's."""


def clean_prompt(prompt: str) -> str:
    """The prompt as the tokenizer sees it: HTML entities unescaped twice, whitespace runs made one space, stripped.

    The released code also repairs text with ftfy. Of that repair only what ordinary prompts meet is done here,
    straight quotes for curly ones and Unicode NFC; text that was decoded with the wrong encoding stays as it is.
    """
    text = html.unescape(html.unescape(prompt))
    text = unicodedata.normalize("NFC", text.translate(STRAIGHT))
    return " ".join(text.split())


def _build(shape: UMT5Shape) -> Any:
    """transformers' encoder stack on the meta device: 5.7 B parameters must not be drawn at random first."""
    from transformers import UMT5Config, UMT5EncoderModel

    # the position bias rules out fused attention, and L is at most a few hundred; missing in transformers' hints
    attention: dict[str, Any] = {"attn_implementation": "eager"}
    config = UMT5Config(
        vocab_size=shape.vocab,
        d_model=shape.dim,
        d_kv=shape.dim_attn // shape.heads,
        d_ff=shape.dim_ffn,
        num_layers=shape.layers,
        num_heads=shape.heads,
        relative_attention_num_buckets=shape.buckets,
        relative_attention_max_distance=shape.max_distance,
        layer_norm_epsilon=shape.eps,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        use_cache=False,
        **attention,
    )
    with torch.device("meta"):
        return UMT5EncoderModel(config).encoder


class UMT5TextEncoder(nn.Module):
    """Prompt -> unpadded text rows for the DiT.

    Only the L real tokens run: padded keys are masked out in the released code, so its first L rows are the same.

    Args:
        state: released state dict (`token_embedding.weight`, `blocks.{i}.*`, `norm.weight`); used without a copy.
        tokenizer: cleaned text -> token ids, end token included; None if only `encode_ids` is used.
        text_len: most tokens of a prompt; longer ones are cut.
        shape: sizes; inferred from `state` when None.
        what: what errors call the weights.

    Raises:
        InputError: a key is missing, extra or has the wrong shape (the first one is named).
    """

    encoder: Any  # transformers' module, of which torch knows only that it is a module

    def __init__(
        self,
        state: Mapping[str, Tensor],
        tokenizer: Tokenizer | None = None,
        text_len: int = 512,
        shape: UMT5Shape | None = None,
        what: str = WHAT,
    ):
        super().__init__()
        self.shape = shape or UMT5Shape.of(state, what=what)
        if self.shape.dim_attn % self.shape.heads:
            raise InputError(f"{what}: heads must divide width {self.shape.dim_attn}, got {self.shape.heads}")
        if self.shape.buckets % 4 or self.shape.buckets >= 4 * self.shape.max_distance:
            raise InputError(f"{what}: expected a multiple of 4 position buckets, found {self.shape.buckets}")
        check_keys(state, self.shape.released_keys(), what)
        state = only(state, self.shape.released_keys())
        check_one_dtype(state, what)
        self.text_dim, self.text_len, self.tokenizer = self.shape.dim, text_len, tokenizer
        names = {"token_embedding.weight": "embed_tokens.weight", "norm.weight": "final_layer_norm.weight"}
        for i in range(self.shape.layers):
            names |= {f"blocks.{i}.{ours}": f"block.{i}.{theirs}" for ours, theirs in BLOCK_KEYS.items()}
        self.encoder = _build(self.shape)
        assign(self.encoder, {names[key]: value for key, value in state.items()})

    @classmethod
    def from_released(cls, pth_path: str | Path, tokenizer_dir: str | Path, text_len: int = 512) -> UMT5TextEncoder:
        """Load `models_t5_umt5-xxl-enc-bf16.pth` (memory-mapped) and the tokenizer in `google/umt5-xxl/`."""
        tokenizer = load_tokenizer(tokenizer_dir, text_len)
        return cls(load_pickle(pth_path, WHAT), tokenizer, text_len, what=f"{WHAT} {pth_path}")

    @torch.no_grad()
    def encode_ids(self, ids: Tensor) -> Tensor:
        """Rows of the given tokens: int64 [L] -> float32 [L, text_dim]."""
        if ids.ndim != 1 or ids.numel() == 0 or not 0 <= int(ids.min()) <= int(ids.max()) < self.shape.vocab:
            raise InputError(
                f"token ids: expected a non-empty list of ids in [0, {self.shape.vocab}), got shape {list(ids.shape)}"
                + (f" from {int(ids.min())} to {int(ids.max())}" if ids.numel() else "")
            )
        rows = self.encoder(input_ids=ids.to(self.encoder.embed_tokens.weight.device)[None])
        return rows.last_hidden_state[0].float()

    def encode(self, prompt: str) -> Tensor:
        """Encode a prompt: float32 [L, text_dim] with 1 <= L <= text_len, the end token included.

        Raises:
            InputError: `prompt` is not text, or the encoder was built without a tokenizer.
        """
        if not isinstance(prompt, str):
            raise InputError(f"prompt: expected text, got {type(prompt).__name__}")
        if self.tokenizer is None:
            raise InputError("prompt: expected an encoder with a tokenizer, but this one was built without")
        return self.encode_ids(torch.tensor(self.tokenizer(clean_prompt(prompt))[: self.text_len], dtype=torch.int64))

    def buckets(self, length: int) -> Tensor:
        """Relative position buckets, int64 [length, length] (rows are queries): which bias table row a pair uses."""
        at = torch.arange(length)
        attention = self.encoder.block[0].layer[0].SelfAttention
        return attention._relative_position_bucket(at[None, :] - at[:, None])
