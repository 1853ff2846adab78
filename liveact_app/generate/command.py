"""`liveact generate`: a portrait, a recording and a prompt in, a talking video out, written while it is made."""

import argparse
import contextlib
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from liveact_app.cli import EXIT_INTERRUPTED
from liveact_app.generate.job import Job
from liveact_app.generate.options import add_content, add_files, add_method, jobs_of
from liveact_app.say import note
from liveact_app.streams import OutputLost
from liveact_model.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from liveact_app.generate.loading import Shelf
    from liveact_app.generate.summary import Summary
    from liveact_app.media.pending import PendingFile
    from liveact_model.parallel import SeqParallel

EPILOG = """
The video is written block by block (21 video frames first, then 32 at a time) and covers the whole recording.
Ctrl-C finishes the file, so what was made so far stays and can be played; an error leaves nothing behind. What goes
wrong on the way (the recording is cut short, memory runs out) ends the video there; when the output folder is gone, the
video is put in the system's folder of temporary files. One sentence says so.
Several GPUs share the work under torchrun, and make the same video:
  torchrun --nproc_per_node 2 -m liveact_app generate --image ... --audio ... --out talk.mp4
Every flag of the released script is taken under its own name, too; the README says what each does here. A list of
videos (--input_json) is checked whole before the first one is made, and ends at the first one that cannot be.

example:
  liveact generate --image face.png --audio talk.wav --prompt "a man talks to the camera" --out talk.mp4
  liveact generate --image face.png --audio talk.m4a --out talk.mp4 --scale 8 \\
      --edit-prompt "[3,5]=he smiles" --edit "10s-14s:he nods"
  liveact generate --input_json examples.json --ckpt_dir model --size 416*720 --fps 20 --fp8_gemm

exit codes: 0 done (also when the summary could not be printed), 2 unusable input, or not all of it could be done (one
sentence says what), 130 interrupted
"""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "generate",
        help="make a talking video from a portrait, a recording and a prompt",
        description="Make a talking video from a portrait, a recording and a prompt.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    add_files(parser.add_argument_group("files"))
    add_content(parser.add_argument_group("what to make"))
    add_method(parser.add_argument_group("how to make it"))


def run(
    args: argparse.Namespace,
    record_block: "Callable[[int], AbstractContextManager] | None" = None,
    print_budget: "Callable[[Summary], None] | None" = None,
) -> int:
    """Generate every video asked for, print its summary and return the exit code.

    Args:
        args: parsed arguments.
        record_block: called with the block number; the context it returns is entered while that block is made (audio
            features, denoising, decoding), so a recorder sees every op call of the block and nothing else.
        print_budget: called with the summary after a video is in place, to print where the time went.

    Both default to a `timing.FrameBudget` of each video, whose table is printed before its summary.
    """
    from liveact_app.generate.loading import Shelf, device_of
    from liveact_app.generate.ranks import follow, joined
    from liveact_app.launch import place
    from liveact_model.parallel import ALONE

    jobs = jobs_of(args)
    shelf = Shelf(jobs)
    hooks = (record_block, print_budget)
    if place().size == 1:
        return _lead(jobs, shelf, hooks, ALONE, None)
    device = device_of(jobs[0].device, place().local)
    with joined(device, jobs[0].parallel) as ranks:
        if not ranks.leads:
            return follow(jobs, shelf, device, ranks)
        code = _lead(jobs, shelf, hooks, ranks, device)
        if code:
            ranks.close(code)
        return code


def _lead(
    jobs: tuple[Job, ...], shelf: "Shelf", hooks: tuple, parallel: "SeqParallel", device: str | None
) -> int:
    """All videos of a run, one after the other, by the only process that writes files and talks to the user."""
    for number, job in enumerate(jobs, 1):
        entry = f"entry {number} of {len(jobs)}"
        if len(jobs) > 1:
            note(f"{entry}: {job.out!r}")
        try:
            code = _make(job, shelf, hooks, parallel, device)
        except InputError as error:
            if len(jobs) == 1:
                raise
            raise InputError(f"{entry}: {error}") from error
        if code:
            return code
    return 0


def _make(job: Job, shelf: "Shelf", hooks: tuple, parallel: "SeqParallel", device: str | None) -> int:
    """One video, from its checked arguments to the printed summary."""
    from liveact_app.generate.render import render
    from liveact_app.generate.timing import FrameBudget
    from liveact_app.media.finished import check_video
    from liveact_app.media.interrupt import Interrupted, Interrupts
    from liveact_app.media.pending import PendingFile

    budget = FrameBudget()
    record_block, print_budget = hooks[0] or budget.block, hooks[1] or budget.print
    try:
        with Interrupts() as stop, contextlib.ExitStack() as files:
            with stop.deferred():
                video = files.enter_context(PendingFile(job.out, "--out"))
                report = files.enter_context(PendingFile(job.report, "--report")) if job.report else None
            parallel.on_end(lambda: files.__exit__(None, None, None))
            summary = render(job, video.temporary, stop, shelf, record_block, parallel, device)
            check_video(video.temporary, summary.video_frames, "--out", job.out)
            where = video.commit()
            summary = replace(summary, out=where)
            troubles = [summary.cut_short and f"{summary.cut_short}; {where!r} holds what was made and can be played",
                        video.moved(where), _write_report(report, summary)]  # fmt: skip
    except Interrupted as signal:
        note(f"interrupted by {signal.name} before the first video frame; nothing was written")
        return EXIT_INTERRUPTED
    if summary.interrupted:
        note(f"interrupted by {summary.interrupted}; {where!r} holds what was made so far and can be played")
    try:
        print_budget(summary)
        print(summary.text())
        sys.stdout.flush()
    except OutputLost as error:  # the video is what was asked for
        note(f"{error}; {where!r} is in place")
    if sentence := "; ".join(filter(None, troubles)):
        raise InputError(sentence)
    return EXIT_INTERRUPTED if summary.interrupted else 0


def _write_report(report: "PendingFile | None", summary: "Summary") -> str:
    """Put the report in place; what went wrong with it, else nothing: the video is there by now."""
    try:
        return report.moved(report.commit_text(summary.json() + "\n")) if report else ""
    except InputError as error:
        return str(error)
