"""One op of `liveact predict`: where a steady iteration's cycles go, and which launch configurations to try."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator

from liveact_app.budget.tables import WIDTH
from liveact_kernels.compiled.predict import LABEL, Unpredictable
from liveact_kernels.compiled.predict.estimate import Prediction, setting
from liveact_kernels.compiled.predict.explain import Iteration
from liveact_kernels.compiled.predict.explain import iterations as steady
from liveact_kernels.compiled.predict.frame import code_of, line
from liveact_kernels.compiled.predict.launches import Called, case_of, grouped, launched
from liveact_kernels.tune.predicted import Tried, attempts, questions
from liveact_model.errors import InputError

SHOWN = 10


def shapes_of(op: str, calls: list) -> list[Called]:
    """The op's shapes in a block. Raises InputError for an op that a block does not call."""
    found = grouped(calls)
    if not any(s.op.name == op for s in found):
        names = sorted({s.op.name for s in found})
        raise InputError(f"--op: expected one that a block calls ({', '.join(names)}), got {op!r}")
    return [s for s in found if s.op.name == op]


def explained(op: str, calls: list, chip, machine, say: Callable[[str], None]) -> Iterator[str]:
    """Text of every shape: its kernels' limits, then their steady iterations."""
    cubins = code_of()
    for shape in shapes_of(op, calls):
        say(f"{op} {shape.label}")
        found = line(shape, chip, machine, cubins)
        say("")
        yield f"\n{op}[{shape.label}] x{shape.count}, floor {found.floor_us:.1f} us"
        if found.cuda:
            yield kernel("CUDA", found.cuda)
        if not found.triton:
            yield "no Triton kernel" if found.cuda else "no kernel of this project: torch runs it"
            continue
        for launch, prediction in zip(launched(shape.op, case_of(shape.dims)), found.triton):
            yield kernel(f"Triton {launch.kernel}, {launch.warps} warps, {launch.stages} stages", prediction)
            yield from iterations(steady(setting(launch, machine, shape.op.bytes(shape.dims))))


def kernel(name: str, p: Prediction) -> str:
    """A kernel's time and limits."""
    limits = "  ".join(f"{n} {us:.1f}" for n, us in sorted(p.limits.items(), key=lambda x: -x[1]) if us >= 0.05)
    cycles = "  ".join(f"{n}: {c}" for n, c in p.cycles.items())
    return "\n".join([
        f"  {name}: {p.us:.1f} us ({LABEL}); replay {p.simulated_us:.1f}, bound {p.bound_us:.1f} by {p.limiter}",
        f"    {p.regs} registers, {p.blocks_per_sm} blocks on an SM (by {p.held_by})",
        *textwrap.wrap(f"us alone: {limits}", WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 14),
        *textwrap.wrap(f"cycles:   {cycles}", WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 14),
    ])  # fmt: skip


def iterations(found: Iterable[Iteration]) -> Iterator[str]:
    """Where the cycles of steady iterations go."""
    for one in found:
        yield f"    {one.name}: {one.cycles} cycles of one warp, {one.instructions} instructions; {LABEL}"
        for why, cycles in one.reasons.most_common():
            yield f"      {cycles:7.0f} {cycles / max(1, one.cycles):6.1%}  {why}"
        for cycles, i, why in one.longest:
            yield f"      waits {cycles:6.0f} before {i.address:#06x} {i.op} {i.args[:34]}: {why}"


def tuned_shapes(op: str, calls: list, chip, machine, say: Callable[[str], None]) -> Iterator[str]:
    """Text of every entry that a table could have: the configurations, fastest first."""
    for q in questions(shapes_of(op, calls), machine):
        tried: list[Tried] = []
        for one in attempts(q, machine):
            tried.append(one)
            say(f"{q.key} {len(tried)} of {1 + len(q.candidates)}")
        say("")
        now = tried[0]
        if now.prediction is None:
            raise Unpredictable(f"{q.key}: the configuration of today {now.why}")
        yield f"\n{q.key} {q.label}: {now.us:.1f} us as it is, {dict(now.config)}; {LABEL}"
        ranked = sorted((t for t in tried if t.prediction), key=lambda t: t.us)
        for t in ranked[:SHOWN]:
            p = t.prediction
            differs = {k: v for k, v in t.config.items() if now.config[k] != v}
            yield f"  {t.us:9.1f} us {t.us / now.us:6.1%}  {p.regs:3} regs  {p.limiter:9} {differs or 'as it is'}"
        dropped = len(tried) - len(ranked)
        yield f"  {len(ranked)} ranked, {dropped} spill, do not fit, do not compile or cannot be followed"
