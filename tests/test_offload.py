"""Offloaded weights and memory: the same video bit for bit however late copies are, and no order left to chance."""

import sys
from pathlib import Path

import group
import pytest
import small
import torch
from copy_emulator import LateCopies, late

from liveact_kernels.copies import Copies
from liveact_model import offload
from liveact_model.dit import Precision, Streamed
from liveact_model.errors import InputError
from liveact_model.parallel import ALONE
from liveact_model.session import Session

BLOCKS = 4
OPTIONS = [
    ("float32", {}),
    ("fp8", {"eight_bit_attention": True}),
    ("bfloat16", {"audio_cfg": 1.7, "eight_bit_memory": True, "sampler": "euler"}),
]


def avatar(precision="float32", layers=2, blocks=False):
    made = small.avatar(small.CONFIG.with_(num_layers=layers))
    made.dit.to_precision(precision)
    if blocks:
        made.dit.streamed = Streamed.of(made.dit.blocks, torch.device("cpu"))
    return made


def video(made, parallel=ALONE, **options):
    """Blocks of a session, with another prompt in the middle."""
    session = Session(made, small.picture(), "happy", parallel=parallel, **options)
    session.push_audio(small.speech(2 * BLOCKS))
    out = []
    for block in range(BLOCKS):
        if block == 2:
            session.set_prompt("a sad person nodding")
        out.append(session.next_block())
    session.close()
    return torch.cat(out)


MIXED = Precision("fp8", (("blocks.1.ffn", "bfloat16"),), source="mixed")  # the second block is the larger one


# ---- the video -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("blocks,memory", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("precision,options", OPTIONS, ids=str)
def test_the_same_video_however_late_copies_are(monkeypatch, precision, options, blocks, memory, layers):
    want = video(avatar(precision, layers), **options)
    with late(monkeypatch) as machine:
        got = video(avatar(precision, layers, blocks), memory_offload=memory, **options)
    assert torch.equal(want, got)
    assert machine.races == [] and machine.log
    assert torch.equal(want, video(avatar(precision, layers, blocks), memory_offload=memory, **options))  # at once


def test_slots_hold_the_largest_block_of_a_plan(monkeypatch):
    want = video(avatar(MIXED))
    with late(monkeypatch) as machine:
        assert torch.equal(want, video(avatar(MIXED, blocks=True))) and machine.races == []


def test_two_sessions_take_turns_on_one_model(monkeypatch):
    want = [video(avatar()), video(avatar(), seed=7)]
    with late(monkeypatch) as machine:
        made = avatar(blocks=True)
        first, second = (small.session(made, BLOCKS, seed=seed, memory_offload=True) for seed in (42, 7))
        got = [[], []]
        for block in range(BLOCKS):
            for session, out in ((first, got[0]), (second, got[1])):
                if block == 2:
                    session.set_prompt("a sad person nodding")
                out.append(session.next_block())
    assert all(torch.equal(a, torch.cat(b)) for a, b in zip(want, got)) and machine.races == []


class Deaf(LateCopies):
    """Computing waits for nothing."""

    def wait(self, mark):
        pass


class Hasty(LateCopies):
    """Copies wait for nothing."""

    def copy(self, pairs, after, back=False):
        return super().copy(pairs, (), back)


class HastyBack(LateCopies):
    """The way back does not wait for what computes."""

    def copy(self, pairs, after, back=False):
        return super().copy(pairs, () if back else after, back)


@pytest.mark.parametrize("careless", [Deaf, Hasty, HastyBack])
def test_a_forgotten_wait_is_seen(monkeypatch, careless):
    """Each kind of wait is needed: without it the emulator finds the race, and mostly another video."""
    monkeypatch.setattr("copy_emulator.LateCopies", careless)
    for blocks, memory in ((True, False), (False, True)):
        if blocks and careless is HastyBack:  # weights do not come back
            continue
        want = video(avatar())
        with late(monkeypatch) as machine:
            got = video(avatar(blocks=blocks), memory_offload=memory)
        assert machine.races, (careless, blocks, memory)
        assert careless is not Deaf or not torch.equal(want, got)


