"""Linear layers whose precision is a property of their weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .formats import FORMATS, Activation, Format, Weights


class Linear(Weights):
    """y = x @ weight.T + bias with the epilogues of the block.

    weight [N, K] in the activation dtype, or None and what its format keeps in place of it (formats.py).
    Callers hand in what `accept` or `norm` made for this layer, so that the same block code runs every precision.
    """

    def __init__(self, K: int, N: int, bias: bool = True):
        super().__init__()
        self.K, self.N = K, N
        self.format: Format = FORMATS["float32"]
        self.weight = nn.Parameter(torch.empty(N, K))
        self.bias = nn.Parameter(torch.empty(N)) if bias else None

    @torch.no_grad()
    def to_precision(self, precision: str) -> None:
        """Bring the weights into a format of formats.FORMATS; one that stores codes frees the originals.

        Raises ValueError for another format than the one whose codes are all there is.
        """
        wanted = FORMATS[precision]
        if self.weight is None:
            if wanted is not self.format:
                raise ValueError(
                    f"Linear.to_precision: the weights behind the {self.format.name} codes are gone, load them again"
                )
            return
        wanted.store(self)
        self.format = wanted

    def takes(self, dtype: torch.dtype) -> torch.dtype:
        """What this layer multiplies where the activations are `dtype`: that, or what its codes go with."""
        return self.format.takes(dtype)

    def accept(self, x: Tensor) -> Activation:
        """x [L, K] as this layer wants it."""
        return self.format.accept(self, x)

    def norm(self, x: Tensor, mul: Tensor, add: Tensor) -> Activation:
        """LayerNorm(x) * mul + add as this layer wants it; mul, add [K] f32."""
        return self.format.norm(self, x, mul, add)

    def forward(self, a: Activation) -> Tensor:
        """[L, N] in the activation dtype."""
        return self.format.linear(self, a)

    def gelu(self, a: Activation, then: Linear) -> Activation:
        """GELU_tanh of the product, as `then` wants it. Raises ValueError for formats that do not go together."""
        return self.format.gelu(self, a, then)

    def gate(self, a: Activation, x: Tensor, gate: Tensor) -> Tensor:
        """x + gate * product; gate [N] f32."""
        return self.format.gate(self, a, x, gate)

    def residual(self, a: Activation, x: Tensor) -> Tensor:
        """x + product."""
        return self.format.residual(self, a, x)
