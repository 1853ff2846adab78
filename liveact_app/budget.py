"""`liveact budget`: what one video frame must cost on a chip, op by op, from a dry run of the real model."""

from __future__ import annotations

import argparse
import json

from liveact_app.cli import picture_size
from liveact_model.errors import InputError

EPILOG = """
The real model runs once without data, so every number follows from the shapes of the tensors: flops count 2 per
multiply-add, bytes count each tensor once per launch, and a launch's floor is the slower of the two at the chip's
dense datasheet rates. A steady block (8 latent frames, 32 video frames, three denoise steps) is counted, with the
longest prompt. Not counted: wav2vec2 features, the conversion to uint8 and the copy to the host.

example:
  liveact budget --model liveact-18b --size 512*512 --chip h200
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "budget", help="what a video frame must cost, op by op, without a GPU", epilog=EPILOG,
        description="Print launches, flops, bytes and the floor in ms per video frame of every op.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--model", default="liveact-18b", metavar="NAME", help="architecture (default: %(default)s)")
    add("--size", type=picture_size, default=(512, 512), metavar="W*H", help="pixels (default: 512*512)")
    add("--chip", default="h200", metavar="NAME", help="h100, h200 or b200 (default: %(default)s)")
    add("--precision", choices=("fp8", "bfloat16"), default="fp8",
        help="of linear layers; fp8 also stores memory slots in 8 bits (default: %(default)s)")  # fmt: skip
    add("--ranks", type=int, default=1, metavar="N", help="GPUs that share a block; only 1 so far")
    add("--json", action="store_true", help="print one JSON object instead of the table")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the budget; returns the exit code."""
    from liveact_app.dryrun import record_block
    from liveact_kernels.budget import Budget
    from liveact_kernels.hw import CHIPS
    from liveact_model.config import BLOCK_VIDEO_FRAMES, NAMED

    for flag, value, known in (("--model", args.model, NAMED), ("--chip", args.chip, CHIPS)):
        if value not in known:
            raise InputError(f"{flag}: expected one of {', '.join(known)}, got {value!r}")
    if args.ranks != 1:
        raise InputError(f"--ranks: expected 1, sequence parallelism is not built yet, got {args.ranks}")
    calls = record_block(args.model, args.size, args.precision)
    budget = Budget.of(calls, CHIPS[args.chip], BLOCK_VIDEO_FRAMES)
    if args.json:
        shape = {"model": args.model, "size": list(args.size), "ranks": args.ranks, "precision": args.precision}
        print(json.dumps(shape | budget.to_dict(), indent=1))
        return 0
    print(f"{args.model}, {args.size[0]}x{args.size[1]}, {args.precision}, steady block of 32 video frames, "
          f"{budget.chip.name} ({budget.chip.source})")  # fmt: skip
    print(table(budget))
    return 0


def table(budget) -> str:
    """Groups with their ops, then the total."""
    d = budget.to_dict()
    lines = [
        f"{'':24}{'launches':>9}{'TFLOP':>9}{'GB':>9}{'floor ms':>10}",
        f"{'':24}{'/block':>9}" + 2 * f"{'/frame':>9}" + f"{'/frame':>10}",
    ]

    def row(name: str, r: dict) -> str:
        return (
            f"{name:24}{r['launches_per_block']:9}{r['tflop_per_video_frame']:9.3f}{r['gb_per_video_frame']:9.3f}"
            f"{r['floor_ms_per_video_frame']:10.3f}"
        )

    for group, members in budget.groups().items():
        lines.append(row(group, d["groups"][group]))
        if len(members) > 1 or members[0].op != group.replace(" ", "_"):
            lines += [row(f"  {line.op}", d["ops"][line.op]) for line in members]
    return "\n".join([*lines, row("total per video frame", d["total"])])
