"""The denoiser as training calls it: what stands in front of and behind the layers, and each layer by itself.

What `DiT.forward` does in one call happens here part by part, so that a part's weights need be whole only while it
works (`shards`), and its activations can be made again in the backward pass instead of being kept. The modules are the
denoiser's own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from liveact_model.dit import DiT, Linear

Weights = dict[str, Tensor]
"""Tensors in the place of a Held's parameters, by their names there."""


class Held(nn.Module):
    """Modules whose weights are whole while something is called with them."""

    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.held = nn.ModuleList(modules)

    def forward(self, call: Callable[..., Any], *args: Any) -> Any:
        """call(*args)."""
        return call(*args)

    def cast(self, dtype: torch.dtype) -> Weights:
        """The parameters, those of linear layers as `dtype`; gradients, where any are wanted, reach the parameters."""
        parts, wanted = dict(self.named_modules()), torch.is_grad_enabled()
        return {
            name: p.to(dtype) if isinstance(parts[name.rpartition(".")[0]], Linear) else p
            for name, p in ((name, p if wanted else p.detach()) for name, p in self.named_parameters())
        }


class Parts(nn.Module):
    """A denoiser's parts. It holds the denoiser's modules and not the denoiser, whose life it does not prolong.

    recompute  keep what a layer takes in, and make its activations again in the backward pass
    sharded    weights are shares, made whole by hooks, in the type of the activations (`shards`)
    """

    def __init__(self, dit: DiT):
        super().__init__()
        self.ends = Held(*(module for name, module in dit.named_children() if name != "blocks"))
        self.layers = nn.ModuleList(Held(block) for block in dit.blocks)
        self.recompute = self.sharded = False

    def cast(self, dtype: torch.dtype) -> list[Weights]:
        """Of the ends and of every layer, the weights for one step; [] where they are shares: then their own."""
        return [] if self.sharded else [part.cast(dtype) for part in (self.ends, *self.layers)]

    def forward(self, weights: list[Weights], call: Callable[..., Any], *args: Any) -> Any:
        """call(*args) with the ends' weights; the layers are called in it."""
        if not weights:
            return self.ends(call, *args)
        names = ("ends", *(f"layers.{i}" for i in range(len(self.layers))))
        every = {f"{name}.{key}": t for name, part in zip(names, weights) for key, t in part.items()}
        return functional_call(_Swapped(self), every, (call, *args), tie_weights=False)

    def layer(self, i: int, weights: list[Weights], call: Callable[..., Any], *args: Any) -> Any:
        """call(*args) with layer i's weights."""
        held = self.layers[i]
        if not self.recompute or not torch.is_grad_enabled():
            return held(call, *args)
        again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)
        if not weights:  # the hooks stand outside: they make the weights whole for the backward pass, too
            return held(again, call, *args)
        return again(lambda *given: functional_call(held, weights[1 + i], (call, *given), tie_weights=False), *args)


class _Swapped(nn.Module):
    """All parts while other tensors stand for their weights."""

    def __init__(self, parts: Parts):
        super().__init__()
        self.ends, self.layers = parts.ends, parts.layers

    def forward(self, call: Callable[..., Any], *args: Any) -> Any:
        """call(*args)."""
        return call(*args)


_PARTS: WeakKeyDictionary[DiT, Parts] = WeakKeyDictionary()


def parts_of(dit: DiT) -> Parts:
    """The parts of a denoiser, the same ones whenever they are asked for."""
    if dit not in _PARTS:
        _PARTS[dit] = Parts(dit)
    return _PARTS[dit]


def constant(tree: Any) -> Any:
    """Without the graph that led to it."""
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, tree)
