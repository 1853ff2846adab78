"""Drive a Session over a whole recording and write the video while it is made."""

from __future__ import annotations

import contextlib
import errno
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from liveact_app.backend import backends
from liveact_app.generate.edits import Prompts, Timeline
from liveact_app.generate.job import Job
from liveact_app.generate.loading import Shelf, device_of
from liveact_app.generate.ranks import settle
from liveact_app.generate.summary import Summary, peak_rss_bytes
from liveact_app.limits import lack
from liveact_app.media.audio import AudioInfo, AudioReader, model_audio, scan
from liveact_app.media.background import BackgroundWriter
from liveact_app.media.image import fit_image, read_image
from liveact_app.media.interrupt import Interrupted, Interrupts
from liveact_app.media.video import CONTAINERS, MAX_WRITTEN_SIDE_PX, VideoWriter, frame_rate
from liveact_app.say import note, show_progress
from liveact_kernels.contract import scope
from liveact_model.config import NAMED
from liveact_model.errors import InputError
from liveact_model.parallel import ALONE, SeqParallel

RecordBlock = Callable[[int], AbstractContextManager]
Turn = Callable[[], AbstractContextManager]
# The session counts audio after resampling, so it may see the end up to two video frames earlier.
MAX_REPEATED_FRAMES = 2
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


def render(
    job: Job, path: str, stop: Interrupts, shelf: Shelf, record_block: RecordBlock | None = None,
    parallel: SeqParallel = ALONE, device: str | None = None, turn: Turn = contextlib.nullcontext,
) -> Summary:  # fmt: skip
    """Generate `job` into the file `path` (the container follows `job.out`) and return what it took.

    shelf     gives the model, which the videos of a run share
    parallel  the processes that share the work; this is the leading one
    device    where to run, once it has been tried out; None: as the job says
    turn      entered while a Session is made of a model that others use, too; `record_block` is for its blocks
    When a stop signal arrives after the first video frame, the file is finished and the summary says so.

    Raises:
        InputError: unusable media, model or argument, or a full disk; `path` is then worthless. What becomes unusable
            after the first video frame ends the video there, and the summary says so.
        Interrupted: stopped before the first video frame.
    """
    with contextlib.ExitStack() as stack:
        note(f"reading {job.image!r} and {job.audio!r}")
        picture, audio = read_image(job.image), scan(job.audio, track=job.audio_track)
        for fact in audio.notes:
            note(fact)
        stack.enter_context(backends(job.backend))
        start = time.monotonic()
        # Imported only now: a bad picture or recording is reported before the encoders' libraries have loaded.
        from liveact_model.session import Session

        device = device or device_of(job.device)
        avatar, size = shelf.load(job, device)
        settle(parallel, job.parallel, avatar, size, job.eight_bit_attention)
        rate = frame_rate(job.fps or avatar.default_fps)
        _check(job, size, rate, audio)
        prompts = _prompts(job, avatar.dit.config, rate, audio)
        levels = None
        if not job.live_audio:
            with AudioReader(audio) as pieces:
                levels = avatar.measure_audio(map(torch.from_numpy, model_audio(pieces)), float(rate))
        if doubt := unknown(job, avatar, picture):
            note(doubt)
        with turn():
            session = Session(
                avatar, fit_image(picture, size), prompts.of(0), fps=float(rate), audio_levels=levels,
                parallel=parallel, **job.session(device),
            )  # fmt: skip
        run = _Run(job, path, size, rate, audio, prompts, stack, dict(shelf.seconds))
        shelf.seconds.clear()  # the next video finds the model loaded
        summary = run.go(session, (avatar.name, device), time.monotonic() - start, stop, record_block)
        if not (summary.interrupted or summary.cut_short):
            session.close()
        return summary


