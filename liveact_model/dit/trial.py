"""A denoiser that runs by a plan while its weights stay wide: one layer's codes are made at a time, and let go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .formats import FORMATS, Activation, Format, Weights
from .model import DiT
from .plan import Precision
from .precision import Linear


@torch.no_grad()
def stored(layer: Weights, name: str) -> Linear:
    """A layer of its own in a format of FORMATS that stores codes; the given one stays as it is."""
    made = Linear.__new__(Linear)  # without the tensors that its __init__ makes: this is called all the time
    nn.Module.__init__(made)
    made.K, made.N, made.format = layer.K, layer.N, layer.format
    made.weight, made.bias = layer.weight, layer.bias
    made.to_precision(name)
    return made


class Trial(Format):
    """The format `name` for one layer whose weights are wide: made when a call needs it, gone after the product.

    What comes out is bit for bit what a layer gives that was stored so: `store` sees the same weights.
    """

    def __init__(self, name: str):
        self.name, self._wanted = name, FORMATS[name]
        self._made: Linear | None = None

    def store(self, layer: Weights) -> None:
        """Nothing is stored: raises RuntimeError."""
        raise RuntimeError("Trial: a layer that is tried out is not stored")

    def takes(self, dtype: torch.dtype) -> torch.dtype:
        """As the format that is tried out."""
        return self._wanted.takes(dtype)

    def feeds(self, other: Format) -> bool:
        """As the formats that are tried out."""
        return self._wanted.feeds(other._wanted if isinstance(other, Trial) else other)

    def _open(self, layer: Weights) -> Linear:
        self._made = self._made or stored(layer, self.name)
        return self._made

    def _close(self, layer: Weights) -> Linear:
        made, self._made = self._open(layer), None
        return made

    def accept(self, layer: Weights, x: Tensor) -> Activation:
        """As the format that is tried out."""
        return self._wanted.accept(self._open(layer), x)

    def norm(self, layer: Weights, x: Tensor, mul: Tensor, add: Tensor) -> Activation:
        """As the format that is tried out."""
        return self._wanted.norm(self._open(layer), x, mul, add)

    def linear(self, layer: Weights, a: Activation) -> Tensor:
        """As the format that is tried out."""
        return self._wanted.linear(self._close(layer), a)

    def gelu(self, layer: Weights, a: Activation, then: Weights) -> Activation:
        """As the formats that are tried out."""
        then = then.format._open(then) if isinstance(then.format, Trial) else then
        return self._wanted.gelu(self._close(layer), a, then)

    def gate(self, layer: Weights, a: Activation, x: Tensor, gate: Tensor) -> Tensor:
        """As the format that is tried out."""
        return self._wanted.gate(self._close(layer), a, x, gate)

    def residual(self, layer: Weights, a: Activation, x: Tensor) -> Tensor:
        """As the format that is tried out."""
        return self._wanted.residual(self._close(layer), a, x)


@contextlib.contextmanager
def tried(dit: DiT, plan: Precision) -> Iterator[None]:
    """Inside, a wide denoiser runs by `plan`, whose activations are as its own. Errors as of `DiT.to_precision`."""
    linears = dit.linears()
    plan.check_sizes(dit.config)
    plan.check_paths(linears)
    with contextlib.ExitStack() as back:
        for path, layer in linears.items():
            if (name := plan.of(path)) != layer.format.name:
                back.callback(setattr, layer, "format", layer.format)
                layer.format = Trial(name)
        yield
