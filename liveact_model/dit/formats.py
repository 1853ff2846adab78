"""How a linear layer stores its weights and what it multiplies: float32, bf16, or e4m3 with a scale per row.

fp4.py has the 4-bit ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from liveact_kernels import ops
from liveact_kernels.common.quantise import per_group

PIECE = 1 << 22  # values that are quantised at a time: their float32 copies need not be those of a whole layer
GROUP = 128  # channels per activation scale where a row-wide maximum is not at hand


class Quantised(NamedTuple):
    """e4m3 activations: value = x8 * x_scale; `dtype` is what the next layer returns to."""

    x8: Tensor
    x_scale: Tensor
    dtype: torch.dtype


Activation = Any
"""What a format makes of activations [L, K] for its products: a tensor, or a tuple of codes and scales with `dtype`."""


class Weights(nn.Module):
    """What a linear layer keeps: weight [N, K], or None and the tensors of its format in place of it; bias [N]."""

    K: int
    N: int
    format: Format
    weight: nn.Parameter | None
    bias: nn.Parameter | None
    w8: Tensor
    w_scale: Tensor


class Format(ABC):
    """One way to store a layer's weights and to multiply by them. What `accept` or `norm` makes, the products take."""

    name: str
    stored: tuple[str, ...] = ()
    """Names of the layer's tensors in place of `weight`; none: the weights are there as they are."""
    four_bits: bool = False
    """Whether the products need tensor cores that take FP4."""
    outside: str | None = None
    """The format of layers outside the blocks of a model that is loaded in this one; None: this one."""

    @abstractmethod
    def store(self, layer: Weights) -> None:
        """Bring `layer.weight` into this format, in place."""

    def takes(self, dtype: torch.dtype) -> torch.dtype:
        """What the products multiply where the activations are `dtype`."""
        return dtype

    def feeds(self, other: Format) -> bool:
        """Whether what `gelu` of a layer in this format makes can be what a layer in the other one takes."""
        return other is self

    @abstractmethod
    def accept(self, layer: Weights, x: Tensor) -> Activation:
        """x [L, K] as the products take it."""

    @abstractmethod
    def norm(self, layer: Weights, x: Tensor, mul: Tensor, add: Tensor) -> Activation:
        """LayerNorm(x) * mul + add as the products take it; mul, add [K] f32."""

    @abstractmethod
    def linear(self, layer: Weights, a: Activation) -> Tensor:
        """[L, N] in the activation dtype."""

    @abstractmethod
    def gelu(self, layer: Weights, a: Activation, then: Weights) -> Activation:
        """GELU_tanh of the product, as `then` wants it."""

    @abstractmethod
    def gate(self, layer: Weights, a: Activation, x: Tensor, gate: Tensor) -> Tensor:
        """x + gate * product; gate [N] f32."""

    @abstractmethod
    def residual(self, layer: Weights, a: Activation, x: Tensor) -> Tensor:
        """x + product."""


class Wide(Format):
    """Weights [N, K] in the activation dtype."""

    def __init__(self, dtype: torch.dtype):
        self.name, self.dtype = str(dtype).removeprefix("torch."), dtype

    def store(self, layer: Weights) -> None:
        """Cast weight and bias."""
        layer.to(self.dtype)

    def feeds(self, other: Format) -> bool:
        """Any: its result is quantised by the other, if at all."""
        return True

    def accept(self, layer: Weights, x: Tensor) -> Activation:
        """x itself."""
        return x

    def norm(self, layer: Weights, x: Tensor, mul: Tensor, add: Tensor) -> Activation:
        """In the activation dtype."""
        return ops.modulate(x=x, mul=mul, add=add)

    def _args(self, layer: Weights, a: Activation) -> dict:
        return {"a": a, "w": layer.weight, "b": layer.bias}

    def linear(self, layer: Weights, a: Activation) -> Tensor:
        """The product."""
        return ops.linear(**self._args(layer, a))

    def gelu(self, layer: Weights, a: Activation, then: Weights) -> Activation:
        """As `then` takes it."""
        return then.format.accept(then, ops.linear_gelu(**self._args(layer, a)))

    def gate(self, layer: Weights, a: Activation, x: Tensor, gate: Tensor) -> Tensor:
        """x + gate * product."""
        return ops.linear_gate(**self._args(layer, a), x=x, gate=gate)

    def residual(self, layer: Weights, a: Activation, x: Tensor) -> Tensor:
        """x + product."""
        return ops.linear_residual(**self._args(layer, a), x=x)


