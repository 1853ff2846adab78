"""What a kernel's machine code says: instructions, spills. Read with the CUDA tools that come with Triton."""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from ..tuned import SHARED

SPILLS = ("LDL", "STL")
LACKS = "has no "
"""How a sentence about a missing instruction begins."""
COUNTED = (
    "QGMMA", "HGMMA", "IGMMA", "QMMA", "HMMA", "IMMA", "UTCQMMA", "UTCHMMA", "UTCOMMA", "OMMA", "UTMALDG", "UTMASTG",
    "LDGSTS", "LDG", "LDG.128", "STG", "STG.128", "BAR", "USETMAXREG", *SPILLS,
)  # fmt: skip


@functools.cache
def tools() -> Path:
    """Folder of cuobjdump and nvdisasm; raises ModuleNotFoundError without Triton."""
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        how = "cuobjdump and nvdisasm come with triton: pip install 'liveact[triton]'"
        raise ModuleNotFoundError(how, name="triton")
    return Path(spec.origin).parent / "backends" / "nvidia" / "bin"


def counts(sass: str, names: Iterable[str]) -> dict[str, int]:
    """How often the named instructions stand in nvdisasm's text; `LDG.128` is any LDG with 128 among its parts."""
    found = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]+)", sass, re.M)
    parts = [(opcode.split("."), n) for opcode, n in Counter(found).items()]
    table = {}
    for name in names:
        first, *rest = name.split(".")
        table[name] = sum(n for have, n in parts if have[0] == first and set(rest) <= set(have))
    return {name: n for name, n in table.items() if n}


def tool(name: str, *args: str | Path, cwd: str | None = None) -> str:
    """Output of one of the CUDA tools that come with Triton."""
    return subprocess.run([tools() / name, *args], check=True, capture_output=True, text=True, cwd=cwd).stdout


def faults(entry: dict, arch: int) -> list[str]:
    """What is wrong with a kernel whatever the ledger says."""
    said = []
    if entry["spill"] or any(entry["sass"].get(k) for k in SPILLS):
        said.append(f"spills {entry['spill']} bytes")
    if entry["shared"] > SHARED[arch]:
        said.append(f"needs {entry['shared']} bytes of shared memory, a block has {SHARED[arch]}")
    return said


def missing(entries: list[dict], requires: tuple[str, ...]) -> list[str]:
    """Required instructions that no kernel of a call has."""
    have = {name for e in entries for name in e["sass"]}
    return [f"{LACKS}{wanted} instruction" for wanted in requires if not have & set(wanted.split("|"))]
