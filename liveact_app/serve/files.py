"""Videos from uploads: the same Session through the command's own `render`, one by one, beside what is live."""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from liveact_app.generate.job import Job
from liveact_app.generate.loading import Shelf
from liveact_app.generate.render import render
from liveact_app.limits import lack
from liveact_app.media.audio import scan
from liveact_app.media.interrupt import Interrupted, Interrupts
from liveact_app.serve.faces import anonymous, readable
from liveact_app.serve.hall import SECRET_BYTES, Busy, Hall, Wish
from liveact_model.errors import InputError

log = logging.getLogger("liveact.live")
WAITING, MAKING, DONE, FAILED = "waiting", "making", "done", "failed"
PICTURE, RECORDING, RESULT = "picture", "recording", "video.mp4"


@dataclass
class Video:
    """One upload: its state, how far it is, and the sentence when it failed."""

    id: str
    folder: Path
    wish: Wish
    state: str = WAITING
    error: str | None = None
    video_frames: int = 0
    of: int | None = None
    ended: float | None = None
    stop: Interrupts = field(default_factory=Interrupts)

    def told(self) -> dict[str, Any]:
        """What a client may know."""
        return {"id": self.id, "state": self.state, "video_frames": self.video_frames, "of": self.of,
                "error": self.error}  # fmt: skip

    @property
    def result(self) -> Path:
        """Where the finished video is."""
        return self.folder / RESULT


class Files:
    """Uploads and what becomes of them, in folders of ours under random names.

    job     the model's options; picture, recording and output are put in
    shelf   has the model
    """

    def __init__(self, hall: Hall, folder: Path, job: Job, shelf: Shelf, device: str):
        self._hall, self._folder, self._job, self._shelf, self._device = hall, folder, job, shelf, device
        self._videos: dict[str, Video] = {}
        self._arriving = 0
        self._lock, self._thread = threading.Lock(), ThreadPoolExecutor(1, "files", hall.enter_thread)

    @contextlib.contextmanager
    def arriving(self) -> Iterator[Callable[[Wish], Video]]:
        """Room for one upload, held while its bytes come, so that their sum is bounded; what it yields makes a folder
        for it and raises InputError for a wish that cannot be. Raises Busy when enough wait or come.
        """
        if self._hall.group is not None:
            raise Busy("this server's processes share the work of live sessions and make no files")
        self.sweep()
        with self._lock:
            waiting = self._arriving + sum(v.ended is None for v in self._videos.values())
            if self._hall.draining or waiting >= self._hall.settings.files:
                raise Busy(f"{waiting} videos wait to be made, try again later" if not self._hall.draining else
                           "the server is about to stop")  # fmt: skip
            self._arriving += 1
        held = [1]

        def place(wish: Wish) -> Video:
            self._hall.check(wish)
            number = self._hall.number()
            video = Video(number, self._folder / secrets.token_hex(SECRET_BYTES), wish)
            video.folder.mkdir(mode=0o700)
            with self._lock:  # it waits from here on
                self._arriving -= held.pop()
                self._videos[number] = video
            return video

        try:
            yield place
        finally:
            with self._lock:
                self._arriving -= sum(held)

    def look(self, video: Video) -> None:
        """Decode its files once, within bounds, before it waits for its turn. Raises InputError."""
        picture, recording = video.folder / PICTURE, video.folder / RECORDING
        try:
            readable(picture)
            sound = scan(recording, "audio", longest_s=self._hall.settings.recording_s)
        except InputError as error:
            raise InputError(anonymous(str(error), _names(video))) from None
        video.of = math.ceil(sound.seconds * self._hall.check(video.wish)[1])

    def start(self, video: Video) -> None:
        """Its files are in place."""
        self._thread.submit(self._make, video)

    def get(self, number: str) -> Video | None:
        """An upload by its id."""
        return self._videos.get(number)

    def remove(self, video: Video) -> None:
        """Forget it; what is being made of it stops."""
        with self._lock:
            self._videos.pop(video.id, None)
        video.stop.ask("removal")
        if video.state != MAKING:  # else the thread does it
            shutil.rmtree(video.folder, ignore_errors=True)

    def counts(self) -> Counter[str]:
        """How many are in which state."""
        found = Counter(dict.fromkeys((WAITING, MAKING, DONE, FAILED), 0))
        found.update(v.state for v in list(self._videos.values()))  # + would drop those of which there are none
        return found

    def close(self) -> None:
        """Stop all and wait."""
        for video in list(self._videos.values()):
            self.remove(video)
        self._thread.shutdown(wait=True, cancel_futures=True)

    def sweep(self) -> None:
        """Forget what is finished and old, or too much; called every now and then."""
        s, now = self._hall.settings, time.monotonic()
        with self._lock:
            over = sorted((v.ended, v.id) for v in self._videos.values() if v.ended is not None)
            gone = [self._videos.pop(number) for i, (ended, number) in enumerate(over)
                    if now - ended > s.keep_s or len(over) - i > s.kept]  # fmt: skip
        for video in gone:
            shutil.rmtree(video.folder, ignore_errors=True)

    def _make(self, video: Video) -> None:
        if video.id not in self._videos:
            return
        video.state = MAKING
        try:
            self._render(video)
            video.state = DONE
        except Interrupted:
            video.error = "it was removed"
        except Exception as error:
            sentence = str(error) if isinstance(error, InputError) else lack(error)
            if sentence is None:
                log.exception("a video from an upload failed")
            video.error = anonymous(sentence or f"it failed ({type(error).__name__})", _names(video))
        finally:
            video.state = DONE if video.state == DONE else FAILED
            video.ended = time.monotonic()
            for name in (PICTURE, RECORDING):
                (video.folder / name).unlink(missing_ok=True)
            if video.id not in self._videos:
                shutil.rmtree(video.folder, ignore_errors=True)

    def _render(self, video: Video) -> None:
        hall, wish = self._hall, video.wish
        size, fps = hall.check(wish)
        picture, recording = str(video.folder / PICTURE), str(video.folder / RECORDING)
        job = replace(self._job, image=picture, audio=recording, out=str(video.result), prompt=wish.prompt, size=size,
                      fps=fps, seed=wish.seed, scale=wish.scale)  # fmt: skip

        @contextlib.contextmanager
        def block(number: int) -> Iterator[None]:
            c = hall.avatar.dit.config
            with hall.turns.take():
                yield
            made = c.first_block_video_frames + number * c.block_video_frames
            video.video_frames = min(made, video.of or made)

        summary = render(job, job.out, video.stop, self._shelf, block, device=self._device, turn=hall.turns.take)
        if summary.cut_short or summary.interrupted:
            raise InputError(summary.cut_short or "it was removed")
        video.video_frames = video.of = summary.video_frames


def _names(video: Video) -> dict[str, str]:
    return {str(video.folder / PICTURE): "the picture", str(video.folder / RECORDING): "the recording"}