def unknown(job: Job, avatar: Any, picture: Any) -> str | None:
    """A sentence about a picture that the model does not know, by what its VAE makes of it; None for one that it does.

    Looked at in the model's own size, in which it knows what it knows; `picture` is what `read_image` gives.
    """
    most = getattr(avatar, "most_lost", None)
    if most is None:
        return None
    from liveact_model.avatar import lost_detail

    own = fit_image(picture, tuple(avatar.default_size))
    lost = lost_detail(avatar.vae, own.to(avatar.anchor().device))
    if lost <= most:
        return None
    facts = f"its VAE loses {min(lost, 1):.0%} of the detail, and {most:.0%} bounds what it loses of its own kind"
    other = f"the released model takes photographs: 'liveact fetch {next(iter(NAMED))}', then --model"
    kind = f"no picture of the kind that {avatar.name!r} knows"
    return f"--image: {job.image!r} is {kind} ({facts}), so expect garbage; {other}"


def _check(job: Job, size: tuple[int, int], rate: Fraction, audio: AudioInfo) -> None:
    if max(size) * job.scale > MAX_WRITTEN_SIDE_PX:
        raise InputError(
            f"--scale: expected a written video of at most {MAX_WRITTEN_SIDE_PX} pixels a side, "
            f"{size[0]}x{size[1]} times {job.scale} is {size[0] * job.scale}x{size[1] * job.scale}"
        )
    if audio.seconds * rate < 1:
        raise InputError(
            f"--audio: expected at least one video frame of audio ({float(1 / rate):.3f} s at {float(rate):g} fps), "
            f"{job.audio!r} has {audio.seconds:.3f} s"
        )


def _prompts(job: Job, config: Any, rate: Fraction, audio: AudioInfo) -> Prompts:
    frames = math.ceil(Fraction(audio.samples, audio.rate) * rate)
    line = Timeline(config.first_block_video_frames, config.block_video_frames, rate, frames)
    return Prompts(job.prompt, job.edits, line)


