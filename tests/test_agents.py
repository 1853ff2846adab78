"""A live session as a voice agent has it: speech in, video frames with it out, interruptions, back-pressure."""

import asyncio
import importlib
import sys

import numpy as np
import pytest
import small
from voices import ROOT, hall, noise, pieces, run

from liveact_app.agents.open import open_hall, open_picture
from liveact_app.agents.talk import AHEAD, Talk
from liveact_app.serve import speech
from liveact_app.serve.hall import Busy, Wish
from liveact_app.serve.speech import Speech
from liveact_model.errors import InputError

WISH = Wish("happy")


def talk_of(house=None, wish=WISH):
    return Talk(house or hall(), small.picture(), wish)


async def said(talk, sound, rate=16_000, channels=1, given="end"):
    for piece in pieces(sound, 480 * channels):
        await talk.say(piece, rate, channels)
    assert await talk.finish(given)


async def shown_until_heard(talk, work):
    """All that is shown while `work` is said and heard."""

    async def speak():
        await work
        await talk.heard()
        await talk.close()

    speaking = asyncio.ensure_future(speak())
    found = [shown async for shown in talk]
    await speaking
    return found


def sound_of(found):
    return np.frombuffer(b"".join(shown.sound for shown in found), "<i2")


def test_speech_comes_out_sample_by_sample_with_the_video_frames_it_moved():
    async def main():
        talk = talk_of()
        talk.open()

        async def later():
            while not talk.live.figures.video_frames:
                await asyncio.sleep(0.01)
            await said(talk, noise(1.234))

        return await shown_until_heard(talk, later())

    found = run(main())
    sound = sound_of(found)
    spoken = np.flatnonzero(sound)
    assert np.array_equal(sound[spoken[0] : spoken[-1] + 1], noise(1.234))
    # It begins in the first video frame that has sound, and ends in the last.
    assert spoken[0] <= 800 and len(sound) - 1 - spoken[-1] <= 800
    assert [shown.ended for shown in found if shown.ended] == [("end",)]
    assert [bool(shown.sound) for shown in found if shown.ended] == [True]
    times = [shown.seconds for shown in found]
    assert times == pytest.approx([i / 20 for i in range(len(times))])
    idle = [shown for shown in found if not shown.sound]
    assert idle and all(shown.pixels.shape == (32, 32, 3) for shown in found)


def test_two_utterances_and_the_silence_between_them():
    async def main():
        talk = talk_of()
        talk.open()

        async def both():
            await said(talk, noise(0.5, 1), given=1)
            await talk.heard()
            await said(talk, noise(0.4, 2), given=2)

        return await shown_until_heard(talk, both())

    found = run(main())
    ends = [i for i, shown in enumerate(found) if shown.ended]
    assert [found[i].ended for i in ends] == [(1,), (2,)]
    assert 18 <= sum(bool(shown.sound) for shown in found) <= 20  # video frames that 0.5 s and 0.4 s touch
    for part, seed, seconds in ((found[: ends[0] + 1], 1, 0.5), (found[ends[0] + 1 :], 2, 0.4)):
        sound = sound_of(part)
        spoken = np.flatnonzero(sound)
        assert np.array_equal(sound[spoken[0] : spoken[-1] + 1], noise(seconds, seed))


@pytest.mark.parametrize("rate, channels", [(24_000, 1), (24_000, 2), (48_000, 1)])
def test_other_rates_and_channels_keep_their_length(rate, channels):
    sound = noise(0.8, rate=rate)
    given = np.repeat(sound, channels)

    async def main():
        talk = talk_of()
        talk.open()
        return await shown_until_heard(talk, said(talk, given, rate, channels))

    spoken = np.flatnonzero(np.abs(sound_of(run(main())).astype(int)) > 50)
    assert spoken[-1] - spoken[0] + 1 == pytest.approx(0.8 * 16_000, abs=40)


def test_a_full_queue_makes_the_speaker_wait(monkeypatch):
    monkeypatch.setattr(speech, "QUEUE_S", 0.5)

    async def main():
        talk = talk_of()
        talk.open()
        saying = asyncio.ensure_future(said(talk, noise(2.0)))
        await asyncio.sleep(0.5)  # nobody fetches: the session stands still
        assert not saying.done()
        assert talk.live.figures.video_frames <= AHEAD
        found = await shown_until_heard(talk, saying)
        return found, talk.live.speech.dropped

    found, dropped = run(main())
    sound = sound_of(found)
    assert dropped == 0 and np.array_equal(sound[sound != 0], noise(2.0))


