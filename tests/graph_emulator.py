"""CUDA graphs on a CPU, for tests: what a captured call does to fixed tensors, without a GPU.

Capturing logs every torch operation with the very tensors it touched, then undoes what it wrote and spoils what it
made, as a real capture (which runs nothing) leaves them. A replay runs the log again on the same tensors. A call that
reads a new tensor, or asks for a value on the host, shows here as it would on a GPU.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from liveact_kernels import graphs

HOST_READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal")


def _tensors(tree):
    return [t for t in torch.utils._pytree.tree_leaves(tree) if isinstance(t, torch.Tensor)]


def _spoil(t):
    if t.dtype.is_floating_point:
        t.view(torch.uint8).fill_(0xFF) if t.is_contiguous() else t.fill_(float("nan"))


class _Log(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls, self.before, self.made = [], {}, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func._schema.name in HOST_READS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func._schema.name}")
        for spec, value in zip(func._schema.arguments, args):
            if spec.alias_info is not None and spec.alias_info.is_write:
                for t in _tensors(value):
                    self._remember(t)
        out = func(*args, **kwargs)
        inside = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        fresh = [t for t in _tensors(out) if t.untyped_storage().data_ptr() not in inside]
        for t in fresh:
            self.made[t.untyped_storage().data_ptr()] = t
        self.calls.append((func, args, kwargs, out, fresh))
        return out

    def _remember(self, t):
        key = t.untyped_storage().data_ptr()
        if key not in self.made and key not in self.before:
            whole = torch.empty(0, dtype=torch.uint8).set_(t.untyped_storage())
            self.before[key] = (whole, whole.clone())


class EmulatedGraphs(graphs.Graphs):
    """Stands in for Graphs."""

    def warm(self, call):
        call()

    def capture(self, call):
        with _Log() as log:
            call()
        for now, then in log.before.values():
            now.copy_(then)
        for t in log.made.values():
            _spoil(t)
        self.captured += 1

        def replay():
            for func, args, kwargs, out, fresh in log.calls:
                again = func(*args, **kwargs)
                for old, new in zip(_tensors(out), _tensors(again)):
                    if any(old is f for f in fresh):
                        old.copy_(new)

        return replay


@contextlib.contextmanager
def emulated(monkeypatch):
    """Sessions made inside capture on the CPU."""
    monkeypatch.setattr("liveact_model.session.supported", lambda device: True)
    monkeypatch.setattr("liveact_model.steps.Graphs", EmulatedGraphs)
    yield
