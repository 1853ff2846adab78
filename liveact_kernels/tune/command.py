"""The tuner's command: `liveact tune` and `python -m liveact_kernels.tune`."""

from __future__ import annotations

import argparse
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .search import Table, run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options, for both commands."""
    parser.add_argument("--op", nargs="+", metavar="NAME", help="tune these ops (default: all with a Triton backend)")
    parser.add_argument("--minutes", type=float, default=20.0, metavar="N", help="stop after N (default: %(default)g)")
    parser.add_argument(
        "--out", metavar="FILE", help="table to write (default: the chip's own in liveact_kernels/tuned)"
    )
    parser.add_argument("--dry-run", action="store_true", help="list shapes and candidates; needs no GPU")


def tune(args: argparse.Namespace, calls: Callable[[], Mapping[str, int]] = dict) -> int:
    """What both commands do; `calls` tells how often a block calls each op, which weighs the order.

    Raises ValueError for unusable arguments and without a GPU, before anything is measured.
    """
    if not 0 < args.minutes <= 1440:
        raise ValueError(f"--minutes: expected a number over 0, at most 1440, got {args.minutes:g}")
    from . import gpu  # torch: --help does without

    out = None if args.out is None else _writable(args.out)
    if args.dry_run:
        for task in sorted(gpu.tasks(args.op, None, calls), key=lambda t: -t.share):
            print(f"{task.op}/{task.case}: {len(task.candidates)} candidates, heuristic {dict(task.heuristic)}")
        return 0
    device = gpu.Gpu()
    table = Table(out or device.table_path(), device.source())
    found = run(gpu.tasks(args.op, device, calls), device, table, 60 * args.minutes)
    print(f"{sum(f.better for f in found)} of {len(found)} shapes have an entry in {table.path}")
    return 0


def _writable(name: str) -> Path:
    """Where a table may be written: a regular file, or none yet, in a folder that takes files. Raises ValueError."""
    out = Path(name)
    if not (out.parent.is_dir() and os.access(out.parent, os.W_OK)):
        raise ValueError(f"--out: expected a file in a folder that can be written to, got {name!r}")
    try:
        kind = os.stat(name).st_mode
    except FileNotFoundError:
        if out.name and not name.endswith("/"):
            return out
        kind = stat.S_IFDIR
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"--out: expected a file that can be written, got {name!r} ({why})") from error
    if not stat.S_ISREG(kind):
        found = "a directory" if stat.S_ISDIR(kind) else "a device, socket or pipe"
        raise ValueError(f"--out: expected a regular file, {name!r} is {found}")
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m liveact_kernels.tune`: 0 done, 2 unusable arguments or no GPU."""
    parser = argparse.ArgumentParser(prog="python -m liveact_kernels.tune", description=(__doc__ or "").split("\n")[0])
    add_arguments(parser)
    try:
        return tune(parser.parse_args(argv))
    except ValueError as error:
        print(f"tune: error: {error}", file=sys.stderr)
        return 2
