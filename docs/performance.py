"""Write docs/performance.md's tables and docs/performance.svg: floor, predicted, published, measured.

    python docs/performance.py

Predictions come from the machine code as compiled here (liveact predict); measured bars as in budget_svg.py.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import budget_svg as svg  # noqa: E402

from liveact_app.budget.dryrun import record_block  # noqa: E402
from liveact_app.predict.tables import GAPS, groups, numbers  # noqa: E402
from liveact_kernels.compiled.predict import LABEL  # noqa: E402
from liveact_kernels.compiled.predict.frame import Frame, frame  # noqa: E402
from liveact_kernels.compiled.predict.rates import MACHINES  # noqa: E402
from liveact_kernels.cost.budget import Budget  # noqa: E402
from liveact_kernels.cost.hw import CHIPS  # noqa: E402
from liveact_model.config import BLOCK_VIDEO_FRAMES  # noqa: E402

CHIP = "h200"
BEGIN, END = "<!-- from docs/performance.py -->", "<!-- end -->"
NOT_YET = "not yet measured"


def predicted(size: tuple[int, int]) -> tuple[Frame, dict]:
    """(every launch predicted, the budget's groups) of a size."""
    calls = record_block(svg.MODEL, size)
    found = frame(calls, CHIPS[CHIP], MACHINES[CHIP], size, BLOCK_VIDEO_FRAMES, lambda text: print(text, flush=True))
    return found, Budget.of(calls, CHIPS[CHIP], BLOCK_VIDEO_FRAMES).to_dict()["groups"]


def table(found: Frame, budget: dict, results: Path) -> list[str]:
    """Markdown of one size."""
    known = svg.measured(results, found.size)
    names = ["floor", "bound", "Triton alone", *(["with CUDA"] if found.library else [])]
    heads = [n if n == "floor" else f"{n} (predicted)" for n in names]
    out = [f"### {found.size[0]}x{found.size[1]}, {found.compiler}", "",
           f"Columns marked as predicted are **{LABEL}**.", "",
           f"| ms per video frame | {' | '.join(heads)} | goal | published | measured |",
           "|" + " --- |" * (len(names) + 4)]  # fmt: skip
    published = {g: svg.elsewhere(g, budget[g], found.size) for g in budget}
    published["total"] = sum(published.values())
    for group, lines, goal in groups(found):
        cells = [f"{v:.2f}" for v in numbers(found, group, lines).values()]
        other = f"{published[group]:.2f}" if group in published else ""
        mine = NOT_YET if known is None else f"{known[1] if group == 'total' else known[0].get(group, 0.0):.2f}"
        wanted = "" if goal is None else f"{goal:g}"
        out.append(f"| {group} | {' | '.join(cells)} | {wanted} | {other} | {'' if group == GAPS else mine} |")
    return [*out, ""]


def draw(made: list[tuple[Frame, dict]], results: Path) -> str:
    """The picture: four bars per size."""
    scale, body, y = (svg.WIDTH - svg.LEFT - svg.RIGHT) / 64.0, [], svg.TOP
    for found, budget in made:
        known = svg.measured(results, found.size)
        by_group = {g: found.ms(lines) for g, lines in found.groups().items()}
        floors = {g: r["floor_ms_per_video_frame"] for g, r in budget.items()}
        body.append(f'<text x="20" y="{y + 17}" font-weight="bold">{found.size[0]}x{found.size[1]}</text>')
        body += svg.bar(y, "floor", floors, scale)
        body += svg.bar(y + svg.STEP, LABEL, by_group, scale, found.total_ms())
        body += svg.bar(
            y + 2 * svg.STEP, "published", {g: svg.elsewhere(g, budget[g], found.size) for g in budget}, scale
        )
        body += svg.bar(y + 3 * svg.STEP, "measured", known and known[0], scale, known[1] if known else 0.0)
        y += 4 * svg.STEP + svg.GAP
    limit, notes = svg.LEFT + svg.LIMIT_MS * scale, (
        f"{LABEL}: machine code ({made[0][0].compiler}) replayed by a model of one {MACHINES[CHIP].name}.",
        "published: each row at the best rate others have published for its kind of work; not ours.",
    )  # fmt: skip
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {svg.WIDTH} {y + 56}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{svg.WIDTH}" height="{y + 56}" fill="#fff"/>',
        f'<text x="20" y="20" font-size="14" font-weight="bold">One video frame of {svg.MODEL}: {LABEL}</text>',
        *svg.legend(), *body,
        f'<line x1="{limit:.1f}" x2="{limit:.1f}" y1="{svg.TOP - 8}" y2="{y}" stroke="#c00" stroke-dasharray="4 3"/>',
        *(f'<text x="20" y="{y + 26 + 18 * i}" font-size="11" fill="#555">{n}</text>' for i, n in enumerate(notes)),
        "</svg>",
    ]) + "\n"  # fmt: skip


def main() -> None:
    """Predict both sizes and write both files."""
    results = HERE.parent / "bench" / "results" / CHIP
    made = [predicted(size) for size in svg.SIZES]
    rows = [line for found, budget in made for line in table(found, budget, results)]
    page = HERE / "performance.md"
    text = page.read_text(encoding="utf-8")
    inner = "\n".join([BEGIN, "", *rows, END])
    page.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: inner, text, flags=re.S), encoding="utf-8")
    (HERE / "performance.svg").write_text(draw(made, results), encoding="utf-8")


if __name__ == "__main__":
    main()
