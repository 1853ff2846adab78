"""`liveact calibrate`: measure what narrow formats do to a model, and write the cheapest plan within a bound."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from liveact_app.arguments import picture_size, real_number, utf8_text, whole_number
from liveact_app.backend import HELP as BACKENDS
from liveact_app.generate.options import DEFAULT_PROMPT
from liveact_app.say import note, told
from liveact_model.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from liveact_model.loading import Blueprint

EXAMPLES = Path(__file__).parents[2] / "examples"
DEFAULTS = {"image": EXAMPLES / "face.png", "audio": EXAMPLES / "speech.wav"}

EPILOG = """
The model runs in bf16 over some blocks; on its real activations every linear layer also multiplies in each format,
one layer at a time, and the difference is noted by denoise step. Then every kind of layer runs narrow alone, which says
what its error does to the latents; formats are put in the order of ms saved by error made, and the longest part of that
order whose run stays within the bound is the plan. The plan's own run is the proof. 8-bit memory and 8-bit attention
are decisions like any other. A block's two feed-forward products are decided together. Ms are predicted from machine
code where the chip and the tools are known, else floors at datasheet rates; never measured. Weights that a steady block
does not read count by their bytes, as if it read them once.

examples:
  liveact calibrate                                              the small model and the files in examples/
  liveact calibrate --model DIR --size 416*720 --bound 0.05 --out plan.json --svg plan.svg
  liveact generate --model DIR --precision plan.json ...

exit codes: 0 done, 2 unusable input or no plan within the bound, 130 interrupted (nothing is written)
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "calibrate", help="measure what narrow formats do, and write the cheapest precision plan within a bound",
        description="Measure what narrow formats do to a model, and write the cheapest plan within a bound.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--model", default="tiny", metavar="NAME|DIR", help="a model that ships, or a directory (default: tiny)")
    add("--wav2vec-dir", metavar="DIR", help="the audio encoder of a checkpoint directory, where it is not in it")
    add("--bound", type=real_number(0, 10), default=0.05, metavar="X",
        help="relative L2 error of the latents that a plan may make (default: %(default)s)")  # fmt: skip
    add("--out", default="plan.json", metavar="FILE", help="the plan to write (default: %(default)s)")
    add("--svg", metavar="FILE", help="also draw error beside ms, and the error of every layer")
    add("--json", metavar="FILE", help="also write all that was measured")
    add("--image", metavar="FILE", help="portrait (default: that in examples/)")
    add("--audio", metavar="FILE", help="speech (default: that in examples/)")
    add("--prompt", type=utf8_text, default=DEFAULT_PROMPT, metavar="TEXT", help="default: %(default)r")
    add("--size", type=picture_size, metavar="W*H", help="pixels (default: the model's)")
    add("--blocks", type=whole_number(1, 64), default=4, metavar="N", help="blocks to run (default: %(default)s)")
    add("--seed", type=whole_number(0, 2**63 - 1), default=42, metavar="N", help="of all noise (default: %(default)s)")
    add("--formats", metavar="NAME,..", help="to choose among (default: all that the chip has a rate for)")
    add("--chip", default="h200", metavar="NAME", help="whose ms count (default: %(default)s)")
    add("--cost", choices=("predicted", "floor"), help="what ms are (default: predicted where that is possible)")
    add("--device", default="auto", metavar="DEVICE", help="where to run: auto, cpu, cuda or cuda:N (default: auto)")
    add("--backend", metavar="NAME", help=BACKENDS)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate, write the files and return the exit code."""
    from liveact_app.backend import backends
    from liveact_app.media.files import check_output
    from liveact_app.media.pending import PendingFile

    for name, default in DEFAULTS.items():
        if getattr(args, name) is None:
            if not default.is_file():
                raise InputError(f"--{name}: expected a file, {default} is not there (see 'liveact calibrate --help')")
            setattr(args, name, str(default))
    if not args.bound:
        raise InputError("--bound: expected a number above 0, got 0")
    inputs = {"--image": args.image, "--audio": args.audio}
    names = {"out": ".json", "svg": ".svg", "json": ".json"}
    paths = {n: check_output(getattr(args, n), f"--{n}", (s,), inputs) for n, s in names.items() if getattr(args, n)}
    if len(set(paths.values())) < len(paths):
        raise InputError(f"--out: expected files of different names, got {paths['out']!r} twice")
    with backends(args.backend), contextlib.ExitStack() as files:
        pending = {n: files.enter_context(PendingFile(path, f"--{n}")) for n, path in paths.items()}
        texts, table = calibrate(args)
        for name, file in pending.items():
            file.commit_text(texts[name])
    print(table)
    print(f"{args.out!r}: the plan, for --precision")
    return 0


def calibrate(args: argparse.Namespace) -> tuple[dict[str, str], str]:
    """(the content of every file that may be asked for, what is printed)."""
    import torch

    from liveact_app.calibrate import picture, report
    from liveact_app.calibrate.cost import Costs
    from liveact_app.calibrate.measure import Runner
    from liveact_app.calibrate.search import WIDE, Search
    from liveact_app.generate.loading import device_of, must_multiply
    from liveact_app.media.image import load_image
    from liveact_app.say import show_progress
    from liveact_model.loading import file_of

    device = device_of(args.device)
    avatar, size = _load(args, device)
    config = avatar.dit.config
    with torch.no_grad():
        costs = Costs(config, tuple(avatar.timesteps), size, args.chip, args.cost)
        if costs.kind == "predicted":
            note(f"ms are predicted for {args.chip}: compiling its kernels takes minutes the first time")
        formats = _formats(args.formats, costs)
        for name in formats:
            must_multiply(name, device, "--formats")
        runner = Runner(avatar, load_image(args.image, size), args.prompt, _sound(args, avatar), args.blocks, args.seed)
        search = Search(runner, costs, formats)
        with show_progress(search.runs() * _frames(config, args.blocks), avatar.default_fps) as update:
            made = 0

            def heard(frames: int) -> None:
                nonlocal made
                made += frames
                update(made)

            runner.heard = heard
            found = search.run(args.bound)
    assert found.chosen is not None, "run has chosen"
    inputs = {
        "image": Path(args.image).name, "audio": Path(args.audio).name, "prompt": args.prompt, "size": list(size),
        "blocks": args.blocks, "seed": args.seed, "dtype": WIDE, "device": device,
    }  # fmt: skip
    measured = inputs | {
        "chip": args.chip, "cost": costs.label, "ms_per_video_frame": found.chosen.ms,
        "ms_per_video_frame_wide": found.wide.ms,
    }  # fmt: skip
    told = report.report(found, costs, avatar.name, config, args.bound, inputs)
    plan = file_of(
        found.chosen.plan, avatar.name, config, bound=args.bound, reached=found.chosen.error, measured=measured
    )
    texts = {"out": plan.text(), "svg": picture.draw(told), "json": json.dumps(told, indent=1) + "\n"}
    return texts, report.terminal(told)


def _load(args: argparse.Namespace, device: str) -> tuple[Any, tuple[int, int]]:
    """The avatar in bf16 on its device, whose kernels have been tested; the picture's size (W, H)."""
    import torch

    from liveact_app.backend import must_run_on
    from liveact_app.generate.loading import is_small, must_fit, self_test
    from liveact_app.plan.fit import Setting
    from liveact_app.say import show_loading
    from liveact_kernels.cost.hw import CHIPS
    from liveact_model.loading import load_avatar

    must_run_on(device)
    kinds = {torch.float32, torch.bfloat16, torch.int8, torch.float8_e4m3fn}
    kinds |= {torch.uint8} if args.chip in CHIPS and "fp4" in CHIPS[args.chip].flops else set()
    self_test(device, frozenset(kinds) if device == "cpu" else None)
    note(f"loading {args.model!r} on {device}")

    def fits(blueprint: Blueprint) -> None:
        must_fit(blueprint, argparse.Namespace(size=args.size, **vars(Setting(dtype="bfloat16"))), device)

    with told(), show_loading() as loading:
        avatar = load_avatar(
            args.model, "bfloat16", args.wav2vec_dir, device, prompts=(args.prompt,), before=fits, watch=loading.watch
        )
    size = args.size or tuple(avatar.default_size)
    if device == "cpu" and is_small(avatar.dit.config, size):
        torch.set_num_threads(1)
    return avatar, size


