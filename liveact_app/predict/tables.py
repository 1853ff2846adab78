"""What `liveact predict` prints, at most 100 columns wide; every table says that it is predicted, not measured."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import asdict

from liveact_app.budget.tables import name_of, wrap
from liveact_app.predict.op import explained, shapes_of, tuned_shapes
from liveact_kernels.compiled.predict import LABEL
from liveact_kernels.compiled.predict.frame import GOALS, Frame, Line

GAPS = "gaps between launches"


def heading(model: str, precision: str, frame: Frame) -> str:
    """What the numbers are of."""
    library = "the CUDA extension as built here" if frame.library else "no CUDA extension: it is not built here"
    return wrap(
        f"{model}, {precision}, steady block of {frame.video_frames} video frames on one {frame.machine.name}; "
        f"{frame.compiler}, {library}. {LABEL.capitalize()}: machine code replayed by a model of the chip; ops that "
        "torch runs at twice their floor."
    )


def groups(frame: Frame) -> list[tuple[str, list[Line], float | None]]:
    """(budget row, its lines, goal), gaps between launches and the total last, with all lines."""
    rows = [(g, lines, GOALS.get(g, {}).get(frame.size)) for g, lines in frame.groups().items()]
    return [*rows, (GAPS, [], GOALS[GAPS].get(frame.size)), ("total", frame.lines, GOALS["total"].get(frame.size))]


def numbers(frame: Frame, group: str, lines: list[Line]) -> dict[str, float]:
    """ms per video frame of a row of `groups`."""
    gaps = frame.gaps_ms() if group in (GAPS, "total") else 0.0
    bound = sum(n.count * n.bound_us for n in lines) / 1e3 / frame.video_frames
    found = {"floor": frame.floor_ms(lines), "bound": bound, "triton": frame.ms(lines, False) + gaps}
    return found | ({"with_cuda": frame.ms(lines) + gaps} if frame.library else {})


def terminal(frame: Frame) -> str:
    """The sums, then every launch, the dearest first."""
    columns = ["floor", "bound", "Triton alone", *(["with CUDA"] if frame.library else [])]
    head = f"{name_of(frame.size):24}{'launches':>9}" + "".join(f"{c:>14}" for c in columns) + f"{'goal':>8}"
    lines = ["", f"{'':24}{'per block':>9}   ms per video frame, {LABEL}", head]
    for group, members, goal in groups(frame):
        row = "".join(f"{v:14.2f}" for v in numbers(frame, group, members).values())
        launches = str(sum(n.count for n in members)) if members else ""
        lines.append(f"{group:24}{launches:>9}{row}{'' if goal is None else f'{goal:.2f}':>8}")
    lines += ["", f"{'':54}us of one launch, {LABEL}", launch_head()]
    shown = sorted((n for n in frame.lines if n.parts), key=lambda n: -n.count * n.us(n.parts))
    return "\n".join([*lines, *(x for n in shown for x in launch_rows(n))])


def launch_head() -> str:
    """Over `launch_rows`."""
    return f"{'op':20}{'calls':>6}{'floor':>9}{'bound':>9} {'limiter':10}{'replay':>9}{'ratio':>7}  shape"


def launch_rows(line: Line) -> list[str]:
    """One per kernel as dispatched; the ratio is the time over the op's floor."""
    rows = []
    for p in line.parts:
        cells = f"{line.op:20}{line.count:6}{line.floor_us:9.1f}{p.bound_us:9.1f} {p.limiter:10}{p.simulated_us:9.1f}"
        rows.append(f"{cells}{p.us / max(line.floor_us, 1e-3):7.2f}  {_clip(line.label, 27)}")
    return rows


def _clip(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 2] + ".."


def markdown(frames: Iterable[Frame]) -> str:
    """The sums of several sizes, one table each, with the label over it."""
    out = []
    for frame in frames:
        names = ["floor", "bound", "predicted, Triton alone", *(["predicted, with CUDA"] if frame.library else [])]
        out += [f"{name_of(frame.size)}, {frame.machine.name}, {frame.compiler}: **{LABEL}**", ""]
        out += [f"| ms per video frame | {' | '.join([*names, 'goal'])} |", "|" + " --- |" * (len(names) + 2)]
        for group, members, goal in groups(frame):
            cells = [f"{v:.2f}" for v in numbers(frame, group, members).values()]
            out.append(f"| {group} | {' | '.join(cells)} | {'' if goal is None else f'{goal:.2f}'} |")
        out.append("")
    return "\n".join(out).rstrip()


def plain(model: str, precision: str, frames: Iterable[Frame]) -> dict:
    """Everything as plain values."""
    made = []
    for frame in frames:
        rows = {g: numbers(frame, g, members) | {"goal": goal} for g, members, goal in groups(frame)}
        lines = [
            {"op": n.op, "shape": n.label, "calls": n.count, "floor_us": n.floor_us,
             "triton": [asdict(p) for p in n.triton], "cuda": asdict(n.cuda) if n.cuda else None}
            for n in frame.lines
        ]  # fmt: skip
        made.append({"size": list(frame.size), "ms_per_video_frame": rows, "launches": lines})
    first = frames[0]
    what = {"chip": first.machine.name, "compiler": first.compiler, "cuda_library": first.library}
    return {"label": LABEL, "model": model, "precision": precision, **what, "frames": made}


def show_op(
    args: argparse.Namespace, calls: list, chip, machine, size: tuple[int, int], say: Callable[[str], None]
) -> None:
    """Print the explanation, or the ranking, of one op's shapes."""
    shapes_of(args.op, calls)  # an unknown op prints nothing else
    print(f"{args.op} at {name_of(size)} on one {machine.name}; {LABEL}")
    show = tuned_shapes if args.tune else explained
    for text in show(args.op, calls, chip, machine, say):
        print(text, flush=True)
