"""`liveact doctor`: what this machine has, which kernels every op runs on, and whether they compute the right thing."""

from __future__ import annotations

import argparse
import importlib
import platform
from typing import TYPE_CHECKING

from liveact_app.backend import HELP, backends, must_run_on

if TYPE_CHECKING:
    from liveact_kernels.proof.selftest import Outcome

EPILOG = """
Every op's chosen backend is run on small cases and compared with its float64 reference; on a CPU so are the functions
of torch that networks call between the ops. What is wrong but called by nothing is listed as distrusted.

exit codes: 0 all that is used is right, 1 something is wrong or fails, 2 unusable input
"""

LIBRARIES = ("torch", "triton", "transformers", "av", "soundfile", "soxr", "flash_attn", "sageattention", "deep_gemm")


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "doctor", help="what this machine has, and whether every op computes the right thing on it", epilog=EPILOG,
        description="Print chip, driver, versions and what every op runs on, after testing it.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--backend", metavar="NAME", help=HELP)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if an op fails."""
    import torch

    from liveact_kernels.proof import selftest

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with backends(args.backend):
        must_run_on(device)
        print("\n".join(machine(torch)))
        outcomes, seconds = selftest.run(device)
    print("\n".join(verdicts(outcomes)))
    print(f"\n{sum(o.ok for o in outcomes)} of {len(outcomes)} right on {device}, {seconds:.2f} s")
    for line in advice(device):
        print(line)
    return 1 if any(o.matters() for o in outcomes) else 0


def verdicts(outcomes: list[Outcome]) -> list[str]:
    """A table of what was tested, and what of it is wrong without anybody calling it."""
    width = max(len(o.op) for o in outcomes)
    lines = ["", f"{'op':{width}} {'backend':10} {'verdict':10} why"]
    for o in outcomes:
        wrong = ("not here", o.why) if o.absent else ("WRONG", o.said) if o.needed else ("distrusted", o.why)
        verdict, why = ("right", o.why) if o.ok else wrong
        lines.append(f"{o.op:{width}} {o.backend:10} {verdict:10} {why}")
    distrusted = [f"{o.op} ({o.said})" for o in outcomes if not o.ok and not o.needed]
    return [*lines, *([f"distrusted: {'; '.join(distrusted)}"] if distrusted else [])]


def machine(torch) -> list[str]:
    """Chip, driver and versions, one line each."""
    lines = [f"python {platform.python_version()} on {platform.platform()}"]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            p = torch.cuda.get_device_properties(i)
            lines.append(f"gpu {i}: {p.name}, sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB")
        lines.append(f"cuda {torch.version.cuda}, driver {_driver()}")
    else:
        lines.append(f"gpu: none that torch {torch.__version__} can use; {torch.get_num_threads()} CPU threads")
    for name in LIBRARIES:
        try:
            lines.append(f"{name} {getattr(importlib.import_module(name), '__version__', '(no version)')}")
        except Exception as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            lines.append(f"{name}: {'not installed' if missing else f'fails to import: {error}'}")
    return lines


def _driver() -> str:
    from liveact_kernels.contract import driver_version

    version = driver_version()
    return f"API {version // 1000}.{version % 1000 // 10}" if version else "unknown"


def advice(device: str) -> list[str]:
    """How to get what is not there: faster kernels, and other people's to compare with."""
    if device == "cpu":
        return ["The fused kernels need an NVIDIA GPU; on a CPU every op runs on plain torch."]
    from liveact_kernels.contract import PREFERRED, VENDORS, missing

    wanted = {b: missing(b, device) for b in (*PREFERRED[device], *VENDORS)}
    return [f"{'peer' if b in VENDORS else 'backend'} {b}: {why}" for b, why in wanted.items() if why]
