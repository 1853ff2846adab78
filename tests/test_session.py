"""The Session: what it depends on, what it must not depend on, and that nothing grows."""

import gc
import itertools
import weakref

import pytest
import small
import torch

from liveact_kernels.contract import CallList, record
from liveact_model.errors import InputError
from liveact_model.schedule import blocks_for, coefficients, noise, released_blocks
from liveact_model.session import Session
from liveact_model.vae.tiny import TinyDecoder


def run(blocks, chunk=1600, prompt="happy", avatar=None, **options):
    """Video frames of some blocks, audio pushed in chunks as needed."""
    session = Session(avatar or small.avatar(), small.picture(), prompt, **options)
    audio = iter(small.speech(12).split(chunk))
    out = []
    for _ in range(blocks):
        while not session.ready():
            session.push_audio(next(audio))
        out.append(session.next_block())
    return session, out


def test_block_lengths_and_types():
    session, blocks = run(3)
    assert [tuple(b.shape) for b in blocks] == [(21, 32, 32, 3), (32, 32, 32, 3), (32, 32, 32, 3)]
    assert all(b.dtype == torch.uint8 for b in blocks)
    assert session.video_frames_made == 85 and session.blocks_made == 3


def test_frames_do_not_depend_on_how_audio_arrives():
    (_, a), (_, b) = run(4, chunk=16000 * 12), run(4, chunk=777)
    assert all(torch.equal(x, y) for x, y in zip(a, b))


def test_seed_audio_prompt_sampler_and_guidance_all_matter():
    def last(**options):
        return run(3, **options)[1][-1].float()

    base = last()
    assert torch.equal(base, last())
    for other in ({"seed": 1}, {"prompt": "angry"}, {"sampler": "euler"}, {"audio_cfg": 2.0}, {"fps": 25}):
        assert (base - last(**other)).abs().max() > 0, other


def test_prompt_change_keeps_memory_and_starts_at_the_next_block():
    def four(change):
        session = Session(small.avatar(), small.picture(), "happy")
        session.push_audio(small.speech(12))
        out = [session.next_block() for _ in range(2)]
        session.set_prompt(change)
        return out + [session.next_block() for _ in range(2)]

    straight, same, changed = four("happy"), four("happy"), four("angry")
    assert all(torch.equal(a, b) for a, b in zip(straight, same))
    assert all(torch.equal(a, b) for a, b in zip(straight[:2], changed[:2]))
    assert not torch.equal(straight[2], changed[2])
    fresh = run(4, chunk=12 * 16000, prompt="angry")[1]
    assert not torch.equal(fresh[2], changed[2])  # what went before the change is remembered


@pytest.mark.parametrize("options", [{}, {"eight_bit_memory": True}, {"audio_cfg": 1.5}])
def test_memory_is_constant_from_the_first_block_on(options):
    session, _ = run(1, **options)
    session.push_audio(small.speech(12))
    sizes = set()
    for _ in range(5):
        session.next_block()
        sizes.add(session.memory_bytes())
    assert len(sizes) == 1
    slots, tokens, layers = 6, 4, 2
    per_slot = 2 * tokens * 32 * 4 if "eight_bit_memory" not in options else 2 * tokens * (32 + 2 * 4)
    windows = 5 if "audio_cfg" in options else 3  # guidance has none for the first step, which hears nothing
    assert sizes == {slots * per_slot * layers * windows}


def test_eight_bit_memory_changes_little_and_something():
    plain, eight = run(4)[1], run(4, eight_bit_memory=True)[1]
    assert torch.equal(plain[0], eight[0])
    difference = (plain[-1].float() - eight[-1].float()).abs()
    assert 0 < difference.mean() < 4


def test_no_tensor_outlives_its_block():
    session, _ = run(2)
    session.push_audio(small.speech(30))

    def held():
        gc.collect()
        return sum(t.nbytes for t in gc.get_objects() if type(t) in (torch.Tensor, torch.nn.Parameter))

    counts = []
    for _ in range(6):
        session.next_block()
        counts.append(held())
    slack = 30 * 16000 * 4  # the pushed audio drains meanwhile
    assert max(counts) - counts[0] <= 0 and counts[0] - min(counts) <= 2 * slack