def test_an_interruption_is_silence_at_once_and_the_next_utterance_is_whole():
    async def main():
        talk = talk_of()
        talk.open()
        await said(talk, noise(20.0, 1), given="never")
        before, after, spoke = [], [], False

        async def again():
            await said(talk, noise(0.5, 2), given="second")
            await talk.heard()
            await talk.close()

        async for shown in talk:
            (after if spoke else before).append(shown)
            if not spoke and sum(bool(s.sound) for s in before) == 5:
                talk.interrupt()
                spoke = asyncio.ensure_future(again())
        await spoke
        return before, after, talk.live.figures.interrupts

    before, after, interrupts = run(main())
    sound = sound_of(after)
    assert interrupts == 1 and sum(bool(shown.sound) for shown in before) == 5
    assert np.array_equal(sound[sound != 0], noise(0.5, 2))  # nothing of the first one
    assert [shown.ended for shown in after if shown.ended] == [("second",)]


def test_what_waits_for_room_when_an_interruption_comes_is_dropped_too(monkeypatch):
    monkeypatch.setattr(speech, "QUEUE_S", 0.5)

    async def main():
        talk = talk_of()
        talk.open()
        saying = asyncio.ensure_future(talk.say(noise(5.0).tobytes(), 16_000))
        found = []
        async for shown in talk:
            found.append(shown)
            if len(sound_of(found)) and not saying.done():
                talk.interrupt()
                cut = len(found)
                await talk.heard()  # nothing is left of it
                await asyncio.sleep(0.01)
                assert saying.done() and talk.live.speech.queued == 0
            if saying.done() and len(found) > cut + 80:
                await talk.close()
        await saying
        return found[cut:]

    rest = run(main())
    assert len(rest) > 80 and not len(sound_of(rest)) and not any(shown.ended for shown in rest)


def test_the_end_of_a_session_ends_all_who_wait(monkeypatch):
    monkeypatch.setattr(speech, "QUEUE_S", 0.5)

    async def main():
        house = hall()
        talk = talk_of(house)
        talk.open()
        waiting = [asyncio.ensure_future(said(talk, noise(5.0))), asyncio.ensure_future(talk.heard())]
        await asyncio.sleep(0.1)
        with pytest.raises(Busy):
            talk_of(house).open()
        talk.live.close("it was long enough", "long")
        async for _ in talk:
            pass
        await asyncio.gather(*waiting)
        assert talk.reason == "it was long enough" and not house.live
        assert not await talk.finish()

    run(main())


def test_a_program_that_ends_without_closing_leaves_no_session():
    house = hall()

    async def main():
        talk_of(house).open()

    run(main())  # and its event loop is gone
    house._pool.shutdown()  # waits for the session's threads, as the interpreter does at its end
    assert not house.live and dict(house.ended) == {"closed": 1}


def test_a_picture_can_be_enlarged():
    async def main():
        talk = talk_of(wish=Wish("happy", scale=3))
        talk.open()
        async for shown in talk:
            assert shown.pixels.shape == (96, 96, 3) and talk.size == (96, 96)
            await talk.close()

    run(main())


def test_bad_input_is_one_sentence():
    with pytest.raises(InputError, match="size: expected multiples of 16"):
        talk_of(wish=Wish("happy", size=(30, 30)))

    async def main():
        talk = talk_of()
        talk.open()
        try:
            for args, words in (((b"123", 16_000), "whole samples"), ((b"12", 16_000, 2), "of 2 channels"),
                                ((b"12", 1), "rate: expected")):  # fmt: skip
                with pytest.raises(InputError, match=words):
                    await talk.say(*args)
        finally:
            await talk.close()

    run(main())


def test_a_hall_for_a_program_is_warm_and_its_pictures_fit():
    house = open_hall("tiny", device="cpu", sessions=2)
    assert house.size == (64, 64) and house.settings.sessions == 2
    assert open_picture(ROOT / "examples" / "face.png", house).shape == (3, 64, 64)
    with pytest.raises(InputError, match="model: expected one of"):
        open_hall("of clay")


def test_marks_keep_their_place_among_samples():
    queue, one = Speech(live=False), np.ones(10, np.float32)
    queue.mark("a")
    queue.push(one, 0.0)
    queue.mark("b")
    queue.push(one, 0.0)

    def taken(want):
        return [part.mark or len(part.samples) for part in queue.take(want)]

    assert taken(5) == ["a", 5] and taken(5) == [5, "b"] and taken(0) == [] and taken(99) == [10]
    queue.mark("c")
    queue.push(one, 0.0)
    queue.mark("d")
    assert queue.clear() == 10 and taken(99) == [] and queue.queued == 0
    live = Speech(live=True)
    live.mark("e")
    live.push(np.ones(16_000, np.float32), 0.0)
    live.mark("f")
    assert [part.mark or len(part.samples) for part in live.take(100)] == ["e", 100]  # the oldest samples have gone


@pytest.mark.parametrize("name, needs", [("pipecat", "pipecat.frames.frames"), ("livekit", "livekit")])
def test_without_its_package_a_module_says_what_to_install(name, needs, monkeypatch):
    monkeypatch.setitem(sys.modules, needs, None)
    monkeypatch.delitem(sys.modules, f"liveact_app.agents.{name}", raising=False)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install liveact\[{name}\]"):
        importlib.import_module(f"liveact_app.agents.{name}")
