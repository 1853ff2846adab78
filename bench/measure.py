"""One op at one shape: every backend that is there and right, beside its peers, in one interleaved run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import peers
import root  # noqa: F401
import torch
from manifest import chip_name, manifest
from predicted import of_op

from liveact_kernels.contract import FUNCTIONAL, SHORT, Case, Dims, Op, missing, use
from liveact_kernels.cost.clock import Runner, cache_bytes, copies_for, interleave
from liveact_kernels.cost.hw import Chip
from liveact_kernels.proof import parity

OURS = ("cuda", "triton")
"""Backends that are this project's kernels; every other backend of an op is a peer of theirs."""

EAGER = 6
"""Memory of a case over its own tensors: two rotated sets, and an eager chain that keeps float32 copies."""


@dataclass(frozen=True)
class Options:
    """What to measure with. chip None: no ceilings are known, so no floor is stated."""

    device: torch.device
    backends: tuple[str, ...] | None = None
    peers: tuple[str, ...] = peers.KINDS
    seconds: float = 0.5
    chip: Chip | None = None


def free_bytes(device: torch.device) -> int:
    """Memory that is free on the device now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with open("/proc/meminfo", encoding="utf-8") as info:
        return next(1024 * int(line.split()[1]) for line in info if line.startswith("MemAvailable"))


def nbytes(op: Op, case: Case) -> int:
    """Bytes of a case's arguments and results."""
    d = op.dims_of(case)
    args = sum(s.nbytes(d) for a, s in op.args.items() if getattr(d, f"has_{a}"))
    return args + sum(s.nbytes(d) for s in op.out.values() if s.present(d))


def too_large(op: Op, case: Case, device: torch.device) -> str | None:
    """None when a case fits in what is free, told from its shapes before anything is made; else one sentence."""
    need, free = EAGER * nbytes(op, case), free_bytes(device)
    if need <= free:
        return None
    return (
        f"{op.name} at {case.id} needs about {need / 2**30:.1f} GiB and {chip_name(device)} has {free / 2**30:.1f} GiB "
        f"free: choose --rung cpu, whose cases are small"
    )


def _twin(made: dict) -> dict:
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in made.items()}


def right(op: Op, backend: str, device: torch.device) -> str | None:
    """None when the backend is within tolerance of float64 on every small case that it takes, else the first fault."""
    for case in (c for c in op.cases if c.rung == "cpu"):
        if not op.refused(backend, op.dims_of(case)) and (fault := _fault(op, backend, op.make(case, device))):
            return f"{case.id}: {fault}"
    return None


def _fault(op: Op, backend: str, made: dict) -> str | None:
    try:
        return next((f"{r.output}: {r.said}" for r in parity.run(op, backend, made) if not r.ok), None)
    except Exception as error:  # whatever a kernel raises, it is not timed
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class Subject:
    """One op at one case on a device: its rotated inputs, and the callables that are timed."""

    def __init__(self, op: Op, case: Case, device: torch.device):
        self.op, self.case, self.device = op, case, device
        first = parity.make(op, case, device)
        self.dims, self.bytes = op.dims_of(case), nbytes(op, case)
        room = int(0.5 * free_bytes(device) / self.bytes)
        self.copies = copies_for(self.bytes, cache_bytes(device), max(1, min(64, room)))
        self.made = [first, *(_twin(first) for _ in range(self.copies - 1))]

    @functools.cached_property
    def want(self) -> object:
        """What peers are compared with; the plain backend may need more memory than there is."""
        return self.op.implementation("torch")(**self.made[0])

    def backend(self, name: str) -> Callable[[int], object]:
        """The launch of a backend on the i-th set of tensors, with outputs allocated beforehand where it takes them."""
        with use(**{self.op.name: name}):
            plan = self.op.plan(self.made[0])
        if name in FUNCTIONAL:
            return lambda i: plan.launch(**self.made[i])

        def fresh() -> list:
            return [None if s is None else torch.empty(s[0], dtype=s[1], device=self.device) for s in plan.outs]

        outs = [fresh() for _ in self.made]
        return lambda i: plan.launch(*outs[i], **self.made[i])

    def fault(self, name: str) -> str | None:
        """What is wrong with a backend's result at this shape, against float64."""
        fault = _fault(self.op, name, self.made[0])
        return fault and f"{self.case.id}: {fault}"

    def peer(self, kind: str) -> tuple[Callable[[int], object], str] | str | None:
        """A peer's callable and its note; the reason why it is not timed; None where the op has no such peer."""
        peer = peers.peer_of(self.op, kind)
        if peer is None:
            return None
        if fault := peers.agrees(peer, self.op, self.made[0], self.want):
            return f"not the same result: {fault}"
        made = [peer.prepare(**m) for m in self.made] if peer.prepare else self.made
        return (lambda i: peer.chain(**made[i])), peer.note


