"""One-sided exchange under faults: a late peer changes nothing, a race shows, a lost signal ends with a clear error."""

import glob
import inspect
import os
import re
import signal
import time

import group
import pytest
import torch

from liveact_kernels import ops
from liveact_model.parallel import symmetric_memory
from liveact_model.parallel.pieces import cut, pieces
from liveact_model.parallel.shared_memory import SharedMemoryMailbox

FRAMES, TOKENS, HEADS, DIM, LAYERS = 8, 7, 2, 8, 6
LATE_S = 0.05


class LatePeer(SharedMemoryMailbox):
    """Rank 1 pushes late, and later with every exchange it has made."""

    def _send(self, epoch, *rest):
        time.sleep(LATE_S * (self.wire.rank == 1) * (1 + epoch % 3))
        super()._send(epoch, *rest)


class LateReader(SharedMemoryMailbox):
    """Rank 1 dawdles between being told that a piece is there and reading it."""

    def wait(self, source, what):
        super().wait(source, what)
        time.sleep(LATE_S * (self.wire.rank == 1))


class SignalsFirst(SharedMemoryMailbox):
    """Rank 1 signals before it copies: a transport that is wrong."""

    def _send(self, epoch, turn, parts, sent, targets):
        if self.wire.rank == 1:
            for target, _ in targets:
                self._signal(target, epoch, turn)
            time.sleep(LATE_S)
        super()._send(epoch, turn, parts, sent, targets)


class LosesSignal(SharedMemoryMailbox):
    """Rank 1's fourth signal never comes; only the wait for it is short, so a busy machine loses no other."""

    def _await(self, source, epoch, *rest):
        self.timeout_s = 1.0 if (source, epoch) == (1, 4) else group.HANGS_S
        super()._await(source, epoch, *rest)

    def _signal(self, target, epoch, turn):
        if (self.wire.rank, epoch) != (1, 4):
            super()._signal(target, epoch, turn)


class DiesSharing(SharedMemoryMailbox):
    """Rank 1 is killed when its memory is there and nobody has mapped it yet."""

    def _create(self, *args):
        made = super()._create(*args)
        if self.wire.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return made


def prompt(wire):
    return SharedMemoryMailbox(wire, group.HANGS_S)


def late_peer(wire):
    return LatePeer(wire, group.HANGS_S)


def late_reader(wire):
    return LateReader(wire, group.HANGS_S)


def late_reader_of_one_box(wire):
    return LateReader(wire, group.HANGS_S, boxes=1)


def signals_first(wire):
    return SignalsFirst(wire, group.HANGS_S)


def loses_signal(wire):
    return LosesSignal(wire, group.HANGS_S)


def dies_sharing(wire):
    return DiesSharing(wire, 20.0)


def inputs(layer):
    g = torch.Generator().manual_seed(layer)
    return [torch.randn(FRAMES * TOKENS, HEADS, DIM, generator=g) for _ in range(3)]


def worst_layer(ranks):
    """Largest error of the outputs and of the gathered keys over some layers, against one rank's."""
    ranks.form, worst = "overlap", 0.0
    ranks.tokens = pieces(TOKENS, ranks.size)
    for layer in range(LAYERS):
        whole = inputs(layer)
        mine = [cut(x, FRAMES, ranks.tokens[ranks.rank]) for x in whole]
        out, k, v = ranks.attend(layer, FRAMES, *mine, {})
        want = cut(ops.attention(q=whole[0], k_new=whole[1], v_new=whole[2]), FRAMES, ranks.tokens[ranks.rank])
        pairs = ((out, want), (k, whole[1]), (v, whole[2]))
        worst = max(worst, *((a - b).abs().max().item() for a, b in pairs))
    return worst


@pytest.mark.parametrize("mail,size", [(late_peer, 3), (late_reader, 2)])
def test_a_late_rank_changes_nothing(mail, size):
    assert max(group.run(worst_layer, size, mail=mail)) < 1e-5


def test_a_signal_before_its_data_would_be_seen():
    assert max(group.run(worst_layer, 2, mail=signals_first)) > 1e-2


def test_a_box_written_while_it_is_read_is_an_error():
    answers = group.collect(*group.start(worst_layer, 2, mail=late_reader_of_one_box))
    assert any(error and "wrote over exchange" in error for _, error in answers), answers


def test_a_lost_signal_ends_in_a_timeout_that_names_peer_and_layer():
    answers = group.collect(*group.start(worst_layer, 2, mail=loses_signal))
    assert all(error and error.startswith("PeerError") for _, error in answers), answers
    assert any("layer 3: nothing from rank 1 within 1 s" in error for _, error in answers), answers


@pytest.mark.parametrize("mail,survivors", [(prompt, 2), (loses_signal, 2), (dies_sharing, 1)])
def test_nothing_stays_in_shared_memory(mail, survivors):
    started, results = group.start(worst_layer, 2, mail=mail)
    group.collect(started, results, expect=survivors)
    assert glob.glob(f"/dev/shm/*{started[0].pid}*") == []


def test_this_torch_has_what_symmetric_mailboxes_call():
    called = set(re.findall(r"self\._handle\.(\w+)", inspect.getsource(symmetric_memory)))
    assert called == {"get_buffer", "put_signal", "wait_signal"}
    handle = torch._C._distributed_c10d._SymmetricMemory
    assert [name for name in called if not hasattr(handle, name)] == []
    assert [name for name in ("empty", "rendezvous") if not hasattr(symmetric_memory.symmetric_memory, name)] == []
