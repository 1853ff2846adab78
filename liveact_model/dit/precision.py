"""Linear layers whose precision is a property of their weights: float32, bf16, or e4m3 with a scale per row."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from liveact_kernels import ops
from liveact_kernels.common.quantise import per_group


class Quantised(NamedTuple):
    """e4m3 activations: value = x8 * x_scale; `dtype` is what the next layer returns to."""

    x8: Tensor
    x_scale: Tensor
    dtype: torch.dtype


Activation = Tensor | Quantised

PIECE = 1 << 22  # values that are quantised at a time: their float32 copies need not be those of a whole layer
GROUP = 128  # channels per activation scale where a row-wide maximum is not at hand


class Linear(nn.Module):
    """y = x @ weight.T + bias with the epilogues of the block.

    weight [N, K] in the activation dtype, or at precision "fp8": w8 [N, K] e4m3, w_scale [N] f32, bias [N] f32.
    Callers hand in what `accept` or `norm` made for this layer, so that the same block code runs every precision.
    """

    weight: nn.Parameter | None
    w8: Tensor
    w_scale: Tensor

    def __init__(self, K: int, N: int, bias: bool = True):
        super().__init__()
        self.K, self.N = K, N
        self.weight = nn.Parameter(torch.empty(N, K))
        self.bias = nn.Parameter(torch.empty(N)) if bias else None

    @property
    def is_fp8(self) -> bool:
        """Whether the weights are e4m3."""
        return self.weight is None

    @torch.no_grad()
    def to_precision(self, precision: str) -> None:
        """"float32" and "bfloat16" cast the weights; "fp8" replaces them by e4m3 codes and frees the originals.

        One scale per output channel; the released recipe has one per tensor.
        """
        if self.weight is None:
            if precision != "fp8":
                raise ValueError("Linear.to_precision: the weights behind the e4m3 codes are gone, load them again")
            return
        if precision != "fp8":
            self.to(getattr(torch, precision))
            return
        w8 = torch.empty_like(self.weight, dtype=torch.float8_e4m3fn)
        scale = self.weight.new_empty(self.N, dtype=torch.float32)
        rows = max(1, PIECE // self.K)
        for weight, codes, scales in zip(self.weight.split(rows), w8.split(rows), scale.split(rows)):
            made, of_rows = per_group(weight, 1)
            codes.copy_(made)
            scales.copy_(of_rows.squeeze(-1))
        self.weight = None
        self.register_buffer("w8", w8)
        self.register_buffer("w_scale", scale)
        if self.bias is not None:
            self.bias = nn.Parameter(self.bias.float(), requires_grad=False)

    def takes(self, dtype: torch.dtype) -> torch.dtype:
        """What this layer multiplies where the activations are `dtype`: that, or e4m3."""
        return torch.float8_e4m3fn if self.is_fp8 else dtype

    def accept(self, x: Tensor) -> Activation:
        """x [L, K] as this layer wants it."""
        if not self.is_fp8:
            return x
        groups = self.K // GROUP if self.K % GROUP == 0 else 1
        x8, scale = ops.quant(x=x, groups=groups)
        return Quantised(x8, scale, x.dtype)

    def norm(self, x: Tensor, mul: Tensor, add: Tensor) -> Activation:
        """LayerNorm(x) * mul + add as this layer wants it; mul, add [K] f32."""
        if not self.is_fp8:
            return ops.modulate(x=x, mul=mul, add=add)
        x8, scale = ops.modulate_quant(x=x, mul=mul, add=add)
        return Quantised(x8, scale, x.dtype)

    def _args(self, a: Activation) -> dict:
        if self.is_fp8:
            assert isinstance(a, Quantised), "`accept` or `norm` of this layer made it"
            scales = {"a_scale": a.x_scale, "w_scale": self.w_scale}
            return {"a8": a.x8, "w8": self.w8, "b": self.bias, **scales}
        return {"a": a, "w": self.weight, "b": self.bias}

    def forward(self, a: Activation) -> Tensor:
        """[L, N] in the activation dtype."""
        if self.is_fp8:
            return ops.fp8_linear(**self._args(a), out_dtype=a.dtype)
        return ops.linear(**self._args(a))

    def gelu(self, a: Activation, then: Linear) -> Activation:
        """GELU_tanh of the product, as `then` wants it; the two layers share their precision."""
        if then.is_fp8 != self.is_fp8:
            raise ValueError("Linear.gelu: a layer and the one it feeds must both be e4m3 or both not")
        if self.is_fp8:
            x8, scale = ops.fp8_linear_gelu(**self._args(a))
            return Quantised(x8, scale, a.dtype)
        return ops.linear_gelu(**self._args(a))

    def gate(self, a: Activation, x: Tensor, gate: Tensor) -> Tensor:
        """x + gate * product; gate [N] f32."""
        op = ops.fp8_linear_gate if self.is_fp8 else ops.linear_gate
        return op(**self._args(a), x=x, gate=gate)

    def residual(self, a: Activation, x: Tensor) -> Tensor:
        """x + product."""
        op = ops.fp8_linear_residual if self.is_fp8 else ops.linear_residual
        return op(**self._args(a), x=x)
