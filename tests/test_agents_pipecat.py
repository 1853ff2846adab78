"""The Pipecat service in real pipelines of Pipecat: TTS frames before it, a sink or an output transport behind."""

import asyncio

import numpy as np
import pytest
import small
from voices import ROOT, example, hall, noise, pieces, run

pytest.importorskip(
    "pipecat.frames.frames", reason="Pipecat is not installed (Python 3.11 or newer): pip install liveact[pipecat]"
)

from loguru import logger
from pipecat.frames.frames import (
    BotStartedSpeakingFrame,
    BotStoppedSpeakingFrame,
    EndFrame,
    ErrorFrame,
    InterruptionFrame,
    OutputImageRawFrame,
    StartFrame,
    TextFrame,
    TTSAudioRawFrame,
    TTSStartedFrame,
    TTSStoppedFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.transports.base_output import BaseOutputTransport
from pipecat.transports.base_transport import TransportParams
from pipecat.workers.runner import WorkerRunner

from liveact_app.agents.pipecat import LiveActVideoService
from liveact_app.serve.hall import Wish

logger.disable("pipecat")
RATE = 24_000


class Sink(FrameProcessor):
    """Keeps what comes; `seen(kind, n)` waits until n of a kind have come."""

    def __init__(self):
        super().__init__()
        self.frames, self._came = [], asyncio.Condition()

    async def process_frame(self, frame, direction):
        await super().process_frame(frame, direction)
        async with self._came:
            self.frames.append(frame)
            self._came.notify_all()
        await self.push_frame(frame, direction)

    def of(self, *kinds):
        return [frame for frame in self.frames if isinstance(frame, kinds)]

    async def seen(self, kind, count):
        async with self._came:
            await self._came.wait_for(lambda: len(self.of(kind)) >= count)


def utterance(sound, rate=RATE):
    audio = [TTSAudioRawFrame(piece, rate, 1) for piece in pieces(sound, rate // 50)]
    return [TTSStartedFrame(), *audio, TTSStoppedFrame()]


def pipeline(house, *behind, **options):
    service = LiveActVideoService(house, small.picture(), Wish("happy"), **options)
    worker = PipelineWorker(Pipeline([service, *behind]), cancel_on_idle_timeout=False, enable_turn_tracking=False)
    return service, worker


async def through(worker, feed):
    """Run a pipeline while `feed` puts frames into it."""
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    running = asyncio.ensure_future(runner.run())
    try:
        await feed
        await running
    finally:
        running.cancel()


def sound_of(frames):
    return np.frombuffer(b"".join(frame.audio for frame in frames), "<i2")


def test_speech_in_and_video_frames_with_the_speech_out():
    async def main():
        house, sink = hall(), Sink()
        _, worker = pipeline(house, sink)

        async def feed():
            await sink.seen(OutputImageRawFrame, 3)  # alive before anybody has spoken
            await worker.queue_frames([*utterance(noise(1.2, rate=RATE)), TextFrame("passes"), EndFrame()])

        await through(worker, feed())
        return house, sink

    house, sink = run(main())
    images, sounds = sink.of(OutputImageRawFrame), sink.of(TTSAudioRawFrame)
    assert isinstance(sink.frames[0], StartFrame) and isinstance(sink.frames[-1], EndFrame)
    assert {(image.size, image.format, len(image.image)) for image in images} == {((32, 32), "RGB", 32 * 32 * 3)}
    assert len({bytes(image.image) for image in images}) > 10  # it moves
    assert [image.pts for image in images] == [round(i / 20 * 1e9) for i in range(len(images))]
    # The speech: whole, at the model's rate, with the video frames it belongs to.
    spoken = np.flatnonzero(np.abs(sound_of(sounds).astype(int)) > 50)
    assert spoken[-1] - spoken[0] + 1 == pytest.approx(1.2 * 16_000, abs=40)
    assert {frame.sample_rate for frame in sounds} == {16_000}
    stamps = [frame.pts for frame in sounds]
    assert set(stamps) <= {image.pts for image in images} and np.allclose(np.diff(stamps), 5e7)
    # The end of it is told behind its last sound, and nothing is lost of what else passes.
    kinds = [type(frame) for frame in sink.frames]
    assert kinds.count(TTSStoppedFrame) == 1 and kinds.count(TextFrame) == 1
    last = max(i for i, kind in enumerate(kinds) if kind is TTSAudioRawFrame)
    assert kinds.index(TTSStoppedFrame) > last
    assert not house.live and dict(house.ended) == {"closed": 1}


def test_an_interruption_ends_the_sound_and_what_is_said_after_it_is_heard():
    async def main():
        house, sink = hall(), Sink()
        service, worker = pipeline(house, sink)

        async def feed():
            await worker.queue_frames(utterance(noise(30.0, 1, RATE)))
            await sink.seen(TTSAudioRawFrame, 5)
            await worker.queue_frame(InterruptionFrame())
            await sink.seen(InterruptionFrame, 1)
            await sink.seen(OutputImageRawFrame, len(sink.of(OutputImageRawFrame)) + 60)
            await worker.queue_frames([*utterance(noise(0.5, 2, 16_000), 16_000), EndFrame()])

        await through(worker, feed())
        return sink, service.talk.live.figures.interrupts

    sink, interrupts = run(main())
    at = next(i for i, frame in enumerate(sink.frames) if isinstance(frame, InterruptionFrame))
    after = [frame for frame in sink.frames[at:] if isinstance(frame, TTSAudioRawFrame)]
    sound = sound_of(after)
    assert interrupts == 1 and np.array_equal(sound[sound != 0], noise(0.5, 2, 16_000))
    assert sum(isinstance(frame, TTSStoppedFrame) for frame in sink.frames) == 1


class Out(BaseOutputTransport):
    """An output transport whose network is two lists."""

    def __init__(self):
        params = TransportParams(audio_out_enabled=True, audio_out_sample_rate=16_000, video_out_enabled=True,
                                 video_out_is_live=True, video_out_width=32, video_out_height=32,
                                 video_out_framerate=20)  # fmt: skip
        super().__init__(params)
        self.sound, self.images = [], []

    async def start(self, frame):
        await super().start(frame)
        await self.set_transport_ready(frame)

    async def write_audio_frame(self, frame):
        self.sound.append(frame)
        return True

    async def write_video_frame(self, frame):
        self.images.append(frame)
        return True


def test_an_output_transport_of_pipecat_plays_it():
    async def main():
        out, sink = Out(), Sink()
        _, worker = pipeline(hall(1.0), out, sink)  # the transport's clock is the real one

        async def feed():
            await worker.queue_frames([*utterance(noise(0.6, rate=16_000), 16_000)])
            await sink.seen(BotStoppedSpeakingFrame, 1)
            await worker.queue_frame(EndFrame())

        await through(worker, feed())
        return out, sink

    out, sink = run(main())
    sound = sound_of(out.sound)
    assert np.array_equal(sound[sound != 0], noise(0.6, rate=16_000))
    assert len(sink.of(BotStartedSpeakingFrame)) == len(sink.of(BotStoppedSpeakingFrame)) == 1
    assert len(out.images) > 10


def test_a_pipeline_that_is_cancelled_frees_its_session():
    async def main():
        house, sink = hall(), Sink()
        _, worker = pipeline(house, sink)

        async def feed():
            await worker.queue_frames(utterance(noise(30.0, rate=RATE)))
            await sink.seen(TTSAudioRawFrame, 1)
            await worker.cancel()

        await through(worker, feed())
        assert not house.live

    run(main())


def test_that_all_sessions_are_taken_is_an_error_of_the_pipeline():
    async def main():
        house, sink, errors = hall(), Sink(), []
        service, _ = pipeline(house)
        service.talk.open()  # has the one session
        _, worker = pipeline(house, sink)

        @worker.event_handler("on_pipeline_error")
        async def failed(worker, frame):
            errors.append(frame)

        async def feed():
            await sink.seen(StartFrame, 1)
            await worker.queue_frame(EndFrame())

        await through(worker, feed())
        await service.talk.close()
        return errors

    (error,) = run(main())
    assert isinstance(error, ErrorFrame) and error.error == "the one session is taken, try again later"


def test_the_example(monkeypatch):
    program = example("pipecat_face")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(program, "open_hall", lambda model: hall(20.0))
    assert run(program.main()) >= 100  # five seconds of speech
