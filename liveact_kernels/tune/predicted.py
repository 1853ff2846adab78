"""Launch configurations of an op at one shape, ranked by predicted time: what to try first, or ship unmeasured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from liveact_kernels import tuned
from liveact_kernels.compiled.predict import Unpredictable, code, rates
from liveact_kernels.compiled.predict.estimate import Prediction, predict
from liveact_kernels.compiled.predict.launches import Called, Launch, case_of, launched
from liveact_kernels.compiled.predict.rates import Machine

from .search import combinations

Config = Mapping[str, int]


@dataclass(frozen=True)
class Tried:
    """One configuration: its prediction, or why it cannot run."""

    config: Config
    prediction: Prediction | None
    why: str = ""

    @property
    def us(self) -> float:
        """Predicted microseconds; infinite when it cannot run."""
        return self.prediction.us if self.prediction else float("inf")


@dataclass(frozen=True)
class Question:
    """What one call asks of the chip's table: key, label, what it gets today, what else there is."""

    shape: Called
    key: str
    label: str
    current: Config
    candidates: tuple[Config, ...]


def questions(shapes: list[Called], machine: Machine) -> list[Question]:
    """One per entry that a table could have. Raises Unpredictable when none of the shapes has candidates."""
    from liveact_kernels.compiled import aot  # needs Triton

    at = tuned.Limits("h200", rates.ARCH, machine.sms, tuned.SHARED[rates.ARCH])
    found: dict[tuple[str, str], Question] = {}
    for shape in shapes:
        overlays = getattr(shape.op.implementation("triton"), "candidates", ()) if "triton" in shape.op.backends else ()
        if not overlays:
            continue
        for asked in aot.configurations(shape.op, case_of(shape.dims), rates.ARCH):
            current = tuned.config(asked.op, asked.heuristic, at, **asked.dims)
            tries = overlays(**asked.dims) if callable(overlays) else overlays
            label = tuned.label(**asked.dims)
            found.setdefault((asked.op, label), Question(shape, asked.op, label, current, combinations(current, tries)))
    if not found:
        raise Unpredictable("--tune: expected an op whose Triton kernel names candidates")
    return list(found.values())


def attempts(q: Question, machine: Machine) -> Iterator[Tried]:
    """The current configuration, then every candidate, as they are compiled."""
    for config in (q.current, *q.candidates):
        try:
            with tuned.pinned(**config):
                found = launched(q.shape.op, case_of(q.shape.dims))
        except Exception as error:  # the compiler may refuse a configuration in any way
            yield Tried(config, None, f"does not compile: {type(error).__name__}")
            continue
        if why := next((w for one in found if (w := fault(one))), ""):
            yield Tried(config, None, why)
            continue
        flops, moved = q.shape.op.flops(q.shape.dims), q.shape.op.bytes(q.shape.dims)
        try:
            yield Tried(config, predict(found[0], machine, flops, moved))
        except Unpredictable as error:
            yield Tried(config, None, str(error))


def fault(launch: Launch) -> str:
    """Why a compiled launch must not run: it spills, or wants more shared memory than a block has."""
    for use in code.load(launch.cubin).usage.values():
        if spilled := use["STACK"] + use["LOCAL"]:
            return f"spills {spilled} bytes"
    if launch.shared > (most := tuned.SHARED[rates.ARCH]):
        return f"needs {launch.shared} bytes of shared memory, a block has {most}"
    return ""
