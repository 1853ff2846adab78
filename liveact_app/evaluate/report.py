"""The figures as a table: what each column is called, which way is better, and how it is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

NONE = "-"


@dataclass(frozen=True)
class Column:
    """A measure in tables: its key in a row, its heading, digits, and "up", "down" or "one" for what is good."""

    key: str
    title: str
    digits: int
    good: str = ""
    network: str = ""

    @property
    def heading(self) -> str:
        """The title with an arrow."""
        return self.title + {"up": " ↑", "down": " ↓", "one": " →1"}.get(self.good, "")


COLUMNS = (
    Column("fid", "FID", 2, "down", "inception"), Column("fvd", "FVD", 2, "down", "i3d"),
    Column("sync_c", "Sync-C", 3, "up", "syncnet"), Column("sync_d", "Sync-D", 3, "down", "syncnet"),
    Column("arcface", "ArcFace", 3, "up", "arcface"), Column("lip_sync", "lip sync", 3, "up"),
    Column("lip_sync_lag_ms", "lag ms", 0), Column("identity", "identity", 3, "up"),
    Column("colour_drift", "drift", 2, "down"), Column("flicker", "flicker", 2), Column("pulse", "pulse", 2, "one"),
    Column("sharpness", "sharp", 2, "up"),
)  # fmt: skip


def written(column: Column, row: dict[str, Any]) -> str:
    """A cell."""
    if (value := row.get(column.key)) is None:
        return NONE
    return f"{round(value, column.digits) + 0.0:.{column.digits}f}"  # + 0.0: no minus before a nought


def shown(rows: Iterable[dict[str, Any]], networks: Iterable[str]) -> list[Column]:
    """Our own columns, and those of the networks that were given."""
    given = set(networks)
    return [c for c in COLUMNS if not c.network or c.network in given or any(r.get(c.key) is not None for r in rows)]


def terminal(named: list[tuple[str, dict[str, Any]]], networks: Iterable[str]) -> str:
    """A row a video."""
    columns = shown([row for _, row in named], networks)
    first = max(len("video"), *(len(name) for name, _ in named))
    widths = [max(len(c.heading), 7) for c in columns]
    lines = [f"{'video':{first}}" + "".join(f"  {c.heading:>{w}}" for c, w in zip(columns, widths))]
    for name, row in named:
        lines.append(f"{name:{first}}" + "".join(f"  {written(c, row):>{w}}" for c, w in zip(columns, widths)))
    return "\n".join(lines)


def markdown(named: list[tuple[str, dict[str, Any]]], networks: Iterable[str] = ()) -> str:
    """The same as Markdown."""
    columns = shown([row for _, row in named], networks)
    lines = [f"| {' | '.join(['video', *(c.heading for c in columns)])} |", "|" + " --- |" * (len(columns) + 1)]
    lines += [f"| {' | '.join([name, *(written(c, row) for c in columns)])} |" for name, row in named]
    return "\n".join(lines)
