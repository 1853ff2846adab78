"""The engine of live sessions without a web: time, speech, interrupts, lateness, and fragments of MP4."""

import ast
import io
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from test_layers import imports
from voices import hall

from liveact_app.serve.boxes import AAC_SAMPLES
from liveact_app.serve.clock import Clock
from liveact_app.serve.hall import Wish
from liveact_app.serve.live import Live, Moment
from liveact_app.serve.mux import Muxer
from liveact_app.serve.speech import LAG_S, QUEUE_S, Pcm, Speech
from liveact_app.serve.turns import Turns
from liveact_model.errors import InputError

ROOT = Path(__file__).parent.parent
ENGINE = ("clock", "turns", "speech", "figures", "handover", "maker", "live", "boxes", "mux", "hall", "settings")
WEB = {"fastapi", "starlette", "uvicorn", "websockets", "asyncio", "prometheus_client", "multipart"}
FAST = 12.0
POOL = ThreadPoolExecutor(4)
FIRST, LATER, LOOK = 21, 32, 2


class Fake:
    """A Session whose video frame k is grey level k mod 256, made in no time."""

    def __init__(self, fps=20, slow=(), fails=None, clock=None):
        self.fps, self.slow, self.fails, self.clock = fps, slow, fails, clock
        config = SimpleNamespace(first_block_video_frames=FIRST, block_video_frames=LATER)
        self.avatar = SimpleNamespace(dit=SimpleNamespace(config=config))
        self.blocks_made, self.made, self.heard, self.prompts, self.closed = 0, 0, [], [], False

    def push_audio(self, samples):
        self.heard.append(samples.numpy())

    def ready(self):
        need = self.made + (LATER if self.blocks_made else FIRST) + LOOK
        return sum(map(len, self.heard)) >= need * 16000 / self.fps + 100

    def set_prompt(self, text):
        if text == "bad":
            raise InputError("prompt: expected another one, got 'bad'")
        self.prompts.append((self.blocks_made, text))

    def next_block(self):
        if self.fails == self.blocks_made:
            raise RuntimeError("it broke")
        if self.blocks_made in self.slow:
            time.sleep(self.slow[self.blocks_made] / self.clock.rate)
        count = LATER if self.blocks_made else FIRST
        levels = (torch.arange(self.made, self.made + count) % 256).to(torch.uint8)
        self.made, self.blocks_made = self.made + count, self.blocks_made + 1
        return levels[:, None, None, None].expand(-1, 16, 16, 3).contiguous()

    def live_compilations(self):
        return 0

    def close(self):
        self.closed = True


class Ear:
    """A listener that keeps everything, and acts when a video frame comes."""

    def __init__(self, at=()):
        self.moments, self.events, self.end, self.at = [], [], None, dict(at)

    def moment(self, moment):
        self.moments.append(moment)
        if moment.index in self.at:
            self.at[moment.index]()

    def event(self, event):
        self.events.append(event)

    def ended(self, code, reason):
        assert self.end is None, "ended twice"
        self.end = (code, reason)

    def of(self, kind):
        return [e for e in self.events if e["type"] == kind]

    def sound(self):
        return np.concatenate([m.heard[: m.samples] for m in self.moments])


def run(frames, at=(), fps=20, live=True, rate=FAST, **fake):
    """A session that is closed with video frame `frames`; `at` maps video frames to what is done with the Live."""
    clock, ear = Clock(rate), Ear()
    session = Fake(fps, clock=clock, **fake)
    running = Live(lambda: session, fps, ear, Turns(), clock, POOL)
    running.speech.live = live
    ear.at = {k: (lambda act=act: act(running)) for k, act in dict(at).items()}
    ear.at[frames - 1] = lambda: running.close("enough")
    running.begin()
    assert running.join(60)
    return running, ear, session


def ramp(count, start=0.0):
    return (start + np.arange(count) / 1e6 + 1e-3).astype(np.float32)


