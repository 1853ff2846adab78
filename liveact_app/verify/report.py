"""The table of a verification, printed as it grows."""

from __future__ import annotations

from .golden import Row


class Report:
    """Prints rows and counts verdicts."""

    def __init__(self) -> None:
        self.counts = {"pass": 0, "FAIL": 0, "skip": 0}
        self.rows: list[Row] = []
        print(f"{'case':16} {'variant':26} {'error':>10} {'tolerance':>10}  verdict")

    def add(self, row: Row) -> None:
        """Print one row."""
        self.counts[row.verdict] += 1
        self.rows.append(row)
        error, tolerance = ("-" if v is None else f"{v:.2e}" for v in (row.error, row.tolerance))
        line = f"{row.case:16} {row.variant:26} {error:>10} {tolerance:>10}  {row.verdict:7} {row.note}"
        print(line.rstrip(), flush=True)

    def close(self) -> int:
        """Print the counts; 0 only if something passed and nothing failed."""
        n = self.counts
        print(f"{n['pass']} passed, {n['FAIL']} failed, {n['skip']} skipped")
        return 0 if n["pass"] and not n["FAIL"] else 1
