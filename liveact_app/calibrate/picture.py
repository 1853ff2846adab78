"""A calibration as an SVG: plans by ms and error, and the error of every linear layer."""

from __future__ import annotations

import math

from liveact_app.calibrate.report import by_kind
from liveact_app.calibrate.search import WIDE

WIDTH, LEFT, RIGHT, TOP, PLOT = 900, 90, 30, 60, 260
CELL, NAME = 18, 230
COLOURS = ("#5f8d4e", "#a9c78f", "#f2e3a2", "#e0a458", "#c8553d", "#8c2d19")
LOW, HIGH = 1e-3, 1.0  # errors at the ends of the colours


def draw(told: dict) -> str:
    """The whole picture of a report (report.report)."""
    plans = _plans(told)
    table, height = _layers(told, TOP + PLOT + 90)
    title = f"{told['model']}: error of the latents beside ms per video frame of the denoiser ({told['cost_label']})"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        _text(20, 22, title, 'font-weight="bold" font-size="14"'), *plans, *table, "</svg>",
    ]) + "\n"  # fmt: skip


def _text(x: float, y: float, text: str, more: str = "") -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{escaped}</text>'


def _plans(told: dict) -> list[str]:
    """Points: plans along the order joined by a line, formats everywhere as squares; the bound dashed."""
    runs, bound = told["runs"], told["bound"]
    most = 1.1 * max(bound, *(r["error"] for r in runs))
    low, high = min(r["ms_per_video_frame"] for r in runs), max(r["ms_per_video_frame"] for r in runs)
    low, high = low - 0.05 * (high - low or high), high + 0.05 * (high - low or high)

    def at(run: dict) -> tuple[float, float]:
        x = LEFT + (run["ms_per_video_frame"] - low) / (high - low) * (WIDTH - LEFT - RIGHT)
        return x, TOP + PLOT * (1 - run["error"] / most)

    out = [f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{PLOT}" fill="none" stroke="#bbb"/>']
    for i in range(5):
        y, x = TOP + PLOT * (1 - i / 4), LEFT + i / 4 * (WIDTH - LEFT - RIGHT)
        out.append(_text(LEFT - 6, y + 4, f"{most * i / 4:.3g}", 'text-anchor="end" fill="#555"'))
        out.append(_text(x, TOP + PLOT + 16, f"{low + (high - low) * i / 4:.4g}", 'text-anchor="middle" fill="#555"'))
    middle = (WIDTH + LEFT) / 2
    unit = f"ms per video frame of the denoiser on one {told['chip']}: {told['cost_label']}"
    out.append(_text(middle, TOP + PLOT + 34, unit, 'text-anchor="middle" fill="#555"'))
    out.append(_text(LEFT, TOP - 10, f"relative L2 error of the latents after {told['inputs']['blocks']} blocks, "
                     f"against {WIDE}", 'fill="#555"'))  # fmt: skip
    y = TOP + PLOT * (1 - bound / most)
    out.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#c00" '
               'stroke-dasharray="4 3"/>')  # fmt: skip
    out.append(_text(WIDTH - RIGHT - 6, y - 5, f"bound {bound:g}", 'text-anchor="end" fill="#c00"'))
    line = sorted((r for r in runs if r["moves"] is not None), key=lambda r: r["moves"])
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, line))
    out.append(f'<polyline points="{path}" fill="none" stroke="#27548a"/>')
    for run in runs:
        (x, y), mine = at(run), run["name"] == told["chosen"]["name"]
        tip = f"<title>{run['name']}: {run['ms_per_video_frame']:.4g} ms, {run['error']:.3g}</title>"
        if run["moves"] is None and not mine:
            out.append(f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8" fill="#c8553d">{tip}</rect>')
            out.append(_text(x + 8, y + 4, run["name"], 'font-size="11"'))
        else:
            out.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{7 if mine else 3.5}" '
                       f'fill="{"#5f8d4e" if mine else "#27548a"}">{tip}</circle>')  # fmt: skip
            if word := "chosen" if mine else WIDE if run["moves"] == 0 else "":
                out.append(_text(x - 8, y + (20 if mine else -10), word, 'font-size="11" text-anchor="end"'))
    return out


def _layers(told: dict, y: float) -> tuple[list[str], int]:
    """A row a kind, a cell a layer, coloured by the worst step's error; a cell with a frame stays wide."""
    name = told["formats"][0]
    out = [_text(20, y, f"Error of every linear layer in {name} (its worst step); outlined: stays {WIDE}",
                 'font-weight="bold"')]  # fmt: skip
    for i, colour in enumerate(COLOURS):
        edge = LOW * (HIGH / LOW) ** (i / len(COLOURS))
        out.append(f'<rect x="{20 + 90 * i}" y="{y + 10}" width="14" height="12" fill="{colour}"/>')
        out.append(_text(38 + 90 * i, y + 20, f"from {edge:.1g}" if i else "less", 'font-size="11"'))
    y, size = y + 36, min(CELL, (WIDTH - NAME - RIGHT) / max(1, told["layers"]))
    for kind, cells in by_kind(told, name).items():
        out.append(_text(20, y + 13, kind, 'font-size="11"'))
        for i, (path, error, chosen) in enumerate(cells):
            edge = ' stroke="#000" stroke-width="1.5"' if chosen == WIDE else ""
            box = f'x="{NAME + i * size:.1f}" y="{y + 1}" width="{size - 3:.1f}" height="{CELL - 3}"'
            colour, said = ("none", "not taken") if error is None else (_colour(error), f"{error:.3g}")
            out.append(f'<rect {box} fill="{colour}"{edge}><title>{path}: {said}, {chosen}</title></rect>')
        y += CELL
    return out, round(y + 20)


def _colour(error: float) -> str:
    if error <= LOW:
        return COLOURS[0]
    place = math.log(error / LOW) / math.log(HIGH / LOW) * len(COLOURS)
    return COLOURS[min(len(COLOURS) - 1, int(place))]