def _formats(text: str | None, costs: Any) -> tuple[str, ...]:
    """The formats to choose among."""
    from liveact_model.dit import FORMATS

    known = [name for name, kind in FORMATS.items() if kind.stored and costs.knows(name)]
    names = known if text is None else list(dict.fromkeys(text.split(",")))
    if unknown := [n for n in names if n not in known]:
        raise InputError(f"--formats: expected some of {', '.join(known)} on {costs.chip}, got {unknown[0]!r:.60}")
    return tuple(names)


def _frames(config: Any, blocks: int) -> int:
    return config.first_block_video_frames + (blocks - 1) * config.block_video_frames


def _sound(args: argparse.Namespace, avatar: Any) -> Tensor:
    """Mono samples for the blocks, and no more than they look at."""
    import math

    import torch

    from liveact_app.media.audio import MODEL_RATE_HZ, AudioReader, model_audio, scan
    from liveact_model.session import LOOK_AHEAD_VIDEO_FRAMES

    frames, fps = _frames(avatar.dit.config, args.blocks), avatar.default_fps
    needed = math.ceil((frames + LOOK_AHEAD_VIDEO_FRAMES) / fps * MODEL_RATE_HZ)
    pieces, count = [], 0
    info = scan(args.audio)
    if info.seconds * fps < frames:
        config = avatar.dit.config
        most = max(1, 1 + int((info.seconds * fps - _frames(config, 1)) // config.block_video_frames))
        raise InputError(f"--blocks: expected at most {most}, as long as {args.audio!r} is, got {args.blocks}")
    with AudioReader(info) as reader:
        for piece in model_audio(reader):
            pieces.append(torch.from_numpy(piece))
            if (count := count + len(piece)) >= needed:
                break
    return torch.cat(pieces)[:needed]
