"""Every kernel predicted at its real shapes and compared with a committed ledger: a changed kernel shows its new cost.

    python -m liveact_kernels.compiled.predict [--op NAME ...] [--update]

profiles/predicted.json has the predicted microseconds, the bound, its limiter and the cycles of steady iterations per
compiler version, and how the calibration cases compare with published times. It fails on a kernel that the model cannot
follow and on any change; `--update` rewrites the ledger, and the commit says why. Nothing in it was measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import triton

from liveact_kernels import ops  # noqa: F401 - fills the registry
from liveact_kernels.common.cuda import extension
from liveact_kernels.compiled.aot import cases
from liveact_kernels.compiled.ledger import PATH, Ledger, Table
from liveact_kernels.contract import REGISTRY, Op
from liveact_kernels.cost.hw import CHIPS

from . import LABEL, Unpredictable, rates
from .estimate import Prediction
from .frame import code_of, line
from .launches import Called

CHIP = "h200"
CALIBRATION = "calibration"


def entry(p: Prediction) -> dict:
    """What the ledger keeps of a prediction."""
    return {"us": round(p.us, 1), "bound_us": round(p.bound_us, 1), "limiter": p.limiter, "cycles": p.cycles}


def lines(op: Op, cubins: dict[str, bytes]) -> Iterator[tuple[str, list[Prediction], Prediction | None]]:
    """(op/case, Triton's kernels, the CUDA library's) of an op at its real shapes."""
    for label, case in cases(op, ranks=False):
        found = line(Called(op, op.dims_of(case), 1), CHIPS[CHIP], rates.MACHINES[CHIP], cubins)
        yield f"{op.name}/{label}", found.triton, found.cuda


def predicted(names: list[str], cubins: dict[str, bytes]) -> tuple[Table, Table, list[str]]:
    """(of Triton's kernels, of the CUDA library's, what could not be predicted), printed as they come."""
    by_triton, by_cuda, wrong = {}, {}, []
    for op in (REGISTRY[n] for n in names):
        try:
            for key, kernels, cuda in lines(op, cubins):
                for n, p in enumerate(kernels):
                    by_triton[f"{key}/{n}" if n else key] = entry(p)
                if cuda:
                    by_cuda[key] = entry(cuda)
                for p in (*kernels, *([cuda] if cuda else [])):
                    print(f"{key:56}{p.us:10.1f} us  {p.limiter:10} {p.cycles}  {LABEL}", flush=True)
        except Unpredictable as error:
            wrong.append(f"{op.name}: {error}")
    return by_triton, by_cuda, wrong


def calibration() -> tuple[Table, list[str]]:
    """(ratio of replayed to published time per case, those outside their bounds)."""
    from .calibration import PUBLISHED, predictions

    table, wrong = {}, []
    for name, p in predictions():
        known = PUBLISHED[name]
        ratio = p.simulated_us / known.us
        table[f"{CALIBRATION}/{name}"] = {"replay_us": round(p.simulated_us, 1), "published_us": known.us}
        low, high = known.bounds
        if not low <= ratio <= high:
            wrong.append(f"{name}: {ratio:.2f} times the published time, expected {low:g} to {high:g}")
        print(f"{CALIBRATION}/{name}: {p.simulated_us:.1f} us, published {known.us:.1f} us: {ratio:.2f}  {LABEL}")
    return table, wrong


def main(argv: list[str] | None = None) -> int:
    """Predict, print, compare; 1 when anything is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m liveact_kernels.compiled.predict", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--op", nargs="+", default=[*REGISTRY], choices=[*REGISTRY], metavar="NAME", help="all ops")
    parser.add_argument("--update", action="store_true", help="write the ledger instead of comparing with it")
    args = parser.parse_args(argv)
    cubins = code_of()
    by_triton, by_cuda, wrong = predicted(args.op, cubins)
    measured, bad = calibration()
    tables = {f"triton {triton.__version__}": by_triton | measured}
    if cubins:
        tables[f"nvcc {extension().BUILD['nvcc']}"] = by_cuda
    code, chip = 0, f"{rates.MACHINES[CHIP].name}, {LABEL}"
    wrong += bad
    for version, table in tables.items():
        book = Ledger(version, PATH.with_name("predicted.json"))
        names = [*args.op, CALIBRATION]
        said = [] if args.update else book.changes(chip, table, names)
        book.replace(chip, table, names)
        code |= book.close(wrong + said, args.update)
        wrong = []
    return code


if __name__ == "__main__":
    sys.exit(main())
