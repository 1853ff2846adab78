"""One call per op of a backend's kernels, for compute-sanitizer to watch: `python sanitize.py triton cuda`."""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

TOOL = "compute-sanitizer"
FAULT = 9
"""Its exit status when it found something; other numbers mean that it, or the call, failed."""

PLACES = ("/usr/local/cuda/bin", "/opt/cuda/bin")


def find_tool() -> str | None:
    """Path of compute-sanitizer, which toolkits do not always put on the PATH."""
    return shutil.which(TOOL) or shutil.which(TOOL, path=os.pathsep.join(PLACES))


def watch(check: str, backend: str, tool: str) -> tuple[int, str]:
    """(exit status, what was said) of every op's small call under memcheck or racecheck."""
    options = ["--tool", check, "--error-exitcode", str(FAULT), "--target-processes", "application-only"]
    if check == "memcheck":
        options += ["--report-api-errors", "no"]  # torch asks the driver things that it may refuse
    env = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # else a tensor's neighbour is its own memory
    done = subprocess.run(
        [tool, *options, sys.executable, __file__, backend], env=env, capture_output=True, text=True, timeout=540
    )
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("=====", "called"))]
    return done.returncode, "\n".join(lines[-60:])


def main(backends: list[str]) -> None:
    """Call every op that has one of the backends once, at its largest small case: more than one tile."""
    root = Path(__file__).resolve().parents[2]
    sys.path.insert(0, str(root))
    import torch

    from liveact_kernels import ops  # noqa: F401 - fills the registry
    from liveact_kernels.contract import REGISTRY, use

    def size(case) -> int:
        return math.prod(v for v in case.dims.values() if type(v) is int)

    for op in REGISTRY.values():
        for backend in (b for b in backends if b in op.backends):
            takes = [c for c in op.cases if c.rung == "cpu" and not op.refused(backend, op.dims_of(c))]
            case = max(takes, key=size)
            with use(**{op.name: backend}):
                op(**op.make(case, "cuda"))
            torch.cuda.synchronize()
            print(f"called {op.name} on {backend}: {case}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
