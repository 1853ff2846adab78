"""`liveact evaluate`: lip sync, identity, drift, flicker and sharpness of videos, and FID, FVD, Sync-C/D, ArcFace."""

from __future__ import annotations

import argparse
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from liveact_app.arguments import whole_number

if TYPE_CHECKING:
    from liveact_app.evaluate.judge import Judged, Networks
    from liveact_app.evaluate.picture import Box
    from liveact_app.evaluate.references import Reference
    from liveact_app.media.watch import VideoFile

EPILOG = """
Without any file to download: lip sync (held-out correlation of the sound's loudness with what the best spatial filter
makes of the picture, and the lag at which it is greatest: positive where the sound comes late), identity (structure
of the face beside the reference), drift of the mean colour since the first tenth (levels of 255), flicker (second
difference over time, levels), pulse (the step at borders of latent frames over the steps inside), sharpness (detail,
levels). Formulas: docs/evaluate.md. A column without a value is "-", and a note says why.

With weight files of yours (names, homes and SHA-256 in docs/evaluate.md): FID and FVD against reference videos,
Sync-C and Sync-D, and identity by ArcFace. The last three look at --face, by default the centre square.

A --reference is a picture (identity alone) or a video (which has a row of its own): one for all videos, or one each.

examples:
  liveact evaluate out/talk.mp4 --reference face.png
  liveact evaluate a.mp4 b.mp4 --reference real_a.mp4 real_b.mp4 --inception pt_inception-2015-12-05-6726825d.pth
  liveact evaluate talk.mp4 --syncnet syncnet_v2.model --face 0.25,0.1,0.5,0.7 --json talk.json --svg talk.svg

exit codes: 0 done, 2 unusable input
"""
NETWORKS = ("inception", "i3d", "syncnet", "arcface")
ALL = "all"


