"""`liveact budget`: what one video frame must cost on a chip, op by op, from a dry run of the real model."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from liveact_app.cli import picture_size, whole_number
from liveact_model.errors import InputError

if TYPE_CHECKING:
    from liveact_kernels.budget import Budget
    from liveact_kernels.hw import Chip
    from liveact_model.parallel import SeqParallel

EPILOG = """
The real model runs once without data, so every number follows from the shapes of the tensors: flops count 2 per
multiply-add, bytes count each tensor once per launch, and a launch's floor is the slower of the two at the chip's
dense datasheet rates. A steady block (8 latent frames, 32 video frames, three denoise steps) is counted, with the
longest prompt. Not counted: wav2vec2 features, the conversion to uint8 and the copy to the host.

With --ranks N the table is that of the GPU with the most tokens, and every form in which keys and values can travel is
listed with what it adds. That part is modelled (datasheet rates, 10 us per wait for a peer), not measured.

example:
  liveact budget --model liveact-18b --size 512*512 --chip h200 --ranks 2
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
    add("--ranks", type=whole_number(1, 64), default=1, metavar="N", help="GPUs that share a block (default: 1)")
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
    forms = exchange(args.model, args.size, args.ranks, CHIPS[args.chip])
    calls = record_block(args.model, args.size, args.precision, parallel=_rank(args.ranks, args.size, forms))
    budget = Budget.of(calls, CHIPS[args.chip], BLOCK_VIDEO_FRAMES)
    if args.json:
        shape = {"model": args.model, "size": list(args.size), "ranks": args.ranks, "precision": args.precision}
        print(json.dumps(shape | budget.to_dict() | ({"exchange_modelled": forms} if forms else {}), indent=1))
        return 0
    shared = f", the busiest of {args.ranks} ranks" if forms else ""
    print(f"{args.model}, {args.size[0]}x{args.size[1]}, {args.precision}, steady block of 32 video frames, "
          f"{budget.chip.name} ({budget.chip.source}){shared}")  # fmt: skip
    print(table(budget))
    if forms:
        print(exchange_table(forms, budget))
    return 0


def _rank(ranks: int, size: tuple[int, int], forms: dict) -> SeqParallel:
    from liveact_model.parallel import ALONE

    if not forms:
        return ALONE
    from liveact_app.paper import PaperRanks

    return PaperRanks(ranks, size[0] * size[1] // 256, next(f for f, row in forms.items() if row["default"]))


def exchange(model: str, size: tuple[int, int], ranks: int, chip: Chip) -> dict[str, dict]:
    """What each form adds per video frame on the busiest of `ranks`: modelled, see parallel.cost; {} for one rank.

    Raises InputError for more ranks than tokens of a latent frame.
    """
    if ranks == 1:
        return {}
    from liveact_model.config import BLOCK_VIDEO_FRAMES, NAMED
    from liveact_model.parallel.cost import best, exchanges
    from liveact_model.schedule import TIMESTEPS

    c, tokens = NAMED[model], size[0] * size[1] // 256
    if tokens < ranks:
        raise InputError(f"--ranks: expected at most one per token of a latent frame ({tokens}), got {ranks}")
    bf16 = 2
    chosen = best(ranks, tokens, c.num_heads, c.dim, bf16, chip)
    times = c.num_layers * len(TIMESTEPS) / BLOCK_VIDEO_FRAMES
    return {
        form: {
            "gb_sent_per_video_frame": e.sent * times / 1e9,
            "exposed_ms_per_video_frame": e.exposed_us * times / 1e3,
            "extra_ms_per_video_frame": e.extra_us * times / 1e3,
            "default": form == chosen,
        }
        for form, e in exchanges(ranks, tokens, c.dim, bf16, chip).items()
        if form != "ulysses" or c.num_heads >= ranks
    }  # fmt: skip


def exchange_table(forms: dict[str, dict], budget: Budget) -> str:
    """One line per form, then the total with the default one."""
    lines = [
        "", f"exchange of keys and values (modelled, link {budget.chip.link / 1e9:g} GB/s a direction)",
        f"{'':24}{'GB sent':>10}{'exposed ms':>12}{'extra ms':>10}",
        f"{'':24}{'/frame':>10}{'/frame':>12}{'/frame':>10}",
    ]  # fmt: skip
    total = budget.to_dict()["total"]["floor_ms_per_video_frame"]
    for form, row in forms.items():
        sent, exposed, extra = (v for k, v in row.items() if k != "default")
        lines.append(f"{form:24}{sent:10.3f}{exposed:12.3f}{extra:10.3f}{'  default' if row['default'] else ''}")
        total += (exposed + extra) * row["default"]
    return "\n".join([*lines, f"{'floor with the default':48}{total:8.3f}"])


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
