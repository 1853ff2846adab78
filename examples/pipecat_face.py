"""A face in a Pipecat pipeline for 5 s: a recording stands in for the TTS service, a list for the transport."""

import asyncio

import soundfile
from pipecat.frames.frames import EndFrame, OutputImageRawFrame, TTSAudioRawFrame, TTSStartedFrame, TTSStoppedFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.workers.runner import WorkerRunner

from liveact_app.agents.open import open_hall, open_picture
from liveact_app.agents.pipecat import LiveActVideoService


async def main() -> int:
    """Speak; returns how many video frames that took."""
    hall, frames = open_hall("tiny"), []
    face = LiveActVideoService(hall, open_picture("examples/face.png", hall))
    worker = PipelineWorker(Pipeline([face]))  # [transport.input(), stt, llm, tts, face, transport.output()]
    worker.set_reached_downstream_filter((OutputImageRawFrame,))
    worker.add_event_handler("on_frame_reached_downstream", lambda worker, frame: frames.append(frame))
    sound, rate = soundfile.read("examples/speech.wav", frames=5 * 22_050, dtype="int16")
    spoken = [TTSAudioRawFrame(sound[i : i + rate // 10].tobytes(), rate, 1) for i in range(0, len(sound), rate // 10)]
    await worker.queue_frames([TTSStartedFrame(), *spoken, TTSStoppedFrame(), EndFrame()])
    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()
    return len(frames)


if __name__ == "__main__":
    print(asyncio.run(main()), "video frames")
