"""Draw the frame budget: per size the floor, the best rates seen elsewhere, and what was measured, against 50 ms.

    python docs/budget_svg.py docs/budget.svg [--chip h200]

Measured bars come from the newest steady-state rows of bench/frame.py in bench/results/<chip>; without any, the bar
says "not yet measured".
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from rows import read  # noqa: E402

from liveact_app.budget.dryrun import record_block  # noqa: E402
from liveact_kernels.cost.budget import GROUPS, OUTSIDE_OPS, Budget  # noqa: E402
from liveact_kernels.cost.hw import CHIPS  # noqa: E402
from liveact_model.config import BLOCK_VIDEO_FRAMES  # noqa: E402

MODEL, SIZES, LIMIT_MS = "liveact-18b", ((512, 512), (416, 720)), 50.0
COLOURS = dict(zip(GROUPS, ("#27548a", "#5b8fc7", "#a9c7e8", "#e0a458", "#c8553d", "#888888", "#5f8d4e", "#7d6b91")))
WIDTH, LEFT, RIGHT, TOP, BAR, STEP, GAP = 900, 180, 30, 72, 24, 30, 16


class Rate(NamedTuple):
    """The best published rate for a row: operations and bytes per second, or ms per video frame at a size."""

    flops: float | None
    bandwidth: float
    ms_at: tuple[float, tuple[int, int]] | None
    source: str


COPY = 4.1e12  # bytes per second of a fused elementwise kernel on an H200
ELSEWHERE = {
    "linear": Rate(1347e12, COPY, None, "FP8 product 8192x8192x4096, Triton, H100 (triton PR 5461)"),
    "self attention": Rate(1055e12, COPY, None, "FP8, cuDNN 9.19, H200 (cudnn-frontend's own results)"),
    "cross attention": Rate(691e12, COPY, None, "bf16, cuDNN, H200"),
    "VAE decode": Rate(None, COPY, (14.5, (480, 832)), "Wan2.1 decoder, fastvae, RTX PRO 6000; by pixels"),
}
"""Not this project's numbers, and nobody has shown them together; the other rows move bytes at COPY."""


def elsewhere(group: str, row: dict, size: tuple[int, int]) -> float:
    """ms per video frame of a budget row at the best rate published for its kind of work."""
    rate = ELSEWHERE.get(group, Rate(None, COPY, None, ""))
    if rate.ms_at:
        ms, (w, h) = rate.ms_at
        return ms * size[0] * size[1] / (w * h)
    moved = row["gb_per_video_frame"] * 1e12 / rate.bandwidth
    return max(moved, row["tflop_per_video_frame"] * 1e15 / rate.flops) if rate.flops else moved


def measured(folder: Path, size: tuple[int, int]) -> tuple[dict[str, float], float] | None:
    """(ms per budget row, ms per video frame) of the newest steady state of a size; None where there is none."""
    found = [row for file in sorted(folder.glob("*.jsonl")) for row in read(file) if row.get("kind") == "frame"]
    wanted = (MODEL, "steady", f"{size[0]}*{size[1]}", 1)  # several processes have no parts
    mine = [r for r in found if (r["model"], r["what"], r["size"], r.get("ranks", 1)) == wanted]
    if not mine:
        return None
    last = max(mine, key=lambda r: str(r.get("date", "")))
    groups = dict.fromkeys(GROUPS, 0.0)
    for name, part in last["parts"].items():
        groups[name if name in GROUPS else OUTSIDE_OPS] += part["ms"]
    return groups, last["ms_per_video_frame"]


def bar(y: int, label: str, groups: dict[str, float] | None, scale: float, total: float = 0.0) -> list[str]:
    """One stacked bar with its total, or the words that there is none."""
    out = [f'<text x="{LEFT - 10}" y="{y + 17}" text-anchor="end">{label}</text>']
    if groups is None:
        return [*out, f'<text x="{LEFT + 6}" y="{y + 17}" fill="#888" font-style="italic">not yet measured</text>']
    x = float(LEFT)
    for name, ms in groups.items():
        width = ms * scale
        rect = f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{COLOURS[name]}">'
        out.append(f"{rect}<title>{name}: {ms:.2f} ms</title></rect>")
        if width > 30:
            out.append(f'<text x="{x + width / 2:.1f}" y="{y + 17}" text-anchor="middle" fill="#fff">{ms:.1f}</text>')
        x += width
    total = total or sum(groups.values())
    return [*out, f'<text x="{x + 8:.1f}" y="{y + 17}" font-weight="bold">{total:.1f} ms</text>']


def legend() -> list[str]:
    """The rows of the budget and their colours."""
    out, x = [], 20.0
    for name, colour in COLOURS.items():
        out += [f'<rect x="{x:.0f}" y="34" width="12" height="12" fill="{colour}"/>',
                f'<text x="{x + 16:.0f}" y="44" font-size="11">{name}</text>']  # fmt: skip
        x += 30 + 6.2 * len(name)
    return out


def draw(chip: str = "h200", results: Path | None = None) -> str:
    """The whole picture; `results` is the folder of measured rows."""
    results, scale, body, y = results or ROOT / "bench" / "results" / chip, (WIDTH - LEFT - RIGHT) / 56.0, [], TOP
    for size in SIZES:
        groups = Budget.of(record_block(MODEL, size), CHIPS[chip], BLOCK_VIDEO_FRAMES).to_dict()["groups"]
        found = measured(results, size)
        body.append(f'<text x="20" y="{y + 17}" font-weight="bold">{size[0]}x{size[1]}</text>')
        body += bar(y, "floor", {g: r["floor_ms_per_video_frame"] for g, r in groups.items()}, scale)
        body += bar(y + STEP, "seen elsewhere", {g: elsewhere(g, r, size) for g, r in groups.items()}, scale)
        body += bar(y + 2 * STEP, "measured", found and found[0], scale, found[1] if found else 0.0)
        y += 3 * STEP + GAP
    limit, height, goal = LEFT + LIMIT_MS * scale, y + 56, f"{LIMIT_MS:g} ms: 20 video frames per second"
    notes = (
        f"floor: every launch at the {CHIPS[chip].source} rates of one {CHIPS[chip].name}; not a measurement.",
        "seen elsewhere: each row at the best rate published by others for its kind of work (self attention in FP8); "
        "not ours.",
    )
    box = f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13"'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="20" y="20" font-size="14" font-weight="bold">Where the milliseconds of one video frame go, '
        f"{MODEL} on one {CHIPS[chip].name}</text>",
        *legend(), *body,
        f'<line x1="{limit:.1f}" x2="{limit:.1f}" y1="{TOP - 8}" y2="{y}" stroke="#c00" stroke-dasharray="4 3"/>',
        f'<text x="{limit + 4:.1f}" y="{y + 14}" text-anchor="end" fill="#c00">{goal}</text>',
        *(f'<text x="20" y="{y + 26 + 18 * i}" font-size="11" fill="#555">{n}</text>' for i, n in enumerate(notes)),
        "</svg>",
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    where, chip = sys.argv[1], sys.argv[3] if sys.argv[2:3] == ["--chip"] else "h200"
    text = draw(chip)
    Path(where).write_text(text, encoding="utf-8")
    print(f"wrote {where}")
