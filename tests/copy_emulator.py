"""Copies beside the computing on a CPU, for tests: as late as they may be, and an order that nothing ensures is named.

A copy runs when somebody waits for its mark, or a later one of its stream must run: whoever forgets a wait reads what
was there before. That shows one order of many, so there is a clock for every stream as well: a mark carries what is
known to be over, and two uses of the same memory, one of them a write, of which neither is known to be over at the
other, are a race on some machine.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from liveact_kernels.copies import Copies

COMPUTE = 0


class Mark:
    def __init__(self, known, copy=None):
        self.known, self.copy = known, copy


class Job:
    """One copy that may still have to be made."""

    def __init__(self, owner, back, pairs, after):
        self.owner, self.back, self.pairs, self.after = owner, back, pairs, after


class Machine(TorchDispatchMode):
    """The streams of one device. `log` has the copies in order of issue, `races` what is not ordered."""

    def __init__(self):
        super().__init__()
        self.clocks = [{}]  # of each stream: {stream: the last of its moments that is over}
        self.uses = {}  # address -> {"write": (stream, moment), "read": {stream: moment}} of watched memory
        self.races, self.log, self.asleep = [], [], False

    def stream(self):
        self.clocks.append({})
        return len(self.clocks) - 1

    def watch(self, memory):
        self.uses[memory.untyped_storage().data_ptr()] = {"write": None, "read": {}, "of": memory}

    def tick(self, stream):
        clock = self.clocks[stream]
        clock[stream] = clock.get(stream, 0) + 1
        return clock[stream]

    def learn(self, stream, known):
        for other, moment in known.items():
            self.clocks[stream][other] = max(self.clocks[stream].get(other, 0), moment)

    def touch(self, stream, tensor, writes, what):
        use = self.uses.get(tensor.untyped_storage().data_ptr())
        if use is None:
            return
        before = [use["write"], *(use["read"].items() if writes else ())]
        for other, moment in filter(None, before):
            if self.clocks[stream].get(other, 0) < moment:
                self.races.append(f"{what} on stream {stream} {'writes' if writes else 'reads'} beside stream {other}")
        moment = self.clocks[stream][stream]
        if writes:
            use["write"], use["read"] = (stream, moment), {}
        else:
            use["read"][stream] = moment

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.asleep or func.is_view:
            return func(*args, **kwargs)
        self.tick(COMPUTE)
        written = []
        named = [(spec, kwargs.get(spec.name)) for spec in func._schema.arguments]
        for spec, value in [*zip(func._schema.arguments, args), *named]:
            for t in torch.utils._pytree.tree_leaves(value):
                if isinstance(t, torch.Tensor):
                    writes = spec.alias_info is not None and spec.alias_info.is_write
                    (written.append(t) if writes else self.touch(COMPUTE, t, False, func.__name__))
        for t in written:
            self.touch(COMPUTE, t, True, func.__name__)
        return func(*args, **kwargs)


class LateCopies(Copies):
    """Stands in for Copies on a Machine."""

    def __init__(self, device, machine):
        super().__init__(device)
        self.machine, self.ways, self.waiting = machine, (machine.stream(), machine.stream()), ([], [])

    def _host(self, count):
        return self._watched(super()._host(count), 0x55)

    def room(self, count):
        return self._watched(super().room(count), 0xFF)

    def _watched(self, memory, spoilt):
        self.machine.asleep = True
        memory.fill_(spoilt)
        self.machine.asleep = False
        self.machine.watch(memory)
        return memory

    def fill(self, to, value):
        self.machine.asleep = True
        to.copy_(value)
        self.machine.asleep = False

    def now(self):
        self.machine.tick(COMPUTE)
        return Mark(dict(self.machine.clocks[COMPUTE]))

    def copy(self, pairs, after, back=False):
        pairs, after, way = list(pairs), [mark for mark in after if mark is not None], self.ways[back]
        for mark in after:
            self.machine.learn(way, mark.known)
        self.machine.tick(way)
        for to, value in pairs:
            self.moved[back] += value.nbytes
            self.machine.touch(way, value, False, "a copy")
            self.machine.touch(way, to, True, "a copy")
        job = Job(self, back, pairs, after)
        self.waiting[back].append(job)
        self.machine.log.append(job)
        return Mark(dict(self.machine.clocks[way]), job)

    def wait(self, mark):
        if mark is not None:
            self.machine.learn(COMPUTE, mark.known)
            _run(mark)


def _run(mark):
    """Make a copy and all that come before it."""
    if mark.copy is None:
        return
    owner = mark.copy.owner
    queue = owner.waiting[mark.copy.back]
    while mark.copy in queue:
        for earlier in queue[0].after:
            _run(earlier)
        owner.machine.asleep = True
        for to, value in queue.pop(0).pairs:
            to.copy_(value)
        owner.machine.asleep = False


@contextlib.contextmanager
def late(monkeypatch):
    """Copies made inside are late, and what computes inside is watched."""
    machine = Machine()
    for name in ("liveact_model.dit.streamed.beside", "liveact_model.dit.away.beside"):
        monkeypatch.setattr(name, lambda device: LateCopies(device, machine))
    with machine:
        yield machine
