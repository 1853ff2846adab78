"""Whether a finished video file can be played, before anybody is told that it is there."""

import av
from av.error import FFmpegError

from liveact_model.errors import InputError


def check_video(path: str, frames: int, argument: str, shown: str) -> None:
    """Read the index and every video packet of `path`; nothing is decoded.

    A file that something else cut short or overwrote while it was written is found here: a missing index, another
    number of video frames, a packet that is not whole.

    Args:
        path: the file, written by a VideoWriter.
        frames: video frames that were written.
        argument, shown: the option and the file's name for the error.

    Raises:
        InputError: it cannot be played.
    """
    try:
        with av.open(path) as file:
            found = sum(_whole(bytes(packet)) for packet in file.demux(video=0) if packet.size)
            sound = bool(file.streams.audio)
    except (FFmpegError, OSError, IndexError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"{argument}: {shown!r} was damaged while it was written ({reason})") from error
    if found != frames or not sound:
        raise InputError(
            f"{argument}: {shown!r} was damaged while it was written (expected sound and {frames} whole video frames, "
            f"found {found})"
        )


def _whole(data: bytes) -> bool:
    """Whether the lengths in front of an H.264 packet's units add up to its size; a hole reads as length 0."""
    at = 0
    while at + 4 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if not length:
            return False
        at += 4 + length
    return at == len(data)
