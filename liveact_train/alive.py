"""Bytes of the tensors that are alive: what a step of training holds, counted and not estimated."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves


class Alive(TorchDispatchMode):
    """Counts, while it is entered, the memory of tensors that operators make, until the last of them lets go.

    now   bytes alive; `most` the most there were. Fake tensors count as what they stand for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: dict[weakref.ref, int] = {}

    def __enter__(self) -> Alive:
        """Count from here on, also what is freed or filled in place (as FSDP does with the weights of a layer)."""
        self._plain = resize = torch.UntypedStorage.resize_

        def resized(storage: torch.UntypedStorage, size: int) -> Any:
            done = resize(storage, size)
            self._count(storage)
            return done

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        torch.UntypedStorage.resize_ = self._plain  # type: ignore[method-assign]
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Run the operator and count what it made; memory of an argument is counted once, however many views it has."""
        made = func(*args, **(kwargs or {}))
        for t in tree_leaves(made):
            # of a tensor in shares the one that is here; nothing on the meta device, which is where memory is spared
            if isinstance(t, Tensor) and not is_traceable_wrapper_subclass(t) and t.device.type != "meta":
                self._count(t.untyped_storage())
        return made

    def _count(self, storage: torch.UntypedStorage) -> None:
        ref = weakref.ref(storage, self._gone)
        size = storage.nbytes()
        self.now += size - self._known.get(ref, 0)
        self._known[ref] = size
        self.most = max(self.most, self.now)

    def _gone(self, ref: weakref.ref) -> None:
        self.now -= self._known.pop(ref, 0)
