"""Draw the house: floors, rooms, files, and which room imports which, read from the code as it is.

    python docs/rooms_svg.py docs/rooms.svg

`tests/test_rooms.py` draws it again and compares, so the picture in docs/architecture.md is never of another version.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from rooms import FLOORS, ROOMS, graph, room_of  # noqa: E402

WIDTH, MARGIN, LABEL, GAP, ROW_GAP, LINE, HEAD = 1180, 14, 150, 16, 30, 14, 22
FLOOR = {
    "liveact_app": ("#c8553d", "what people run"),
    "liveact_train": ("#7d6b91", "the small model's making"),
    "liveact_model": ("#27548a", "model, memory, Session"),
    "liveact_kernels": ("#5f8d4e", "ops and their proof"),
}
LETTER = 6.9
ON_TOP = {".": "for all", "story": "on top"}


def files(floor: str, room: str) -> list[str]:
    """Stems of a room's files; its packages end in a slash."""
    top = ROOT / floor
    if room in ON_TOP:
        found = (p.stem for p in top.glob("*.py") if p.stem != "__init__" and room_of(f"{floor}.{p.stem}")[1] == room)
        return sorted(found)
    folder = top / room
    packages = [f"{p.parent.name}/" for p in folder.glob("*/__init__.py")]
    tables = [p.name for p in folder.glob("*.json")]
    return sorted(p.stem for p in folder.glob("*.py") if p.stem != "__init__") + sorted([*packages, *tables])


def levels(floor: str) -> list[list[str]]:
    """Rooms by how much stands below them, highest first."""
    table = ROOMS.get(floor, {})
    if not table:
        return [[".", *sorted(p.parent.name for p in (ROOT / floor).glob("*/__init__.py"))]]
    depth: dict[str, int] = {}
    for room, takes in table.items():
        depth[room] = max((depth[t] + 1 for t in takes.split()), default=0)
    rows = [[r for r, d in depth.items() if d == n and files(floor, r)] for n in range(max(depth.values()), -1, -1)]
    return [row for row in rows if row]


def text_of(names: list[str], columns: int) -> list[str]:
    """File names in lines of at most `columns` letters."""
    lines = [""]
    for name in names:
        if len(lines[-1]) + len(name) + 1 > columns and lines[-1]:
            lines.append("")
        lines[-1] += f" {name}" if lines[-1] else name
    return lines


def picture() -> str:
    """The whole SVG."""
    out, boxes, y = [], {}, MARGIN
    for floor in FLOOR:
        top, rows = y, levels(floor)
        y += 8
        for row in rows:
            width = (WIDTH - LABEL - 2 * MARGIN - GAP * (len(row) + 1)) / len(row)
            texts = [text_of(files(floor, room), int((width - 16) / LETTER)) for room in row]
            height = HEAD + 8 + LINE * max(map(len, texts))
            for i, (room, lines) in enumerate(zip(row, texts)):
                x = LABEL + MARGIN + GAP + i * (width + GAP)
                boxes[floor, room] = (x, y, width, height, lines)
            y += height + ROW_GAP
        y += 8 - ROW_GAP + 8
        out.append(
            f'<rect x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" height="{y - top}" rx="8" '
            f'fill="{FLOOR[floor][0]}" fill-opacity="0.08"/>'
            f'<text x="{MARGIN + 10}" y="{top + 24}" class="floor" fill="{FLOOR[floor][0]}">{floor}/</text>'
            f'<text x="{MARGIN + 10}" y="{top + 42}" class="said">{escape(FLOOR[floor][1])}</text>'
        )
        y += 14
    out += lines_between(boxes)
    for (floor, room), box in boxes.items():
        out.append(drawn(floor, room, box))
    style = (
        "text{font-family:ui-monospace,Menlo,Consolas,monospace;font-size:11px;fill:#333}.floor{font-size:14px;"
        "font-weight:bold}.room{font-size:12px;font-weight:bold;fill:#fff}.said{font-size:9.5px;fill:#666}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y:.0f}" width="{WIDTH}" height="{y:.0f}">'
        f"<title>Floors, rooms and files; a line goes from a room down to one that it imports</title>"
        f'<style>{style}</style><rect width="100%" height="100%" fill="#fff"/>' + "\n".join(out) + "</svg>\n"
    )


def drawn(floor: str, room: str, box: tuple) -> str:
    """One room: its name and its files."""
    x, y, width, height, lines = box
    name = ON_TOP.get(room, f"{room}/")
    rows = [(y + HEAD + 14 + i * LINE, escape(line)) for i, line in enumerate(lines)]
    text = "".join(f'<text x="{x + 8:.1f}" y="{at:.1f}">{line}</text>' for at, line in rows)
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" rx="5" fill="#fff" '
        f'stroke="{FLOOR[floor][0]}"/><rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{HEAD}" rx="5" '
        f'fill="{FLOOR[floor][0]}"/><text x="{x + 8:.1f}" y="{y + 15:.1f}" class="room">{name}</text>{text}'
    )


def lines_between(boxes: dict) -> list[str]:
    """A line for every pair of rooms of one floor of which one imports the other."""
    pairs = set()
    for module, targets in graph().items():
        for target in targets:
            a, b = room_of(module), room_of(target)
            if a != b and a[0] == b[0] and a in boxes and b in boxes:
                pairs.add((a, b))
    out = []
    for a, b in sorted(pairs):
        (ax, ay, aw, ah, _), (bx, by, bw, *_) = boxes[a], boxes[b]
        x1, y1, x2, y2 = ax + aw / 2, ay + ah, bx + bw / 2, by
        bend = (y2 - y1) / 2
        out.append(
            f'<path d="M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}" '
            f'fill="none" stroke="{FLOOR[a[0]][0]}" stroke-opacity="0.45"/>'
        )
    return out


if __name__ == "__main__":
    assert set(FLOOR) == set(FLOORS)
    Path(sys.argv[1]).write_text(picture(), encoding="utf-8")