class _Run:
    """The block loop of one generation."""

    def __init__(self, job: Job, path: str, size: tuple[int, int], rate: Fraction, audio: AudioInfo, prompts: Prompts,
                 stack: contextlib.ExitStack, load_seconds: dict[str, float]):  # fmt: skip
        self.job, self.size, self.rate, self.audio, self.prompts = job, size, rate, audio, prompts
        self.wanted = self._frames_of(audio.samples)
        self.load_seconds = load_seconds
        self.blocks, self.first_block_s, self.disk_failed = 0, 0.0, False
        # Two readers: the model looks ahead of the video, and either may hold only its own little piece.
        self.listener = stack.enter_context(AudioReader(audio))
        self.heard = model_audio(self.listener)
        kept = stack.enter_context(AudioReader(audio))
        container = CONTAINERS[job.out[job.out.rindex(".") :].lower()]
        writer = VideoWriter(path, container, size, float(rate), kept, job.scale)
        self.writer = BackgroundWriter(writer, self._explain)

    def go(
        self, session: Any, model: tuple[str, str], prepare_s: float, stop: Interrupts, record_block: RecordBlock | None
    ) -> Summary:
        start, interrupted, cut_short = time.monotonic(), None, None
        try:
            with show_progress(self.wanted, float(self.rate)) as update:
                for frames in self._frames(session, record_block or (lambda block: contextlib.nullcontext())):
                    self.first_block_s = self.first_block_s or time.monotonic() - start
                    with stop.deferred():
                        self.writer.write(frames)
                    update(self.writer.frames)
                with stop.deferred():
                    self.writer.drain()
                update(self.writer.frames)
            stop.finishing()
            self.writer.close()
        except Interrupted as signal:
            stop.finishing()
            interrupted = signal.name
            self._finish_early()
        except Exception as error:
            stop.finishing()
            cut_short = self._cut_short(error)
        except BaseException:
            stop.finishing()
            self.writer.abandon()
            raise
        replayed = session.captured(), session.live_compilations()
        return self._summary(model, prepare_s, time.monotonic() - start, (interrupted, cut_short), replayed)

    def _finish_early(self) -> None:
        """Close the file with what was made; called while handling the stop, which goes on if there is nothing."""
        try:
            self.writer.drain()
            if not self.writer.frames:
                raise
            self.writer.close()
        except BaseException:
            self.writer.abandon()
            raise

    def _cut_short(self, error: Exception) -> str:
        """The sentence of an error that is no bug, once what was made is a finished file; else the error goes on."""
        sentence = str(error) if isinstance(error, InputError) else lack(error)
        try:
            if sentence is None or self.disk_failed:
                self.writer.abandon()
                raise error
            self._finish_early()
        except Exception:
            raise error from None
        return sentence

    def _explain(self, error: Exception) -> Exception:
        """A full disk is the user's to solve, not a bug."""
        if getattr(error, "errno", None) in DISK_ERRORS:
            self.disk_failed = True
            return InputError(f"--out: cannot write {self.job.out!r} ({error.strerror})")
        return error

    def _frames(self, session: Any, record_block: RecordBlock) -> Iterator[np.ndarray]:
        """Blocks of frames uint8 [F, H, W, 3] until the whole recording is covered, the last one cut to its end."""
        made, last, heard_all, end = 0, None, False, self.wanted
        while made < end:
            began = time.monotonic()
            with record_block(self.blocks):
                while not heard_all and not session.ready():
                    chunk = next(self.heard, None)
                    if chunk is None:
                        session.close_audio()
                        heard_all, end = True, self._frames_of(self.listener.samples)
                    else:
                        session.push_audio(torch.from_numpy(chunk))
                if session.done:
                    break
                session.set_prompt(self.prompts.of(self.blocks))
                video = session.next_block()
                with scope("to_host"):
                    frames = video.cpu().numpy()[: end - made]
            if self.job.block_times:  # the copy to the host has waited for the device
                took = time.monotonic() - began
                each = 1e3 * took / len(video)
                note(f"block {self.blocks}: {len(video)} video frames in {took:.3f} s, {each:.1f} ms each")
            self.blocks, made, last = self.blocks + 1, made + len(frames), frames[-1:]
            yield frames
        if missing := end - made:
            if last is None or missing > MAX_REPEATED_FRAMES:
                raise RuntimeError(f"the session ended {missing} video frames before the audio")
            yield np.repeat(last, missing, axis=0)
        if end < self.wanted:
            raise InputError(
                f"--audio: {self.job.audio!r} ends after {self.listener.samples / self.audio.rate:.2f} s, it had "
                f"{self.audio.seconds:.2f} s when the run began"
            )

    def _frames_of(self, samples: int) -> int:
        return math.ceil(Fraction(samples, self.audio.rate) * self.rate)

    def _summary(
        self, model: tuple[str, str], prepare_s: float, generate_s: float,
        ended: tuple[str | None, str | None], replayed: tuple[int, int],
    ) -> Summary:  # fmt: skip
        w, h = self.size
        return Summary(
            out=self.job.out, model=model[0], device=model[1], size=(w, h),
            written_size=(w * self.job.scale, h * self.job.scale), fps=float(self.rate), seed=self.job.seed,
            blocks=self.blocks, video_frames=self.writer.frames, video_frames_wanted=self.wanted,
            audio_track=self.audio.track, audio_tracks=self.audio.tracks,
            audio_seconds=self.audio.seconds, prepare_seconds=prepare_s, first_block_seconds=self.first_block_s,
            generate_seconds=generate_s, encode_seconds=self.writer.seconds, peak_rss_bytes=peak_rss_bytes(),
            load_seconds={name: round(s, 3) for name, s in self.load_seconds.items()},
            interrupted=ended[0], cut_short=ended[1], graphs=replayed[0], live_compilations=replayed[1],
        )  # fmt: skip
