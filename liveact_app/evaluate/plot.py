"""The figures over time as an SVG: a panel a measure, a line a video, a point a tenth."""

from __future__ import annotations

from html import escape
from typing import Any

PANELS = (
    ("lip_sync_tenths", "lip sync", "correlation, 1 is best", (0.0, 1.0)),
    ("identity_tenths", "identity", "likeness to the reference, 1 is the same", (None, 1.0)),
    ("colour_drift_tenths", "colour drift", "levels of 255 from the first tenth", (0.0, None)),
    ("arcface_tenths", "identity by ArcFace", "cosine, 1 is the same", (None, 1.0)),
)
COLOURS = ("#27548a", "#c8553d", "#5f8d4e", "#7d6b91", "#e0a458", "#5b8fc7", "#3f6f5f", "#888888")
DASHES = ("", "6 3", "2 3", "8 3 2 3")
WIDTH, LEFT, RIGHT, PANEL, GAP, TOP = 900, 60, 20, 150, 58, 40


def draw(named: list[tuple[str, dict[str, Any]]], title: str) -> str:
    """Every panel of which any video has a value.

    Args:
        named: (name, row) of each video; rows have lists of ten under the keys of PANELS.
    """
    panels = [p for p in PANELS if any(v is not None for _, row in named for v in row.get(p[0]) or [])]
    legend, y = _legend(named)
    body: list[str] = []
    for key, name, unit, limits in panels:
        body += _panel([row.get(key) or [] for _, row in named], name, unit, limits, y)
        y += PANEL + GAP
    height = y - GAP + 46
    box = f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="11"'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="20" y="22" font-size="14" font-weight="bold">{escape(title)}</text>', *legend, *body,
        f'<text x="{WIDTH - RIGHT}" y="{height - 8}" text-anchor="end" fill="#555">tenths of the video</text>',
        "</svg>",
    ]) + "\n"  # fmt: skip


def _style(number: int) -> str:
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    return f'stroke="{COLOURS[number % len(COLOURS)]}"' + (f' stroke-dasharray="{dash}"' if dash else "")


def _legend(named: list[tuple[str, dict[str, Any]]]) -> tuple[list[str], int]:
    out, x, y = [], 20.0, TOP + 4
    for number, (name, _) in enumerate(named):
        width = 38 + 6.2 * len(name)
        if x > 20 and x + width > WIDTH - RIGHT:
            x, y = 20.0, y + 18
        out += [f'<line x1="{x:.0f}" x2="{x + 18:.0f}" y1="{y - 4}" y2="{y - 4}" stroke-width="2" {_style(number)}/>',
                f'<text x="{x + 23:.0f}" y="{y}">{escape(name)}</text>']  # fmt: skip
        x += width
    return out, y + 34


def _panel(
    lines: list[list[float | None]], name: str, unit: str, limits: tuple[float | None, float | None], y: int
) -> list[str]:
    values = [v for line in lines for v in line if v is not None]
    low = min(values) if limits[0] is None else min(limits[0], *values)
    high = max(values) if limits[1] is None else max(limits[1], *values)
    high = high if high > low else low + 1
    step = (WIDTH - LEFT - RIGHT) / 10

    def place(tenth: int, value: float) -> tuple[float, float]:
        return LEFT + (tenth + 0.5) * step, y + PANEL * (1 - (value - low) / (high - low))

    out = [f'<text x="20" y="{y - 8}" font-size="12"><tspan font-weight="bold">{name}</tspan>'
           f'<tspan fill="#555"> · {unit}</tspan></text>']  # fmt: skip
    for share in (0.0, 0.5, 1.0):
        at = y + PANEL * (1 - share)
        out += [f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>',
                f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end" fill="#555">'
                f"{low + share * (high - low):.3g}</text>"]  # fmt: skip
    for tenth in range(10):
        x = LEFT + (tenth + 0.5) * step
        out.append(f'<text x="{x:.1f}" y="{y + PANEL + 14}" text-anchor="middle" fill="#555">{tenth + 1}</text>')
    for number, line in enumerate(lines):
        points = [place(i, v) for i, v in enumerate(line) if v is not None]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        out.append(f'<polyline points="{path}" fill="none" stroke-width="2" {_style(number)}/>')
    return out
