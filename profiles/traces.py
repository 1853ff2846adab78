"""Device time of one profiled block by op, from an nsys sqlite export or a torch.profiler chrome trace.

Both know three things: labelled host ranges, host calls that launch work, and the work itself with the number of its
launch. A kernel belongs to the op range in which it was launched. Kernels of a CUDA graph are launched by one call
outside every op's range: those are assigned by their names, and counted, because a name says less than a range.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from liveact_kernels import ops  # noqa: F401 - fills the registry
from liveact_kernels.contract import REGISTRY
from liveact_kernels.cost.budget import group_of
from liveact_kernels.cost.outside import DOWNLOAD, UPLOAD, row_of
from liveact_model.errors import InputError

OTHER = "other kernels"
COPIES = {1: UPLOAD, 2: DOWNLOAD}  # CUPTI's kinds of copies; the rest stays on the device
CHROME_COPIES = {"HtoD": UPLOAD, "DtoH": DOWNLOAD}
LEDGER = Path(__file__).with_name("resources.json")


class Range(NamedTuple):
    """A labelled stretch of host time on one thread, ns."""

    thread: Any
    start: int
    end: int
    label: str


class Work(NamedTuple):
    """A kernel, copy or fill on the device: its launch, its name, ns, and a fixed budget row for host copies."""

    launch: Any
    name: str
    start: int
    end: int
    row: str | None = None


@dataclass
class Profile:
    """Device time by budget row: microseconds and launches of everything that was captured."""

    blocks: int = 0
    us: dict[str, float] = field(default_factory=dict)
    launches: dict[str, int] = field(default_factory=dict)
    by_name: int = 0
    other: dict[str, float] = field(default_factory=dict)
    span_us: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def total_us(self) -> float:
        """Sum of all device work."""
        return sum(self.us.values())


def names() -> dict[str, str]:
    """Kernel function -> the op it implements, or the budget group when several ops share it; from the AOT ledger."""
    found: dict[str, set[str]] = defaultdict(set)
    for chips in json.loads(LEDGER.read_text(encoding="utf-8")).values():
        for kernels in chips.values():
            for key in kernels:
                op, *_, kernel = key.split("/")
                found[kernel].add(op)
    return {k: v.pop() if len(v) == 1 else group_of(min(v)) for k, v in found.items()}


def row_by_name(kernel: str, known: dict[str, str]) -> str:
    """The budget row of a kernel that no range claims: the ledger's, else the longest op its name contains."""
    for function, row in known.items():
        if function in kernel:
            return row
    return max((op for op in REGISTRY if op in kernel), key=len, default=OTHER)


def join(ranges: list[Range], launches: dict[Any, tuple[Any, int]], work: Iterable[Work]) -> Profile:
    """Assign every piece of work to a budget row; `launches` maps a launch to its (thread, time)."""
    labels, work = _labels_at(ranges, set(launches.values())), list(work)
    p, known, of_launch = Profile(), names(), Counter(w.launch for w in work)
    p.blocks = sum(r.label.startswith("block[") for r in ranges)
    for w in work:
        scopes, us = labels.get(launches.get(w.launch), ()), (w.end - w.start) / 1e3
        inside = [op for op in (s.split("[")[0] for s in scopes) if op in REGISTRY]
        row = w.row or (inside[-1] if inside else None)
        if row is None:
            row = row_by_name(w.name, known)
            p.by_name += row != OTHER
        if row == OTHER and scopes and of_launch[w.launch] == 1:
            row = row_of(scopes)  # plain torch; a graph's kernels share one launch, and its scope says nothing
        if row == OTHER:
            p.other[w.name] = p.other.get(w.name, 0.0) + us
        p.us[row] = p.us.get(row, 0.0) + us
        p.launches[row] = p.launches.get(row, 0) + 1
    if work:
        p.span_us = (max(w.end for w in work) - min(w.start for w in work)) / 1e3
    return p


def _labels_at(ranges: list[Range], moments: set[tuple[Any, int]]) -> dict[tuple[Any, int], tuple[str, ...]]:
    """(thread, time) -> labels of the ranges around it, the outermost first; ranges of a thread nest."""
    found, by_thread, times = {}, defaultdict(list), defaultdict(list)
    for r in ranges:
        by_thread[r.thread].append(r)
    for thread, at in moments:
        times[thread].append(at)
    for thread, instants in times.items():
        waiting = sorted(by_thread[thread], key=lambda r: (r.start, -r.end), reverse=True)
        stack: list[Range] = []
        for at in sorted(instants):
            while waiting and waiting[-1].start <= at:
                stack.append(waiting.pop())
                stack = [r for r in stack if r.end >= stack[-1].start]
            stack = [r for r in stack if r.end >= at]
            found[thread, at] = tuple(r.label for r in stack)
    return found