MARKS = ("wait(self._arrived[slot])", "wait(self._free[slot])", "(self._free[slot],)", "(done,)")


@pytest.mark.parametrize("line", MARKS)
def test_every_mark_of_the_belt_is_needed(monkeypatch, line):
    """The belt's own source with one mark left out."""
    source = Path(offload.__file__).read_text(encoding="utf-8")
    assert source.count(line) == 1
    spoilt = source.replace(line, "wait(None)" if line.startswith("wait") else "(None,)")
    module = type(offload)("liveact_model.spoilt")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(spoilt, "spoilt", "exec"), module.__dict__)
    for room in ("streamed", "away"):
        monkeypatch.setattr(f"liveact_model.dit.{room}.Belt", module.Belt)
    races = []
    for layers in (1, 2):  # with one layer the memory of three steps has a slot each, and stays in it
        with late(monkeypatch) as machine:
            video(avatar(layers=layers, blocks=True), memory_offload=True)
        races += machine.races
    assert races


# ---- the belt --------------------------------------------------------------------------------------------------------


class Written(Copies):
    """Writes down what it is asked, in order; marks are numbers."""

    def __init__(self):
        super().__init__(torch.device("cpu"))
        self.said, self.names = [], {}

    def _mark(self, what):
        self.said.append(what)
        return len(self.said)

    def now(self):
        return self._mark("computed")

    def copy(self, pairs, after, back=False):
        (to, value), *_ = pairs
        name = self.names[(value if back else to).data_ptr()], self.names[(to if back else value).data_ptr()]
        return self._mark(("back" if back else "to", *name, tuple(after)))

    def wait(self, mark):
        if mark is not None:
            self.said.append(("waits for", mark))


def belt(groups, changing=False):
    copies = Written()
    slots = offload.alternate(groups)
    made = offload.Belt(slots, [(i + 1) % groups for i in range(groups)], copies)
    rooms, hosts = (torch.zeros(n, 4) for n in (max(slots) + 1, groups))
    copies.names |= {room.data_ptr(): f"slot {i}" for i, room in enumerate(rooms)}
    copies.names |= {host.data_ptr(): i for i, host in enumerate(hosts)}
    for i, slot in enumerate(slots):
        pair = [(rooms[slot], hosts[i])]
        made.admit(i, pair, pair if changing else None)
    return made, copies.said


def visit(made, groups):
    for i in groups:
        made.take(i)
        made.leave(i)


def test_the_next_group_travels_while_one_computes_and_the_first_while_the_last_one_does():
    made, said = belt(4)
    visit(made, [0])
    assert said == [("to", "slot 0", 0, (None,)), ("waits for", 1), ("to", "slot 1", 1, (None,)), "computed"]
    del said[:]
    said.extend(["-"] * 4)  # marks are positions
    visit(made, [1, 2, 3, 0])
    copies = [(i, line) for i, line in enumerate(said, 1) if line[0] == "to"]
    assert [line[1:3] for _, line in copies] == [("slot 0", 2), ("slot 1", 3), ("slot 0", 0), ("slot 1", 1)]
    computed = [i for i, line in enumerate(said, 1) if line == "computed"]
    for (at, line), before in zip(copies, [4, *computed]):
        assert line[3] == (before,) and at < computed[computed.index(before) + 1 if before > 4 else 0]


def test_an_odd_number_of_groups_has_a_third_slot_and_no_stall_either():
    assert [offload.alternate(n) for n in (1, 2, 3, 5)] == [[0], [0, 1], [0, 1, 2], [0, 1, 0, 1, 2]]
    made, said = belt(5)
    visit(made, range(5))
    del said[:]
    visit(made, range(5))
    wanted = [line[2] for line in said if line[0] == "to"]
    assert wanted == [1, 2, 3, 0]  # 4 has stayed
    assert not any(line[0] == "to" and said[i + 1][0] == "waits for" and said[i + 1][1] == i + 1
                   for i, line in enumerate(said[:-1]))  # fmt: skip


