"""Write docs/soak.svg and the table in docs/deploy.md from what bench/soak.py has measured.

    python docs/soak.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from rows import read  # noqa: E402

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- from docs/soak.py -->", "<!-- end -->"
ROWS = ROOT / "bench" / "results" / "cpu" / "soak.jsonl"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, PANEL, GAP = 900, 560, 70, 24, 64, 120, 66
COLUMN = (WIDTH - LEFT - RIGHT - GAP) / 2
SESSIONS, LONG = "#27548a", "#c8553d"
Points = list[tuple[float, float]]


def curves(rows: list[dict]) -> list[list[tuple[str, str, str, list[Points], float]]]:
    """Two columns of panels: (title, unit of x, colour, lines, top of the axis)."""
    many = [r for r in rows if r["what"] == "sessions"]
    long = [r for r in rows if r["what"] == "long"]

    def of(found: list[dict], x: str, y: str, per: float = 1) -> Points:
        return [(r[x] / per, r[y]) for r in found]

    hour = ("seconds_of_video", 3600)
    lead = [of(long, hour[0], f"lead_{end}_ms", hour[1]) for end in ("min", "max")]
    return [
        [
            ("resident memory, MiB", "sessions opened and closed", SESSIONS, [of(many, "sessions", "rss_mib")], 600),
            ("threads", "sessions opened and closed", SESSIONS, [of(many, "sessions", "server_threads")], 12),
            ("file descriptors", "sessions opened and closed", SESSIONS, [of(many, "sessions", "descriptors")], 24),
        ],
        [
            ("resident memory, MiB", "hours of video", LONG, [of(long, hour[0], "rss_mib", hour[1])], 600),
            ("threads", "hours of video", LONG, [of(long, hour[0], "server_threads", hour[1])], 12),
            ("end of sound minus end of picture, ms, smallest and largest", "hours of video", LONG, lead, 100),
        ],
    ]


def panel(x: float, y: float, what: tuple[str, str, str, list[Points], float]) -> list[str]:
    """One set of axes; the lower end is 0, or as far below as the upper is above where values are negative."""
    title, unit, colour, lines, top = what
    low = -top if any(v < 0 for line in lines for _, v in line) else 0.0
    most = max(at for line in lines for at, _ in line)

    def place(at: float, value: float) -> str:
        return f"{x + at / most * COLUMN:.1f},{y + PANEL - (value - low) / (top - low) * PANEL:.1f}"

    out = [f'<text x="{x:.0f}" y="{y - 8:.0f}">{title}</text>']
    for value in (low, (low + top) / 2, top):
        left, right = place(0, value), place(most, value)
        out.append(f'<polyline points="{left} {right}" stroke="#ccc" fill="none"/>')
        height = float(left.split(",")[1]) + 4
        out.append(f'<text x="{x - 6:.0f}" y="{height:.0f}" text-anchor="end" font-size="11">{value:g}</text>')
    for line in lines:
        points = " ".join(place(at, value) for at, value in line)
        out.append(f'<polyline points="{points}" stroke="{colour}" stroke-width="2" fill="none"/>')
    below = y + PANEL + 16
    out += [f'<text x="{x:.0f}" y="{below:.0f}" font-size="11">0</text>',
            f'<text x="{x + COLUMN / 2:.0f}" y="{below:.0f}" text-anchor="middle" font-size="11">{unit}</text>',
            f'<text x="{x + COLUMN:.0f}" y="{below:.0f}" text-anchor="end" font-size="11">{most:g}</text>']  # fmt: skip
    return out


def draw(rows: list[dict]) -> str:
    """The whole picture."""
    body = []
    for column, panels in enumerate(curves(rows)):
        for row, what in enumerate(panels):
            body += panel(LEFT + column * (COLUMN + GAP), TOP + row * (PANEL + 44), what)
    chip = rows[0]["chip"]
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12"'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="20" y="22" font-size="14" font-weight="bold">A server of the small model on a CPU ({chip}), '
        "measured by bench/soak.py from outside its process</text>",
        *body, "</svg>",
    ]) + "\n"  # fmt: skip


def span(values: list[float]) -> str:
    """First and last, and what lies between."""
    first, last, low, high = (f"{v:.0f}" for v in (values[0], values[-1], min(values), max(values)))
    return first if low == high else f"{first} first, {last} last, {low} to {high}"


def table(rows: list[dict]) -> str:
    """The numbers as a table."""
    many = [r for r in rows if r["what"] == "sessions"]
    long = [r for r in rows if r["what"] == "long"]
    (whole,) = [r for r in rows if r["what"] == "long, whole"]
    hours, lags = whole["seconds_of_video"] / 3600, whole["mouth_lag_ms"]
    lead = [min(r["lead_min_ms"] for r in long), max(r["lead_max_ms"] for r in long)]
    leads = {(r["lead_min_ms"], r["lead_max_ms"]) for r in long}
    cells = [
        ("resident MiB", span([r["rss_mib"] for r in many]), span([r["rss_mib"] for r in long])),
        ("threads", span([r["server_threads"] for r in many]), span([r["server_threads"] for r in long])),
        ("file descriptors", span([r["descriptors"] for r in many]), span([r["descriptors"] for r in long])),
        ("memory, straight line", "", f"{whole['rss_mib_per_hour']:+.1f} MiB per hour of video"),
        ("fragments that do not join", "", f"{whole['holes']}"),
        ("end of sound minus end of picture", "", f"{lead[0]:.0f} to {lead[1]:.0f} ms, "
         + ("the same in every 5 minutes" if len(leads) == 1 else "over all")),
        ("lag of the sound by the mouth", "", f"{lags[0]} ms in the first two minutes, {lags[1]} ms in the last two"),
        ("on the way", "three ways to leave, two at a time", f"{whole['prompts']} prompts, {whole['interrupts']} "
         f"interrupts, {whole['viewers']} viewers"),
    ]  # fmt: skip
    speed = whole["seconds_of_video"] / whole["seconds"]
    heads = ("", f"{many[-1]['sessions']:,} sessions", f"{hours:.0f} hours of video at {speed:.1f} times real time")
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ("---",) * 3, *cells))


def filled(text: str, rows: list[dict]) -> str:
    """The page with its part between the marks made anew."""
    inner = "\n".join([BEGIN, "", table(rows), "", END])
    return re.sub(f"{BEGIN}.*?{END}", lambda _: inner, text, flags=re.S)


def main() -> None:
    """Write both files."""
    rows, page = read(ROWS), HERE / "deploy.md"
    (HERE / "soak.svg").write_text(draw(rows), encoding="utf-8")
    page.write_text(filled(page.read_text(encoding="utf-8"), rows), encoding="utf-8")


if __name__ == "__main__":
    main()
