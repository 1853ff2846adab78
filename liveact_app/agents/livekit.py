"""A VideoGenerator for the avatar runner of livekit-agents: speech in, video and speech in sync out."""

from __future__ import annotations

from collections.abc import AsyncIterator

import torch

from liveact_app.agents import MISSING

try:
    from livekit import rtc
    from livekit.agents.voice.avatar import AudioSegmentEnd, AvatarOptions, VideoGenerator
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(MISSING.format("livekit")) from error

from liveact_app.agents.talk import Talk
from liveact_app.media.audio import MODEL_RATE_HZ
from liveact_app.serve.hall import Hall, Wish

DEFAULT = Wish("A person is talking.")


class LiveActVideoGenerator(VideoGenerator):
    """An avatar that says what is pushed.

    hall, picture, wish  as of `Talk`
    options              what `AvatarRunner` must know of it

    To be made on the event loop; the session begins at once. Idle video frames come without sound, so the runner's
    playback position counts speech alone. Raises Busy when no session is free, InputError for a wish that cannot be.
    """

    def __init__(self, hall: Hall, picture: torch.Tensor, wish: Wish = DEFAULT):
        self.talk = Talk(hall, picture, wish)
        self.options = AvatarOptions(*self.talk.size, self.talk.fps, MODEL_RATE_HZ, 1)
        self.talk.open()

    async def push_audio(self, frame: rtc.AudioFrame | AudioSegmentEnd) -> None:
        """Speech of any rate, or the end of an utterance; waits while a minute of it is queued."""
        if isinstance(frame, AudioSegmentEnd):
            await self.talk.finish(frame)
        else:
            await self.talk.say(bytes(frame.data), frame.sample_rate, frame.num_channels)

    def clear_buffer(self) -> None:
        """The agent was interrupted: no sound of what it has said from now on."""
        self.talk.interrupt()

    async def __aiter__(self) -> AsyncIterator[rtc.VideoFrame | rtc.AudioFrame | AudioSegmentEnd]:
        """Every video frame at its time, its speech behind it, and the end of an utterance when that was heard."""
        async for shown in self.talk:
            yield rtc.VideoFrame(*self.talk.size, rtc.VideoBufferType.RGB24, shown.pixels.tobytes())
            if shown.sound:
                yield rtc.AudioFrame(shown.sound, MODEL_RATE_HZ, 1, len(shown.sound) // 2)
            for end in shown.ended:
                yield end

    async def aclose(self) -> None:
        """End the session."""
        await self.talk.close()
