"""What comes from a session's owner, whatever it comes over: sound, and messages of the protocol."""

from __future__ import annotations

import logging
from typing import Any

from liveact_app.serve import protocol
from liveact_app.serve.live import Live
from liveact_app.serve.protocol import Refused
from liveact_app.serve.settings import Settings
from liveact_app.serve.speech import Pcm

log = logging.getLogger("liveact.live")


class Owner:
    """Does what a client asks of its session. All that is asked may raise Refused and InputError.

    fixed  the sound is a track's: its rate and coding are not the client's to declare
    """

    def __init__(self, live: Live, audio: protocol.Audio, settings: Settings, fixed: bool = False):
        self._live, self._settings, self._fixed = live, settings, fixed
        self._declare(audio)

    def sound(self, data: bytes) -> None:
        """More sound, as it was declared."""
        if len(data) > self._settings.sound_bytes:
            most = self._settings.sound_bytes
            raise Refused(protocol.TOO_LARGE, f"audio: expected at most {most} bytes a message, got {len(data)}")
        self._live.push(self._pcm.take(data))

    def text(self, text: str) -> bool:
        """A message; False when the owner wants the session to end."""
        if len(text) > self._settings.json_bytes:
            most = self._settings.json_bytes
            raise Refused(protocol.TOO_LARGE, f"message: expected at most {most} characters, got {len(text)}")
        return self._told(protocol.later_message(text))

    def _declare(self, audio: protocol.Audio) -> None:
        self._audio, self._pcm = audio, Pcm(audio.rate, audio.coding)
        self._live.speech.live = audio.source == "live"

    def _told(self, message: Any) -> bool:
        live = self._live
        if isinstance(message, protocol.Audio):
            if self._fixed:
                message = self._audio.model_copy(update={"source": message.source})
            live.push(self._pcm.end())
            self._declare(message)
        elif isinstance(message, protocol.Prompt):
            if self._settings.log_prompts:
                log.info("prompt: %s", message.prompt)
            live.prompt(message.prompt, message.number)
        elif isinstance(message, protocol.Interrupt):
            self._pcm = Pcm(self._audio.rate, self._audio.coding)
            live.interrupt()
        elif isinstance(message, protocol.End):
            live.push(self._pcm.end())
        return not isinstance(message, protocol.Close)
