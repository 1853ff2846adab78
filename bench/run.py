"""How fast every op is here: registry x cases x backends x peers, as a table and as JSON lines.

    python bench/run.py [--op attention,kv_compress] [--case live_512x512] [--backend triton] [--out FILE]
    python bench/run.py --compare before.jsonl after.jsonl

A backend is timed only after it agrees with the float64 reference on this device. Inputs are random and rotated, so
that no call finds its own in the cache; backends and peers take turns; a row has the median of at least 0.5 s of
samples. On a CPU this times the torch backend with the host's clock.

exit codes: 0 measured, 1 a backend is wrong (it is not timed), 2 unusable input
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import root  # noqa: F401
import torch
from manifest import chip_name, manifest
from measure import OURS, Options, measure, too_large
from peers import KINDS
from progress import Progress
from rows import Rows, compare

from liveact_kernels import ops  # noqa: F401
from liveact_kernels.contract import REGISTRY, Case, Op
from liveact_kernels.cost import hw
from liveact_model.errors import InputError

HEAD = f"{'op, case':38} {'backend':9} {'us':>9} {'p20':>9} {'p80':>9} {'TFLOP/s':>8} {'GB/s':>6} floor  peer predicted"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add("--op", default="", metavar="NAMES", help="ops, comma separated (default: all, dearest first)")
    add("--case", default="", metavar="NAMES", help="cases, comma separated (default: all of the rung)")
    add("--rung", choices=("cpu", "device"), help="small cases or real sizes (default: device on a GPU)")
    add("--backend", default="", metavar="NAMES", help="backends, comma separated (default: all that are there)")
    add("--peers", default=None, metavar="KINDS", help=f"{','.join(KINDS)} or none (default: all; eager on a CPU)")
    add("--seconds", type=float, default=0.5, help="of samples per measurement (default: %(default)s)")
    add("--minutes", type=float, help="stop before a case that would begin later than this")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    add("--chip", metavar="NAME", help=f"ceilings for the floor: {', '.join(hw.CHIPS)} (default: the GPU's own)")
    add("--ceilings", default="datasheet", help="datasheet or measured (default: %(default)s)")
    add("--out", metavar="FILE", help="append the rows to this .jsonl file")
    add("--compare", nargs=2, metavar=("A", "B"), help="print B / A of two such files and measure nothing")
    return p


def one_of(flag: str, given: str, known: Sequence[str]) -> list[str]:
    """Comma-separated names, all of them in `known`; raises InputError naming the flag and what is known."""
    names = [n.strip() for n in given.split(",") if n.strip()]
    for name in names:
        if name not in known:
            raise InputError(f"{flag}: expected one of {', '.join(known)}, got {name!r}")
    return names


def device_of(text: str) -> torch.device:
    """A device that is there; raises InputError."""
    try:
        device = torch.device(text)
    except RuntimeError as error:
        raise InputError(f"--device: expected cpu or cuda, got {text!r}") from error
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"--device: expected a device that torch can use here, got {text!r}")
    return device


def chip_of(name: str | None, ceilings: str, device: torch.device) -> hw.Chip | None:
    """Ceilings by name, else the device's own; None where none are known, as on a CPU. Raises InputError."""
    given = name is not None
    name = name or (hw.key_of(chip_name(device)) if device.type == "cuda" else None)
    try:
        chip = hw.chip(name or next(iter(hw.CHIPS)), ceilings) if name or ceilings != "datasheet" else None
    except ValueError as error:
        raise InputError(f"--{error}") from error
    if given and device.type == "cpu":
        raise InputError(f"--chip: expected no ceilings of a GPU for times of a CPU, got {name!r}")
    return chip


def by_share(names: list[str]) -> list[str]:
    """Ops by their share of a steady block's floor in the released model at 512x512, the dearest first."""
    from liveact_app.budget.dryrun import record_block
    from liveact_kernels.cost.budget import Budget

    lines = Budget.of(record_block("liveact-18b", (512, 512)), hw.CHIPS["h200"], 32).lines
    return sorted(names, key=lambda n: -lines[n].floor_us if n in lines else 0.0)


