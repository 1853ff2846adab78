"""`liveact budget`: what one video frame must cost on a chip, op by op, from a dry run of the real model."""

from __future__ import annotations

import argparse
import json

from liveact_app.arguments import picture_size, whole_number
from liveact_app.precision import FRAME, add_precision, eight_bit, must_multiply_on
from liveact_model.errors import InputError

EPILOG = """
The real model runs once without data, so every number follows from the shapes of the tensors:
flops count 2 per multiply-add, bytes count each tensor once per launch, and a launch's floor is
the slower of the two at the chip's dense datasheet rates (or, with --ceilings measured, at rates
measured on the chip). A steady block (8 latent frames, 32 video frames, three denoise steps) is
counted, with the longest prompt. Everything that recurs is in it: ops, audio features, plain
torch calls between the ops, the conversion to uint8 and the copy to the host (PCIe).

With --ranks N the table is that of the GPU with the most tokens, and every form in which keys and
values can travel is listed with what it adds. That part is modelled (links at their datasheet rate,
10 us per wait for a peer), not measured.

examples:
  liveact budget --model liveact-18b --size 512*512,416*720 --chip h200
  liveact budget --precision nvfp4 --chip b200
  liveact budget --op fp8_linear         the shapes of one op and what bounds each
  liveact budget --flops                 TFLOP per video frame: released, ours, the paper's number
"""


def sizes(text: str) -> list[tuple[int, int]]:
    """Argument type: one W*H or several, separated by commas."""
    return list(dict.fromkeys(picture_size(part) for part in text.split(",")))


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "budget", help="what a video frame must cost, op by op, without a GPU", epilog=EPILOG,
        description="Print launches, flops, bytes and the floor in ms per video frame of every op.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--model", default="liveact-18b", metavar="NAME", help="architecture (default: %(default)s)")
    add("--size", type=sizes, default=[(512, 512)], metavar="W*H,..", help="pixels, one or more (default: 512*512)")
    add("--chip", default="h200", metavar="NAME", help="h100, h200, b200 or rtx5090 (default: %(default)s)")
    add("--ceilings", default="datasheet", metavar="KIND", help="datasheet or measured (default: %(default)s)")
    add_precision(add, "--precision", names=FRAME, default="fp8")
    add("--ranks", type=whole_number(1, 64), default=1, metavar="N", help="GPUs that share a block (default: 1)")
    add("--op", metavar="NAME", help="only this op, shape by shape")
    add("--flops", action="store_true", help="TFLOP per video frame, part by part, against the released path")
    add("--format", choices=("table", "json", "markdown"), default="table", help="of the output (default: table)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the budget; returns the exit code."""
    from liveact_app.budget import tables
    from liveact_app.budget.dryranks import sharing
    from liveact_app.budget.dryranks import table as exchange_table
    from liveact_app.budget.dryrun import record_block
    from liveact_kernels.cost.budget import Budget
    from liveact_model.config import BLOCK_VIDEO_FRAMES

    chip, coded = _check(args), eight_bit(args.precision)["eight_bit_attention"]
    shared = {size: sharing(args.ranks, _config(args), size, chip, coded) for size in args.size}
    calls = {s: record_block(args.model, s, args.precision, parallel=rank) for s, (rank, _) in shared.items()}
    budgets = {size: Budget.of(found, chip, BLOCK_VIDEO_FRAMES) for size, found in calls.items()}
    if args.op:
        _check_op(args.op, next(iter(budgets.values())))
    parts = {size: _flops(args, size, found) for size, found in calls.items()} if args.flops else {}
    if args.format == "json":
        print(json.dumps(_plain(args, budgets, parts, {size: forms for size, (_, forms) in shared.items()}), indent=1))
        return 0
    one = "one" if args.ranks == 1 else f"the busiest of {args.ranks}"
    print(tables.wrap(f"{args.model}, {args.precision}, steady block of {BLOCK_VIDEO_FRAMES} video frames on {one} "
                      f"{chip.name} ({chip.source}); sums of floors, not a measurement"))  # fmt: skip
    mark = args.format == "markdown"
    if mark and not (args.flops or args.op):
        print("\n" + tables.markdown(budgets))
    else:
        for size, budget in budgets.items():
            print(f"\n{tables.name_of(size)}" + ("\n" if mark else ""))
            if args.op:
                text = tables.shapes(calls[size], args.op, chip)
                print(f"```\n{text}\n```" if mark else text)
            else:
                print(tables.flops(*parts[size], mark) if args.flops else tables.terminal(budget))
                if forms := shared[size][1]:
                    print("\n" + exchange_table(forms, budget))
    if args.flops:
        from liveact_app.budget.paper import report

        print("\n" + "\n".join(report(_config(args))))
    if tables.audio_missing(next(iter(budgets.values()))):
        print(f"\n{tables.UNCOUNTED}")
    return 0


def _config(args: argparse.Namespace):
    from liveact_model.config import NAMED

    return NAMED[args.model]


def _check(args: argparse.Namespace):
    """The chip, or InputError for an argument that names nothing."""
    from liveact_kernels.cost import hw
    from liveact_model.config import NAMED

    for flag, names in (("model", NAMED), ("chip", hw.CHIPS), ("ceilings", hw.CEILINGS)):
        value = getattr(args, flag)
        if value not in names:
            raise InputError(f"--{flag}: expected one of {', '.join(names)}, got {value!r}")
    if args.ranks > 1 and args.flops:
        raise InputError("--flops: expected without --ranks, it compares the work of one GPU")
    if args.op and args.flops:
        raise InputError("--op: expected without --flops, which shows parts of the whole model")
    must_multiply_on(args.chip, args.precision)
    try:
        return hw.chip(args.chip, args.ceilings)
    except ValueError as error:
        raise InputError(f"--{error}") from error


def _check_op(op: str, budget) -> None:
    if op not in budget.lines:
        raise InputError(f"--op: expected one that a block calls ({', '.join(sorted(budget.lines))}), got {op!r}")


def _flops(args: argparse.Namespace, size: tuple[int, int], calls: list) -> tuple[list[dict], list[str]]:
    """Rows of the comparison with the released path, and what its totals do not show."""
    from liveact_app.budget import flops

    return flops.table(calls, _config(args), size), flops.not_counted(calls, _config(args), size)


def _plain(args: argparse.Namespace, budgets: dict, parts: dict, exchanges: dict) -> dict:
    """Everything as plain values: one budget per size."""
    out = {"model": args.model, "ranks": args.ranks, "precision": str(args.precision), "budgets": []}
    for size, budget in budgets.items():
        d = budget.to_dict()
        if args.op:
            d["ops"] = {args.op: d["ops"][args.op]}
        if size in parts:
            d["flops"], d["notes"] = parts[size]
        if exchanges[size]:
            d["exchange_modelled"] = exchanges[size]
        out["budgets"].append({"size": list(size), **d})
    if parts:
        from liveact_app.budget.paper import PAPER_TFLOP, conventions

        found = [{"choices": k.choices, "tflop": k.tflop, "error": k.error} for k in conventions(_config(args))]
        out["paper"] = {"tflop": PAPER_TFLOP, "conventions": found}
    return out