def face_box(text: str) -> Box:
    """Argument type: X,Y,W,H as shares of the picture."""
    parts = text.split(",")
    if len(parts) != 4 or not all(re.fullmatch(r" *[0-9]{0,3}\.?[0-9]{1,6} *", part) for part in parts):
        raise argparse.ArgumentTypeError(f"expected X,Y,W,H as shares such as 0.3,0.1,0.4,0.6, got {text!r:.60}")
    x, y, w, h = (float(part) for part in parts)
    if not (w >= 0.01 and h >= 0.01 and x + w <= 1.000001 and y + h <= 1.000001):
        raise argparse.ArgumentTypeError(f"expected a box of 0.01 each way or more in the picture, got {text!r:.60}")
    return x, y, w, h


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "evaluate", help="lip sync, identity, drift, flicker of videos; FID, FVD, Sync-C/D with your weight files",
        description="Measure videos, side by side.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("videos", metavar="VIDEO", nargs="+", help="with its own sound: mp4, mkv, mov, webm, avi, ...")
    add("--reference", metavar="FILE", nargs="+", default=[], help="pictures or videos: one for all, or one each")
    add("--face", type=face_box, metavar="X,Y,W,H",
        help="where the face is, as shares of the picture (default: all of it)")  # fmt: skip
    for name, gives in zip(NETWORKS, ("FID", "FVD", "Sync-C and Sync-D", "identity by ArcFace")):
        add(f"--{name}", metavar="FILE", help=f"weights for {gives}, .pth or .safetensors")
    add("--every", type=whole_number(1, 1000), default=1, metavar="N",
        help="FID and ArcFace take every n-th video frame (default: 1)")  # fmt: skip
    add("--device", default="auto", metavar="NAME", help="of the networks: auto, cpu, cuda or cuda:N (default: auto)")
    add("--json", metavar="FILE", help="also write everything as .json")
    add("--svg", metavar="FILE", help="also draw lip sync, identity and drift over time as .svg")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write the files; returns the exit code."""
    from liveact_app.evaluate.judge import together
    from liveact_app.evaluate.loading import networks_of, remarks
    from liveact_app.evaluate.references import look_at, one_each
    from liveact_app.evaluate.report import terminal
    from liveact_app.media.pending import PendingFile
    from liveact_app.say import note, told

    each = one_each(args.reference, len(args.videos))
    out = _outputs(args)
    videos, references = look_at(args.videos, args.reference)
    files = {name: getattr(args, name) for name in NETWORKS if getattr(args, name)}
    with told():
        networks, weights = networks_of(files, args.device, args.every)
    with ExitStack() as stack:
        pending = {flag: stack.enter_context(PendingFile(path, flag)) for flag, path in out.items()}
        real, found = _judged(videos, references, each, networks, args.face)
        named = [(f"reference: {_name(path)}", j.row) for path, j in real.items()]
        named += [(_name(path), j.row) for path, j in zip(args.videos, found)]
        pooled = together(found, [real.get(path) for path in each]) if len(found) > 1 else None
        for path, j in (*real.items(), *zip(args.videos, found)):
            for text in j.notes:
                note(f"{path!r}: {text}")
        for text in remarks(networks, [*real.values()], found, args.face is not None):
            note(text)
        print(terminal([*named, *([(ALL, pooled)] if pooled else [])], files))
        texts = {"--json": lambda: _json(args, real, found, pooled, weights), "--svg": lambda: _svg(named)}
        for flag, file in pending.items():
            if moved := file.moved(file.commit_text(texts[flag]())):
                note(moved)
    return 0


def _judged(
    videos: list[VideoFile], references: dict[str, Reference], each: list[str], networks: Networks, face: Box | None
) -> tuple[dict[str, Judged], list[Judged]]:
    """Reference videos by path, and the videos, compared with theirs; a bar shows how far it is."""
    from liveact_app.evaluate.judge import compare, judge
    from liveact_app.say import show_progress

    moving = {path: r.video for path, r in references.items() if r.video is not None}
    whole = sum(v.frames for v in (*moving.values(), *videos))
    with show_progress(whole, videos[0].fps) as update:
        began = 0

        def told() -> Callable[[int], None]:
            return lambda done, before=began: update(min(whole, before + done))  # type: ignore[misc]

        real, found = {}, []
        for path, video in moving.items():
            real[path] = judge(video, networks, face, None, "--reference", told())
            began += video.frames
        for video, path in zip(videos, each):
            picture = references[path].fitted(video.size) if path else None
            found.append(judge(video, networks, face, picture, "VIDEO", told()))
            compare(found[-1], real.get(path))
            began += video.frames
    return real, found


def _name(path: str) -> str:
    return os.path.basename(path)


def _outputs(args: argparse.Namespace) -> dict[str, str]:
    """Where to write, by flag. Raises InputError before anything is read."""
    from liveact_app.media.files import check_output

    inputs = {f"VIDEO {p}": p for p in args.videos} | {f"--reference {p}": p for p in args.reference}
    inputs |= {f"--{name}": getattr(args, name) for name in NETWORKS if getattr(args, name)}
    given = {"--json": args.json, "--svg": args.svg}
    return {flag: check_output(p, flag, (f".{flag[2:]}",), inputs) for flag, p in given.items() if p is not None}


def _json(
    args: argparse.Namespace, real: dict[str, Judged], found: list[Judged], pooled: dict | None, weights: dict
) -> str:
    from liveact_app.generate.summary import peak_rss_bytes

    def rows(named: Iterable[tuple[str, Judged]]) -> list[dict[str, Any]]:
        return [{"file": path, **j.row, "notes": j.notes} for path, j in named]

    return json.dumps({
        "videos": rows(zip(args.videos, found)), "references": rows(real.items()), ALL: pooled, "face": args.face,
        "every": args.every, "weights": weights,
        "took": {"cpu_seconds": round(time.process_time(), 2), "peak_rss_bytes": peak_rss_bytes()},
    }, indent=1) + "\n"  # fmt: skip


def _svg(named: list[tuple[str, dict[str, Any]]]) -> str:
    from liveact_app.evaluate.plot import draw

    return draw(named, "Lip sync, identity and colour drift over time")
