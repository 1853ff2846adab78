"""A Pipecat video service: speech of a TTS service in, the avatar's video frames and the speech in sync with them out.

It stands between the TTS service and the transport's output.
"""

from __future__ import annotations

from typing import Any

import torch

from liveact_app.agents import MISSING

try:
    from pipecat.frames.frames import (
        CancelFrame,
        EndFrame,
        Frame,
        InterruptionFrame,
        OutputImageRawFrame,
        StartFrame,
        TTSAudioRawFrame,
        TTSStoppedFrame,
    )
    from pipecat.processors.frame_processor import FrameDirection
    from pipecat.services.ai_service import AIService
    from pipecat.services.settings import ServiceSettings
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(MISSING.format("pipecat")) from error

from liveact_app.agents.talk import Shown, Talk
from liveact_app.media.audio import MODEL_RATE_HZ
from liveact_app.serve.hall import Busy, Hall, Wish

NANOSECONDS = 1_000_000_000
DEFAULT = Wish("A person is talking.")


class LiveActVideoService(AIService):
    """Takes TTSAudioRawFrame and gives OutputImageRawFrame (RGB) and TTSAudioRawFrame (16 kHz, mono) with equal `pts`.

    hall, picture, wish  as of `Talk`
    sync_with_audio      of the images: True for a transport that repeats its picture (video_out_is_live off): it
                         then shows one when the sound before it has gone out

    Idle video frames come without sound. TTSStoppedFrame leaves when its speech has been shown, EndFrame when all has;
    an interruption drops what was not. Everything else passes at once.
    """

    def __init__(
        self, hall: Hall, picture: torch.Tensor, wish: Wish = DEFAULT, *, sync_with_audio: bool = False, **kwargs: Any
    ):
        super().__init__(settings=ServiceSettings(model=hall.avatar.name), **kwargs)
        self.talk = Talk(hall, picture, wish)
        self._sync, self._shows = sync_with_audio, None

    async def start(self, frame: StartFrame) -> None:
        """Open the session; that all are taken is an error of the pipeline."""
        await super().start(frame)
        try:
            self.talk.open()
        except Busy as busy:
            await self.push_error(str(busy), exception=busy, force_treat_as_permanent=True)

    async def stop(self, frame: EndFrame) -> None:
        """Let it finish what it has to say."""
        await super().stop(frame)
        await self.talk.heard()
        await self._leave()

    async def cancel(self, frame: CancelFrame) -> None:
        """Stop at once."""
        await super().cancel(frame)
        await self._leave()

    async def cleanup(self) -> None:
        """Free the session, whatever has happened."""
        await super().cleanup()
        await self._leave()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        """As of every processor."""
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame) and direction is FrameDirection.DOWNSTREAM:
            return await self.talk.say(frame.audio, frame.sample_rate, frame.num_channels)
        if isinstance(frame, TTSStoppedFrame) and await self.talk.finish(frame):
            return
        if isinstance(frame, InterruptionFrame):
            self.talk.interrupt()
        await self.push_frame(frame, direction)
        if isinstance(frame, StartFrame) and self.talk.live is not None:
            self._shows = self.create_task(self._show())

    async def _show(self) -> None:
        async for shown in self.talk:
            await self._push_shown(shown)

    async def _push_shown(self, shown: Shown) -> None:
        image = OutputImageRawFrame(shown.pixels.tobytes(), self.talk.size, "RGB")
        image.pts, image.sync_with_audio = round(shown.seconds * NANOSECONDS), self._sync
        await self.push_frame(image)
        if shown.sound:
            sound = TTSAudioRawFrame(shown.sound, MODEL_RATE_HZ, 1)
            sound.pts = image.pts
            await self.push_frame(sound)
        for stopped in shown.ended:
            await self.push_frame(stopped)

    async def _leave(self) -> None:
        shows, self._shows = self._shows, None
        if shows is not None:
            await self.cancel_task(shows)
        await self.talk.close()