def test_no_web_framework_is_imported():
    for name in ENGINE:
        tree = ast.parse((ROOT / "liveact_app" / "serve" / f"{name}.py").read_text(encoding="utf-8"))
        assert not {i.split(".")[0] for i in imports(tree, f"liveact_app.serve.{name}")} & WEB, name


def test_silence_keeps_it_alive_and_frames_come_in_order():
    _, ear, session = run(100)
    assert [m.index for m in ear.moments] == list(range(100))
    assert [int(m.pixels[0, 0, 0]) for m in ear.moments] == list(range(100))
    assert all(m.samples == 800 for m in ear.moments) and not ear.sound().any()
    assert ear.end == ("closed", "enough") and session.closed
    assert len(ear.of("first_frame")) == 1 and [e["block"] for e in ear.of("block")] == [0, 1, 2]
    assert all(len(m.heard) >= 3 * m.samples for m in ear.moments)  # its own and the two after it, for encoders


@pytest.mark.parametrize("fps", [20, 29.97, 12.5])
def test_what_is_heard_is_what_was_pushed_and_the_sound_has_no_holes(fps):
    said = ramp(30_000)
    _, ear, session = run(120, {3: lambda live: live.push(said)}, fps=fps, live=False)
    sound, fed = ear.sound(), np.concatenate(session.heard)
    assert np.array_equal(sound, fed[: len(sound)])  # the same samples at the same place for the model and the ear
    spoken = np.flatnonzero(sound)
    assert len(spoken) == len(said) and np.array_equal(sound[spoken[0] : spoken[-1] + 1], said)
    edges = [int(k * 16000 / Fraction(fps).limit_denominator(1001)) for k in range(121)]
    assert [m.samples for m in ear.moments] == [b - a for a, b in itertools.pairwise(edges)]


def by_hand(live=True):
    """A session of which the test makes every block, so that nothing depends on the clock."""
    running, session = Live(lambda: None, 20, Ear(), Turns(), Clock(), POOL), Fake()
    running.speech.live = live
    return running, session


def test_speech_that_begins_ends_its_block_and_goes_on_in_the_next():
    """A microphone that is a little late must not have a hole in its first word."""
    live, session = by_hand()
    live.maker.block(session, 0.0)
    live.push(ramp(8000))
    live.maker.block(session, 0.0)
    live.push(ramp(26_000, 0.1))
    live.maker.block(session, 0.0)
    live.maker.block(session, 0.0)
    spoken = np.flatnonzero(np.concatenate(session.heard))
    assert len(spoken) == 34_000 and spoken[-1] - spoken[0] == 33_999


def test_speech_that_runs_dry_is_followed_by_the_silence():
    """A recording's last words are not torn from those before, and a pause in a microphone's counts as a gap."""
    for stored in (True, False):
        live, session = by_hand(not stored)
        live.maker.block(session, 0.0)
        live.push(ramp(LATER * 800 + (3000 if stored else 0)))
        live.maker.block(session, 0.0)
        live.push(ramp(0 if stored else 3000))
        live.maker.block(session, 0.0)
        live.maker.block(session, 0.0)
        spoken = np.flatnonzero(np.concatenate(session.heard))
        assert spoken[-1] - spoken[0] == LATER * 800 + 3000 - 1
        assert live.figures.gaps == (0 if stored else 1)


def test_what_a_microphone_is_ahead_is_dropped_and_counted():
    live, session = by_hand()
    live.maker.block(session, 0.0)
    for k in range(60):
        live.push(np.full(1600, 0.001 * (k + 1), np.float32))
    live.maker.block(session, 0.0)
    lag = int(LAG_S * 16_000)
    assert live.speech.queued == lag and live.speech.dropped == 60 * 1600 - LATER * 800 - lag
    heard = np.concatenate(session.heard)
    assert heard[heard > 0][0] > 0.03  # the oldest went