_VERDICTS: dict[tuple, str | None] = {}


def _candidates(subject: Subject, o: Options) -> Iterator[tuple[str, str, Callable | str, str]]:
    """(name, "time" | "skip" | "red", callable or reason, note) of everything that could be timed."""
    op = subject.op
    for name in op.backends:
        if name == "reference" or (o.backends and name not in o.backends):
            continue
        if why := missing(name, o.device):
            yield name, "skip", why, ""
            continue
        if why := op.refused(name, subject.dims):
            yield name, "skip", why, ""
            continue
        key = (op.name, name, o.device)
        if key not in _VERDICTS:
            _VERDICTS[key] = right(op, name, o.device)
        if fault := _VERDICTS[key] or subject.fault(name):
            yield name, "red", fault, ""
        else:
            yield name, "time", subject.backend(name), ""
    for kind in o.peers:
        try:
            found = subject.peer(kind)
        except Exception as error:  # a peer that fails must not end the run
            found = f"fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if found is not None:
            yield kind, *(("skip", found, "") if isinstance(found, str) else ("time", *found))


def _dims(op: Op, dims: Dims) -> dict:
    always = {f"has_{a}" for a, spec in op.args.items() if not spec.optional}
    shown = {k: SHORT.get(v, v) for k, v in vars(dims).items() if v is not None and k not in always}
    return {k: v if isinstance(v, int | float | str) else str(v) for k, v in shown.items()}


@torch.no_grad()
def measure(op: Op, case: Case, o: Options) -> list[dict]:
    """Rows of one case: "op" for what was timed, "skip" and "red" (parity failed) with the reason for what was not."""
    subject = Subject(op, case, o.device)
    untimed, runners, notes = [], {}, {}
    for name, verdict, what, note in _candidates(subject, o):
        if verdict == "time":
            try:
                runners[name], notes[name] = Runner(what, subject.copies, o.device), note
                continue
            except Exception as error:
                verdict, what = "skip", f"fails: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        untimed.append({"kind": verdict, "backend": name, "why": what})
    times = interleave(runners, o.seconds) if runners else {}
    base = manifest(o.device) | {"op": op.name, "case": case.id}  # here, for the clocks while it was hot
    rows = [base | row for row in untimed]
    work, moved = sum(op.flops(subject.dims).values()), op.bytes(subject.dims)
    floor = None if o.chip is None else op.floor_us(subject.dims, o.chip)
    rival = {n: t.us for n, t in times.items() if n not in OURS}
    for name, t in times.items():
        best = min(((us, n) for n, us in rival.items() if n != name), default=None)
        rows.append(base | {
            "kind": "op", "backend": name, "ours": name in OURS, "dims": _dims(op, subject.dims), "us": round(t.us, 3),
            "p20_us": round(t.p20_us, 3), "p80_us": round(t.p80_us, 3), "samples": t.samples, "how": t.how,
            "copies": subject.copies, "cold": subject.copies * subject.bytes > 2 * cache_bytes(o.device),
            "tflops": round(work / t.us / 1e6, 4), "gbps": round(moved / t.us / 1e3, 3),
            "floor_us": floor, "percent_of_floor": None if floor is None else round(100 * floor / t.us, 2),
            "ceilings": None if o.chip is None else f"{o.chip.name}: {o.chip.source}",
            "best_peer": best and best[1], "ratio_to_best_peer": best and round(best[0] / t.us, 3), "note": notes[name],
            "predicted": of_op(op.name, case.id, name, base["triton"]) if o.device.type == "cuda" else None,
        })  # fmt: skip
    return rows
