"""Two ranks that share this GPU through symmetric memory: the overlapped form equals the plain one, and faults show.

Correctness only: two processes take turns on one device, and links between devices play no part.
"""

import group
import pytest
import torch

from liveact_model.parallel.pieces import cut, pieces
from liveact_model.parallel.symmetric_memory import SymmetricMailbox

FRAMES, TOKENS, HEADS, DIM, LAYERS = 8, 301, 4, 128, 7
SHARED = {"device": "cuda:0", "shared_device": True, "env": {"TORCH_SYMM_MEM_ALLOW_OVERLAPPING_DEVICES": "1"}}


class Late(SymmetricMailbox):
    """Rank 1's copies wait on the device before they start."""

    def _copy(self, box, x, target):
        if self.wire.rank == 1:
            torch.cuda._sleep(50_000_000)
        super()._copy(box, x, target)


class LosesSignal(SymmetricMailbox):
    """Rank 1's fourth signal never comes."""

    def _signal(self, target, epoch, turn):
        if (self.wire.rank, epoch) != (1, 4):
            super()._signal(target, epoch, turn)


def prompt_peer(wire):
    return SymmetricMailbox(wire, 30.0)


def late_peer(wire):
    return Late(wire, 30.0)


def loses_signal(wire):
    return LosesSignal(wire, 2.0)


def worst_layer(ranks, dtype):
    """Largest relative error of the overlapped outputs and gathered keys against the form that gathers."""
    worst, ranks.tokens = 0.0, pieces(TOKENS, ranks.size)
    for layer in range(LAYERS):
        g = torch.Generator().manual_seed(layer)
        q, k, v = (torch.randn(FRAMES * TOKENS, HEADS, DIM, generator=g).to(ranks.wire.device, dtype) for _ in range(3))
        mine = [cut(x, FRAMES, ranks.tokens[ranks.rank]) for x in (q, k, v)]
        results = []
        for form in ("gather", "overlap"):
            ranks.form = form
            results.append(ranks.attend(layer, FRAMES, *mine, {}))
        for want, got in zip(*results):
            worst = max(worst, ((got - want).float().norm() / want.float().norm()).item())
    return worst


@pytest.mark.parametrize("dtype,bound", [(torch.float32, 2e-5), (torch.bfloat16, 5e-3)], ids=str)
@pytest.mark.parametrize("mail", [prompt_peer, late_peer])
def test_pushed_pieces_give_what_gathered_ones_give(mail, dtype, bound):
    assert max(group.run(worst_layer, 2, dtype, mail=mail, **SHARED)) < bound


def test_a_lost_signal_is_an_error_and_never_a_result():
    answers = group.collect(*group.start(worst_layer, 2, torch.float32, mail=loses_signal, **SHARED), expect=1)
    assert all(answer is None or answer[1] for answer in answers), answers