def test_latency_is_counted_from_arrival_to_leaving():
    live, ear, _ = run(120, {3: lambda live: live.push(ramp(4000))}, live=False)
    arrived = ear.moments[3].index
    shown = next(m.index for m in ear.moments if m.heard[: m.samples].any())
    least = (shown - arrived - 1) / 20
    assert live.figures.speech_latency_s >= least > 0.5
    assert ear.of("block")[-1]["latency_ms"] == round(1e3 * live.figures.speech_latency_s)


def test_an_interrupt_drops_what_waits_but_not_what_comes_after():
    def cut(live):
        live.interrupt()
        live.push(ramp(4000, 0.5))

    _, ear, _ = run(120, {3: lambda live: live.push(ramp(200_000)), 30: cut}, live=False)
    (told,) = ear.of("interrupted")
    sound = ear.sound()
    old, new = (sound > 0) & (sound < 0.5), sound >= 0.5
    assert told["dropped_ms"] > 4000 and new.sum() == 4000
    begins = int(told["at"] * 16000)
    assert old[: begins + 3000].any() and not old[begins + 3000 :].any()  # what the model had heard is still shown
    assert np.flatnonzero(new)[0] >= begins


def test_prompts_count_at_the_next_block_and_a_bad_one_is_only_told():
    at = {5: lambda live: live.prompt("sad", 7), 30: lambda live: live.prompt("bad", 8)}
    _, ear, session = run(90, at)
    (told,) = ear.of("prompt")
    assert session.prompts == [(told["block"], "sad")] and told["number"] == 7
    assert told["block"] > 0 and told["at"] == (FIRST + LATER * (told["block"] - 1)) / 20
    assert [e["error"] for e in ear.of("error")] == ["prompt: expected another one, got 'bad'"]


def test_a_late_block_moves_sound_and_picture_together():
    live, ear, _ = run(120, {25: lambda live: live.push(ramp(60_000))}, live=False, slow={2: 6.0})
    assert 20 < live.figures.late_video_frames < 1000  # counted once, not again with every frame after it
    assert [m.index for m in ear.moments] == list(range(120))
    spoken = np.flatnonzero(ear.sound())
    assert np.array_equal(np.diff(spoken), np.ones(len(spoken) - 1))


def test_what_fails_ends_it_with_a_sentence():
    _, ear, session = run(500, fails=2)
    assert ear.end == ("failed", "the session failed (RuntimeError)") and session.closed

    def refuse():
        raise InputError("size: expected 64, got 65")

    def starve():
        raise MemoryError("no room")

    ends = {
        starve: ("failed", "the session failed (out of memory (no room))"),
        refuse: ("input", "size: expected 64, got 65"),
        lambda: 1 / 0: ("failed", "the session failed (ZeroDivisionError)"),
    }
    for act, end in ends.items():
        ear = Ear()
        live = Live(act, 20, ear, Turns(), Clock(FAST), POOL)
        live.begin()
        assert live.join(60) and ear.end == end


@pytest.mark.parametrize("live", [True, False])
def test_samples_one_by_one_wait_in_few_pieces(live):
    speech, said = Speech(live), ramp(5000)
    for k in range(4000):
        speech.push(said[k : k + 1], k)
    speech.push(said[4000:], 4000)
    assert len(speech._parts) <= 2 + 4000 / 320
    assert np.array_equal(np.concatenate([part.samples for part in speech.take(5000)]), said)


def test_a_session_that_fails_to_close_ends_all_the_same():
    session, ear = Fake(), Ear({0: lambda: live.close("enough")})
    session.close = lambda: 1 / 0
    live = Live(lambda: session, 20, ear, Turns(), Clock(FAST), POOL)
    live.begin()
    assert live.join(60) and ear.end == ("closed", "enough")


