"""Every Triton launch compiled for a named chip on a machine without one, and compared with a committed ledger.

    python -m liveact_kernels.compiled.aot [--chip sm_90a ...] [--op NAME ...] [--update]

Each op's launch runs on meta tensors of its real shapes, under a stub driver and with the launch itself stopped: what
compiles is the specialisation (dtypes, constexprs, alignment, warps) that the chip would be given, not a copy of it.
The process must not run under TRITON_INTERPRET. A launch names the instructions that it stands on in one line:

    mark(launch, requires_sass=("QGMMA|HGMMA", "UTMALDG"))   # on sm_90; alternatives with |

It fails on a spill, on too much shared memory or on a missing instruction on sm_90, on an entry of a tuned table that
no longer compiles or that no shape asks for, and on any change of the ledger; `--update` rewrites the ledger, and the
commit says why. An op whose instructions came later, `least_arch`, is held to that chip in place of sm_90, its
instructions must be there on every later one, and earlier ones are left out. Registers depend on the compiler: the
Triton of constraints.txt, that of the GPU's stack and the newest have own ledgers; with any other one everything else
is checked, and it says so.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator

import torch
import triton
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from .. import ops, tuned  # noqa: F401 - ops fills the registry
from ..contract import REGISTRY, Case, Op
from .ledger import Ledger
from .sass import COUNTED, LACKS, counts, faults, missing, tool

CHIPS = ("sm_90a", "sm_89", "sm_100a", "sm_120a")
BOUND = 90  # the architecture on which faults fail the run; the others are compiled and recorded
TOKENS = ("L", "M")  # the dims that n ranks divide; the window's (R, P) is whole on every rank


class StubDriver:
    """What Triton asks of a driver before it launches; the architecture stands for the device's number."""

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_target(self) -> GPUTarget:
        """The chip to compile for."""
        return GPUTarget("cuda", self.arch, 32)

    def get_current_device(self) -> int:
        """A number per chip: Triton keeps compiled kernels per device."""
        return self.arch

    def get_current_stream(self, device: int) -> int:
        """The default stream."""
        return 0