def select(args: argparse.Namespace, rung: str) -> list[tuple[Op, Case]]:
    """What to measure, in order. Raises InputError for an unknown op, case or backend."""
    known = list(REGISTRY)
    names = one_of("--op", args.op, known) or (by_share(known) if rung == "device" else known)
    picked = [REGISTRY[n] for n in names]
    cases = one_of("--case", args.case, sorted({c.id for op in picked for c in op.cases}))
    one_of("--backend", args.backend, sorted({b for op in picked for b in op.backends} - {"reference"}))
    return [(op, c) for op in picked for c in op.cases if (c.id in cases if cases else c.rung == rung)]


def line(row: dict) -> str:
    """One row of the table."""
    head = f"{row['op'] + ' ' + row['case']:38.38} {row['backend']:9.9} "
    if row["kind"] != "op":
        return head + f"{row['kind']}: {row['why']}"
    floor = "" if row["percent_of_floor"] is None else f"{row['percent_of_floor']:.0f}%"
    peer = "" if row["ratio_to_best_peer"] is None else f"{row['ratio_to_best_peer']:.2f}"
    times = f"{row['us']:9.1f} {row['p20_us']:9.1f} {row['p80_us']:9.1f}"
    said = f" {row['predicted']['us']:9.1f}" if row.get("predicted") else ""
    return f"{head}{times} {row['tflops']:8.2f} {row['gbps']:6.0f} {floor:>5} {peer:>5}{said}"


def run(args: argparse.Namespace) -> int:
    """Measure, print, append; 1 when a backend was wrong."""
    device = device_of(args.device)
    rung = args.rung or ("device" if device.type == "cuda" else "cpu")
    kinds = ",".join(KINDS if device.type == "cuda" else KINDS[:1]) if args.peers is None else args.peers
    kinds = () if kinds == "none" else tuple(one_of("--peers", kinds, KINDS))
    if not args.seconds > 0:
        raise InputError(f"--seconds: expected more than 0, got {args.seconds}")
    work, chip = select(args, rung), chip_of(args.chip, args.ceilings, device)
    backends = tuple(n.strip() for n in args.backend.split(",") if n.strip()) or None
    options = Options(device, backends, kinds, args.seconds, chip)
    rows, bar, began = Rows(args.out), Progress(len(work)), time.perf_counter()
    where = f"{chip_name(device)}: {'the host clock' if device.type == 'cpu' else 'device time'}, "
    bar.say(where + (f"floor of {chip.name} ({chip.source})" if chip else "no ceilings are known, so no floor"))
    bar.say(HEAD)
    said: set[tuple] = set()
    for done, (op, case) in enumerate(work):
        if args.minutes and time.perf_counter() - began > 60 * args.minutes:
            bar.say(f"{len(work) - done} of {len(work)} cases not measured: {args.minutes:g} minutes are over")
            break
        bar.step(f"{op.name} {case.id}")
        if why := too_large(op, case, device):
            found = [manifest(device) | {"kind": "skip", "op": op.name, "case": case.id, "backend": "all", "why": why}]
        else:
            found = measure(op, case, options)
        for row in map(rows.add, found):
            reason = (row["backend"], row.get("why"))
            if row["kind"] != "skip" or reason not in said:  # what is missing on this machine is missing for every op
                bar.say(line(row))
            said.add(reason)
        if device.type == "cuda":
            torch.cuda.empty_cache()
        torch.compiler.reset()
    bar.end()
    bar.say(f"floor: share of the least time; peer: the best peer's time over this one's; ours: {', '.join(OURS)}")
    return 1 if any(r["kind"] == "red" for r in rows.all) else 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = parser().parse_args(argv)
    try:
        if args.compare:
            print("\n".join(compare(*args.compare)))
            return 0
        return run(args)
    except InputError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
