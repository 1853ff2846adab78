"""What a block does outside the ops: plain torch calls, counted on the meta device from the tensors they touch.

Ops record themselves; everything between them (the audio network, copies, the conversion to uint8) would be missing
from a budget that claims to count everything. `Outside` sees every torch call that is not part of an op and hands it
to a recorder as a `Call` of a `Plain` op, so that one table holds both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from ..contract import STATE, Call, Dims, Recorder, compute_kind
from .hw import Chip

ROWS = {"wav2vec2": "wav2vec2", "uint8": "to_uint8", "vae": "vae_torch"}
"""Scope -> budget row of the plain torch calls in it, the innermost scope first; the rest of the model is REST."""
REST, UPLOAD, DOWNLOAD = "model_torch", "to_device", "to_host"
PLAIN_ROWS = (*ROWS.values(), REST, UPLOAD, DOWNLOAD)

_aten = torch.ops.aten
NO_TRAFFIC = {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty, _aten.new_empty_strided,
              _aten._unsafe_view, _aten._reshape_alias, _aten.lift_fresh, _aten.detach}  # fmt: skip
"""Calls that allocate or relabel memory and touch none of it."""
WRITE_ONLY = {_aten.copy_, _aten.fill_, _aten.zero_, _aten.normal_, _aten.uniform_, _aten.random_}
"""In-place calls that do not read what they overwrite."""
GATHERS = {_aten.index, _aten.index_select, _aten.gather, _aten.embedding}
"""Calls that read as much of their first tensor as they give out."""


class Plain:
    """A torch call as an op of the budget: `flops` by rate, `bytes` moved, over the host link if `linked`."""

    def __init__(self, name: str, flops: dict[str, float], bytes: float, linked: bool = False):
        self.name, self._flops, self._bytes, self.linked = name, flops, bytes, linked

    def __repr__(self) -> str:
        return self.name

    def flops(self, d: Dims) -> dict[str, float]:
        """{"bf16" | "f32" | ..: count}, 2 per multiply-add; sums of elementwise calls are not counted."""
        return self._flops

    def bytes(self, d: Dims) -> float:
        """Each tensor the call reads or writes, once."""
        return self._bytes

    def floor_us(self, d: Dims, chip: Chip) -> float:
        """Least time of the call on a chip."""
        if self.linked:
            return 1e6 * self._bytes / chip.host_link
        return 1e6 * max([self._bytes / chip.bandwidth, *(n / chip.flops[k] for k, n in self._flops.items())])


def download(tensor: torch.Tensor) -> Call:
    """The copy of a result to the host, which a meta run cannot make."""
    return Call(tuple(STATE.scopes), Plain(DOWNLOAD, {}, tensor.nbytes, linked=True), "torch", Dims(call="copy"))


def row_of(scopes: tuple[str, ...]) -> str:
    """The budget row of a plain torch call in these scopes."""
    return next((ROWS[s] for s in reversed(scopes) if s in ROWS), REST)


class Outside(TorchDispatchMode):
    """While active, every torch call on a meta tensor that moves data goes to `recorder`."""

    def __init__(self, recorder: Recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the call and record what it cost."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given, made = list(_tensors((args, kwargs))), list(_tensors(out))
        if any(t.is_meta for t in made) and not func.is_view and func.overloadpacket not in NO_TRAFFIC:
            scopes, shape = tuple(STATE.scopes), "x".join(map(str, made[0].shape))
            upload = any(not t.is_meta and t.ndim for t in given)  # a CPU scalar rides along with the launch
            if upload:
                op = Plain(UPLOAD, {}, sum(t.nbytes for t in given if not t.is_meta), linked=True)
            else:
                op = Plain(row_of(scopes), _flops(func, args, kwargs, out), _traffic(func, given, made))
            self.recorder.add(Call(scopes, op, "torch", Dims(call=str(func.overloadpacket), out=shape)), None)
        return out


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (t for t in tree_leaves(tree) if isinstance(t, torch.Tensor))


def _traffic(func: Any, given: list[torch.Tensor], made: list[torch.Tensor]) -> float:
    """Bytes read and written: each tensor once."""
    written = sum(t.nbytes for t in made)
    if func.overloadpacket in GATHERS:
        return 2 * written + sum(t.nbytes for t in given[1:])
    if func.overloadpacket in WRITE_ONLY:
        return written + sum(t.nbytes for t in given[1:])
    return written + sum(t.nbytes for t in given)


def _flops(func: Any, args: tuple, kwargs: dict, out: Any) -> dict[str, float]:
    """Multiply-adds of products and convolutions, at the rate of their dtype."""
    if func.overloadpacket not in flop_registry:
        return {}
    first = next(_tensors((args, kwargs)))
    return {compute_kind(first.dtype): float(flop_registry[func.overloadpacket](*args, **kwargs, out_val=out))}
