"""CLIP vision tower (ViT-H/14 of open-clip's XLM-R model for the released checkpoint: 32 blocks, width 1280).

conv patches -> class token first -> positions -> LayerNorm -> pre-norm blocks. What the DiT receives is the residual
stream after all blocks but the last, without a final norm, all tokens. The blocks are those of transformers'
CLIPVisionModel; here are the released key names and shapes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

WHAT = "image encoder weights"
MEAN = (0.48145466, 0.4578275, 0.40821073)  # of CLIP's training images, RGB in [0, 1]
STD = (0.26862954, 0.26130258, 0.27577711)

BLOCK_KEYS = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}


@dataclass(frozen=True)
class CLIPShape:
    """Sizes of the tower; all but `heads` and `eps` can be read off the weights. `layers` counts the unused one too."""

    dim: int
    mlp: int
    head_dim: int
    layers: int
    patch: int
    tokens: int
    heads: int = 16
    eps: float = 1e-5

    @classmethod
    def of(cls, state: Mapping[str, Tensor], heads: int = 16, eps: float = 1e-5, what: str = WHAT) -> CLIPShape:
        """Infer the sizes from the tower's released state dict; InputError names the key that is missing or odd."""
        dim, _, patch, _ = shape_of(state, "patch_embedding.weight", 4, what)
        _, tokens, _ = shape_of(state, "pos_embedding", 3, what)
        mlp, _ = shape_of(state, "transformer.0.mlp.0.weight", 2, what)
        _, head_dim = shape_of(state, "head", 2, what)
        return cls(dim, mlp, head_dim, count_layers(state, "transformer."), patch, tokens, heads, eps)

    @property
    def image_size(self) -> int:
        """Side of the square input image in pixels."""
        return math.isqrt(self.tokens - 1) * self.patch

    def released_keys(self) -> dict[str, tuple[int, ...]]:
        """Shape of every key of the tower in the released file, without the `visual.` prefix."""
        dim, vector = self.dim, (self.dim,)
        block = {
            "norm1.weight": vector,
            "norm1.bias": vector,
            "attn.to_qkv.weight": (3 * dim, dim),
            "attn.to_qkv.bias": (3 * dim,),
            "attn.proj.weight": (dim, dim),
            "attn.proj.bias": vector,
            "norm2.weight": vector,
            "norm2.bias": vector,
            "mlp.0.weight": (self.mlp, dim),
            "mlp.0.bias": (self.mlp,),
            "mlp.2.weight": (dim, self.mlp),
            "mlp.2.bias": vector,
        }
        return {
            "cls_embedding": (1, 1, dim),
            "pos_embedding": (1, self.tokens, dim),
            "patch_embedding.weight": (dim, 3, self.patch, self.patch),
            "pre_norm.weight": vector,
            "pre_norm.bias": vector,
            **{f"transformer.{i}.{key}": shape for i in range(self.layers) for key, shape in block.items()},
            "post_norm.weight": vector,
            "post_norm.bias": vector,
            "head": (dim, self.head_dim),
        }


VIT_H = CLIPShape(dim=1280, mlp=5120, head_dim=1024, layers=32, patch=14, tokens=257)
"""The released model's."""


def _build(shape: CLIPShape) -> Any:
    """transformers' tower on the meta device, without the last block and the final norm."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    attention: dict[str, Any] = {"attn_implementation": "sdpa"}  # missing in transformers' hints
    config = CLIPVisionConfig(
        hidden_size=shape.dim,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers - 1,
        num_attention_heads=shape.heads,
        image_size=shape.image_size,
        patch_size=shape.patch,
        hidden_act="gelu",
        layer_norm_eps=shape.eps,
        **attention,
    )
    with torch.device("meta"):
        model = CLIPVisionModel(config)
    tower = getattr(model, "vision_model", model)  # transformers 4 wraps the tower once more
    tower.post_layernorm = nn.Identity()
    # a buffer that no state dict holds: the meta device left it without values
    tower.embeddings.position_ids = torch.arange(shape.tokens)[None]
    return tower


def _rename(state: Mapping[str, Tensor], shape: CLIPShape) -> dict[str, Tensor]:
    """The used part of a released state dict under transformers' names; the fused q, k, v become three views."""
    renamed = {
        "embeddings.class_embedding": state["cls_embedding"][0, 0],
        "embeddings.position_embedding.weight": state["pos_embedding"][0],
        "embeddings.patch_embedding.weight": state["patch_embedding.weight"],
    }
    for part in ("weight", "bias"):
        renamed[f"pre_layrnorm.{part}"] = state[f"pre_norm.{part}"]
        for i in range(shape.layers - 1):
            theirs, ours = f"encoder.layers.{i}", f"transformer.{i}"
            for name, target in BLOCK_KEYS.items():
                renamed[f"{theirs}.{target}.{part}"] = state[f"{ours}.{name}.{part}"]
            for letter, piece in zip("qkv", state[f"{ours}.attn.to_qkv.{part}"].chunk(3), strict=True):
                renamed[f"{theirs}.self_attn.{letter}_proj.{part}"] = piece
    return renamed


