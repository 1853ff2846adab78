"""Weights of 4 bits for chips that multiply them: nvfp4 and mxfp4, which join formats.FORMATS here."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from liveact_kernels import ops
from liveact_kernels.common.fp4 import BLOCK, quantise_fp4

from ..errors import InputError
from .formats import FORMATS, PIECE, Activation, Format, Weights


class Quantised4(NamedTuple):
    """e2m1 activations with block scales and, for nvfp4, row scales (kernels' common/fp4.py); `dtype` is what the next
    layer returns to."""

    x4: Tensor
    x_scale: Tensor
    x_row: Tensor | None
    dtype: torch.dtype


class FP4(Format):
    """w4 [N, K / 2] packed e2m1; w_scale [N, K / 16] e4m3 and w_row [N] f32 (nvfp4), or [N, K / 32] e8m0 (mxfp4).

    Activations have the same format, quantised as they come; the released recipe has one float32 scale per tensor on
    both sides in place of one per row. As released, layers outside the blocks stay bf16: they hold 2 % of the weights
    and run once a prompt, a block or a step, and they made the error a third larger (bench/results/cpu/fp4.jsonl).
    """

    outside, four_bits = "bfloat16", True

    def __init__(self, name: str, scale_dtype: torch.dtype):
        self.name, self.scale_dtype = name, scale_dtype
        self.stored = ("w4", "w_scale", "w_row") if scale_dtype == torch.float8_e4m3fn else ("w4", "w_scale")

    def store(self, layer: Weights) -> None:
        """Replace the weight by its codes and scales. Raises InputError for K that the block does not divide."""
        whole, block = layer.weight, BLOCK[self.scale_dtype]
        assert whole is not None, "Linear.to_precision has seen to it"
        if layer.K % block:
            said = f"expected layers whose width {block} divides for {self.name}, got one of {layer.K}"
            raise InputError(f"dtype: {said}")
        made: list[Tensor] = [
            whole.new_empty((layer.N, layer.K // 2), dtype=torch.uint8),
            whole.new_empty((layer.N, layer.K // block), dtype=self.scale_dtype),
            whole.new_empty(layer.N, dtype=torch.float32),
        ][: len(self.stored)]
        rows = layer.N if whole.is_meta else max(1, PIECE // layer.K)  # nothing to spare there, and each piece costs
        for weight, *parts in zip(whole.split(rows), *(t.split(rows) for t in made)):
            for part, values in zip(parts, quantise_fp4(weight, self.scale_dtype)):
                part.copy_(values)
        layer.weight = None
        for name, tensor in zip(self.stored, made):
            layer.register_buffer(name, tensor)
        if layer.bias is not None:
            layer.bias = nn.Parameter(layer.bias.float(), requires_grad=False)

    def accept(self, layer: Weights, x: Tensor) -> Activation:
        """Codes of x."""
        x4, scale, row = ops.quant_fp4(x=x, scale_dtype=self.scale_dtype)
        return Quantised4(x4, scale, row, x.dtype)

    def norm(self, layer: Weights, x: Tensor, mul: Tensor, add: Tensor) -> Activation:
        """Codes of the norm."""
        x4, scale, row = ops.modulate_fp4(x=x, mul=mul, add=add, scale_dtype=self.scale_dtype)
        return Quantised4(x4, scale, row, x.dtype)

    def _args(self, layer: Weights, a: Activation) -> dict:
        assert isinstance(a, Quantised4), "`accept` or `norm` of this layer made it"
        weights = {"w_row": None} | {name: getattr(layer, name) for name in self.stored}
        return {"a4": a.x4, "a_scale": a.x_scale, "a_row": a.x_row, "b": layer.bias, **weights}

    def linear(self, layer: Weights, a: Activation) -> Tensor:
        """The product of the codes, scaled."""
        return ops.fp4_linear(**self._args(layer, a), out_dtype=a.dtype)

    def gelu(self, layer: Weights, a: Activation, then: Weights) -> Activation:
        """Codes for `then`, which must have this format too."""
        if then.format is not self:
            raise ValueError(f"Linear.gelu: expected a layer in {self.name} after this one, got {then.format.name}")
        x4, scale, row, _ = ops.fp4_linear_gelu(**self._args(layer, a))
        return Quantised4(x4, scale, row, a.dtype)

    def gate(self, layer: Weights, a: Activation, x: Tensor, gate: Tensor) -> Tensor:
        """x + gate * product."""
        return ops.fp4_linear_gate(**self._args(layer, a), x=x, gate=gate)

    def residual(self, layer: Weights, a: Activation, x: Tensor) -> Tensor:
        """x + product."""
        return ops.fp4_linear_residual(**self._args(layer, a), x=x)


FP4_FORMATS = (FP4("nvfp4", torch.float8_e4m3fn), FP4("mxfp4", torch.uint8))
FORMATS.update((f.name, f) for f in FP4_FORMATS)
