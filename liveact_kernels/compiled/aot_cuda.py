"""Every kernel of the built CUDA extension, read from its machine code and compared with a committed ledger.

    python -m liveact_kernels.compiled.aot_cuda [--update]

It fails on a spill, on a fence of memory inside a loop, on registers that are used after they were given away, on an
instruction that an op's launch names in `requires_sass` and none of its kernels has, and on any change of the ledger;
`--update` rewrites the ledger, and the commit says why. Each nvcc has a ledger of its own; with one that has none
everything else is checked, and it says so.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import ops  # noqa: F401 - fills the registry
from ..common.cuda import extension
from ..contract import REGISTRY
from .ledger import Ledger, Table
from .predict import code, flow
from .sass import COUNTED, counts, faults, missing, tool

MORE = ("LDG.64", "STG.64", "LDS.128", "SHFL", "UCGABAR_ARV", "UTMALDG.MULTICAST", "SYNCS")

FENCES = ("MEMBAR", "ERRBAR")
"""What an arrival with a scope wider than its block becomes: hundreds of cycles, in a loop once per step."""
FENCED = "fences in loops"
LOST = "given away"


def launches() -> Iterator[tuple[str, Callable]]:
    """(op, launch) of every op with a cuda backend."""
    for op in REGISTRY.values():
        if "cuda" in op.backends:
            yield op.name, op.implementation("cuda")


def required(launch: Callable) -> tuple[str, ...]:
    """Instructions that the launch stands on, alternatives with |."""
    return getattr(launch, "requires_sass", ())


def demangled(name: str) -> str:
    """`op::kernel<types>` of a symbol, or the symbol where there is no c++filt."""
    try:
        said = subprocess.run(["c++filt", name], check=True, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return name
    return re.sub(r"^void |\([^()]*\)$", "", said)


def fences_in_loops(listing: code.Listing) -> int:
    """Fences in the natural loops of a function; a wait that only tries again is no loop."""
    found = flow.blocks(listing)
    inside = set().union(*(loop.body for loop in flow.loops(found)))
    return sum(i.base in FENCES for n in inside for i in found[n].code)


def used_after_giving_away(listing: code.Listing) -> list[str]:
    """Registers and calls, in order of address, past those that a warp keeps when it gives registers away.

    A call (the rare path of a division) uses what registers it likes, and the compiler does not look whose they are.
    """
    found, said = flow.blocks(listing), []
    for b in found:
        for n, i in enumerate(b.code):
            if i.base != "USETMAXREG" or "DEALLOC" not in i.op:
                continue
            match = re.search(r"0x([0-9a-f]+)", i.args)
            assert match, "it says how many registers are left"
            kept, seen, todo = int(match[1], 16), set(), [*b.next]
            while todo:
                if (m := todo.pop()) not in seen:
                    seen.add(m)
                    todo += found[m].next
            behind = [*b.code[n + 1 :], *[x for m in sorted(seen) for x in found[m].code]]
            said += ["a call" for x in behind if x.base == "CALL"]
            said += [f"R{r}" for x in behind for r in re.findall(r"\bR(\d+)\b", x.args) if int(r) >= kept]
    return list(dict.fromkeys(said))


def kernels(library: Path, chip: str) -> Table:
    """folder/kernel -> registers, spilled bytes, static shared memory, fences in loops if any, instruction counts. A
    folder of csrc/ops has one file with its name, and that is what the machine code's part is called."""
    names = dict.fromkeys([*COUNTED, *MORE, *[n for _, f in launches() for w in required(f) for n in w.split("|")]])
    table: Table = {}
    with tempfile.TemporaryDirectory() as folder:
        tool("cuobjdump", "-xelf", chip, library.resolve(), cwd=folder)
        for cubin in sorted(Path(folder).glob("*.cubin")):
            used = tool("cuobjdump", "-res-usage", cubin)
            text = tool("nvdisasm", "-c", "-hex", cubin)
            parts = re.split(r"^\.text\.(\S+):$", text, flags=re.M)
            sass, listings = dict(zip(parts[1::2], parts[2::2])), code.parse(text)
            for name, numbers in re.findall(r"Function (\S+):\s*(REG:.*)", used):
                n = {k: int(v) for k, v in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", numbers)}
                use = {"regs": n["REG"], "spill": n["STACK"] + n["LOCAL"], "shared": n["SHARED"]}
                if fences := fences_in_loops(listings[name]):
                    use[FENCED] = fences
                if lost := used_after_giving_away(listings[name]):
                    use[LOST] = len(lost)
                table[f"{cubin.name.split('.')[0]}/{demangled(name)}"] = use | {"sass": counts(sass[name], names)}
    return table


def check(table: Table, arch: int) -> list[str]:
    """What is wrong with the kernels whatever the ledger says, one sentence each."""
    said = [f"{key} {fault}" for key, entry in table.items() for fault in faults(entry, arch)]
    said += [
        f"{key} has {entry[FENCED]} of {', '.join(FENCES)} in loops" for key, entry in table.items() if FENCED in entry
    ]
    said += [
        f"{key} uses {entry[LOST]} registers or calls after it gave registers away"
        for key, entry in table.items()
        if LOST in entry
    ]
    for op, launch in launches():
        folder = launch.__module__.split(".")[-2]
        own = [entry for key, entry in table.items() if key.startswith(f"{folder}/")]
        said += [f"{op} {lack}" for lack in missing(own, required(launch))] if own else [f"{op} has no kernel"]
    return said


def main(argv: list[str] | None = None) -> int:
    """Read, print, compare; 1 when anything is wrong."""
    prog, said = "python -m liveact_kernels.compiled.aot_cuda", __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog=prog, description=said)
    parser.add_argument("--update", action="store_true", help="write the ledger instead of comparing with it")
    args = parser.parse_args(argv)
    try:
        module = extension()
    except ImportError as error:
        print(f"no CUDA kernels to check: {error}")
        return 0
    book, wrong = Ledger(f"nvcc {module.BUILD['nvcc']}"), []
    assert module.__file__ is not None, "a built extension is a file"
    for chip in module.ARCHS:
        table = kernels(Path(module.__file__), chip)
        for key, entry in table.items():
            sass = " ".join(f"{k}:{v}" for k, v in entry["sass"].items())
            print(f"{chip:8} {key:80} {entry['regs']:4} regs  {sass}")
        names = sorted({key.split("/")[0] for key in table})
        wrong += check(table, int(re.sub(r"\D", "", chip))) + ([] if args.update else book.changes(chip, table, names))
        book.replace(chip, table, names)
    return book.close(wrong, args.update)


if __name__ == "__main__":
    sys.exit(main())
