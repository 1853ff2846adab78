"""What `liveact plan` prints: components down, settings across, at most 100 columns wide."""

from __future__ import annotations

import json
import textwrap
from typing import Any

from liveact_app.plan.fit import LABEL
from liveact_app.plan.ladder import Plan
from liveact_kernels.cost.hw import PINNED
from liveact_model.checkpoint.footprint import gib

WIDTH, FIRST, COLUMN = 100, 40, 9  # at most
UNITS = {"GiB": 1 << 30, "MiB": 1 << 20}


def unit(plan: Plan) -> str:
    """GiB, or MiB where nothing has one."""
    return "GiB" if any(r.needs.model_bytes >= UNITS["GiB"] for r in plan.rungs) else "MiB"


def heading(plan: Plan) -> str:
    """What the numbers are of."""
    where = "the CPU" if plan.device == "cpu" else plan.device
    many = f", {plan.ranks} of them sharing a block" if plan.ranks > 1 else ""
    return f"{plan.name} at {plan.size[0]}x{plan.size[1]} on {where}{many}; {unit(plan)}, {LABEL}"


def rows(plan: Plan) -> list[tuple[str, list[float | None]]]:
    """(component, amount of every setting), a sum under each place; None where a setting has no such component."""
    out: list[tuple[str, list[float | None]]] = []
    each = UNITS[unit(plan)]
    one = "" if plan.device == "cpu" else "GPU: "
    for place, title, total in (("model", one, "model_bytes"), ("host", "host: ", "host_bytes")):
        names = dict.fromkeys(name for r in plan.rungs for name in getattr(r.needs, place))
        for name in names:
            found = [getattr(r.needs, place).get(name) for r in plan.rungs]
            out.append((f"{title}{name}", [None if n is None else n / each for n in found]))
        if names:
            out.append((f"{title}together", [getattr(r.needs, total) / each for r in plan.rungs]))
    for name in dict.fromkeys(name for r in plan.rungs for name in r.needs.mapped):
        out.append((f"mapped from its file: {name}", [r.needs.mapped.get(name, 0) / each for r in plan.rungs]))
    return out


def said(plan: Plan) -> list[str]:
    """The settings by number, then what is left for tensors, then the commands."""
    lines = [f"[{i}] {r.setting.flags() or '(defaults)'}" for i, r in enumerate(plan.rungs, 1)]
    lines.append("")
    if plan.left is not None:
        aside = "" if plan.device == "cpu" else ", context and rounding set aside (assumed)"
        lines.append(f"left for tensors: {gib(plan.left)}{aside}")
    if any(r.needs.moved[0] for r in plan.rungs):
        rate = f"{plan.link / 1e9:.0f} GB/s to the GPU, {PINNED:.0%} of its PCIe link (assumed)"
        lines.append(f"copies: {rate}, beside the computing")
    if plan.chosen is not None:
        lines.append(f"fits: {plan.command(plan.chosen)}")
        if plan.nearest is not None and plan.nearest is not plan.chosen:
            lines.append(f"fits, nearest to the released precision: {plan.command(plan.nearest)}")
    return [*lines, *([plan.untimed] if plan.untimed else [])]


def _cells(plan: Plan) -> list[tuple[str, list[str]]]:
    cells = [(name, ["-" if v is None else f"{v:.2f}" for v in values]) for name, values in rows(plan)]
    cells.append(("fits", ["yes" if r.why is None else "no" for r in plan.rungs]))
    if any(r.needs.moved[0] for r in plan.rungs):
        ms = [plan.travel_ms(r) for r in plan.rungs]
        cells.append(("ms of copies per video frame", [f"{v:.1f}" if v else "-" for v in ms]))
    if plan.times:
        ms = [plan.times.get(r.setting.flags()) for r in plan.rungs]
        cells.append(("ms per video frame", ["-" if v is None else f"{v:.1f}" for v in ms]))
    return cells


def terminal(plan: Plan) -> str:
    """The table, then the settings and the commands."""
    column = min(COLUMN, (WIDTH - FIRST) // len(plan.rungs))
    head = f"{'':{FIRST}}" + "".join(f"{f'[{i}]':>{column}}" for i in range(1, len(plan.rungs) + 1))
    body = [f"{name:{FIRST}}" + "".join(f"{v:>{column}}" for v in values) for name, values in _cells(plan)]
    return "\n".join([textwrap.fill(heading(plan), WIDTH), "", head, *body, "", *said(plan)])


def markdown(plan: Plan) -> str:
    """The same as Markdown."""
    heads = ["", *(f"[{i}]" for i in range(1, len(plan.rungs) + 1))]
    body = [f"| {name} | {' | '.join(values)} |" for name, values in _cells(plan)]
    lines = [f"- {line}" for line in said(plan) if line]
    return "\n".join([
        f"{heading(plan)}", "", f"| {' | '.join(heads)} |", "|" + " --- |" * len(heads), *body, "", *lines
    ])  # fmt: skip


def plain(plan: Plan) -> str:
    """Everything as JSON, bytes as whole numbers."""

    def one(r: Any) -> dict:
        flags = r.setting.flags()
        found = {"flags": flags, "model_bytes": r.needs.model, "host_bytes": r.needs.host}
        found |= {"mapped_bytes": r.needs.mapped, "copied_bytes_per_block": r.needs.moved}
        found |= {"copies_ms_per_video_frame": plan.travel_ms(r)}
        sums = {"model_bytes_sum": r.needs.model_bytes, "host_bytes_sum": r.needs.host_bytes}
        return found | sums | {"fits": r.why is None, "why_not": r.why, "ms_per_video_frame": plan.times.get(flags)}

    command = None if plan.chosen is None else plan.command(plan.chosen)
    return json.dumps({
        "label": LABEL, "model": plan.name, "size": list(plan.size), "device": plan.device, "ranks": plan.ranks,
        "left_bytes": plan.left, "host_bytes": plan.host, "copies_bytes_per_second": plan.link or None,
        "settings": [one(r) for r in plan.rungs], "command": command, "untimed": plan.untimed or None,
    }, indent=1)  # fmt: skip
