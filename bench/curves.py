"""Reports of training runs as rows: what docs/training.py draws.

    python bench/curves.py vae.log dit.log ... --out bench/results/cpu/training_runs.jsonl

A log is what a stage of `python -m liveact_train` prints. Of each run about 60 reports are kept, evenly, with the last
one; a run that continued is one run. A file that holds reports of several stages gives them all.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from manifest import manifest
from rows import Rows

from liveact_app.cli import answer
from liveact_model.errors import InputError

KEPT = 60
REPORT = re.compile(r"^(\w+) (\d+)/\d+  ([\d.]+) s a step  [\d.]+ h left  (.*)$")


def reports(text: str) -> list[dict]:
    """Stage, step, seconds a step and measures of every report in a log, in the order of steps; a later one counts."""
    found: dict[tuple[str, int], dict] = {}
    for line in text.splitlines():
        if match := REPORT.match(line):
            stage, step, seconds, rest = match.groups()
            said = rest.split("  ")
            values = {key: float(value) for key, value in (pair.rsplit(" ", 1) for pair in said)}
            found[stage, int(step)] = {"stage": stage, "step": int(step), "s_a_step": float(seconds), **values}
    return [found[key] for key in sorted(found)]


def thinned(rows: list[dict], kept: int = KEPT) -> list[dict]:
    """At most about `kept` of them, the first and the last among them."""
    every = max(1, -(-(len(rows) - 1) // kept))
    return [row for i, row in enumerate(rows) if i % every == 0 or i == len(rows) - 1]


def run(argv: Sequence[str] | None) -> int:
    """Read, thin, append."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", nargs="+", help="what a stage printed; its name is the run's")
    parser.add_argument("--out", metavar="FILE", help="append the rows to this .jsonl file")
    args = parser.parse_args(argv)
    rows, about = Rows(args.out), manifest()
    for name in args.log:
        path = Path(name)
        try:
            found = reports(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"log: expected what a stage of liveact_train printed in {name}, got: {error}") from None
        if not found:
            raise InputError(f"log: expected reports of a stage of liveact_train in {name}, found none")
        for stage in dict.fromkeys(row["stage"] for row in found):
            for row in thinned([r for r in found if r["stage"] == stage]):
                print(json.dumps(rows.add(about | {"what": "training run", "run": path.stem} | row)))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return answer(lambda: run(argv), "curves.py")


if __name__ == "__main__":
    sys.exit(main())
