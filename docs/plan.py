"""Write docs/plan.md's tables and docs/plan.svg: what the 18.9 B model takes by setting, and which cards hold it.

    python docs/plan.py

The numbers are those of `liveact plan`. Predicted, not measured.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

from liveact_app.cli import build_parser  # noqa: E402
from liveact_app.plan import tables  # noqa: E402
from liveact_app.plan.fit import LABEL, of_card  # noqa: E402
from liveact_app.plan.ladder import Models, Plan, climb  # noqa: E402

CARDS_GB = (8, 24, 32, 80, 141)
SIZE = (416, 720)
BEGIN, END = "<!-- from docs/plan.py -->", "<!-- end -->"
COLOURS = ("#27548a", "#5b8fc7", "#7d6b91", "#c8553d", "#e0a458", "#5f8d4e", "#a9c7e8", "#888888", "#b9b9b9", "#3f6f5f")
WIDTH, LEFT, RIGHT, TOP, BAR, STEP = 900, 330, 40, 96, 24, 34


def arguments() -> argparse.Namespace:
    """What `liveact plan --size 416*720` parses to."""
    return build_parser().parse_args(["plan", "--size", "{}*{}".format(*SIZE), "--gpu-memory", f"{CARDS_GB[0]}GB"])


def plans(models: Models) -> dict[int, Plan]:
    """A plan for every card, by its GB."""
    return {gb: climb(models, f"a GPU of {gb} GB", gb << 30) for gb in CARDS_GB}


def page(made: dict[int, Plan]) -> str:
    """The tables of the page: components by setting, then what every card can do."""
    first = made[CARDS_GB[0]]
    heads = ["GiB", *(f"[{i}]" for i in range(1, len(first.rungs) + 1))]
    cells = [(name, ["-" if v is None else f"{v:.2f}" for v in row]) for name, row in tables.rows(first)]
    body = [f"| {name} | {' | '.join(row)} |" for name, row in cells]
    for gb, plan in made.items():
        body.append(f"| fits in {gb} GB | {' | '.join('yes' if r.why is None else 'no' for r in plan.rungs)} |")
    copies = [f"{ms:.1f}" if (ms := first.travel_ms(r)) else "-" for r in first.rungs]
    body.append(f"| ms of copies per video frame, at 25 GB/s | {' | '.join(copies)} |")
    lines = [f"{first.name} at {SIZE[0]}x{SIZE[1]}: **{LABEL}**", "", f"| {' | '.join(heads)} |",
             "|" + " --- |" * len(heads), *body, ""]  # fmt: skip
    lines += [f"- [{i}] `{r.setting.flags()}`" for i, r in enumerate(first.rungs, 1)]
    for gb, plan in made.items():
        lines += ["", f"**{gb} GB.** {said(plan)}"]
    return "\n".join(lines)


def said(plan: Plan) -> str:
    """What a card can do, in a sentence or two."""
    if plan.chosen is None or plan.nearest is None:
        return f"Nothing fits at this size: {plan.sentence}."
    text = f"`{plan.command(plan.chosen)}`"
    if plan.nearest is plan.chosen:
        return text
    return f"{text}; nearest to the released precision: `{plan.command(plan.nearest)}`"


def draw(made: dict[int, Plan]) -> str:
    """One stacked bar a setting, and a line for what each card has left for tensors."""
    first = made[CARDS_GB[0]]
    names = list(dict.fromkeys(n for r in first.rungs for n in r.needs.model))
    colours = dict(zip(names, COLOURS, strict=False)) | dict.fromkeys(names[len(COLOURS):], "#444444")
    most = of_card(CARDS_GB[-1] << 30) / (1 << 30)
    scale, body, y = (WIDTH - LEFT - RIGHT) / most, [], TOP
    for number, rung in enumerate(first.rungs, 1):
        short = rung.setting.flags().replace("--dtype ", "").replace("--", "")
        body.append(f'<text x="12" y="{y + 16}" font-size="10">[{number}] {short}</text>')
        x = float(LEFT)
        for name, count in rung.needs.model.items():
            width = count / (1 << 30) * scale
            body.append(f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colours[name]}">'
                        f"<title>{name}: {count / (1 << 30):.2f} GiB</title></rect>")  # fmt: skip
            x += width
        total = rung.needs.model_bytes / (1 << 30)
        body.append(f'<text x="{x + 6:.1f}" y="{y + 16}" font-weight="bold">{total:.1f}</text>')
        y += STEP
    for gb in CARDS_GB:
        x = LEFT + of_card(gb << 30) / (1 << 30) * scale
        body.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 10}" y2="{y}" stroke="#c00" stroke-dasharray="4 3"/>')
        body.append(f'<text x="{x:.1f}" y="{y + 14}" text-anchor="end" fill="#c00" font-size="11">{gb} GB</text>')
    legend, at, row = [], 20.0, 42
    for name in names:
        if at > WIDTH - 8 - 7 * len(name):
            at, row = 20.0, row + 18
        legend += [f'<rect x="{at:.0f}" y="{row - 10}" width="12" height="12" fill="{colours[name]}"/>',
                   f'<text x="{at + 16:.0f}" y="{row}" font-size="11">{name}</text>']  # fmt: skip
        at += 34 + 6.1 * len(name)
    notes = (
        f"{LABEL.capitalize()}: the model and a Session run once without values; bytes where the denoiser lives.",
        "Dashed: what a card has for tensors once its context and the allocator's rounding are set aside (assumed).",
    )
    height, title = y + 56, f"Memory of {first.name} at {SIZE[0]}x{SIZE[1]}, GiB: {LABEL}"
    box = f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13"'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="20" y="20" font-size="14" font-weight="bold">{title}</text>',
        *legend, *body,
        *(f'<text x="20" y="{y + 32 + 16 * i}" font-size="11" fill="#555">{n}</text>' for i, n in enumerate(notes)),
        "</svg>",
    ]) + "\n"  # fmt: skip


def filled(text: str, made: dict[int, Plan]) -> str:
    """The page with its part between the marks made anew."""
    inner = "\n".join([BEGIN, "", page(made), "", END])
    return re.sub(f"{BEGIN}.*{END}", lambda _: inner, text, flags=re.S)


def main() -> None:
    """Write both files."""
    made = plans(Models(arguments(), False))
    path = HERE / "plan.md"
    path.write_text(filled(path.read_text(encoding="utf-8"), made), encoding="utf-8")
    (HERE / "plan.svg").write_text(draw(made), encoding="utf-8")


if __name__ == "__main__":
    main()
