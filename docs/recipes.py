"""Write docs/training.md's tables of recipes and docs/recipes.svg from bench/results/cpu/recipes.jsonl.

    python docs/recipes.py

A table and a row of panels per kind of rows; kinds without rows are left out. Of rows of the same kind, name, seed and
settings the newest counts; settings are those of the newest row of a kind.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "docs")]

import panels  # noqa: E402
from panels import Lines, Panel, Section  # noqa: E402
from rows import read  # noqa: E402

HERE = Path(__file__).resolve().parent
ROWS = ROOT / "bench" / "results" / "cpu" / "recipes.jsonl"
Row = dict[str, Any]
COLOUR = "colour first seen in"
NAMES = {"step": "same step", "clean": "finished blocks", "last": "last step"}


class Plot(NamedTuple):
    """A panel, and how rows become its lines."""

    title: str
    unit: str
    lines: Callable[[list[Row]], Lines]


# ---- rows -----------------------------------------------------------------------------------------------------------


def of(rows: list[Row], kind: str) -> list[Row]:
    """The rows of a kind that count, in the order in which they were first measured."""
    found = [r for r in rows if r["kind"] == kind]
    last = {(r["what"], r["seed"]): r for r in found}
    if kind == "sizes" and last:  # 6/8 is what Neighbor Forcing is trained with
        last = {("6/8", r["seed"]): r for r in of(rows, "forcing") if r["what"] == "neighbor"} | last
    return list(last.values())


def label(row: Row, context: str) -> str:
    """A line's name: of a row, and of the context if it was measured in several."""
    return row["what"] if row["kind"] != "forcing" else f"{row['what']}, memory: {NAMES[context]}"


def named(row: Row, kind: str) -> str:
    """What a row is called in a table of a kind."""
    return "6/8" if kind == "sizes" and row["kind"] == "forcing" else row["what"]


def by_block(measure: str, kind: str) -> Callable[[list[Row]], Lines]:
    """Lines of a measure over the blocks of held-out videos."""

    def lines(rows: list[Row]) -> Lines:
        out: Lines = {}
        for row in rows:
            for context, found in row["blocks"].items():
                name = label(row, context) if kind == "forcing" else named(row, kind)
                out.setdefault(name, []).append([(i + 1, v) for i, v in enumerate(found[measure])])
        return out

    return lines


def over_steps(timestep: str) -> Callable[[list[Row]], Lines]:
    """Lines of the held-out velocity loss while training."""

    def lines(rows: list[Row]) -> Lines:
        out: Lines = {}
        for row in rows:
            out.setdefault(named(row, row["kind"]), []).append([(c["step"], c["loss"][timestep]) for c in row["curve"]])
        return out

    return lines


def mouths(rows: list[Row]) -> Lines:
    """Lines of the mouth's correlation while training."""
    out: Lines = {}
    for row in rows:
        for context in row["blocks"]:
            points = [(c["step"], c["mouth"][context]) for c in row["curve"]]
            out.setdefault(label(row, context), []).append(points)
    return out


VIDEO = (("mouth", "mouth", "correlation with the truth"), ("corner", "corner", "difference from the reference, of 1"),
         ("picture", "mean picture", "difference from the truth's, of 1"),
         ("sharpness", "sharpness", "of the truth's"))  # fmt: skip


def videos(kind: str) -> tuple[Plot, ...]:
    """Panels of what is measured on videos."""
    return tuple(Plot(name, f"{unit}; over blocks", by_block(key, kind)) for key, name, unit in VIDEO)


PANELS: dict[str, tuple[str, tuple[Plot, ...]]] = {
    "forcing": ("What a block sees of the past while it learns", (
        *videos("forcing"),
        Plot("loss at 850, with the memory it trains with", "over steps", over_steps("850")),
        Plot("mouth, four blocks", "correlation; over steps", mouths),
    )),
    "memory": ("Nothing but the long-term slots", (
        Plot("loss at 850, third block on", "over steps", over_steps("850")),
        Plot("loss at 550, third block on", "over steps", over_steps("550")),
    )),
    "sizes": ("Memory slots / block latent frames", videos("sizes")),
    "steps": ("Denoise steps", videos("steps")),
}  # fmt: skip

# ---- tables ---------------------------------------------------------------------------------------------------------


def spread(values: list[float], digits: int = 3) -> str:
    """The mean, and the least and the greatest of several seeds."""
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def table(heads: list[str], lines: list[list[str]]) -> list[str]:
    """Markdown."""
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *lines)]


def grouped(rows: list[Row], kind: str) -> dict[str, list[Row]]:
    """Rows by what they are called."""
    out: dict[str, list[Row]] = {}
    for row in rows:
        out.setdefault(named(row, kind), []).append(row)
    return out


