"""`liveact predict`: time of every kernel of a video frame from its machine code, without a GPU."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from liveact_app.arguments import whole_number
from liveact_app.budget.command import sizes
from liveact_app.precision import FRAME, add_precision, must_multiply_on
from liveact_model.errors import InputError

if TYPE_CHECKING:
    from liveact_kernels.compiled.predict.frame import Frame
    from liveact_model.dit import Precision

EPILOG = """
Every launch of a steady block is compiled for the chip, disassembled, and replayed by a model of one SM: issue,
scoreboards, pipes, barriers, tensor core, copies, occupancy. A launch's bound is the slowest of its pipes, L2, HBM and
what power allows; its time is the slower of bound and replay. Beside published times of an H100 the model is 5% fast on
an FP8 product and up to a fifth fast on attention. None of its numbers has been compared with a run of these kernels.

examples:
  liveact predict --size 512*512,416*720
  liveact predict --op attention_8bit            where the cycles of a steady iteration go
  liveact predict --op cross_attention --tune    launch configurations, the fastest first
  liveact predict --cubin k.cubin --warps 8 --trips 47,63 --grid 2560     any kernel of sm_90a

exit codes: 0 done, 2 unusable input, or nothing here that can disassemble
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "predict", help="time of every kernel from its machine code, without a GPU", epilog=EPILOG,
        description="Predict, from machine code, what a video frame costs on a chip. Predicted, not measured.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--model", default="liveact-18b", metavar="NAME", help="architecture (default: %(default)s)")
    add("--size", type=sizes, default=[(512, 512)], metavar="W*H,..", help="pixels, one or more (default: 512*512)")
    add("--chip", default="h200", metavar="NAME", help="h100 or h200 (default: %(default)s)")
    add_precision(add, "--precision", names=FRAME, default="fp8")
    add("--op", metavar="NAME", help="explain one op, shape by shape")
    add("--tune", action="store_true", help="rank the launch configurations of --op")
    add("--cubin", metavar="FILE", help="explain one kernel of a file instead of the model's")
    add("--function", metavar="NAME", help="with --cubin: which function, where there are several")
    add("--trips", metavar="N,..", help="with --cubin: trips of its outermost loops, in address order")
    add("--grid", type=whole_number(1, 2**31 - 1), default=132, metavar="N", help="with --cubin: blocks (default: 132)")
    add("--warps", type=whole_number(1, 32), default=4, metavar="N", help="with --cubin: warps of a block (default: 4)")
    add("--shared", type=whole_number(0, 232448), default=0, metavar="N", help="with --cubin: its dynamic shared bytes")
    add("--format", choices=("table", "json", "markdown"), default="table", help="of the sums (default: table)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print predictions; returns the exit code."""
    from liveact_kernels.compiled.predict import Unpredictable

    try:
        return _run(args)
    except Unpredictable as error:
        raise InputError(str(error)) from error
    except ModuleNotFoundError as error:
        if error.name not in ("triton", None):
            raise
        raise InputError(f"nothing here can disassemble: {error}") from error


def _run(args: argparse.Namespace) -> int:
    from liveact_app.budget.dryrun import record_block
    from liveact_app.predict import tables
    from liveact_kernels.compiled import sass
    from liveact_kernels.compiled.predict.frame import frame
    from liveact_model.config import BLOCK_VIDEO_FRAMES, NAMED

    if args.model not in NAMED:
        raise InputError(f"--model: expected one of {', '.join(NAMED)}, got {args.model!r}")
    if args.tune and not args.op:
        raise InputError("--tune: expected with --op, compiling every op's candidates takes hours")
    chip, machine = _chip(args.chip)
    must_multiply_on(args.chip, args.precision)
    sass.tools()
    if args.cubin:
        print(_file(args, machine))
        return 0
    frames = []
    for size in args.size:
        calls = record_block(args.model, size, args.precision)
        if args.op:
            tables.show_op(args, calls, chip, machine, size, say)
            continue
        frames.append(frame(calls, chip, machine, size, BLOCK_VIDEO_FRAMES, say))
    say("")
    if not frames:
        return 0
    if args.format == "json":
        print(json.dumps(tables.plain(args.model, str(args.precision), frames), indent=1))
    elif args.format == "markdown":
        print(tables.markdown(frames))
    else:
        print(tables.heading(args.model, args.precision, frames[0]))
        print("\n".join(tables.terminal(f) for f in frames))
    return 0


def frame_of(model: str, size: tuple[int, int], precision: str | Precision, chip: str) -> Frame:
    """Every launch of a steady block predicted on a chip by name. Raises as `compiled.predict.frame.frame`."""
    from liveact_app.budget.dryrun import record_block
    from liveact_kernels.compiled import sass
    from liveact_kernels.compiled.predict.frame import frame
    from liveact_model.config import BLOCK_VIDEO_FRAMES

    rates = _chip(chip)
    sass.tools()
    found = frame(record_block(model, size, precision), *rates, size, BLOCK_VIDEO_FRAMES, say)
    say("")
    return found


def say(text: str) -> None:
    """One line of progress on a terminal's standard error; an empty text takes it away."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _chip(name: str):
    """(hw.Chip, rates.Machine) of a name."""
    from liveact_kernels.compiled.predict.rates import MACHINES
    from liveact_kernels.cost.hw import CHIPS

    if name not in MACHINES:
        known = f": the model has no rates for {CHIPS[name].name}" if name in CHIPS else ""
        raise InputError(f"--chip: expected one of {', '.join(MACHINES)}, got {name!r}{known}")
    return CHIPS[name], MACHINES[name]


def _file(args: argparse.Namespace, machine) -> str:
    from liveact_app.predict.op import iterations, kernel
    from liveact_kernels.compiled.predict.cubin import explained

    try:
        with open(args.cubin, "rb") as f:
            content = f.read()
    except OSError as error:
        raise InputError(f"--cubin: expected a readable file, got {args.cubin!r}: {error.strerror}") from error
    try:
        trips = tuple(int(n) for n in args.trips.split(",")) if args.trips else ()
        if any(not 0 <= n < 2**31 for n in trips):
            raise ValueError
    except ValueError:
        raise InputError(f"--trips: expected whole numbers separated by commas, got {args.trips!r}") from None
    prediction, found = explained(
        content, args.function, machine, grid=args.grid, warps=args.warps, shared=args.shared, trips=trips
    )
    return "\n".join([kernel(os.path.basename(args.cubin), prediction), *iterations(found)])
