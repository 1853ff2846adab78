"""Result files: one JSON object per line, appended as soon as it is known; and two of them side by side."""

from __future__ import annotations

import json
from pathlib import Path

import root  # noqa: F401
from manifest import SCHEMA

from liveact_app.media.files import check_output
from liveact_model.errors import InputError


def read(path: str | Path) -> list[dict]:
    """Rows of a results file. Raises InputError naming a file that is missing, broken or of another schema."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"results: expected a readable file {path}, got: {error}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"results: expected a JSON object in line {number} of {path}, got: {error}") from error
        version = row.get("schema") if isinstance(row, dict) else None
        if version != SCHEMA:
            raise InputError(f"results: expected schema {SCHEMA} in line {number} of {path}, got {version!r}")
        found.append(row)
    return found


def writable(path: str | Path) -> Path:
    """Where results may be written, its folder and an empty file made. Raises InputError before any work is done."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        found = Path(check_output(path, "--out", ("",), {}))
        found.open("ab").close()
        return found
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"--out: expected a file that can be written, got {path}: {error}") from error


class Rows:
    """Appends rows to a file (or keeps them only, without one) and holds them in `all`."""

    def __init__(self, path: str | Path | None):
        self.all: list[dict] = []
        self._path = None if path is None else writable(path)
        if self._path is not None and self._path.stat().st_size:
            read(self._path)

    def add(self, row: dict) -> dict:
        """Keep a row; on disk it is one whole line or nothing."""
        self.all.append(row)
        if self._path is not None:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        return row


def _timed(rows: list[dict]) -> dict[tuple, float]:
    """(what, which) -> time, the last row of each winning."""
    found = {}
    for row in rows:
        if row.get("kind") == "op":
            found[row["op"], row["case"], row["backend"]] = row["us"]
        elif row.get("kind") == "frame":
            which = f"{row['size']} {row['precision']} {row['memory_slots']}/{row['block_latent_frames']}"
            if row.get("ranks", 1) > 1:
                which += f" {row['ranks']} ranks {row['form']}"
            found[f"frame {row['what']}", row["model"], which] = row["ms_per_video_frame"]
    return found


def compare(a: str | Path, b: str | Path) -> list[str]:
    """Lines of a report: times of both files and B / A (below 1: B is faster), then what only one of them has."""
    rows_a, rows_b = read(a), read(b)
    times_a, times_b = _timed(rows_a), _timed(rows_b)
    both = [key for key in times_a if key in times_b]
    if not both:
        raise InputError(f"--compare: expected results in common, found none in {a} and {b}")
    chips = [sorted({r["chip"] for r in rows}) for rows in (rows_a, rows_b)]
    lines = [f"A: {a} on {', '.join(chips[0])}", f"B: {b} on {', '.join(chips[1])}"]
    if chips[0] != chips[1]:
        lines.append("A and B are different chips: the ratios say nothing about the code")
    lines.append(f"{'op':22} {'case':26} {'backend':20} {'A':>9} {'B':>9} {'B/A':>6}")
    for key in both:
        before, after = times_a[key], times_b[key]
        lines.append(f"{key[0]:22} {key[1]:26} {key[2]:20} {before:9.1f} {after:9.1f} {after / before:6.2f}")
    for name, mine, other in (("A", times_a, times_b), ("B", times_b, times_a)):
        alone = [" ".join(key) for key in mine if key not in other]
        lines += [f"only in {name}: {', '.join(alone)}"] if alone else []
    return [*lines, "us per call; ms per video frame for frames"]