class FP8(Format):
    """w8 [N, K] e4m3, w_scale [N] f32, bias [N] f32.

    One scale per output channel; the released recipe has one per tensor.
    Activations are e4m3 with a scale per row, or per GROUP channels where a row-wide maximum is not at hand; `grouped`:
    per GROUP channels behind norms, too, for one more kernel there.
    """

    stored = ("w8", "w_scale")

    def __init__(self, name: str = "fp8", grouped: bool = False):
        self.name, self.grouped = name, grouped

    def store(self, layer: Weights) -> None:
        """Replace the weight by its codes and scales."""
        whole = layer.weight
        assert whole is not None, "Linear.to_precision has seen to it"
        w8 = torch.empty_like(whole, dtype=torch.float8_e4m3fn)
        scale = whole.new_empty(layer.N, dtype=torch.float32)
        rows = max(1, PIECE // layer.K)
        pieces = zip(whole.split(rows), w8.split(rows), scale.split(rows))
        for weight, codes, scales in () if whole.is_meta else pieces:  # there, thousands of calls for no values
            made, of_rows = per_group(weight, 1)
            codes.copy_(made)
            scales.copy_(of_rows.squeeze(-1))
        layer.weight = None
        layer.register_buffer("w8", w8)
        layer.register_buffer("w_scale", scale)
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.float(), requires_grad=False)

    def takes(self, dtype: torch.dtype) -> torch.dtype:
        """e4m3."""
        return torch.float8_e4m3fn

    def feeds(self, other: Format) -> bool:
        """Layers of e4m3 alone: the product's epilogue quantises."""
        return isinstance(other, FP8)

    def accept(self, layer: Weights, x: Tensor) -> Activation:
        """Codes of x, a scale per GROUP channels."""
        groups = layer.K // GROUP if layer.K % GROUP == 0 else 1
        x8, scale = ops.quant(x=x, groups=groups)
        return Quantised(x8, scale, x.dtype)

    def norm(self, layer: Weights, x: Tensor, mul: Tensor, add: Tensor) -> Activation:
        """Codes, a scale per row or per GROUP channels."""
        if self.grouped:
            return self.accept(layer, ops.modulate(x=x, mul=mul, add=add))
        x8, scale = ops.modulate_quant(x=x, mul=mul, add=add)
        return Quantised(x8, scale, x.dtype)

    def _args(self, layer: Weights, a: Activation) -> dict:
        assert isinstance(a, Quantised), "`accept` or `norm` of this layer made it"
        scales = {"a_scale": a.x_scale, "w_scale": layer.w_scale}
        return {"a8": a.x8, "w8": layer.w8, "b": layer.bias, **scales}

    def linear(self, layer: Weights, a: Activation) -> Tensor:
        """The product of the codes, scaled."""
        return ops.fp8_linear(**self._args(layer, a), out_dtype=a.dtype)

    def gelu(self, layer: Weights, a: Activation, then: Weights) -> Activation:
        """Codes for `then`, which must be e4m3 too."""
        if not self.feeds(then.format):
            raise ValueError(f"Linear.gelu: expected an e4m3 layer after an e4m3 one, got {then.format.name}")
        x8, scale = ops.fp8_linear_gelu(**self._args(layer, a))
        return Quantised(x8, scale, a.dtype)

    def gate(self, layer: Weights, a: Activation, x: Tensor, gate: Tensor) -> Tensor:
        """x + gate * product."""
        return ops.fp8_linear_gate(**self._args(layer, a), x=x, gate=gate)

    def residual(self, layer: Weights, a: Activation, x: Tensor) -> Tensor:
        """x + product."""
        return ops.fp8_linear_residual(**self._args(layer, a), x=x)


FORMATS: dict[str, Format] = {
    f.name: f for f in (Wide(torch.float32), Wide(torch.bfloat16), FP8(), FP8("fp8-128", grouped=True))
}
"""By the names that `--precision` and plans have."""


def format_at(name: str, path: str) -> str:
    """The format of the linear layer at `path` in a denoiser that is loaded as `name`."""
    other = FORMATS[name].outside
    return name if other is None or path.startswith("blocks.") else other
