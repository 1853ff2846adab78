"""`python -m tests.fuzz`: one case in full, or many and their result as a file."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections import Counter
from pathlib import Path

from . import ROOT
from .case import SHARES, names
from .engine import Engine


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--case", metavar="CLASS:SEED", help="run this one and show everything; its folder stays")
    parser.add_argument("-n", type=int, default=400, metavar="N", help="cases of a run (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="where each class starts (default: 0)")
    parser.add_argument("--only", choices=SHARES, help="only this class")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the result goes (.json)")
    args = parser.parse_args()
    return _one(args.case) if args.case else _many(args)


def _one(name: str) -> int:
    with Engine(1, keep=True) as engine:
        answer = engine.submit(name).result()
    got = answer["outcome"] or {}
    print(f"{name}: {answer['about']}\nfolder: {answer['root']}\nenv: {answer['env']}")
    print(f"argv (in run/): {shlex.join(answer['argv'])[:3000]}")
    print(
        f"exit {got.get('rc')}, {got.get('wall_s', 0):.2f} s, {got.get('grown_bytes', 0) / 1e6:.0f} MB, "
        f"new {got.get('new')}"
    )
    print(f"--- stdout\n{got.get('stdout', '')[-3000:]}\n--- stderr\n{got.get('stderr', '')[-6000:]}\n---")
    for kind, what in answer["violations"].items():
        print(f"VIOLATION {kind}: {what}")
    return 1 if answer["violations"] else 0


def _many(args: argparse.Namespace) -> int:
    from progress import Progress
    from rows import writable

    if args.out:
        writable(args.out)  # before the hour of work
    wanted = [f"{args.only}:{args.first + i}" for i in range(args.n)] if args.only else names(args.n, args.first)
    progress = Progress(len(wanted))

    def said(answer: dict) -> None:
        if progress._bar or progress._done % 50 == 0 or progress._done + 1 == len(wanted):
            progress.step(answer["case"])
        else:
            progress._done += 1
        for kind, what in answer["violations"].items():
            progress.say(f"{answer['case']} {kind}: {what[:150]}  [{answer['about'][:100]}]")

    with Engine(args.workers) as engine:
        answers = engine.map(wanted, said)
    progress.end()
    result = report(answers, args.n, args.first)
    print(table(result))
    if args.out:
        writable(args.out).write_text(json.dumps(result, indent=1) + "\n")
    return 1 if result["found"] else 0


def report(answers: list[dict], n: int, first: int) -> dict:
    """What a run found, as it is written down."""
    from manifest import manifest

    classes = sorted({a["case"].split(":")[0] for a in answers})
    of = {c: [a for a in answers if a["case"].startswith(f"{c}:")] for c in classes}
    return {
        **manifest("cpu"), "cores": os.cpu_count(), "n": n, "first": first,
        "cases": {c: len(of[c]) for c in classes},
        "exits": {c: dict(Counter(str((a["outcome"] or {}).get("rc")) for a in of[c])) for c in classes},
        "violations": {c: dict(Counter(kind for a in of[c] for kind in a["violations"])) for c in classes},
        "found": [
            {"case": a["case"], "about": a["about"], "kinds": a["violations"],
                "reproduce": f"python -m tests.fuzz --case {a['case']}",
             "last_line": ((a["outcome"] or {}).get("stderr", "").strip().splitlines() or [""])[-1][:300]}
            for a in answers if a["violations"]
        ],
    }  # fmt: skip


def table(result: dict) -> str:
    """Classes, cases and violations for people."""
    lines = [f"{'class':12} {'cases':>6} {'violations'}"]
    for name, count in result["cases"].items():
        lines.append(
            f"{name:12} {count:6} {', '.join(f'{n} {k}' for k, n in result['violations'][name].items()) or 'none'}"
        )
    return "\n".join([*lines, f"{len(result['found'])} of {sum(result['cases'].values())} cases break the rule"])


if __name__ == "__main__":
    sys.path[:0] = [] if str(ROOT) in sys.path else [str(ROOT)]
    sys.exit(main())