def meta_case(op: Op, case: Case) -> tuple[list[torch.Tensor | None], dict]:
    """(outputs, arguments) of a case on meta: shapes, dtypes and strides, no memory."""
    with FakeTensorMode():
        fake = op.make(case)

    def meta(shape, dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    args = {k: meta(v.shape, v.dtype) if isinstance(v, torch.Tensor) else v for k, v in fake.items()}
    d = op.dims(args)
    return [meta(s.shape(d), s.dtype_of(d)) if s.present(d) else None for s in op.out.values()], args


def called(op: Op, case: Case, arch: int, run) -> None:
    """Call the op's triton backend on meta tensors, under the stub driver, with `run` in place of each launch."""
    outs, args = meta_case(op, case)
    real, JITFunction.run = JITFunction.run, run
    triton.runtime.driver.set_active(StubDriver(arch))
    try:
        op.implementation("triton")(*outs, **args)
    finally:
        JITFunction.run = real
        triton.runtime.driver.set_active(None)  # whoever asks next finds the machine's own again


def launched(op: Op, case: Case, arch: int) -> list:
    """The kernels that one call of the op's triton backend launches, compiled for `arch`."""
    kernels, run = [], JITFunction.run

    def compile_only(self, *args, grid, warmup, **kw):
        kernels.append(run(self, *args, grid=grid, warmup=True, **kw))
        return kernels[-1]

    called(op, case, arch, compile_only)
    return kernels


def configurations(op: Op, case: Case, arch: int) -> list[tuned.Asked]:
    """What one call asks of the tables; nothing is compiled."""
    with tuned.asked() as heard:
        called(op, case, arch, lambda self, *args, **kw: None)
    return heard


def measure(kernel) -> dict:
    """Registers, spilled bytes, shared memory, warps, stages and counts of telling instructions of one kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(kernel.asm["cubin"])
        f.flush()
        use, sass = tool("cuobjdump", "-res-usage", f.name), tool("nvdisasm", "-c", f.name)
    numbers = {k: int(v) for k, v in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", use)}
    return {
        "regs": numbers["REG"],
        "spill": numbers["STACK"] + numbers["LOCAL"],
        "shared": kernel.metadata.shared,
        "warps": kernel.metadata.num_warps,
        "stages": kernel.metadata.num_stages,
        "sass": counts(sass, COUNTED),
    }


def cases(op: Op, ranks: bool) -> Iterator[tuple[str, Case]]:
    """The op's real shapes, on one rank and, if asked, on two."""
    for case in op.cases:
        if case.rung == "device":
            yield case.id, case
            halved = {k: v // 2 for k, v in case.dims.items() if k in TOKENS}
            if ranks and halved:
                yield f"{case.id}/2", Case(case.id, rung="device", **case.dims | halved)


def home(op: Op) -> int:
    """The architecture on which faults of an op's kernels fail the run."""
    return max(BOUND, getattr(op.implementation("triton"), "least_arch", 0))


def survey(op: Op, arch: int) -> Iterator[tuple[str, dict | None, list[str]]]:
    """(key, numbers, faults) of every distinct kernel of an op on one chip; numbers None: it does not compile."""
    later = home(op) > BOUND
    if later and arch < home(op):
        return
    requires = getattr(op.implementation("triton"), "requires_sass", ()) if later or arch == BOUND else ()
    seen: dict[str, dict] = {}
    for label, case in cases(op, ranks=arch == BOUND):
        try:
            kernels = launched(op, case, arch)
        except Exception as error:  # an entry of a table can ask for what the compiler refuses
            words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            yield f"{op.name}/{label}", None, [f"does not compile: {words}"]
            continue
        fresh = [k for k in kernels if k.hash not in seen]
        seen |= {k.hash: measure(k) for k in fresh}
        lacks = missing([seen[k.hash] for k in kernels], requires)
        for kernel in fresh:
            entry = seen[kernel.hash]
            yield f"{op.name}/{label}/{kernel.metadata.name}", entry, faults(entry, arch) + lacks


def compiled(names: list[str], chip: str) -> tuple[dict, list[str]]:
    """(ledger of a chip, faults that fail the run) for the named ops, printed as they come."""
    arch, table, wrong = int(re.sub(r"\D", "", chip)), {}, []
    for op in (REGISTRY[n] for n in names):
        for key, entry, bad in survey(op, arch) if "triton" in op.backends else ():
            wrong += [f"{chip} {key} {b}" for b in bad if arch == home(op) or b.startswith(LACKS)]
            if entry is None:
                continue
            table[key] = entry
            sass = " ".join(f"{k}:{v}" for k, v in entry["sass"].items())
            numbers = f"{entry['regs']:4} regs  {entry['shared']:6} B shared  {entry['warps']:2} warps"
            print(f"{chip:8} {key:64} {numbers}  {sass}", *[f"  !! {b}" for b in bad], flush=True)
    return table, wrong


def unasked(names: list[str], arch: int) -> list[str]:
    """Entries of the chip's table that no real shape of these ops asks for: nobody would notice what they do."""
    chip = tuned.TABLES.get(arch, "")
    entries = {(op, label) for op, table in tuned.table(chip).items() if op in names for label in table}
    if not entries:
        return []
    heard = set()
    for op in (REGISTRY[n] for n in names if "triton" in REGISTRY[n].backends):
        for _, case in cases(op, ranks=True):
            heard |= {(a.op, tuned.label(**a.dims)) for a in configurations(op, case, arch)}
    return [f"tuned/{chip}.json {op} {label}: no shape asks for it" for op, label in sorted(entries - heard)]


def arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m liveact_kernels.compiled.aot", description=__doc__.split("\n")[0])
    parser.add_argument("--chip", nargs="+", default=CHIPS, choices=CHIPS, metavar="sm_XX", help=" ".join(CHIPS))
    parser.add_argument("--op", nargs="+", default=[*REGISTRY], choices=[*REGISTRY], metavar="NAME", help="all ops")
    parser.add_argument("--update", action="store_true", help="write the ledger instead of comparing with it")
    args = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        parser.error("TRITON_INTERPRET is set: the interpreter compiles nothing")
    return args


def main(argv: list[str] | None = None) -> int:
    """Compile, print, compare; 1 when anything is wrong."""
    args = arguments(argv)
    book, wrong = Ledger(f"triton {triton.__version__}"), []
    if args.update and len(args.op) < len(REGISTRY) and (new := [c for c in args.chip if not book.knows(c)]):
        print(f"--op: {book.version} is new to the ledger for {', '.join(new)}, record every op first", file=sys.stderr)
        return 2
    for chip in args.chip:
        table, bad = compiled(args.op, chip)
        bad += unasked(args.op, int(re.sub(r"\D", "", chip)))
        wrong += bad + ([] if args.update else book.changes(chip, table, args.op))
        book.replace(chip, table, args.op)
    return book.close(wrong, args.update)


if __name__ == "__main__":
    sys.exit(main())