def test_a_session_that_opens_while_the_hall_closes_ends_too():
    one, ear = hall(), Ear()
    closing, room = threading.Thread(target=one.close), one.room

    def slowly():
        room()
        closing.start()
        closing.join(0.5)  # it either waits for this session or is done already

    one.room = slowly
    _, live = one.open(torch.zeros(3, *reversed(one.size)), Wish(""), ear)
    closing.join(60)
    assert live.join(60) and ear.end[0] == "drained" and not one.live


def test_a_listener_that_fails_ends_the_session():
    ear = Ear()
    ear.moment = lambda moment: 1 / 0
    session = Fake()
    live = Live(lambda: session, 20, ear, Turns(), Clock(FAST), POOL)
    live.begin()
    assert live.join(60) and ear.end[0] == "failed" and session.closed


def test_closing_does_not_wait_for_the_clock():
    live = Live(Fake, 20, Ear(), Turns(), Clock(0.001), POOL)  # a block of it would last half an hour
    live.begin()
    while not live.figures.video_frames:
        time.sleep(0.01)
    live.close("enough")
    assert live.join(60)
    assert live.push(ramp(100)) == 0 and live.speech.queued == 0  # nobody hears it any more


def test_closing_before_there_is_anything_to_show():
    begun, begin, session = threading.Event(), threading.Event(), Fake()

    def start():
        begun.set()
        begin.wait()
        return session

    ear = Ear()
    live = Live(start, 20, ear, Turns(), Clock(FAST), POOL)
    live.begin()
    begun.wait()
    live.close("enough")
    begin.set()
    assert live.join(60) and ear.end == ("closed", "enough") and session.closed and not ear.moments


def test_the_most_urgent_block_is_next():
    turns, order, go = Turns(), [], threading.Event()

    def work(due):
        with turns.take(due):
            order.append(due)

    with turns.take():
        threads = []
        for due in (3.0, 1.0, 2.0):
            threads.append(threading.Thread(target=work, args=(due,)))
            threads[-1].start()
        while turns.waiting < 3:
            go.wait(0.01)
    for thread in threads:
        thread.join()
    assert order == [1.0, 2.0, 3.0]


