"""Every launch of a steady block predicted, and their sum in ms per video frame beside floors and goals."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from liveact_kernels.contract import REGISTRY
from liveact_kernels.cost.budget import GROUPS, group_of
from liveact_kernels.cost.hw import Chip

from . import code, library, rates
from .estimate import Prediction, predict
from .launches import Called, case_of, grouped, launched
from .rates import Machine

TORCH = 2.0  # an op or a plain call that torch runs takes twice its floor: assumed, its kernels are not read

GOALS: dict[str, dict[tuple[int, int], float]] = {
    "linear": {(512, 512): 16.4, (416, 720): 18.8},
    "self attention": {(512, 512): 9.0, (416, 720): 11.8},
    "cross attention": {(512, 512): 0.8, (416, 720): 0.9},
    "norm, rope, quantise": {(512, 512): 1.7, (416, 720): 1.9},
    "memory": {(512, 512): 0.3, (416, 720): 0.33},
    "VAE decode": {(512, 512): 7.0, (416, 720): 8.0},
    "gaps between launches": {(512, 512): 0.15, (416, 720): 0.15},
    "total": {(512, 512): 38.0, (416, 720): 44.0},
}
"""ms per video frame that the project wants of one H200: rates that others have reached for each kind of work, and for
the total what leaves room under the bar of 50. A group's goal is not the total's share."""


@dataclass
class Line:
    """One op at one shape: what a block calls, per call in microseconds.

    triton, cuda  its kernels on either backend; None where there is none
    chosen        what runs as dispatched, with the name of its backend
    """

    op: str
    label: str
    count: int
    floor_us: float
    triton: list[Prediction] = field(default_factory=list)
    cuda: Prediction | None = None

    @property
    def parts(self) -> list[Prediction]:
        """The kernels that run where the CUDA library is built."""
        return [self.cuda] if self.cuda else self.triton

    def us(self, parts: list[Prediction]) -> float:
        """Time of one call; TORCH times the floor where torch runs it."""
        return sum(p.us for p in parts) if parts else TORCH * self.floor_us

    @property
    def bound_us(self) -> float:
        """The sum of the kernels' bounds."""
        return sum(p.bound_us for p in self.parts) if self.parts else self.floor_us


@dataclass
class Frame:
    """Lines of a steady block of `video_frames`; `library` says whether the CUDA extension was there to be read."""

    chip: Chip
    machine: Machine
    size: tuple[int, int]
    video_frames: int
    library: bool
    compiler: str
    lines: list[Line]

    def ms(self, lines: Iterable[Line], cuda: bool = True) -> float:
        """Predicted ms per video frame, gaps between launches left out."""
        return sum(n.count * n.us(n.parts if cuda else n.triton) for n in lines) / 1e3 / self.video_frames

    def floor_ms(self, lines: Iterable[Line]) -> float:
        """Floors, ms per video frame."""
        return sum(n.count * n.floor_us for n in lines) / 1e3 / self.video_frames

    def gaps_ms(self) -> float:
        """Between the launches of a CUDA graph."""
        return sum(n.count * max(1, len(n.parts)) for n in self.lines) * rates.GAP_US / 1e3 / self.video_frames

    def groups(self) -> dict[str, list[Line]]:
        """Lines by budget row, in its order."""
        found: dict[str, list[Line]] = {}
        for line in self.lines:
            found.setdefault(group_of(line.op), []).append(line)
        order = [*GROUPS, *found]
        return {g: found[g] for g in sorted(found, key=order.index)}

    def total_ms(self, cuda: bool = True) -> float:
        """Everything, ms per video frame."""
        return self.ms(self.lines, cuda) + self.gaps_ms()


def frame(
    calls: Iterable, chip: Chip, machine: Machine, size: tuple[int, int], video_frames: int,
    say: Callable[[str], None] = lambda text: None, ops: Iterable[str] | None = None,
) -> Frame:  # fmt: skip
    """Compile and predict every launch of recorded calls, or of some ops; `say` hears how far it is.

    Raises Unpredictable for a kernel that the model cannot follow, ModuleNotFoundError without Triton.
    """
    import triton

    shapes = [s for s in grouped(calls) if ops is None or s.op.name in ops]
    cubins, lines = code_of(), []
    for n, shape in enumerate(shapes, 1):
        if shape.op.name in REGISTRY:
            say(f"[{n}/{len(shapes)}] {shape.op.name}")
        lines.append(line(shape, chip, machine, cubins))
    return Frame(chip, machine, size, video_frames, bool(cubins), f"triton {triton.__version__}", lines)


def code_of() -> dict[str, bytes]:
    """The CUDA library's machine code by folder; empty where it is not built."""
    try:
        return library.cubins()
    except ImportError:
        return {}


def line(shape: Called, chip: Chip, machine: Machine, cubins: dict[str, bytes]) -> Line:
    """Both backends' predictions of one shape."""
    op, d = shape.op, shape.dims
    out = Line(op.name, shape.label, shape.count, op.floor_us(d, chip))
    if op.name not in REGISTRY:
        return out
    flops, moved = op.flops(d), op.bytes(d)
    later = "triton" in op.backends and getattr(op.implementation("triton"), "least_arch", 0) > rates.ARCH
    if "triton" in op.backends and not later and not op.refused("triton", d):
        found = launched(op, case_of(d))
        for one in found:
            key = ["triton", hashlib.sha256(one.cubin).hexdigest(), one.grid, one.shared, one.args]
            out.triton.append(_kept(key, machine, partial(predict, one, machine, flops, moved / len(found))))
    folder, model = library.OPS.get(op.name, ("", None))
    if model and folder in cubins and "cuda" in op.backends and not op.refused("cuda", d):
        key = ["cuda", hashlib.sha256(cubins[folder]).hexdigest(), op.name, str(sorted(vars(d).items(), key=str))]
        out.cuda = _kept(key, machine, partial(model, cubins[folder], d, machine, op, flops, moved))
    return out


def _kept(key: list, machine: Machine, make: Callable[[], Prediction]) -> Prediction:
    """From the cache; a change of this folder, of the chip or of the kernel makes it anew."""
    whole = json.dumps([_source(), asdict(machine), *key], default=str)
    text = code.kept(whole, lambda: json.dumps(dataclasses.asdict(make())), ".json")
    return Prediction(**json.loads(text))


@functools.cache
def _source() -> str:
    """A digest of the model's own code, of what a prediction depends on."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem not in ("__init__", "__main__", "calibration", "cubin", "explain", "frame", "tuning"):
            digest.update(path.read_bytes())
    return digest.hexdigest()
