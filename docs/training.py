"""Write docs/training.md's table of the trained models and docs/training.svg, their curves, from bench/results/cpu.

    python docs/training.py

evaluation.json holds what `python -m liveact_train evaluate` wrote of each model, by its name; training_runs.jsonl
is bench/curves.py's.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "docs")]

import panels  # noqa: E402
from panels import Panel, Section  # noqa: E402
from rows import read  # noqa: E402

HERE = Path(__file__).resolve().parent
RESULTS = ROOT / "bench" / "results" / "cpu"
Report = dict[str, Any]
ACTIONS = ("nod", "wave", "shake")
CURVES = {
    "vae": ("VAE", (("psnr", "PSNR", "dB, held out"), ("border_step", "border step", "of the steps within"))),
    "dit": (
        "Denoiser",
        (
            ("val_937.5", "loss at 937.5", "held out"),
            ("val_833.3", "loss at 833.3", "held out"),
            ("val_500", "loss at 500", "held out"),
            ("val_200", "loss at 200", "held out"),
        ),
    ),
    "distill": (
        "Three denoise steps",
        (
            ("val_833.3", "regression: loss at 833.3", "to the teacher's end, held out"),
            ("difference", "matching: critic and teacher", "mean difference at 500, held out"),
        ),
    ),
}
"""Of each stage: its heading, and the measures of a report that are drawn."""


def recognised(which: Callable[[str], bool]) -> Callable[[Report, str], str]:
    """How often prompts are seen, of those that `which` takes."""

    def cell(report: Report, suffix: str) -> str:
        found = [v[f"recognised{suffix}"] for name, v in report["asked"].items() if which(name)]
        return f"{sum(found) / len(found):.0%}" if found else ""

    return cell


def edges(which: Callable[[str], bool]) -> Callable[[Report, str], str]:
    """The least sharpness of the prompts that `which` takes, over the truth's."""

    def cell(report: Report, suffix: str) -> str:
        found = [v["edges"] for name, v in report["asked"].items() if which(name)]
        return "1" if suffix else f"{min(found):.2f}" if found else ""

    return cell


def mean(key: str, truth: str = "") -> Callable[[Report, str], str]:
    """A mean over clips; of the truth what is given, or what the report says of it."""

    def cell(report: Report, suffix: str) -> str:
        if not suffix:
            return f"{report['mean'][key]:.3g}"
        return truth or f"{report['mean'][f'{key}_of{suffix}']:.3g}"

    return cell


def own(key: str) -> Callable[[Report, str], str]:
    """What faces do by themselves."""

    def cell(report: Report, suffix: str) -> str:
        found = report["by_itself"]
        return f"{found['truth' if suffix else 'generated'][key]:.2g}"

    return cell


LINES: tuple[tuple[str, str, Callable[[Report, str], str]], ...] = (
    ("mouth, correlation", ">= 0.9", mean("mouth_correlation", "1")),
    ("mouth, amplitude", "", mean("mouth_amplitude", "1")),
    ("blinks a minute", "within 30 %", own("blinks_per_minute")),
    *((f"sway, {name}", "within 30 %", own(f"sway_{name}")) for name in ("dx", "dy", "roll", "yaw", "pitch")),
    ("change where a block begins", "<= 1.3", mean("border_step")),
    ("change where a latent frame begins", "<= 1.2", mean("latent_step")),
    ("four emotions recognised", ">= 90 %", recognised(lambda n: n not in ACTIONS)),
    ("nodding, waving, shaking recognised", ">= 90 %", recognised(lambda n: n in ACTIONS)),
    ("edges while nodding or waving", ">= 0.85", edges(lambda n: n in ("nod", "wave"))),
    ("drift of a corner", "", mean("background_drift", "0")),
)
"""Name, bar and cell of a line; a cell is given a report and "_truth" or nothing."""


def table(reports: dict[str, Report]) -> str:
    """Markdown; a column per model, the truth's first."""
    first = next(iter(reports.values()))
    out = [f"| | bar | truth | {' | '.join(reports)} |", "| --- " * (3 + len(reports)) + "|"]
    for name, bar, cell in LINES:
        out.append(f"| {' | '.join([name, bar, cell(first, '_truth'), *(cell(r, '') for r in reports.values())])} |")
    c = first["config"]
    clips = f"{c['clips']} clips of {c['blocks']} blocks, {c['asked']} more of each of {len(first['asked'])} prompts"
    return "\n".join([*out, "", f"{clips}; unseen faces and voices, seed {c['seed']}."])


def filled(text: str, reports: dict[str, Report]) -> str:
    """The page with its table made anew."""
    begin, end = "<!-- models from docs/training.py -->", "<!-- end models -->"
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n\n{table(reports)}\n\n{end}", text, flags=re.S)


def draw(rows: list[Report]) -> str:
    """A section a stage, a line a run."""
    sections = []
    for stage, (title, wanted) in CURVES.items():
        found = [r for r in rows if r["stage"] == stage]
        plots = []
        for key, name, unit in wanted:
            lines: panels.Lines = {}
            for row in found:
                if key in row:
                    lines.setdefault(row["run"], [[]])[0].append((row["step"], row[key]))
            if lines:
                plots.append(Panel(name, f"{unit}; over steps", lines))
        if plots:
            sections.append(Section(title, plots))
    return panels.draw(sections)


def main() -> None:
    """Write both files."""
    reports = json.loads((RESULTS / "evaluation.json").read_text(encoding="utf-8"))
    path = HERE / "training.md"
    path.write_text(filled(path.read_text(encoding="utf-8"), reports), encoding="utf-8")
    (HERE / "training.svg").write_text(draw(read(RESULTS / "training_runs.jsonl")), encoding="utf-8")


if __name__ == "__main__":
    main()
