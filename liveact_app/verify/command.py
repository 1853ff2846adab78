"""`liveact verify`: replay recorded runs of the released model and judge every number."""

from __future__ import annotations

import argparse
import contextlib

from liveact_app.backend import HELP, backends
from liveact_model.errors import InputError

EPILOG = """
Each recorded case is a JSON sidecar and a safetensors file. Float32 variants must agree within 2e-5 (relative L2),
bf16 within 3e-2, teacher-forced call by call; 8-bit memory must be at most 1.2 times as wrong as the released FP8
cache. The package's own cases are in tests/golden of the source tree.

exit codes: 0 every case passes, 1 a case fails, 2 unusable input
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "verify", help="check this installation against recorded runs of the released model", epilog=EPILOG,
        description="Replay recorded runs of the released model through this installation.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--golden", required=True, metavar="DIR", help="folder of recorded cases")
    parser.add_argument("--backend", metavar="NAME", help=HELP)
    parser.add_argument("--junit", metavar="FILE", help="also write the checks as JUnit XML (.xml)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replay, print a row per check, and return the exit code."""
    from liveact_app.media.files import check_output
    from liveact_app.media.pending import PendingFile
    from liveact_app.verify.cases import find, replay
    from liveact_app.verify.junit import junit
    from liveact_app.verify.report import Report

    found = find(args.golden)
    with contextlib.ExitStack() as stack:
        xml = None
        if args.junit is not None:
            xml = stack.enter_context(PendingFile(check_output(args.junit, "--junit", (".xml",), {}), "--junit"))
        stack.enter_context(backends(args.backend))
        report = Report()
        for path in found:
            for row in replay(path):
                report.add(row)
        if xml:
            where = xml.commit_text(junit(report.rows, args.backend or "default"))
        code = report.close()
        if xml and (sentence := xml.moved(where)):
            raise InputError(sentence)
        return code