def test_the_queue_is_bounded_both_ways():
    second = np.ones(16_000, np.float32)
    for live in (True, False):
        speech = Speech(live)
        for k in range(int(QUEUE_S) + 5):
            speech.push(second * k, float(k))
        assert speech.queued == QUEUE_S * 16_000 and speech.dropped == 5 * 16_000 and speech.room == 0
        first = speech.take(100)[0].samples[0]
        assert first == (int(QUEUE_S) + 5 - 1 - int(LAG_S * 16_000 + 100) // 16_000 if live else 0)
    assert speech.clear() == QUEUE_S * 16_000 - 100 and speech.queued == 0


@pytest.mark.parametrize("rate", [8000, 22_050, 24_000, 44_100, 48_000, 96_000])
def test_pcm_of_any_rate_streams(rate):
    t = np.arange(rate) / rate
    wave = (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    whole, parts = Pcm(rate, "f32le"), Pcm(rate, "f32le")
    once = np.concatenate([whole.take(wave.tobytes()), whole.end()])
    cuts = np.split(wave, [7, 1000, 1001, 5000])
    pieces = np.concatenate([*(parts.take(c.tobytes()) for c in cuts), parts.end()])
    assert len(once) == 16_000 and np.array_equal(once, pieces)
    wanted = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    assert np.abs(once - wanted)[500:-500].max() < 1e-3


def test_pcm_refuses_in_a_sentence():
    for act, words in (
        (lambda: Pcm(384_000), "rate: expected 8000 to 96000"), (lambda: Pcm(16_000, "mp3"), "coding: expected s16le"),
        (lambda: Pcm().take(b"123"), "whole samples of 2 bytes, got a message of 3"),
        (lambda: Pcm(16_000, "f32le").take(np.float32("nan").tobytes()), "NaN"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            act()
    assert np.abs(Pcm(16_000, "f32le").take(np.float32([9, -9]).tobytes())).max() == 1


# ---- fragments ------------------------------------------------------------------------------------------------------


def boxes(data):
    at = 0
    while at < len(data):
        size, name = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        yield name, data[at + 8 : at + size]
        at += size


@pytest.mark.parametrize(("fps", "scale"), [(Fraction(20), 1), (Fraction(2997, 100), 2), (Fraction(60), 1)])
def test_fragments_decode_to_what_was_shown_and_heard(fps, scale):
    muxer, rng = Muxer((64, 48), fps, scale), np.random.default_rng(0)
    count = 90
    edges = [int(k * 16000 / fps) for k in range(count + 4)]
    sound = np.zeros(edges[-1], np.float32)
    sound[::4000] = 0.9
    sound += 0.01 * rng.standard_normal(len(sound)).astype(np.float32)
    parts = []
    for k in range(count):
        pixels = np.full((48, 64, 3), 2 * k, np.uint8)
        parts.append(muxer.write(Moment(k, pixels, edges[k + 1] - edges[k], sound[edges[k] : edges[k + 3]])))
    assert parts[0].key and 1 <= sum(p.key for p in parts) <= 1 + count / float(fps)
    for number, part in enumerate(parts, 1):
        (moof, inside), (mdat, _) = boxes(part.data)
        assert (moof, mdat) == (b"moof", b"mdat")
        names = dict(boxes(inside))
        assert int.from_bytes(names[b"mfhd"][4:], "big") == number
    data = muxer.init + b"".join(p.data for p in parts)
    with av.open(io.BytesIO(data)) as file:
        frames = list(file.decode(video=0))
    assert len(frames) == count and (frames[0].width, frames[0].height) == (64 * scale, 48 * scale)
    for k, frame in enumerate(frames):
        assert abs(float(frame.pts * frame.time_base) - k / float(fps)) < 1e-6
        grey = frame.reformat(format="rgb24", src_colorspace=frame.colorspace).to_ndarray().mean()
        assert abs(grey - 2 * k) < 4
    with av.open(io.BytesIO(data)) as file:
        heard = list(file.decode(audio=0))
    assert [f.pts for f in heard] == list(range(0, AAC_SAMPLES * len(heard), AAC_SAMPLES))
    got = np.concatenate([f.to_ndarray()[0] for f in heard])
    assert -3 * AAC_SAMPLES < len(got) - edges[count] <= 2 * AAC_SAMPLES  # the encoder looks ahead
    same = min(len(got), len(sound))
    spectrum = np.fft.rfft(got[:same], 2 * same) * np.conj(np.fft.rfft(sound[:same], 2 * same))
    assert int(np.argmax(np.fft.irfft(spectrum))) == 0  # not one sample early or late


def test_who_joins_later_starts_at_a_key_frame():
    muxer = Muxer((64, 64), Fraction(20))
    pixels, sound = np.zeros((64, 64, 3), np.uint8), np.zeros(2400, np.float32)
    parts = [muxer.write(Moment(k, pixels + np.uint8(k), 800, sound)) for k in range(60)]
    start = next(k for k, part in enumerate(parts) if k > 5 and part.key)
    data = muxer.init + b"".join(p.data for p in parts[start:])
    with av.open(io.BytesIO(data)) as file:
        frames = list(file.decode(video=0))
    assert len(frames) == 60 - start
    assert abs(float(frames[0].pts * frames[0].time_base) - start / 20) < 1e-6


def test_a_closed_muxer_has_let_its_encoders_go_and_says_what_they_made():
    muxer = Muxer((64, 64), Fraction(20))
    init, mime = muxer.init, muxer.mime
    muxer.close()
    assert (muxer.init, muxer.mime, muxer.size) == (init, mime, (64, 64))
    assert not {"_video", "_audio", "_pictures"} & set(vars(muxer))