@pytest.mark.parametrize("at_once", [1, 3])
def test_decoding_in_pieces_gives_the_same_video(monkeypatch, at_once):
    """In both the first block, of 6 latent frames, and a later one, of 8."""
    whole, seen, decode = run(2)[1], [], TinyDecoder.decode
    monkeypatch.setattr(TinyDecoder, "decode", lambda self, x: (seen.append(x.shape[1]), decode(self, x))[1])
    pieces = run(2, decode_latent_frames=at_once)[1]
    assert max(seen) == at_once and sum(seen) == 6 + 8
    for a, b in zip(whole, pieces, strict=True):
        assert a.shape == b.shape and (a.int() - b.int()).abs().max() <= 1  # sums may add in another order


def test_the_first_block_s_steps_are_let_go():
    """Keys and values of its audio, its latents and its conditioning: nothing reads them again."""
    session = Session(small.avatar(), small.picture(), "")
    steps = weakref.ref(session._first)
    session.push_audio(small.speech(2))
    session.next_block()
    gc.collect()
    assert steps() is None
    with pytest.raises(RuntimeError, match="already made a block"):
        session.capture()


def test_done_and_ready_follow_the_audio():
    session = Session(small.avatar(), small.picture(), "")
    assert not session.ready() and not session.done
    with pytest.raises(RuntimeError, match="push it"):
        session.next_block()
    session.push_audio(small.speech(1.0))
    assert not session.ready()  # 20 of 23 video frames
    session.push_audio(small.speech(0.2))
    assert session.ready()
    session.close_audio()
    while not session.done:
        session.next_block()
    assert session.blocks_made == blocks_for(24) == 2


@pytest.mark.parametrize(
    "change,words",
    [
        ({"fps": 0.5}, "fps: expected 1 to 60, got 0.5"),
        ({"sampler": "dpm"}, "sampler: expected one of renoise, euler, got 'dpm'"),
        ({"audio_cfg": 0.0}, "audio_cfg: expected 1 to 10"),
        ({"decode_latent_frames": 0}, "decode_latent_frames: expected a whole number from 1 to 8, got 0"),
        ({"decode_latent_frames": 2.5}, "decode_latent_frames: expected a whole number from 1 to 8, got 2.5"),
        ({"image": torch.zeros(3, 30, 32)}, "image: expected .* multiples of 16"),
    ],
)
def test_bad_arguments(change, words):
    args = {"image": small.picture(), "prompt": ""} | change
    with pytest.raises(InputError, match=words):
        Session(small.avatar(), **args)


def test_scopes_name_block_step_and_layer():
    session, _ = run(2)
    session.push_audio(small.speech(12))
    with record(CallList()) as calls:
        session.next_block()
    scopes = {c.scope for c in calls}
    assert ("session", "block[2]", "step[1]", "layer[1]") in scopes
    assert all(s[:2] == ("session", "block[2]") for s in scopes)
    heard = {s[2] for s, name in ((c.scope, c.op.name) for c in calls) if name == "audio_attention"}
    assert heard == {"step[1]", "step[2]"}  # the first denoise step hears nothing


def test_noise_depends_on_its_key_alone():
    a = noise((2, 3), 42, 5, 1)
    torch.randn(10)
    assert torch.equal(a, noise((2, 3), 42, 5, 1))
    keys = list(itertools.product((42, 43), (0, 1), (0, 1)))
    assert len({tuple(noise((4,), *k).tolist()) for k in keys}) == len(keys)


def test_samplers_are_their_formulae():
    latent, v, eps = torch.randn(3, 5, dtype=torch.float64)
    s, t = 0.9375, 0.8333
    c = coefficients("renoise", s, t)
    want = (1 - t) * (latent - s * v) + t * eps
    assert torch.allclose(c.c_latent * latent + c.c_velocity * v + c.c_noise * eps, want)
    c = coefficients("euler", s, t)
    assert torch.allclose(c.c_latent * latent + c.c_velocity * v + c.c_noise * eps, latent - (s - t) * v)
    with pytest.raises(ValueError, match="renoise, euler"):
        coefficients("dpm", s, t)


def test_block_counts():
    assert [blocks_for(n) for n in (1, 21, 22, 53, 54)] == [1, 1, 2, 2, 3]
    assert [released_blocks(s, 20) for s in (0.5, 1.59, 1.6, 3.3)] == [1, 1, 2, 3]