def read(path: str | Path) -> Profile:
    """A profile from a `.sqlite` export of nsys or a chrome trace (.json, .json.gz).

    Raises InputError for a file that is missing, unreadable or holds no device work.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"profile: expected a file, got {str(path)!r}")
    if path.suffix == ".nsys-rep":
        raise InputError(f"profile: expected its export, run: nsys export --type sqlite {path}")
    try:
        profile = _chrome(path) if path.suffix in (".json", ".gz") else _nsys(path)
    except (sqlite3.Error, OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        words = " ".join(str(error).split())
        wanted = "an nsys sqlite export or a chrome trace"
        raise InputError(f"profile: expected {wanted}, {path} is neither: {words}") from error
    if not profile.us:
        raise InputError(f"profile: expected device work in {path}, found none")
    return profile


def _nsys(path: Path) -> Profile:
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "NVTX_EVENTS" not in tables and not any(t.startswith("CUPTI_") for t in tables):
            raise ValueError("no table of NVTX or CUDA events")
        text = dict(db.execute("SELECT id, value FROM StringIds"))

        def rows(table: str, columns: str, where: str = "1") -> list[tuple]:
            return list(db.execute(f"SELECT {columns} FROM {table} WHERE {where}")) if table in tables else []

        ranges = [
            Range(thread, start, end, label or text.get(label_id, ""))
            for thread, start, end, label, label_id in rows(
                "NVTX_EVENTS", "globalTid, start, end, text, textId", "eventType IN (59, 60) AND end IS NOT NULL"
            )
        ]
        process = 0xFFFFFF  # low bits of a thread's number; the rest is its process
        launches = {
            (thread & ~process, number): (thread, start)
            for thread, number, start in rows("CUPTI_ACTIVITY_KIND_RUNTIME", "globalTid, correlationId, start")
        }
        work = [
            Work((pid, number), text.get(name, "kernel"), start, end)
            for pid, number, name, start, end in rows("CUPTI_ACTIVITY_KIND_KERNEL",
                                                      "globalPid, correlationId, shortName, start, end")
        ]  # fmt: skip
        for pid, number, kind, start, end in rows("CUPTI_ACTIVITY_KIND_MEMCPY",
                                                  "globalPid, correlationId, copyKind, start, end"):  # fmt: skip
            work.append(Work((pid, number), "copy", start, end, COPIES.get(kind)))
        for pid, number, start, end in rows("CUPTI_ACTIVITY_KIND_MEMSET", "globalPid, correlationId, start, end"):
            work.append(Work((pid, number), "fill", start, end))
        profile = join(ranges, launches, work)
        if "CUPTI_ACTIVITY_KIND_GRAPH_TRACE" in tables and rows("CUPTI_ACTIVITY_KIND_GRAPH_TRACE", "1"):
            profile.notes.append("CUDA graphs were traced as a whole and are missing: use --cuda-graph-trace=node")
        return profile
    finally:
        db.close()


def _chrome(path: Path) -> Profile:
    data = path.read_bytes()
    trace = json.loads(gzip.decompress(data) if path.suffix == ".gz" else data)
    events = trace["traceEvents"] if isinstance(trace, dict) else trace
    ranges, launches, work = [], {}, []
    for e in events:
        kind, start = e.get("cat"), round(1e3 * e.get("ts", 0)) if e.get("ph") == "X" else 0
        if e.get("ph") != "X":
            continue
        end, thread = start + round(1e3 * e["dur"]), (e["pid"], e["tid"])
        if kind == "user_annotation":
            ranges.append(Range(thread, start, end, e["name"]))
        elif kind in ("cuda_runtime", "cuda_driver") and "correlation" in e.get("args", {}):
            launches[e["args"]["correlation"]] = (thread, start)
        elif kind in ("kernel", "gpu_memcpy", "gpu_memset"):
            row = next((r for word, r in CHROME_COPIES.items() if kind == "gpu_memcpy" and word in e["name"]), None)
            work.append(Work(e["args"].get("correlation"), e["name"], start, end, row))
    return join(ranges, launches, work)
