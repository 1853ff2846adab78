"""Builds csrc's kernels for the CPU, where each thread is a fiber (cuda_on_cpu/device.cuh), and calls them."""

import ctypes
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from conftest import ROOT

sys.path.insert(0, str(ROOT / "csrc"))
from cmake_build import find_nvcc


def cuda_include() -> str | None:
    """Folder of the CUDA headers, None without nvcc or g++."""
    nvcc = find_nvcc()
    if nvcc is None or shutil.which("g++") is None:
        return None
    said = subprocess.run([nvcc, "--dryrun", "-x", "cu", "-c", "/dev/null"], capture_output=True, text=True).stderr
    top = re.search(r"^#\$ TOP=(.*)$", said, re.M)
    return str(Path(top[1]) / "include") if top else None


class CpuOps:
    """The kernels of one .cu file; `edits` (text, instead) first change the source, each of them once."""

    def __init__(self, folder: Path, op: str, *edits: tuple[str, str]):
        source = folder / "csrc"
        shutil.copytree(ROOT / "csrc", source, ignore=shutil.ignore_patterns("__pycache__"))
        file = source / "ops" / op / f"{op}.cu"
        for text, instead in edits:
            found = [f for f in (*file.parent.iterdir(), *source.glob("include/*.cuh")) if text in f.read_text()]
            assert len(found) == 1, f"{text!r} is in {found}"
            found[0].write_text(found[0].read_text().replace(text, instead))
        shim = ROOT / "tests" / "cuda_on_cpu"
        library = folder / f"{op}.so"
        include = [f"-I{path}" for path in (shim, source, source / "include", cuda_include())]
        # Unique symbols would be one for all libraries of the process: a broken kernel would replace the good one.
        command = ["g++", "-std=c++17", "-O1", "-w", "-shared", "-fPIC", "-fno-gnu-unique", *include]
        command += ["-include", shim / "device.cuh"]
        subprocess.run([*command, "-x", "c++", file, shim / "run.cpp", "-o", library], check=True)
        self._library = ctypes.CDLL(str(library))
        self._library.kinds.restype = self._library.run.restype = ctypes.c_char_p

    def break_at(self, way: int) -> None:
        """Put one way of `breaks` into effect, counted from 1; 0 for none."""
        self._library.break_at(way)

    def __call__(self, op: str, *values: int | float, falling: bool = False) -> None:
        """Call an op on CPU addresses; the stream is added. Raises RuntimeError with what the op or a barrier says."""
        kinds = self._library.kinds(op.encode()).decode()
        values = (*values, 0)
        assert len(values) == len(kinds), f"{op} takes {kinds}, got {len(values)} values"
        raw = (ctypes.c_uint64 * len(kinds))()
        for i, (kind, value) in enumerate(zip(kinds, values)):
            raw[i] = int.from_bytes(ctypes.c_double(value), "little") if kind == "f" else value
        if said := self._library.run(op.encode(), raw, int(falling)):
            raise RuntimeError(f"{op}: {said.decode()}")


def breaks(ways: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Edits after which one library has every way (text, instead) to break a kernel: statements, or expressions."""
    for n, (text, instead) in enumerate(ways, 1):
        here = f"cpu::broken == {n}"
        if text.rstrip().endswith(";"):
            yield text, f"if ({here}) {{ {instead} }} else {{ {text} }}"
        else:
            yield text, f"({here} ? ({instead}) : ({text}))"
