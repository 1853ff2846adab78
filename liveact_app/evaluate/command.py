"""`liveact evaluate`: lip sync, identity, drift, flicker and sharpness of videos, and FID, FVD, Sync-C/D, ArcFace."""

from __future__ import annotations

import argparse
import json
import os
import re
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from liveact_app.arguments import whole_number
from liveact_model.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from liveact_app.evaluate.judge import Judged, Networks
    from liveact_app.evaluate.picture import Box
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
    from liveact_app.evaluate.judge import compare, judge, require_length, together
    from liveact_app.evaluate.report import terminal
    from liveact_app.media.watch import is_video, look
    from liveact_app.say import note, show_progress, told

    if len(args.reference) not in (0, 1, len(args.videos)):
        raise InputError(f"--reference: expected one for all videos or one for each of {len(args.videos)}, got "
                         f"{len(args.reference)}")  # fmt: skip
    out = _outputs(args)
    videos = [require_length(look(path), "VIDEO") for path in args.videos]
    sources: dict[str, VideoFile | None] = {}
    for path in args.reference:
        moving = is_video(path, "--reference")
        sources[path] = require_length(look(path, "--reference"), "--reference") if moving else None
    pictures = {path: _picture(path, video, videos[0].size) for path, video in sources.items()}
    with told():
        networks, weights = _networks(args)
    with ExitStack() as files:
        from liveact_app.media.pending import PendingFile

        pending = {flag: files.enter_context(PendingFile(path, flag)) for flag, path in out.items()}
        moving = [v for v in sources.values() if v is not None]
        whole = sum(v.frames for v in (*videos, *moving))
        with show_progress(whole, videos[0].fps) as update:
            done = 0

            def judged(video: VideoFile, picture: Any, argument: str) -> Judged:
                nonlocal done
                began = done
                found = judge(video, networks, args.face, picture, argument, lambda n: update(min(whole, began + n)))
                done = began + video.frames
                return found

            real = {path: judged(v, None, "--reference") for path, v in sources.items() if v is not None}
            found = []
            for video, path in zip(videos, _each(args)):
                one = judged(video, None if path is None else _fitted(pictures[path], video), "VIDEO")
                compare(one, real.get(path))  # type: ignore[arg-type]
                found.append(one)
        named = [(f"reference: {_name(path)}", j.row) for path, j in real.items()]
        named += [(_name(path), j.row) for path, j in zip(args.videos, found)]
        whole_row = together(found, [real.get(p) for p in _each(args)]) if len(found) > 1 else None  # type: ignore[arg-type]
        for path, j in (*real.items(), *zip(args.videos, found)):
            for text in j.notes:
                note(f"{path!r}: {text}")
        _remarks(args, networks, real, found, note)
        print(terminal([*named, *([(ALL, whole_row)] if whole_row else [])], [n for n in NETWORKS if getattr(args, n)]))
        content = {"--json": lambda: _json(args, real, found, whole_row, weights), "--svg": lambda: _svg(named)}
        for flag, file in pending.items():
            if moved := file.moved(file.commit_text(content[flag]())):
                note(moved)
    return 0


def _each(args: argparse.Namespace) -> list[str | None]:
    """The reference of each video."""
    given = args.reference or [None]
    return list(given) if len(given) == len(args.videos) else given * len(args.videos)


def _name(path: str) -> str:
    return os.path.basename(path)


def _outputs(args: argparse.Namespace) -> dict[str, str]:
    """Where to write, by flag. Raises InputError before anything is read."""
    from liveact_app.media.files import check_output

    inputs = {f"VIDEO {p}": p for p in args.videos} | {f"--reference {p}": p for p in args.reference}
    inputs |= {f"--{name}": getattr(args, name) for name in NETWORKS if getattr(args, name)}
    given = {"--json": args.json, "--svg": args.svg}
    return {flag: check_output(p, flag, (f".{flag[2:]}",), inputs) for flag, p in given.items() if p is not None}


def _picture(path: str, video: VideoFile | None, size: tuple[int, int]) -> np.ndarray | None:
    """A reference's picture as pixels: the first video frame, or None for a picture that is fitted later."""
    from liveact_app.media.image import read_image
    from liveact_app.media.watch import watch

    if video is None:
        import numpy as np

        return np.asarray(read_image(path, "--reference"))
    return next(iter(watch(video, "--reference"))).pixels


def _fitted(pixels: np.ndarray | None, video: VideoFile) -> np.ndarray | None:
    """The reference as `liveact generate` would fit it to the size of the video."""
    from PIL import Image

    from liveact_app.media.image import fit_image

    if pixels is None or pixels.shape[1::-1] == video.size:
        return pixels
    fitted = fit_image(Image.fromarray(pixels), video.size)
    return ((fitted.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()


def _networks(args: argparse.Namespace) -> tuple[Networks, dict[str, Any]]:
    """The networks that were asked for, and what their files are."""
    from liveact_app.evaluate.judge import Networks

    if not any(getattr(args, name) for name in NETWORKS):
        return Networks(), {}
    from liveact_app.evaluate.arcface import IResNet
    from liveact_app.evaluate.i3d import I3D
    from liveact_app.evaluate.inception import Inception
    from liveact_app.evaluate.syncnet import SyncNet
    from liveact_app.evaluate.weights import filled, state_of, told
    from liveact_app.generate.loading import device_of
    from liveact_app.say import note

    makers = {"inception": Inception, "i3d": I3D, "syncnet": SyncNet}
    device, made, files = device_of(args.device), {}, {}
    for name in NETWORKS:
        if (path := getattr(args, name)) is None:
            continue
        what = f"--{name}"
        state = state_of(path, what)
        make = makers.get(name) or (lambda model=IResNet, s=state, w=what: model.like(s, w))
        made[name] = filled(make, state, what).to(device)
        file, remark = told(name, path)
        files[name] = {"file": path} | file.model_dump()
        if remark:
            note(remark)
    return Networks(**made, device=device, every=args.every), files


def _remarks(args: argparse.Namespace, networks: Networks, real: dict, found: list[Judged], note: Any) -> None:
    """What a reader of the table must know."""
    for name, network, part in (("FID", networks.inception, "pictures"), ("FVD", networks.i3d, "clips")):
        if network is None:
            continue
        if not real:
            note(f"{name} compares with reference videos, and there is none: --reference takes them")
            continue
        least = min(getattr(j, part).count for j in (*real.values(), *found))
        size = len(getattr(found[0], part).mean) if getattr(found[0], part).count else 0
        if least <= size:
            note(f"{name} of {least} {part} each, of {size} features: too few to compare with published figures")
    if args.face is None and (networks.syncnet is not None or networks.arcface is not None):
        note("without --face SyncNet and ArcFace look at the centre square: published figures are of detected faces")


def _json(
    args: argparse.Namespace, real: dict[str, Judged], found: list[Judged], whole: dict | None, weights: dict
) -> str:
    def rows(named: Any) -> list[dict]:
        return [{"file": path, **j.row, "notes": j.notes} for path, j in named]

    return json.dumps({
        "videos": rows(zip(args.videos, found)), "references": rows(real.items()), ALL: whole, "face": args.face,
        "every": args.every, "weights": weights,
    }, indent=1) + "\n"  # fmt: skip


def _svg(named: list[tuple[str, dict[str, Any]]]) -> str:
    from liveact_app.evaluate.plot import draw

    return draw(named, "Lip sync, identity and colour drift over time")
