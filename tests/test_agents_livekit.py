"""The LiveKit generator in AvatarRunner itself: its own queue and synchroniser, a room without a server."""

import asyncio

import numpy as np
import pytest
import small
from voices import ROOT, example, hall, noise, pieces, run

pytest.importorskip("livekit.agents", reason="livekit-agents is not installed: pip install liveact[livekit]")

from livekit import rtc
from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarRunner, QueueAudioOutput

from liveact_app.agents.livekit import LiveActVideoGenerator
from liveact_app.serve.hall import Busy, Wish

RATE = 24_000


class Room:
    """As much of a room as the runner asks for: it is connected, and tracks are published into nothing."""

    def __init__(self):
        self.local_participant, self.tracks, self.listeners = self, [], {}

    async def connect(self, url, token):
        self.at = url, token

    async def disconnect(self):
        self.at = None

    def isconnected(self):
        return True

    def on(self, event, listener):
        self.listeners[event] = listener

    def off(self, event, listener):
        del self.listeners[event]

    async def publish_track(self, track, options):
        self.tracks.append(track.name)
        return self

    async def wait_for_subscription(self):
        pass


class Stage:
    """A runner, the agent's end of it, and all that goes to the synchroniser."""

    def __init__(self, house):
        self.house, self.room, self.agent = house, Room(), QueueAudioOutput(sample_rate=RATE, wait_playback_start=True)
        self.generator = LiveActVideoGenerator(house, small.picture(), Wish("happy"))
        self.runner = AvatarRunner(self.room, audio_recv=self.agent, video_gen=self.generator,
                                   options=self.generator.options)  # fmt: skip
        self.played, self._came, push = [], asyncio.Condition(), self.runner.av_sync.push

        async def pushed(frame, timestamp=None):
            await push(frame, timestamp)
            async with self._came:
                self.played.append(frame)
                self._came.notify_all()

        self.runner.av_sync.push = pushed

    async def __aenter__(self):
        await self.runner.start()
        return self

    async def __aexit__(self, *_):
        await self.runner.aclose()
        await self.generator.aclose()
        assert not self.house.live

    async def say(self, sound, rate=RATE):
        for piece in pieces(sound, rate // 50):
            await self.agent.capture_frame(rtc.AudioFrame(piece, rate, 1, len(piece) // 2))
        self.agent.flush()

    def of(self, kind):
        return [frame for frame in self.played if isinstance(frame, kind)]

    async def seen(self, kind, count):
        async with self._came:
            await self._came.wait_for(lambda: len(self.of(kind)) >= count)

    @property
    def sound(self):
        return np.frombuffer(b"".join(bytes(frame.data) for frame in self.of(rtc.AudioFrame)), "<i2")


def test_the_runner_plays_an_utterance_and_tells_the_agent_when_it_was_heard():
    async def main():
        async with Stage(hall(1.0)) as stage:
            await stage.seen(rtc.VideoFrame, 3)
            assert not stage.of(rtc.AudioFrame)  # idle: alive, and no sound
            await stage.say(noise(0.8, rate=RATE))
            told = await stage.agent.wait_for_playout()
            return stage, told

    stage, told = run(main())
    assert stage.room.tracks == ["avatar_audio", "avatar_video"]
    assert not told.interrupted and 0.8 <= told.playback_position <= 0.9  # video frames it touches, 50 ms each
    spoken = np.flatnonzero(np.abs(stage.sound.astype(int)) > 50)
    assert spoken[-1] - spoken[0] + 1 == pytest.approx(0.8 * 16_000, abs=40)
    frames = stage.of(rtc.VideoFrame)
    assert {(frame.width, frame.height, len(bytes(frame.data))) for frame in frames} == {(32, 32, 3072)}
    assert len({bytes(frame.data) for frame in frames}) > 10
    # In sync: every piece of sound is as long as the video frame before it.
    assert {frame.samples_per_channel for frame in stage.of(rtc.AudioFrame)} == {800}
    places = [i for i, frame in enumerate(stage.played) if isinstance(frame, rtc.AudioFrame)]
    assert all(isinstance(stage.played[i - 1], rtc.VideoFrame) for i in places) and set(np.diff(places)) == {2}


def test_an_interruption_stops_the_sound_and_the_next_utterance_is_heard():
    async def main():
        async with Stage(hall(1.0)) as stage:
            await stage.say(noise(20.0, 1))
            await stage.seen(rtc.AudioFrame, 5)
            stage.agent.clear_buffer()
            cut = await stage.agent.wait_for_playout()
            before = len(stage.of(rtc.AudioFrame))
            await stage.say(noise(0.5, 2, 16_000), 16_000)
            told = await stage.agent.wait_for_playout()
            return cut, told, before, stage.sound

    cut, told, before, sound = run(main())
    assert cut.interrupted and cut.playback_position == pytest.approx(before * 0.05)
    assert not told.interrupted and 0.5 <= told.playback_position <= 0.6
    after = sound[before * 800 :]
    assert np.array_equal(after[after != 0], noise(0.5, 2, 16_000))


def test_without_a_runner_every_segment_ends_once():
    async def main():
        generator = LiveActVideoGenerator(hall(), small.picture())
        with pytest.raises(Busy):
            LiveActVideoGenerator(generator.talk._hall, small.picture())

        async def speak():
            for piece in pieces(noise(0.4), 320):
                await generator.push_audio(rtc.AudioFrame(piece, 16_000, 1, 320))
            await generator.push_audio(AudioSegmentEnd())
            await generator.push_audio(AudioSegmentEnd())  # nothing was said before this one
            await generator.talk.heard()
            await generator.aclose()

        speaking = asyncio.ensure_future(speak())
        found = [item async for item in generator]
        await speaking
        return found

    found = run(main())
    kinds = [type(item) for item in found]
    assert kinds.count(AudioSegmentEnd) == 1
    assert kinds[kinds.index(AudioSegmentEnd) - 1] is rtc.AudioFrame and kinds[0] is rtc.VideoFrame
    assert rtc.AudioFrame not in kinds[kinds.index(AudioSegmentEnd) :]


def test_the_example(monkeypatch):
    program, house, room = example("livekit_face"), hall(1.0), Room()
    monkeypatch.chdir(ROOT)

    async def main():
        agent = QueueAudioOutput(sample_rate=16_000, wait_playback_start=True)
        monkeypatch.setattr(program, "open_hall", lambda model: house)
        monkeypatch.setattr(program.rtc, "Room", lambda: room)
        monkeypatch.setattr(program, "DataStreamAudioReceiver", lambda room: agent)
        working = asyncio.ensure_future(program.main("wss://nowhere.example", "token"))
        for piece in pieces(noise(0.3), 320):
            await agent.capture_frame(rtc.AudioFrame(piece, 16_000, 1, 320))
        agent.flush()
        told = await agent.wait_for_playout()
        assert room.at == ("wss://nowhere.example", "token")
        room.listeners["participant_disconnected"]("the agent")
        await working
        return told

    assert not run(main()).interrupted
    assert room.at is None and room.tracks == ["avatar_audio", "avatar_video"] and not house.live
