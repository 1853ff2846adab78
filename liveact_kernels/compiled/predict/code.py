"""nvdisasm's text as instructions with the control bits that tell the hardware when each may issue.

Control bits of a 128-bit instruction of Volta to Hopper (public since maxas, turingas and CuAssembler): bits 105-108
stall cycles, 110-112 the scoreboard set when the result is there, 113-115 the one set when operands have been read,
116-121 the scoreboards waited for. 7 stands for none.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from liveact_kernels.compiled import sass

from . import Unpredictable, rates

LINE = re.compile(
    r"^\s+/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Za-z0-9_.]*)\s*(.*?)\s*;\s+/\* 0x([0-9a-f]{16}) \*/"
)
CONTROL = re.compile(r"^\s+/\* 0x([0-9a-f]{16}) \*/")
LABEL = re.compile(r"^(\.L_x_\d+|\$\S+):")
EM_CUDA = 190  # e_machine of an ELF file for NVIDIA GPUs
TARGET = re.compile(r"`\((\.L_x_\d+|\$\S+?)\)")


@dataclass(slots=True)
class Instruction:
    """One instruction; `pipe` and `cost` (cycles of a sub-partition) come from rates."""

    address: int
    predicate: str
    op: str
    args: str
    stall: int
    writes: int
    reads: int
    waits: tuple[int, ...]
    target: str | None
    base: str = field(init=False)
    pipe: str = field(init=False)
    cost: int = field(init=False)
    product: rates.Product | None = field(init=False)

    def __post_init__(self) -> None:
        self.base = self.op.split(".")[0]
        self.pipe, self.cost = rates.pipe(self.op)
        self.product = rates.product(self.op)

    @property
    def always(self) -> bool:
        """Whether no predicate can switch it off."""
        return self.predicate in ("", "@PT", "@UPT")

    @property
    def from_registers(self) -> bool:
        """Whether a warpgroup product reads its left operand from registers."""
        return not re.match(r"R\d+, gdesc", self.args)

    @property
    def tries(self) -> bool:
        """Whether it waits for an mbarrier."""
        return self.base == "SYNCS" and "TRYWAIT" in self.op

    @property
    def expects(self) -> bool:
        """Whether it announces bytes to an mbarrier."""
        return self.base == "SYNCS" and "ARRIVE.TRANS64" in self.op

    @property
    def offset(self) -> int | None:
        """The immediate in its address, which tells mbarriers apart; None when it has none."""
        m = re.search(r"\[[^\]]*?\+(0x[0-9a-f]+)\]", self.args)
        return int(m[1], 16) if m else None


Listing = list[Instruction | str]
"""Instructions and labels in order."""


class Cubin(NamedTuple):
    """Machine code of one file: functions by name, what cuobjdump says of each."""

    functions: dict[str, Listing]
    usage: dict[str, dict[str, int]]


def parse(text: str) -> dict[str, Listing]:
    """Function -> instructions and labels of `nvdisasm -c -hex`."""
    found: dict[str, Listing] = {}
    current: Listing | None = None
    pending = None
    for line in text.splitlines():
        if m := re.match(r"^\.text\.(\S+):", line):
            current = found.setdefault(m[1], [])
        elif current is None:
            continue
        elif m := LABEL.match(line):
            current.append(m[1])
        elif m := LINE.match(line):
            pending = m
        elif pending and (m := CONTROL.match(line)):
            current.append(_instruction(pending, int(m[1], 16) >> 41))
            pending = None
    return {name: code for name, code in found.items() if code}


def _instruction(line: re.Match, bits: int) -> Instruction:
    target = TARGET.search(line[4])
    waits = tuple(s for s in range(6) if bits >> 11 + s & 1)
    head = int(line[1], 16), (line[2] or "").strip(), line[3], line[4]
    return Instruction(*head, bits & 15, bits >> 5 & 7, bits >> 8 & 7, waits, target[1] if target else None)


def architecture(cubin: bytes) -> int | None:
    """90 for sm_90 and sm_90a, from the ELF header's flags; None for what is no cubin. ABI 8 moved the number."""
    if cubin[:4] != b"\x7fELF" or len(cubin) < 64 or int.from_bytes(cubin[18:20], "little") != EM_CUDA:
        return None
    flags = int.from_bytes(cubin[48:52], "little")
    return (flags >> 8 if cubin[8] >= 8 else flags) & 0xFF


def cache() -> Path:
    """Folder of what can be made again: disassembly and finished predictions."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "liveact" / "predict"


def kept(key: str, make, suffix: str = ".txt") -> str:
    """Text from the cache, made and stored when it is not there; a cache that cannot be written to is no error."""
    path = cache() / (hashlib.sha256(key.encode()).hexdigest()[:32] + suffix)
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        text = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.{os.getpid()}")
        fresh.write_text(text, encoding="utf-8")
        os.replace(fresh, path)
    except OSError:
        pass
    return text


def _tool(name: str, *args: str) -> str:
    try:
        return sass.tool(name, *args)
    except FileNotFoundError as error:
        raise ModuleNotFoundError(f"{name} is not among the tools of the installed Triton: {error}") from error


@functools.lru_cache(maxsize=8)
def load(cubin: bytes) -> Cubin:
    """Read a cubin. Raises Unpredictable for one of another architecture or a file that is none."""
    if (arch := architecture(cubin)) != rates.ARCH:
        what = "a file that is no cubin" if arch is None else f"a cubin of sm_{arch}"
        raise Unpredictable(f"expected machine code of sm_{rates.ARCH}a, got {what}")
    digest = hashlib.sha256(cubin).hexdigest()
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        try:
            text = kept(f"sass {digest}", lambda: _tool("nvdisasm", "-c", "-hex", file.name))
            used = kept(f"usage {digest}", lambda: _tool("cuobjdump", "-res-usage", file.name))
        except sass.subprocess.CalledProcessError as error:
            said = (error.stderr or "").strip().splitlines()[:1] or ["nothing"]
            raise Unpredictable(f"nvdisasm does not read the cubin, it says: {said[0]}") from error
    usage = {
        name: {k: int(v) for k, v in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", numbers)}
        for name, numbers in re.findall(r"Function (\S+):\s*(REG:.*)", used)
    }
    return Cubin(parse(text), usage)