def test_what_changes_comes_back_and_its_slot_waits_for_that():
    made, said = belt(4, changing=True)
    visit(made, [0, 1, 2])
    back = [(i, line) for i, line in enumerate(said, 1) if line[0] == "back"]
    assert [line[2] for _, line in back] == [0, 1, 2]
    assert all(said[line[3][0] - 1] == "computed" for _, line in back)
    two = next(line for line in said if line[:3] == ("to", "slot 0", 2))
    assert two[3] == (back[0][0],)


def test_a_group_out_of_order_is_fetched_late_and_is_right():
    made, said = belt(4)
    visit(made, [0])
    del said[:]
    made.take(3)
    assert [line[2] for line in said if line[0] == "to"] == [3]  # 1 was on its way to that slot; 0 is there still
    assert said[-1] == ("waits for", 1)


def test_tensors_of_a_slot_are_aligned():
    like = [torch.empty(3, 5), torch.empty(7, dtype=torch.int8), torch.empty((), dtype=torch.float64)]
    memory = torch.empty(offload.span(like), dtype=torch.uint8)
    made = list(offload.cut(memory, like))
    assert [(t.shape, t.dtype) for t in made] == [(t.shape, t.dtype) for t in like]
    assert [t.data_ptr() - memory.data_ptr() for t in made] == [0, 256, 512] and len(memory) == 768


def test_what_travels_in_a_steady_block():
    made = avatar(layers=4, blocks=True)
    session = small.session(made, 6, memory_offload=True)
    for _ in range(2):
        session.next_block()
    steps, once = (b.copies.moved for b in made.dit.streamed.belts)
    memory, before = session._memories.belt.copies.moved, []
    for moved in (steps, once, memory):
        before.append(list(moved))
    session.next_block()
    (a, _), (b, _), (c, d) = ([x - y for x, y in zip(m, n)] for m, n in zip((steps, once, memory), before))
    belt = made.dit.streamed.belts[0]
    assert a == 3 * belt.host_bytes and b == sum(h.nbytes for g in range(8, 12) for _, h in _pairs(made, g))
    window = sum(t.nbytes for w in session._windows for m in w.layers.values() for t in m.tensors())
    assert c == window and d * 3 == window * 2  # the reference slots do not change


def _pairs(made, group):
    return made.dit.streamed.belts[1]._pairs[group]


# ---- the Session -----------------------------------------------------------------------------------------------------


def test_graphs_and_offload_exclude_each_other():
    with pytest.raises(InputError, match="graphs: expected None or False where weights or memory are offloaded"):
        small.session(avatar(), 1, memory_offload=True, graphs=True)
    with pytest.raises(InputError, match="graphs: expected None or False"):
        small.session(avatar(blocks=True), 1, graphs=True)
    with pytest.raises(InputError, match="memory_offload: expected True or False, got 'yes'"):
        small.session(avatar(), 1, memory_offload="yes")
    with pytest.raises(RuntimeError, match="capture: copies beside"):
        small.session(avatar(blocks=True), 1).capture()


def of_ranks(ranks, blocks, memory, options):
    made = avatar(blocks=blocks)
    if ranks.leads:
        return video(made, parallel=ranks, memory_offload=memory, **options)
    made.text = made.image = made.audio = None
    return Session(made, None, "", parallel=ranks, memory_offload=memory, **options).follow()


def test_several_ranks_each_move_their_own():
    want = group.run(of_ranks, 2, False, False, {"eight_bit_memory": True})[0]
    assert torch.equal(group.run(of_ranks, 2, True, True, {"eight_bit_memory": True})[0], want)
