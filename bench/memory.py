"""How much memory a model needs at a size, told before anything is allocated: a run without data on `meta`."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable

import root  # noqa: F401
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from liveact_app.budget.dryrun import STEADY_BLOCK
from liveact_kernels.contract import FUNCTIONAL, Call, backend_of, record
from liveact_model.avatar import Avatar
from liveact_model.session import Session

GIB = 1 << 30
FIXED = 2 * GIB  # CUDA context, the audio network, libraries' workspaces, the allocator's rounding
EAGER_COPIES = 3  # float32 copies of its largest tensor that an op on plain torch holds at once


class Live(TorchDispatchMode):
    """Bytes of tensors made inside that are still alive, and their peak; a view counts once, with its owner."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, object] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            if isinstance(t, torch.Tensor):
                self._count(t.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen[key] = weakref.finalize(storage, self._free, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _free(self, key: int, size: int) -> None:
        del self._seen[key]
        self.now -= size


class _Eager:
    """Recorder: what ops on plain torch hold besides their results, at the worst moment."""

    clocked = False

    def __init__(self, live: Live, device: torch.device):
        self._live, self._device, self.peak = live, device, 0

    def add(self, call: Call, seconds: float | None) -> None:
        """One call has just returned: its results are alive."""
        op, d = call.op, call.dims
        if backend_of(op, self._device) in FUNCTIONAL:
            read = [s for a, s in op.args.items() if getattr(d, f"has_{a}", True)]
            tensors = [*read, *(s for s in op.out.values() if s.present(d))]
            largest = max(math.prod(s.shape(d)) for s in tensors)
            self.peak = max(self.peak, self._live.now + EAGER_COPIES * 4 * largest)


def weights(avatar: Avatar) -> int:
    """Bytes of the parts that have weights."""
    parts = [p for p in (avatar.dit, avatar.vae, avatar.audio) if isinstance(p, torch.nn.Module)]
    return sum(t.nbytes for p in parts for t in (*p.parameters(), *p.buffers()))


def predict(avatar: Avatar, size: tuple[int, int], eight_bit: bool, device: torch.device) -> int:
    """Peak bytes of a Session of `avatar`, which is on `meta`, at (width, height) on `device`."""
    live = Live()
    eager = _Eager(live, device)
    with live, record(eager):
        picture = torch.empty(3, size[1], size[0], device="meta")
        session = Session(avatar, picture, "", eight_bit_attention=eight_bit, graphs=False)
        for _ in range(STEADY_BLOCK + 1):
            session.next_block()
    return weights(avatar) + max(live.peak, eager.peak) + FIXED


def refuse(need: Callable[[str, tuple[int, int]], int], options: list[tuple[str, tuple[int, int]]], free: int,
           where: str) -> str | None:  # fmt: skip
    """None when the first of `options` (precision, size) fits in `free` bytes, else a sentence naming one that does.

    need  predicts the bytes of an option
    """
    wanted, *others = options
    first = need(*wanted)
    if first <= free:
        return None
    said = f"{_name(wanted)} needs about {first / GIB:.1f} GiB and {where} has {free / GIB:.1f} GiB free: "
    for option in others:
        if (size := need(*option)) <= free:
            return said + f"choose {_name(option)} ({size / GIB:.1f} GiB)"
    return said + "choose --model tiny"


def _name(option: tuple[str, tuple[int, int]]) -> str:
    precision, (width, height) = option
    return f"--precision {precision} --size {width}*{height}"
