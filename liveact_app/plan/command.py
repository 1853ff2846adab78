"""`liveact plan`: what a model at a size takes on a machine that is not at hand, and the flags of generate that fit."""

from __future__ import annotations

import argparse
import re

from liveact_app.arguments import picture_size, real_number, whole_number
from liveact_app.precision import add_precision, must_multiply_on
from liveact_model.config import BLOCK_LATENT_FRAMES
from liveact_model.errors import InputError

UNITS = {"": 30, "gb": 30, "gib": 30, "g": 30, "mb": 20, "mib": 20, "m": 20}
CARDS = {"h100": 80, "h200": 141}
"""GB of a chip's memory, as it is sold."""

EPILOG = """
The real model and Session run once without values, so every number follows from the shapes of the tensors that would be
allocated; 'liveact generate' makes the same prediction before it loads, and refuses with the same sentence. The worst
moment is told: graphs captured, a new prompt in the middle. Of a GPU's memory 0.5 GiB are set aside for its context and
1/32 for the allocator's rounding (assumed). What Python and its libraries take of the host is not in the numbers.
What is offloaded is copied while the GPU computes: the row of copies says how long, at the stated rate, and no video
frame can take less. With --chip the time of a video frame is predicted from machine code, which takes minutes the first
time; it is the longer of computing and copies. GB are 2^30 bytes, as cards are named.

examples:
  liveact plan --size 416*720 --gpu-memory 80GB --host-memory 64GB
  liveact plan --chip h200 --precision fp8
  liveact plan --model tiny --host-memory 4GB      without a GPU

exit codes: 0 something fits, 2 nothing does (one sentence says what is lacking), or unusable input
"""


def memory(text: str) -> int:
    """Argument type: bytes, such as 24GB."""
    match = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?([a-z]{0,3})", text.strip().lower())
    if not match or match[2] not in UNITS or not float(match[1]):
        raise argparse.ArgumentTypeError(f"expected an amount of memory such as 24GB, got {text!r:.60}")
    return int(float(match[1]) * (1 << UNITS[match[2]]))


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "plan", help="bytes by component before anything is loaded, and the flags that fit", epilog=EPILOG,
        description="Predict the memory of a run, component by component, and print the flags of generate that fit.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--model", default="liveact-18b", metavar="NAME|DIR",
        help="architecture, a model that ships, or a checkpoint directory (default: %(default)s)")  # fmt: skip
    add("--wav2vec-dir", metavar="DIR", help="the audio encoder of a checkpoint directory, where it is not in it")
    add("--size", type=picture_size, metavar="W*H", help="pixels (default: the model's)")
    add("--gpu-memory", type=memory, metavar="24GB", help="of each GPU; without it and --chip the run is on the CPU")
    add("--host-memory", type=memory, metavar="64GB", help="of the machine (default: as much as it takes)")
    add("--ranks", type=whole_number(1, 64), default=1, metavar="N", help="GPUs that share a block (default: 1)")
    add("--chip", metavar="NAME", help=f"{' or '.join(CARDS)}: its memory, and ms per video frame")
    add_precision(add, "--precision", default="auto")
    add("--audio-cfg", type=real_number(1, 10), default=1.0, metavar="S", help="as of generate (default: 1)")
    add("--eight-bit-memory", action="store_true", help="only settings with it")
    add("--eight-bit-attention", action="store_true", help="only settings with it")
    add("--block-offload", action="store_true", help="only settings with it")
    add("--offload-cache", action="store_true", help="only settings with it")
    add("--decode-latent-frames", type=whole_number(1, BLOCK_LATENT_FRAMES), metavar="N",
        help="as of generate (default: 8, or 1 where nothing else fits)")  # fmt: skip
    add("--text-on-cpu", action="store_true", help="only settings with it")
    add("--eager", action="store_true", help="only settings with it")
    add("--format", choices=("table", "json", "markdown"), default="table", help="of the output (default: table)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the plan; returns the exit code."""
    from liveact_app.plan import tables
    from liveact_app.plan.ladder import Models, climb, milliseconds

    device, whole = _machine(args)
    plan = climb(Models(args, device == "cpu"), device, whole)
    if args.chip:
        plan.times, plan.untimed = milliseconds(args.chip, plan)
    show = {"json": tables.plain, "markdown": tables.markdown, "table": tables.terminal}[args.format]
    print(show(plan))
    if plan.chosen is None:
        raise InputError(plan.sentence)
    return 0


def _machine(args: argparse.Namespace) -> tuple[str, int | None]:
    """(the device's name for sentences, bytes of its memory or None): a GPU's, or the host's."""
    if args.chip is not None and args.chip not in CARDS:
        raise InputError(f"--chip: expected one of {', '.join(CARDS)}, got {args.chip!r:.60}")
    if args.chip is not None:
        must_multiply_on(args.chip, args.precision)
    whole = args.gpu_memory or (CARDS[args.chip] << 30 if args.chip else None)
    if whole is None and args.host_memory is None:
        raise InputError("--gpu-memory: expected the memory of a GPU, or --host-memory for a run on the CPU, got none")
    if whole is None:
        return "cpu", args.host_memory
    return f"a GPU of {round(whole / (1 << 30), 2):g} GB", whole

