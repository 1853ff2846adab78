"""Measured against floor, op by op: a profile of one steady block beside the budget of the same model and size.

    python profiles/report.py block.sqlite --model liveact-18b --size 512*512 --chip h200 --svg block.svg
    python profiles/report.py --diff before.sqlite after.sqlite

Reads an nsys sqlite export or a torch.profiler chrome trace (profiles/nsys.sh and steady_block.py --trace make them).

exit codes: 0 reported, 2 unusable input
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from picture import draw
from traces import OTHER, Profile, read

from liveact_app.arguments import picture_size
from liveact_app.budget.dryrun import record_block
from liveact_app.cli import Parser
from liveact_kernels.cost import hw
from liveact_kernels.cost.budget import GROUPS, Budget, group_of
from liveact_model.config import BLOCK_VIDEO_FRAMES, NAMED
from liveact_model.errors import InputError

SUMMED = ("measured_ms", "floor_ms", "launches", "calls")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(prog="report.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add("profile", nargs="?", help="an nsys sqlite export (.sqlite) or a chrome trace (.json, .json.gz)")
    add("--diff", nargs=2, metavar=("BEFORE", "AFTER"), help="two profiles side by side instead")
    add("--model", default="liveact-18b", metavar="NAME", help="whose budget (default: %(default)s)")
    add("--size", type=picture_size, default=(512, 512), metavar="W*H", help="pixels (default: 512*512)")
    add("--precision", choices=("fp8", "bfloat16"), default="fp8", help="default: %(default)s")
    add("--chip", default="h200", metavar="NAME", help="default: %(default)s")
    add("--ceilings", default="datasheet", metavar="KIND", help="datasheet or measured (default: %(default)s)")
    add("--svg", metavar="FILE", help="also draw it")
    add("--json", metavar="FILE", help="also write the rows")
    return p


def rows(profile: Profile, budget: Budget) -> list[dict]:
    """Every op of either side, by group: ms per video frame measured and at the floor, launches per block."""
    blocks = max(profile.blocks, 1)
    frames = blocks * budget.video_frames
    order = [*GROUPS, OTHER]
    found = []
    for name in {**budget.lines, **profile.us}:
        line, us = budget.lines.get(name), profile.us.get(name)
        found.append({
            "op": name, "group": name if name in order else group_of(name),
            "measured_ms": None if us is None else us / 1e3 / frames,
            "floor_ms": None if line is None else line.floor_us / 1e3 / budget.video_frames,
            "launches": profile.launches.get(name, 0) / blocks, "calls": 0 if line is None else line.launches,
        })  # fmt: skip
    place = {g: i for i, g in enumerate(order)}
    return sorted(found, key=lambda r: (place.get(r["group"], len(order)), -(r["measured_ms"] or 0)))


def groups(found: list[dict]) -> list[dict]:
    """The rows summed by group."""
    out: dict[str, dict] = {}
    for r in found:
        g = out.setdefault(r["group"], {"op": r["group"], **dict.fromkeys(SUMMED, 0.0)})
        for key in SUMMED:
            g[key] += r[key] or 0
    return list(out.values())


def table(found: list[dict], profile: Profile) -> list[str]:
    """Groups with their ops, measured beside floor, and what to know about the assignment."""
    heads = f"{'measured':>10}{'floor':>9}{'x floor':>9}{'share':>8}{'launches':>10}{'calls':>8}"
    lines = [f"{'ms per video frame':26}{heads}"]
    whole = sum(r["measured_ms"] or 0 for r in found)

    def line(r: dict, name: str) -> str:
        got, floor = r["measured_ms"], r["floor_ms"]
        times, calls = f"{got / floor:.2f}" if got and floor else "", f"{r['calls']:.0f}" if r["calls"] else ""
        return (
            f"{name[:25]:26}{_ms(got):>10}{_ms(floor):>9}{times:>9}{(got or 0) / whole:>8.1%}{r['launches']:>10.0f}"
            f"{calls:>8}"
        ).rstrip()

    for g in groups(found):
        lines.append(line(g, g["op"]))
        members = [r for r in found if r["group"] == g["op"] and r["op"] != g["op"]]
        lines += [line(r, f"  {r['op']}") for r in members] if len(members) > 1 or not members else []
    total = {k: sum(r[k] or 0 for r in found) for k in SUMMED}
    lines.append(line(total, "total"))
    return [*lines, *remarks(profile)]


def remarks(profile: Profile) -> list[str]:
    """What the numbers rest on."""
    out = [f"{sum(profile.launches.values())} launches in {max(profile.blocks, 1)} block(s); device busy "
           f"{profile.total_us / 1e3:.2f} ms, from first to last {profile.span_us / 1e3:.2f} ms"]  # fmt: skip
    if not profile.blocks:
        out.append("no range block[..] was recorded: everything is taken for one block")
    if profile.by_name:
        out.append(f"{profile.by_name} launches lay in no op's range (CUDA graphs do that): assigned by kernel name")
    if profile.other:
        worst = sorted(profile.other.items(), key=lambda i: -i[1])[:3]
        out.append(f"assigned to nothing: {sum(profile.other.values()) / 1e3:.3f} ms in all, most in")
        out += [f"  {us / 1e3:8.3f} ms  {name[:85]}" for name, us in worst]
    return out + profile.notes


def diff(before: Profile, after: Profile) -> list[str]:
    """Op by op, ms per video frame of both, and the difference, largest first."""
    per = [1 / 1e3 / BLOCK_VIDEO_FRAMES / max(p.blocks, 1) for p in (before, after)]
    names = {**before.us, **after.us}
    pairs = [(n, before.us.get(n, 0) * per[0], after.us.get(n, 0) * per[1]) for n in names]
    pairs.sort(key=lambda r: -abs(r[2] - r[1]))
    pairs.append(("total", *(sum(r[i] for r in pairs) for i in (1, 2))))
    lines = [f"{'ms per video frame':26}{'before':>10}{'after':>10}{'change':>10}{'ratio':>8}"]
    for name, a, b in pairs:
        lines.append(f"{name[:25]:26}{a:10.3f}{b:10.3f}{b - a:+10.3f}{f'{b / a:.2f}' if a else 'new':>8}")
    return lines


def run(args: argparse.Namespace) -> int:
    """Print the report; returns the exit code."""
    if args.diff:
        if args.profile or args.svg or args.json:
            raise InputError("--diff: expected two profiles and no other file")
        before, after = (read(p) for p in args.diff)
        print("\n".join(diff(before, after)))
        return 0
    if not args.profile:
        raise InputError("profile: expected a file, or --diff BEFORE AFTER")
    if args.model not in NAMED:
        raise InputError(f"--model: expected one of {', '.join(NAMED)}, got {args.model!r}")
    try:
        chip = hw.chip(args.chip, args.ceilings)
    except ValueError as error:
        raise InputError(f"--{error}") from error
    profile = read(args.profile)
    budget = Budget.of(record_block(args.model, args.size, args.precision), chip, BLOCK_VIDEO_FRAMES)
    found = rows(profile, budget)
    title = f"{args.model}, {args.size[0]}x{args.size[1]}, {args.precision}, {chip.name} ({chip.source})"
    print(title + "\n" + "\n".join(table(found, profile)))
    if args.svg:
        _write(args.svg, draw(found, title))
    if args.json:
        _write(args.json, json.dumps({"title": title, "rows": found}, indent=1) + "\n")
    return 0


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"output: expected a file that can be written, got {path!r} ({error.strerror})") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    try:
        return run(parser().parse_args(argv))
    except InputError as error:
        print(f"report.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
