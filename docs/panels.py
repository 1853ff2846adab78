"""Panels of lines in SVG: what docs/recipes.py and docs/training.py draw."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

COLOURS = ("#27548a", "#c8553d", "#5f8d4e", "#8e5ea2", "#d99a2b", "#3a9a9a", "#888888")
WIDTH, LEFT, RIGHT, GAP, PANEL, TOP = 960, 56, 20, 56, 150, 52
Points = list[tuple[float, float]]
Lines = dict[str, list[Points]]  # label -> the points of every seed


class Panel(NamedTuple):
    """One set of axes."""

    title: str
    unit: str
    lines: Lines


class Section(NamedTuple):
    """A heading and panels whose lines have one legend."""

    title: str
    panels: Sequence[Panel]


def mean(seeds: list[Points]) -> list[tuple[float, float, float, float]]:
    """(x, mean, least, greatest) of the seeds at each x that all of them have."""
    common = sorted(set.intersection(*({x for x, _ in points} for points in seeds)))
    values = [dict(points) for points in seeds]
    return [(x, sum(v := [p[x] for p in values]) / len(v), min(v), max(v)) for x in common]


def axes(panel: Panel, colours: dict[str, str], x: float, y: float, width: float) -> list[str]:
    """One panel with its lines: means, and a band from the least to the greatest seed."""
    lines = {name: mean(seeds) for name, seeds in panel.lines.items()}
    points = [p for line in lines.values() for p in line]
    low, high = min(p[2] for p in points), max(p[3] for p in points)
    pad = 0.05 * (high - low) or 0.5
    low, high = low - pad, high + pad
    left, right_ = min(p[0] for p in points), max(p[0] for p in points)
    right_ = right_ if right_ > left else left + 1

    def at(px: float, value: float) -> str:
        return f"{x + (px - left) / (right_ - left) * width:.1f},{y + PANEL - (value - low) / (high - low) * PANEL:.1f}"

    def note(px: float | str, py: float, said: str, anchor: str) -> str:
        return f'<text x="{px}" y="{py:.0f}" text-anchor="{anchor}" fill="#555" font-size="10">{said}</text>'

    title = f'<tspan font-weight="bold">{escape(panel.title)}</tspan>'
    unit = f'<tspan fill="#555" font-size="11"> {escape(panel.unit)}</tspan>'
    out = [f'<text x="{x - 34:.0f}" y="{y - 10:.0f}" font-size="12">{title}{unit}</text>']
    for share in (0.0, 0.5, 1.0):
        height, value = y + PANEL * (1 - share), low + share * (high - low)
        out += [f'<line x1="{x:.1f}" x2="{x + width:.1f}" y1="{height:.1f}" y2="{height:.1f}" stroke="#ddd"/>',
                note(f"{x - 5:.0f}", height + 4, f"{value:.3g}", "end")]  # fmt: skip
    for place, anchor in ((left, "start"), (right_, "end")):
        out.append(note(at(place, low).split(",")[0], y + PANEL + 14, f"{place:g}", anchor))
    for name, line in lines.items():
        band = [at(p[0], p[3]) for p in line] + [at(p[0], p[2]) for p in reversed(line)]
        out += [f'<polygon points="{" ".join(band)}" fill="{colours[name]}" fill-opacity="0.15"/>',
                f'<polyline points="{" ".join(at(p[0], p[1]) for p in line)}" fill="none" stroke="{colours[name]}" '
                'stroke-width="2"/>']  # fmt: skip
    return out


def draw(sections: Sequence[Section]) -> str:
    """The whole picture: a heading, a legend and panels, two abreast, of each section."""
    body, y = [], 30.0
    column = (WIDTH - 2 * LEFT - RIGHT - GAP + 34) / 2
    for title, panels in sections:
        names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
        short = [n for n in names if not any(m.startswith(f"{n}, memory") for m in names)]
        colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(short)}
        for name in names:  # a recipe that is measured in several contexts has the colour of its first one
            colours.setdefault(name, next((c for n, c in colours.items() if n.startswith(f"{name},")), COLOURS[-1]))
        body.append(f'<text x="20" y="{y:.0f}" font-size="14" font-weight="bold">{escape(title)}</text>')
        x, y = 20.0, y + 20
        for name in short:
            wide = 34 + 6.3 * len(name)
            if x > 20 and x + wide > WIDTH - RIGHT:
                x, y = 20.0, y + 18
            stroke = f'stroke-width="3" stroke="{colours[name]}"'
            body += [f'<line x1="{x:.0f}" x2="{x + 18:.0f}" y1="{y - 4:.0f}" y2="{y - 4:.0f}" {stroke}/>',
                     f'<text x="{x + 23:.0f}" y="{y:.0f}">{escape(name)}</text>']  # fmt: skip
            x += wide
        y += 36
        for i, panel in enumerate(panels):
            body += axes(panel, colours, LEFT + (i % 2) * (column + GAP), y, column)
            if i % 2 or i == len(panels) - 1:
                y += PANEL + 52
        y += 8
    box = f'viewBox="0 0 {WIDTH} {y:.0f}" font-family="sans-serif" font-size="11"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
                      f'<rect width="{WIDTH}" height="{y:.0f}" fill="#fff"/>', *body, "</svg>"]) + "\n"  # fmt: skip
