"""Captured denoise steps: replaying equals running, on fixed tensors only, and nothing is captured late."""

import pytest
import small
import torch
from graph_emulator import EmulatedGraphs, emulated

from liveact_kernels import graphs, ops
from liveact_model.errors import InputError
from liveact_model.session import Session
from liveact_model.vae.tiny import TinyDecoder

OPTIONS = [
    {},
    {"audio_cfg": 1.7},
    {"eight_bit_memory": True, "sampler": "euler"},
    {"eight_bit_attention": True},
]


def session(prompt="happy", **options):
    made = Session(small.avatar(), small.picture(), prompt, **options)
    made.push_audio(small.speech(14))
    return made


def five(made, changes=()):
    """Five blocks, with prompts set before some of them."""
    out = []
    for block in range(5):
        for at, prompt in changes:
            if at == block:
                made.set_prompt(prompt)
        out.append(made.next_block())
    return out


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_replay_is_bitwise_eager(monkeypatch, options):
    want = five(session(**options))
    with emulated(monkeypatch):
        made = session(**options)
    assert made.captured() == 2 * 4  # the first block and all later ones; hearing and three steps
    got = five(made)
    assert all(torch.equal(a, b) for a, b in zip(want, got))
    assert made.live_compilations() == 0 and made.captured() == 8


def test_a_prompt_of_the_same_shape_is_copied_in(monkeypatch):
    changes = ((2, "angry"), (4, "sad"))
    want = five(session(), changes)
    with emulated(monkeypatch):
        made = session()
    assert all(torch.equal(a, b) for a, b in zip(want, five(made, changes))) and made.captured() == 8


@pytest.mark.parametrize("at,captured", [(0, 8), (3, 12)])
def test_a_prompt_of_another_shape_is_captured_when_it_is_set(monkeypatch, at, captured):
    monkeypatch.setattr("liveact_model.dit.embed.TextEmbedding.ROWS", 2)
    changes = ((at, "a very happy person is waving and nodding"),)
    want = five(session("sad"), changes)
    with emulated(monkeypatch):
        made = session("sad")
    got = five(made, changes)
    assert all(torch.equal(a, b) for a, b in zip(want, got)) and made.captured() == captured


def test_memory_is_made_once(monkeypatch):
    with emulated(monkeypatch):
        made = session()
    made.next_block()
    before = [t.data_ptr() for w in made._all_windows for m in w.layers.values() for t in m.tensors()]
    five(made)
    assert before == [t.data_ptr() for w in made._all_windows for m in w.layers.values() for t in m.tensors()]


def test_the_decoder_runs_before_the_first_block(monkeypatch):
    """What both kinds of block decode compiles at the start; the video's own decoder has still seen nothing."""
    heard, decode = [], TinyDecoder.decode

    def listening(self, latents):
        heard.append((self, latents.shape[1]))
        return decode(self, latents)

    monkeypatch.setattr(TinyDecoder, "decode", listening)
    with emulated(monkeypatch):
        made = session()
    assert [n for _, n in heard] == [6, 8] and heard[0][0] is heard[1][0] is not made._decoder


def test_capturing_runs_nothing():
    """The emulator is worth something: tensors are as before, outputs are garbage until the replay."""
    a, b = torch.ones(4), torch.zeros(4)
    made = []
    replay = EmulatedGraphs().capture(lambda: (made.append(a * 2), b.add_(a)))
    assert made[0].isnan().all() and not b.any()
    a.fill_(3)
    replay()
    assert torch.equal(made[0], torch.full((4,), 6.0)) and torch.equal(b, torch.full((4,), 3.0))
    with pytest.raises(RuntimeError, match="capturing"):
        EmulatedGraphs().capture(lambda: a.sum().item())


def test_a_device_without_graphs_refuses_them_and_a_running_session_too():
    with pytest.raises(InputError, match="graphs: expected a device that captures calls, got cpu"):
        session(graphs=True)
    made = session()
    assert made.captured() == 0 and made.live_compilations() == 0
    made.next_block()
    with pytest.raises(RuntimeError, match="already made a block"):
        made.capture()


def test_prompts_are_warmed_at_every_length(monkeypatch):
    monkeypatch.setattr("liveact_model.dit.embed.TextEmbedding.ROWS", 3)
    seen, whole = set(), ops.cross_attention

    def attention(**kw):
        seen.add((kw["k_text"].shape[0], kw["pad"]))
        return whole(**kw)

    monkeypatch.setattr(ops, "cross_attention", attention)
    with emulated(monkeypatch):
        session()
    assert {(3, 6), (6, 3), (8, 1)} <= seen


def test_compilations_are_counted_beside_an_earlier_hook():
    heard = []
    hook = graphs._count(lambda **kw: heard.append(kw) or "kept")
    before = graphs._compiled
    assert hook(key=1) == "kept" and heard == [{"key": 1}] and graphs._compiled == before + 1
    assert graphs._count(None)() is None and graphs._compiled == before + 2
