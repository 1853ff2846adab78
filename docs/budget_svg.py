"""Draw the frame budget: stacked floors of one video frame per size, against the 50 ms of real time at 20 per second.

    python docs/budget_svg.py docs/budget.svg
"""

import sys

from liveact_app.dryrun import record_block
from liveact_kernels.budget import Budget
from liveact_kernels.hw import CHIPS
from liveact_model.config import BLOCK_VIDEO_FRAMES

SIZES = ((512, 512), (416, 720), (480, 832))
COLOURS = ("#27548a", "#5b8fc7", "#a9c7e8", "#e0a458", "#c8553d", "#888888", "#5f8d4e")
WIDTH, LEFT, RIGHT, TOP, BAR, GAP, LIMIT_MS = 860, 90, 24, 66, 40, 26, 50.0


def bar(y: int, size: tuple[int, int], groups: dict[str, float], scale: float) -> list[str]:
    """One stacked bar with its total."""
    out, x = [f'<text x="{LEFT - 10}" y="{y + 25}" text-anchor="end">{size[0]}x{size[1]}</text>'], float(LEFT)
    for (name, ms), colour in zip(groups.items(), COLOURS):
        width = ms * scale
        rect = f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{BAR}" fill="{colour}">'
        out.append(f"{rect}<title>{name}: {ms:.2f} ms</title></rect>")
        if width > 30:
            out.append(f'<text x="{x + width / 2:.1f}" y="{y + 25}" text-anchor="middle" fill="#fff">{ms:.1f}</text>')
        x += width
    return [*out, f'<text x="{x + 8:.1f}" y="{y + 25}" font-weight="bold">{sum(groups.values()):.1f} ms</text>']


def draw(chip: str = "h200") -> str:
    """The whole picture."""
    scale = (WIDTH - LEFT - RIGHT) / (LIMIT_MS * 1.04)
    rows = []
    for size in SIZES:
        budget = Budget.of(record_block("liveact-18b", size), CHIPS[chip], BLOCK_VIDEO_FRAMES).to_dict()
        rows.append((size, {g: r["floor_ms_per_video_frame"] for g, r in budget["groups"].items()}))
    height = TOP + len(rows) * (BAR + GAP) + 30
    box = f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="13"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="20" font-size="14" font-weight="bold">Floor of one video frame on one '
        f"{CHIPS[chip].name}, ms ({CHIPS[chip].source}; not a measurement)</text>",
    ]
    x = float(LEFT)
    for name, colour in zip(rows[0][1], COLOURS):
        out += [f'<rect x="{x:.0f}" y="34" width="12" height="12" fill="{colour}"/>',
                f'<text x="{x + 16:.0f}" y="45">{name}</text>']  # fmt: skip
        x += 29 + 6.9 * len(name)
    for i, (size, groups) in enumerate(rows):
        out += bar(TOP + i * (BAR + GAP), size, groups, scale)
    limit = LEFT + LIMIT_MS * scale
    ends = f'x1="{limit:.1f}" x2="{limit:.1f}" y1="{TOP - 6}" y2="{height - 26}"'
    place = f'x="{limit - 6:.1f}" y="{height - 10}" text-anchor="end" fill="#c00"'
    out.append(f'<line {ends} stroke="#c00" stroke-dasharray="4 3"/>')
    out.append(f"<text {place}>50 ms: 20 video frames per second</text>")
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        file.write(draw())
    print(f"wrote {sys.argv[1]}")
