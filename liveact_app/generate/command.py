"""`liveact generate`: a portrait, a recording and a prompt in, a talking video out, written while it is made."""

import argparse
import contextlib
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from liveact_app.arguments import picture_size, real_number, utf8_text, whole_number
from liveact_app.backend import HELP
from liveact_app.cli import EXIT_INTERRUPTED
from liveact_app.generate.job import VIDEO_SUFFIXES, Job, parse_edits
from liveact_app.generate.ranks import FORMS
from liveact_app.say import note
from liveact_app.streams import OutputLost
from liveact_model.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

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

example:
  liveact generate --image face.png --audio talk.wav --prompt "a man talks to the camera" --out talk.mp4
  liveact generate --image face.png --audio talk.m4a --out talk.mp4 --scale 8 \\
      --edit-prompt "[3,5]=he smiles" --edit-prompt "[6,9]=he nods"

exit codes: 0 done (also when the summary could not be printed), 2 unusable input, or not all of it could be done (one
sentence says what), 130 interrupted
"""
DEFAULT_PROMPT = "A person is talking."


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
    _add_files(parser.add_argument_group("files"))
    _add_content(parser.add_argument_group("what to make"))
    _add_method(parser.add_argument_group("how to make it"))


def _add_files(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--image", required=True, metavar="FILE", help="portrait: png, jpg, webp, bmp, gif, tiff, ...")
    add("--audio", required=True, metavar="FILE", help="speech: wav, flac, mp3, ogg, m4a, mp4, ...")
    add("--audio-track", type=whole_number(0, 999), metavar="N",
        help="which audio track of a file with several, from 0 (default: the one marked as default)")  # fmt: skip
    add("--out", required=True, metavar="FILE", help=f"video to write: {', '.join(VIDEO_SUFFIXES)}")
    add("--report", metavar="FILE", help="also write a summary as .json")


def _add_content(group: "argparse._ArgumentGroup") -> None:
    def add(name: str, metavar: str, help: str, **options: object) -> None:
        group.add_argument(name, metavar=metavar, help=help, **options)

    say, edit = "what the person does; may be empty (default: %(default)r)", (
        '"[first,last]=text": another prompt in these blocks (from 0, both included); repeatable, the first match '
        'wins; or a .json file {"[first,last]": "text", ...}'
    )  # fmt: skip
    crop = "pixels, width first, multiples of 16; the image is cropped to it (default: the model's)"
    add("--prompt", "TEXT", say, type=utf8_text, default=DEFAULT_PROMPT)
    add("--edit-prompt", "EDIT", edit, type=utf8_text, action="append", default=[])
    add("--size", "W*H", crop, type=picture_size)
    add("--fps", "F", "video frames per second, 1 to 60 (default: the model's)", type=real_number(1, 60))
    add("--seed", "N", "seed of all noise (default: %(default)s)", type=whole_number(0, 2**63 - 1), default=42)
    add("--scale", "N", "enlarge the written video N times, 1 to 16 (default: %(default)s)",
        type=whole_number(1, 16), default=1)  # fmt: skip


def _add_method(group: "argparse._ArgumentGroup") -> None:
    def add(name: str, help: str, **options: object) -> None:
        group.add_argument(name, help=f"{help} (default: %(default)s)" if "default" in options else help, **options)

    add("--model", "a model that ships with LiveAct, or a checkpoint directory", metavar="NAME|DIR", default="tiny")
    add("--wav2vec-dir", "wav2vec2 checkpoint, for models that need one", metavar="DIR")
    add("--sampler", "renoise draws fresh noise in every step, euler does not",
        choices=("renoise", "euler"), default="renoise")  # fmt: skip
    add("--audio-cfg", "audio guidance, 1 to 10; above 1 costs two more network passes a block",
        type=real_number(1, 10), metavar="S", default=1.0)  # fmt: skip
    group.add_argument("--eight-bit-memory", action="store_true",
                       help="store memory slots as int8 keys and e4m3 values: half the bytes of bfloat16")  # fmt: skip
    group.add_argument("--eight-bit-attention", action="store_true",
                       help="also multiply 8-bit codes from the second block on: half the work of bf16 on a GPU's "
                            "tensor cores, a little less accurate; implies --eight-bit-memory")  # fmt: skip
    add("--backend", HELP, metavar="NAME")
    group.add_argument("--eager", action="store_true",
                       help="launch kernel by kernel where a GPU would replay CUDA graphs: for profilers")  # fmt: skip
    add("--dtype", "precision of the weights", choices=("auto", "float32", "bfloat16", "fp8"), default="auto")
    add("--device", "where to run: auto takes a GPU if there is one, else cpu, cuda or cuda:N",
        metavar="DEVICE", default="auto")  # fmt: skip
    add("--parallel", "under torchrun, how keys and values travel between the processes",
        choices=FORMS, default="auto")  # fmt: skip


def run(
    args: argparse.Namespace,
    record_block: "Callable[[int], AbstractContextManager] | None" = None,
    print_budget: "Callable[[Summary], None] | None" = None,
) -> int:
    """Generate the video, print the summary and return the exit code.

    Args:
        args: parsed arguments.
        record_block: called with the block number; the context it returns is entered while that block is made (audio
            features, denoising, decoding), so a recorder sees every op call of the block and nothing else.
        print_budget: called once with the summary after the video is in place, to print where the time went.

    Both default to a `timing.FrameBudget`, whose table is printed before the summary.
    """
    from liveact_app.generate.ranks import follow, joined
    from liveact_app.generate.timing import FrameBudget
    from liveact_app.launch import place
    from liveact_model.parallel import ALONE

    budget = FrameBudget()
    record_block, print_budget = record_block or budget.block, print_budget or budget.print
    known = {name: value for name, value in vars(args).items() if name in Job.__dataclass_fields__}
    files = tuple(value for value in args.edit_prompt if value.lower().endswith(".json"))
    job = Job(**known, edits=parse_edits(args.edit_prompt), edit_files=files)
    if place().size == 1:
        return _lead(job, record_block, print_budget, ALONE, None)
    from liveact_app.generate.loading import device_of

    device = device_of(job.device, place().local)
    with joined(device, job.parallel) as ranks:
        if not ranks.leads:
            return follow(job, device, ranks)
        code = _lead(job, record_block, print_budget, ranks, device)
        if code:
            ranks.close(code)
        return code


def _lead(
    job: Job, record_block: "Callable[[int], AbstractContextManager]", print_budget: "Callable[[Summary], None]",
    parallel: "SeqParallel", device: str | None,
) -> int:  # fmt: skip
    """The only process of a run that writes files and talks to the user."""
    from liveact_app.generate.render import render
    from liveact_app.media.finished import check_video
    from liveact_app.media.interrupt import Interrupted, Interrupts
    from liveact_app.media.pending import PendingFile

    try:
        with Interrupts() as stop, contextlib.ExitStack() as files:
            with stop.deferred():
                video = files.enter_context(PendingFile(job.out, "--out"))
                report = files.enter_context(PendingFile(job.report, "--report")) if job.report else None
            parallel.on_end(lambda: files.__exit__(None, None, None))
            summary = render(job, video.temporary, stop, record_block, parallel, device)
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
