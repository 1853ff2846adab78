"""Copies of a GPU by what they ask of it, with a stand-in for torch.cuda: streams, events, locked memory, its end."""

import gc
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from liveact_app.limits import lack
from liveact_kernels import copies

DEVICE = torch.device("cuda:0")


class Stream:
    """Writes down what is asked of it."""

    def __init__(self, name, said):
        self.name, self.said = name, said

    def record_event(self):
        self.said.append((self.name, "marks"))
        return f"mark {len(self.said)}"

    def wait_event(self, mark):
        self.said.append((self.name, "waits for", mark))

    def synchronize(self):
        self.said.append((self.name, "synchronises"))


@pytest.fixture
def said(monkeypatch):
    """What reaches the device, in order."""
    said, names, state = [], iter(("in", "out")), SimpleNamespace(code=0)
    computing = Stream("computing", said)
    runtime = SimpleNamespace(
        cudaHostRegister=lambda address, count, flags: said.append(("locks", count)) or state.code,
        cudaHostUnregister=lambda address: said.append(("unlocks",)),
    )

    @contextmanager
    def on(stream):
        said.append(("on", stream.name))
        yield

    cuda = {"Stream": lambda device: Stream(next(names), said), "current_stream": lambda device: computing,
            "stream": on, "cudart": lambda: runtime}  # fmt: skip
    for name, value in cuda.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(copies.Streams, "_move", lambda self, to, value: said.append(("copies", value.nbytes)))
    yield SimpleNamespace(said=said, state=state)


def test_a_copy_waits_by_events_on_the_stream_of_its_direction(said):
    made = copies.beside(DEVICE)
    assert isinstance(made, copies.Streams)
    here, there = torch.zeros(8), torch.zeros(8)
    start = made.now()
    mark = made.copy([(here, there)], (None, start))
    made.wait(mark)
    made.wait(None)
    back = made.copy([(there, here)], (made.now(),), back=True)
    assert said.said == [
        ("computing", "marks"), ("in", "waits for", start), ("on", "in"), ("copies", 32), ("in", "marks"),
        ("computing", "waits for", mark), ("computing", "marks"), ("out", "waits for", "mark 7"), ("on", "out"),
        ("copies", 32), ("out", "marks"),
    ]  # fmt: skip
    assert back == "mark 11" and made.moved == [32, 32]


def test_locked_memory_is_given_back_when_no_copy_is_on_its_way(said):
    made = copies.beside(DEVICE)
    assert len(made.host(1000)) == 1000 and len(made.host(0)) == 0 and made.kept == 1000
    assert said.said == [("locks", 1000)]
    del made
    gc.collect()
    assert said.said[1:] == [("in", "synchronises"), ("out", "synchronises"), ("unlocks",)]


def test_a_driver_that_refuses_is_one_sentence(said):
    said.state.code = 2
    with pytest.raises(MemoryError, match=r"^cannot lock 10 bytes of host memory for copies, code 2$") as refused:
        copies.beside(DEVICE).host(10)
    assert lack(refused.value) == "out of memory (cannot lock 10 bytes of host memory for copies, code 2)"


def test_a_room_is_filled_after_what_its_memory_was_used_for(said, monkeypatch):
    room = SimpleNamespace(record_stream=lambda way: said.said.append(("kept for", way.name)))
    monkeypatch.setattr(copies.Copies, "room", lambda self, count: room)
    made = copies.beside(DEVICE)
    assert made.room(9) is room
    waits = [("in", "waits for", "mark 1"), ("kept for", "in"), ("out", "waits for", "mark 1"), ("kept for", "out")]
    assert said.said == [("computing", "marks"), *waits]


def test_the_right_kind_for_a_device():
    kinds = {name: type(copies.beside(torch.device(name))) for name in ("cpu", "meta")}
    assert kinds == {"cpu": copies.Copies, "meta": copies.Unmoved}


def test_a_copy_without_values_moves_none_and_no_counter_sees_its_host_memory():
    from liveact_kernels.cost.memory import Live

    made = copies.beside(torch.device("meta"))
    with Live(kind="meta") as live:
        host, room = made.host(1 << 40), made.room(64)
        made.fill(host[:64], room)
        made.wait(made.copy([(room, host[:64])], (made.now(),)))
        assert live.now == 64 and made.kept == 1 << 40 and made.moved == [64, 0]
    assert host.device.type == "cpu" and room.is_meta
