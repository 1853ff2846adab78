"""`liveact convert`: a released checkpoint written once with quantised weights; `--check` compares its hashes."""

from __future__ import annotations

import argparse
from pathlib import Path

from liveact_app.precision import add_precision
from liveact_app.say import note, told
from liveact_model.config import STORED_PRECISIONS
from liveact_model.errors import InputError

EPILOG = """
OUT loads through --model like the original, makes bit for bit what the original makes in that precision, and needs no
quantising. A plan's 8-bit memory and attention are of a run: give that the plan again. The encoders' files are linked
where the file system can, else copied. A run that was killed goes on when it is started again; until it has ended, OUT
is refused as a model.

exit codes: 0 done, 2 unusable input
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "convert", help="write a released checkpoint once with quantised weights", epilog=EPILOG,
        description="Write a released checkpoint directory once with quantised weights.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("checkpoint", metavar="CKPT_DIR", help="the released directory; with --check a converted one")
    parser.add_argument("out", metavar="OUT", nargs="?", help="directory to write")
    add_precision(parser.add_argument, "--precision", names=STORED_PRECISIONS, default=STORED_PRECISIONS[0])
    parser.add_argument("--wav2vec-dir", metavar="DIR", help="the audio encoder, where it is not in CKPT_DIR")
    parser.add_argument("--check", action="store_true", help="write nothing: compare every file with its SHA-256")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert or check, and return the exit code."""
    import torch

    from liveact_model.checkpoint.manifest import differing
    from liveact_model.loading import convert

    folder = Path(args.checkpoint)
    if args.check:
        if args.out is not None:
            raise InputError(f"OUT: expected nothing to write beside --check, got {args.out!r}")
        count, wrong = differing(folder)
        if wrong:
            raise InputError(f"{str(folder)!r}: expected the files that its manifest lists, {len(wrong)} of {count} "
                             f"differ, first {wrong[0]!r}")  # fmt: skip
        print(f"{str(folder)!r}: {count} files are as they were written")
        return 0
    if args.out is None:
        raise InputError("the following arguments are required: OUT (see 'liveact convert --help')")
    with torch.no_grad(), told():
        convert(folder, Path(args.out), args.precision, args.wav2vec_dir, note)
    print(f"{args.out!r}: {args.precision} weights, ready for --model")
    return 0
