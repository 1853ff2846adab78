"""An avatar worker for LiveKit: joins a room and shows what the agent there says (see DataStreamAudioOutput)."""

import asyncio
import sys

from livekit import rtc
from livekit.agents.voice.avatar import AvatarRunner, DataStreamAudioReceiver

from liveact_app.agents.livekit import LiveActVideoGenerator
from liveact_app.agents.open import open_hall, open_picture


async def main(url: str, token: str) -> None:
    """Until somebody leaves. `token` is LiveKit's, with the attribute lk.publish_on_behalf: the agent's identity."""
    hall, room, over = open_hall("tiny"), rtc.Room(), asyncio.Event()
    face = LiveActVideoGenerator(hall, open_picture("examples/face.png", hall))
    await room.connect(url, token)
    room.on("participant_disconnected", lambda participant: over.set())
    runner = AvatarRunner(room, audio_recv=DataStreamAudioReceiver(room), video_gen=face, options=face.options)
    await runner.start()
    await over.wait()
    await runner.aclose()
    await face.aclose()
    await room.disconnect()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
