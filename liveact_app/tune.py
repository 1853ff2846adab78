"""`liveact tune`: launch configurations of the fused kernels, measured on the GPU at hand."""

from __future__ import annotations

import argparse
from collections import Counter

from liveact_kernels.tune.command import add_arguments
from liveact_model.errors import InputError

EPILOG = """
Every shape's candidates are compiled, timed on inputs that are not in the cache, and compared with float64; what beats
the built-in choice by more than 2% becomes an entry of the chip's table. Shapes that weigh most on a video frame come
first, and what is found is kept when the time is up.

exit codes: 0 done, 2 unusable input or no GPU
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "tune", help="measure the fused kernels' launch configurations on this GPU", epilog=EPILOG,
        description="Find launch configurations that are faster on this GPU than the built-in ones.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tune in the order of what a block of the full model calls."""
    from liveact_app.budget.dryrun import record_block
    from liveact_kernels.tune.command import tune

    try:
        return tune(args, lambda: Counter(call.op.name for call in record_block("liveact-18b", (512, 512), "fp8")))
    except ValueError as error:
        raise InputError(str(error)) from error
