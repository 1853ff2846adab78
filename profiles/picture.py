"""Bars of measured time with the floor inside, one per op."""

from __future__ import annotations

LEFT, WIDTH, STEP = 200, 900, 24


def draw(rows: list[dict], title: str) -> str:
    """SVG of rows {op, measured_ms, floor_ms}, the longest first; rows that were not measured are left out."""
    found = sorted((r for r in rows if r["measured_ms"]), key=lambda r: -r["measured_ms"])
    scale = (WIDTH - LEFT - 150) / max(r["measured_ms"] for r in found)
    height = 60 + STEP * len(found)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"',
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="20" y="20" font-size="14" font-weight="bold">{title}</text>',
        '<text x="20" y="38" fill="#555">ms per video frame: measured (light), floor (dark)</text>',
    ]
    for i, r in enumerate(found):
        y, ms, floor = 50 + i * STEP, r["measured_ms"], r["floor_ms"] or 0.0
        light, dark = ms * scale, min(floor, ms) * scale
        out += [
            f'<text x="{LEFT - 8}" y="{y + 13}" text-anchor="end">{r["op"]}</text>',
            f'<rect x="{LEFT}" y="{y}" width="{light:.1f}" height="17" fill="#a9c7e8"/>',
            f'<rect x="{LEFT}" y="{y + 4}" width="{dark:.1f}" height="9" fill="#27548a"/>',
            f'<text x="{LEFT + light + 6:.1f}" y="{y + 13}">{ms:.3f} / {floor:.3f}</text>',
        ]
    return "\n".join([*out, "</svg>"]) + "\n"
