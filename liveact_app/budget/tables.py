"""The tables of `liveact budget`, at most 100 columns wide: terminal, Markdown, one op's shapes, flops part by part."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from liveact_kernels.contract import Call
from liveact_kernels.cost.budget import OUTSIDE_OPS, Budget
from liveact_kernels.cost.hw import Chip

WIDTH = 100
UNCOUNTED = "transformers is not installed: the audio network (wav2vec2) is missing from these numbers"


def wrap(text: str) -> str:
    """A sentence in lines of at most 100 columns."""
    return textwrap.fill(text, WIDTH)


def name_of(size: tuple[int, int]) -> str:
    """(512, 512) -> 512x512."""
    return f"{size[0]}x{size[1]}"


def terminal(budget: Budget) -> str:
    """Groups with their ops, then the total."""
    d = budget.to_dict()
    whole = d["total"]["floor_ms_per_video_frame"]
    lines = [
        f"{'':24}{'launches':>9}{'per video frame':>28}",
        f"{'':24}{'per block':>9}{'TFLOP':>9}{'GB':>9}{'floor ms':>10}{'share':>8}",
    ]

    def row(name: str, r: dict) -> str:
        return (
            f"{name:24}{r['launches_per_block']:9}{r['tflop_per_video_frame']:9.3f}{r['gb_per_video_frame']:9.3f}"
            f"{r['floor_ms_per_video_frame']:10.3f}{r['floor_ms_per_video_frame'] / whole:8.1%}"
        )

    for group, members in budget.groups().items():
        lines.append(row(group, d["groups"][group]))
        if len(members) > 1 or members[0].op != group.replace(" ", "_"):
            lines += [row(f"  {line.op}", d["ops"][line.op]) for line in members]
    return "\n".join([*lines, row("total per video frame", d["total"])])


def markdown(budgets: dict[tuple[int, int], Budget]) -> str:
    """Groups of several sizes side by side."""
    sizes = [name_of(s) for s in budgets]
    heads = ["", "launches per block", *(f"{what} {s}" for what in ("TFLOP", "GB", "floor ms") for s in sizes)]
    dicts = [b.to_dict() for b in budgets.values()]
    keys = ("tflop_per_video_frame", "gb_per_video_frame", "floor_ms_per_video_frame")

    def row(name: str, of: list[dict]) -> str:
        cells = [str(of[0]["launches_per_block"]), *(f"{r[k]:.2f}" for k in keys for r in of)]
        return f"| {name} | {' | '.join(cells)} |"

    rows = [row(g, [d["groups"][g] for d in dicts]) for g in dicts[0]["groups"]]
    total = row("**total per video frame**", [d["total"] for d in dicts])
    return "\n".join([f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads), *rows, total])


def shapes(calls: Iterable[Call], op: str, chip: Chip) -> str:
    """One op: every shape it is called with in a block, and which side of the roofline bounds it."""
    found: dict[str, list[Call]] = {}
    for call in calls:
        if call.op.name == op:
            found.setdefault(call.dims.label(), []).append(call)
    lines = [f"{op:60}{'launches':>9}{'floor us':>10}{'bound by':>12}"]
    for label, same in sorted(found.items(), key=lambda item: -len(item[1]) * _floor(item[1][0], chip)):
        first = same[0]
        traffic = 1e6 * first.op.bytes(first.dims) / chip.bandwidth
        bound = "memory" if _floor(first, chip) <= traffic * 1.000001 else "arithmetic"
        if getattr(first.op, "linked", False):
            bound = "host link"
        lines.append(f"{_clip(label, 59):60}{len(same):9}{_floor(first, chip):10.2f}{bound:>12}")
    return "\n".join(lines)


def _floor(call: Call, chip: Chip) -> float:
    return call.op.floor_us(call.dims, chip)


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 2] + ".."


def flops(rows: list[dict], notes: list[str], mark: bool = False) -> str:
    """Part by part, released and ours, in TFLOP per video frame."""
    if mark:
        lines = ["| TFLOP per video frame | released | ours | why |", "| --- | --- | --- | --- |"]
        lines += [f"| {r['part']} | {_number(r['released'])} | {_number(r['ours'])} | {r['why']} |" for r in rows]
        return "\n".join([*lines, "", *(f"- {n}" for n in notes)])
    lines = [f"{'TFLOP per video frame':22}{'released':>9}{'ours':>8}"]
    for r in rows:
        why = textwrap.wrap(r["why"], WIDTH - 41) or [""]
        lines.append(f"{r['part']:22}{_number(r['released']):>9}{_number(r['ours']):>8}  {why[0]}".rstrip())
        lines += [" " * 41 + more for more in why[1:]]
    return "\n".join([*lines, *(wrap(n) for n in notes)])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def audio_missing(budget: Budget) -> bool:
    """Whether the audio network could not be counted."""
    return OUTSIDE_OPS in budget.groups() and "wav2vec2" not in budget.lines
