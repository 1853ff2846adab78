"""The tuner's hands: which shapes there are, compiling without the GPU, timing on it."""

from __future__ import annotations

import datetime
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from .. import ops, tuned  # noqa: F401 - ops fills the registry
from ..contract import REGISTRY, Case, Op, found, missing
from ..cost.clock import Runner, cache_bytes, copies_for
from ..cost.hw import CHIPS
from ..proof import parity
from .search import Config, Task, combinations

SAMPLES, SAMPLE_US = 15, 3000.0  # samples of a candidate, and what one of them lasts at least

Calls = Callable[[], Mapping[str, int]]


def tasks(names: Sequence[str] | None, gpu: Gpu | None, calls: Calls = dict) -> list[Task]:
    """Every real shape of the named ops; without a GPU as an H200 would have it.

    calls  how often a block calls each op, for the tasks' share of the frame; nothing: all alike
    Raises ValueError for an unknown op, one without a Triton backend, and for a missing Triton.
    """
    able = [n for n, op in REGISTRY.items() if "triton" in op.backends]
    for name in names or ():
        if name not in able:
            raise ValueError(f"--op: expected an op with a Triton backend ({', '.join(able)}), got {name!r}")
    if why := None if found("triton.language") else missing("triton", "cuda"):
        raise ValueError(why)
    from ..compiled import aot

    at = (
        tuned.limits(gpu.device) if gpu else tuned.Limits("h200", aot.BOUND, tuned.COMPILE_SMS, tuned.SHARED[aot.BOUND])
    )
    often = calls()
    chip = CHIPS.get(at.chip, CHIPS["h200"])
    out: list[Task] = []
    for op in (REGISTRY[n] for n in names or able):
        if aot.home(op) > max(at.arch, aot.BOUND):
            if names:
                raise ValueError(f"--op: {op.name} has no instructions on {at.chip}: choose another op or chip")
            continue
        overlays = getattr(op.implementation("triton"), "candidates", ())
        for case in (c for c in op.cases if c.rung == "device" and overlays):
            for asked in aot.configurations(op, case, at.arch):
                heuristic = asked.heuristic(at, **asked.dims)
                tries = overlays(**asked.dims) if callable(overlays) else overlays
                share = op.floor_us(op.dims_of(case), chip) * (often.get(op.name, 0) if often else 1)
                label = tuned.label(**asked.dims)
                if any((t.key, t.label) == (asked.op, label) for t in out):
                    continue  # another case's entry serves this one too
                out.append(Task(op.name, case.id, asked.op, label, heuristic, combinations(heuristic, tries), share))
    return out


def case_of(task: Task) -> tuple[Op, Case]:
    """The op and the case of a task."""
    op = REGISTRY[task.op]
    return op, next(c for c in op.cases if c.id == task.case)


def compiled(task: Task, config: Config, arch: int) -> str | None:
    """Compile one candidate without a chip, into Triton's cache: why it cannot run, None when it can."""
    from ..compiled import aot

    try:
        with tuned.pinned(**config):
            kernels = aot.launched(*case_of(task), arch)
        faults = [f for kernel in kernels for f in aot.faults(aot.measure(kernel), arch)]
    except Exception as error:
        return f"does not compile: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return "; ".join(faults) or None


class Gpu:
    """tune.Device on the current CUDA device. Raises ValueError when there is none."""

    def __init__(self, jobs: int | None = None):
        if not torch.cuda.is_available():
            raise ValueError(
                f"tuning needs a GPU, torch {torch.__version__} finds none: --dry-run lists the candidates"
            )
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.at = tuned.limits(self.device)
        self.jobs = jobs or min(16, os.cpu_count() or 1)
        self._pool: ProcessPoolExecutor | None = None
        self._ready: tuple[Task, list[tuple[list, dict]]] | None = None

    def rejected(self, task: Task, configs: Sequence[Config]) -> list[str | None]:
        """Compiled in other processes (this one's driver is the real one); the results wait in Triton's cache."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.jobs, mp_context=get_context("spawn"))
        n = len(configs)
        return list(self._pool.map(compiled, [task] * n, configs, [self.at.arch] * n))

    def _tensors(self, task: Task) -> list[tuple[list, dict]]:
        if self._ready is None or self._ready[0] != task:
            self._ready = None
            torch.cuda.empty_cache()
            op, case = case_of(task)
            made = parity.make(op, case, self.device)
            size = op.bytes(op.dims_of(case))
            room = int(0.5 * torch.cuda.mem_get_info(self.device)[0] / size)
            copies = copies_for(size, cache_bytes(self.device), max(1, room))
            sets = [made] + [{k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in made.items()}
                             for _ in range(copies - 1)]  # fmt: skip
            self._ready = task, [(parity.fenced(op, kw)[1], kw) for kw in sets]
        return self._ready[1]

    def time(self, task: Task, config: Config) -> float:
        """Median microseconds of one call, each on tensors that the calls between have driven out of the cache."""
        launch = case_of(task)[0].implementation("triton")
        sets = self._tensors(task)
        with tuned.pinned(**config), torch.no_grad():
            runner = Runner(lambda i: launch(*sets[i][0], **sets[i][1]), len(sets), self.device, sample_us=SAMPLE_US)
            for _ in range(SAMPLES):
                runner.sample()
            return runner.times().us

    def wrong(self, task: Task, config: Config) -> str | None:
        """Every element against float64, as in the device tests."""
        try:
            with tuned.pinned(**config):
                results = parity.run(case_of(task)[0], "triton", self._tensors(task)[0][1])
        except AssertionError as error:
            return str(error)
        return "; ".join(f"{r.output}: {r.said}" for r in results if not r.ok) or None

    def table_path(self) -> Path:
        """The chip's own table."""
        return Path(tuned.__file__).parent / f"{self.at.chip}.json"

    def source(self) -> str:
        """Chip, driver, date, commit and compiler: what a reader needs to trust a table."""
        import triton

        driver = _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]
        commit = _said("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD")
        return (
            f"measured on {torch.cuda.get_device_name(self.device)}, driver {driver or 'unknown'}, "
            f"{datetime.date.today().isoformat()}, commit {commit or 'unknown'}, triton {triton.__version__}"
        )


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