def third(values: list[float], last: bool) -> float:
    """Mean of the last or the first third of the blocks."""
    n = max(1, len(values) // 3)
    part = values[-n:] if last else values[:n]
    return sum(part) / n


def video_table(rows: list[Row], kind: str, ruler: list[Row]) -> list[str]:
    """Quality of videos: first and last third of the blocks."""
    out = []

    def line(name: str, found: list[dict[str, list[float]]], rest: list[str]) -> None:
        cells = [
            " → ".join(spread([third(f[key], last) for f in found]) for last in (False, True)) for key, *_ in VIDEO
        ]
        out.append([name, *cells, *rest])

    for row in ruler:
        for name, found in row["blocks"].items():
            line(name, [found], ["", ""])
    for name, same in grouped(rows, kind).items():
        for context in same[0]["blocks"]:
            end = [r["curve"][-1]["loss"] for r in same if r.get("curve")]
            losses = " / ".join(spread([e[t] for e in end]) for t in ("850", "550")) if end else ""
            seconds = spread([r["train_cpu_seconds"] for r in same], 0)
            shown = name if kind != "forcing" else f"{name}, {NAMES[context]}"
            line(shown, [r["blocks"][context] for r in same], [losses, seconds])
    heads = ["", *(name for _, name, _ in VIDEO), "loss at 850 / 550", "seconds of training"]
    return table(heads, out)


def right(rows: list[dict[str, dict]]) -> list[str]:
    """Colours read right, by where they were first seen."""
    cells = []
    for where in ("later block", "first block"):
        hits = [sum(r[where][k] for r in rows if where in r) for k in ("right", "of")]
        secret = [r[where]["secret"] for r in rows if where in r]
        cells.append(f"{hits[0]} of {hits[1]}; {spread(secret)}" if hits[1] else "")
    return cells


def memory_table(rows: list[Row], ruler: list[Row]) -> list[str]:
    """Losses, and colours read right."""
    out = [["VAE alone", "", "", f"{r['colour']['right']} of {r['colour']['of']}, both", "", ""] for r in ruler]
    for name, same in grouped(rows, "memory").items():
        losses = [spread([r["curve"][-1]["loss"][t] for r in same]) for t in ("850", "550")]
        out.append(
            [name, *losses, *right([r["colour"] for r in same]), spread([r["train_cpu_seconds"] for r in same], 0)]
        )
    heads = ["taps, grouping", "loss at 850", "at 550", f"{COLOUR} a later block: right; loss"]
    heads += ["in the first block: right; loss", "seconds of training"]
    return table(heads, out)


def weights_table(rows: list[Row], ruler: list[Row]) -> list[str]:
    """Colours by hidden slots, of weights that were given."""
    out = []
    for row in rows:
        for hidden, found in row["colour"].items():
            out.append([f"{row['what']} ({row['settings']['sha256'][:12]})", hidden, *right([found])])
    heads = [
        "weights",
        "slots hidden",
        "colour first seen in a later block: right; loss",
        "in the first block: right; loss",
    ]
    return table(heads, out)


def about(rows: list[Row]) -> str:
    """How the rows of a kind came about."""
    first = next(r for r in rows if "curve" in r)
    s, seeds = first["settings"], sorted({r["seed"] for r in rows})
    counts = {what: len({r["seed"] for r in rows if named(r, r["kind"]) == what}) for what in
              dict.fromkeys(named(r, r["kind"]) for r in rows)}  # fmt: skip
    least, most = min(counts.values()), max(counts.values())
    said = f"{most} seed{'s' * (most > 1)}" if least == most else f"{least} to {most} seeds"
    hours = sum(r["train_cpu_seconds"] + r["measure_cpu_seconds"] for r in rows) / 3600
    several = "; means, and the least and the greatest of the seeds" if len(seeds) > 1 else ""
    return (f"{said}, {s['steps']} steps of {s['batch']} clips each after {s['start']} common ones{several}. "
            f"{hours:.2f} hours of a processor ({first['chip']}, shared with other work).")  # fmt: skip


def page(rows: list[Row], kind: str) -> str:
    """The part of the page that a kind of rows fills."""
    found, ruler = of(rows, kind), of(rows, "ruler")[-1:]
    if not found:
        return "Not measured yet."
    if kind == "weights":
        return "\n".join(weights_table(found, ruler))
    lines = memory_table(found, ruler) if kind == "memory" else video_table(found, kind, ruler)
    return "\n".join([*lines, "", about(found)])


def filled(text: str, rows: list[Row]) -> str:
    """The page with its parts between the marks made anew."""
    for kind in (*PANELS, "weights"):
        begin, end = f"<!-- {kind} from docs/recipes.py -->", f"<!-- end {kind} -->"
        inner = f"{begin}\n\n{page(rows, kind)}\n\n{end}"
        text = re.sub(f"{begin}.*{end}", lambda _, inner=inner: inner, text, flags=re.S)
    return text


# ---- picture --------------------------------------------------------------------------------------------------------


def draw(rows: list[Row]) -> str:
    """The whole picture: a section of each kind that has rows."""
    sections = []
    for kind, (title, plots) in PANELS.items():
        if found := of(rows, kind):
            sections.append(Section(title, [Panel(p.title, p.unit, p.lines(found)) for p in plots]))
    return panels.draw(sections)


def main() -> None:
    """Write both files."""
    rows, path = read(ROWS), HERE / "training.md"
    path.write_text(filled(path.read_text(encoding="utf-8"), rows), encoding="utf-8")
    (HERE / "recipes.svg").write_text(draw(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