class CLIPImageEncoder(nn.Module):
    """Reference image -> image rows for the DiT.

    Args:
        state: released state dict of the tower, keys without the `visual.` prefix; used without a copy. The last
            block, `post_norm` and `head` must be there but are never read.
        heads: attention heads (not visible in the shapes).
        eps: of the layer norms.
        what: what errors call the weights.

    Raises:
        InputError: a key is missing, extra or has the wrong shape (the first one is named), or the sizes are not
            those of a square tower.
    """

    tower: Any  # transformers' module, of which torch knows only that it is a module

    def __init__(self, state: Mapping[str, Tensor], heads: int = 16, eps: float = 1e-5, what: str = WHAT):
        super().__init__()
        self.shape = shape = CLIPShape.of(state, heads, eps, what)
        check_keys(state, shape.released_keys(), what)
        state = only(state, shape.released_keys())
        check_one_dtype(state, what)
        if heads < 1 or shape.dim % heads:
            raise InputError(f"{what}: heads must divide the width {shape.dim}, got {heads}")
        if math.isqrt(shape.tokens - 1) ** 2 != shape.tokens - 1 or shape.layers < 2:
            raise InputError(
                f"{what}: expected one class token plus a square grid of patches and at least 2 blocks, "
                f"found {shape.tokens} positions and {shape.layers} blocks"
            )
        self.clip_dim, self.clip_tokens = shape.dim, shape.tokens
        self.tower = _build(shape)
        assign(self.tower, _rename(state, shape))

    @classmethod
    def from_released(cls, pth_path: str | Path, heads: int = 16) -> CLIPImageEncoder:
        """Load the tower of `models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth`.

        The file is memory-mapped, so its text tower (`textual.*`) and the unused last block cost no memory.
        """
        whole = load_pickle(pth_path, WHAT)
        tower = {key.removeprefix("visual."): whole[key] for key in whole if key.startswith("visual.")}
        return cls(tower, heads, what=f"{WHAT} {pth_path}")

    def preprocess(self, image: Tensor) -> Tensor:
        """[3, H, W] in [-1, 1] -> [3, S, S]: bicubic, not antialiased, aspect ratio not kept; CLIP's mean and std."""
        size = (self.shape.image_size,) * 2
        small = F.interpolate(image[None].float(), size=size, mode="bicubic", align_corners=False, antialias=False)[0]
        mean, std = (torch.tensor(value, device=image.device)[:, None, None] for value in (MEAN, STD))
        return (small * 0.5 + 0.5 - mean) / std

    @torch.no_grad()
    def encode(self, image: Tensor, latent: Tensor | None = None) -> Tensor:
        """Encode a reference image [3, H, W] in [-1, 1] of any size: float32 [clip_tokens, clip_dim].

        `latent` (other image encoders read the VAE's first latent frame) is ignored.

        Raises:
            InputError: `image` is not [3, H, W].
        """
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise InputError(f"image: expected a tensor [3, H, W], got shape {list(image.shape)}")
        weight = self.tower.embeddings.patch_embedding.weight
        pixels = self.preprocess(image.to(weight.device)).to(weight.dtype)
        return self.tower(pixel_values=pixels[None]).last_hidden_state[0].float()
