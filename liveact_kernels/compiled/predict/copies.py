"""Which mbarrier wait belongs to which bulk copy of a compiled loop, and how large the copies are.

The compiler keeps the mbarriers of a ring side by side, at addresses that differ by an immediate: those of one class
lie within 64 bytes from the first.
"""

from __future__ import annotations

import re

from .code import Instruction
from .paths import Items, Kernel, loops_on, trip_of
from .simulate import Copies

RING = 64
LOOK_BACK = 400  # instructions between the announcement of a copy's bytes and the register that holds their number


def matched(kernel: Kernel, items: Items) -> Copies:
    """Waits and copies along a path."""
    flat = kernel.flat(items)
    trips = {loop: trip_of(items, loop) for loop in loops_on(items)}
    inner = [i for trip in trips.values() if not loops_on(trip) for i in kernel.flat(trip)]
    looped = {i.address for trip in trips.values() for i in kernel.flat(trip)}
    firsts = sorted({i.offset for i in inner if i.expects and i.offset is not None})

    def ring(offset: int) -> int:
        return next((first for first in reversed(firsts) if first <= offset < first + RING), offset)

    out = Copies()
    sizes, current = [], None
    for n, i in enumerate(flat):
        if i.expects:
            current = out.announces[i.address] = "unnamed" if i.offset is None else ring(i.offset)
            sizes += _bytes(flat, n)
        elif i.base == "UTMALDG" and current is not None:
            out.issues[i.address] = current
    if sizes and out.issues:
        out.bytes = sum(sizes) / len(out.issues)
    _pair(out, flat, looped, ring)
    return out


def _pair(out: Copies, flat: list[Instruction], looped: set[int], ring) -> None:
    """Waits whose address has no immediate belong to the one class of copies that no other wait names."""
    waits = {i.address: i.offset for i in flat if i.tries}
    named = {ring(offset) for offset in waits.values() if offset is not None}
    classes = list(dict.fromkeys(out.issues.values()))
    loose = [c for c in classes if c not in named and c != "unnamed"]
    for address, offset in waits.items():
        if offset is not None:
            out.waits[address] = ring(offset) if ring(offset) in classes else None
        else:
            out.waits[address] = loose[0] if loose and address in looped else None


def _bytes(flat: list[Instruction], n: int) -> list[int]:
    """The constant that was moved into the register with the number of announced bytes."""
    register = re.search(r"\], (R\d+)", flat[n].args)
    if not register:
        return []
    for i in reversed(flat[max(0, n - LOOK_BACK) : n]):
        if i.args.startswith((f"{register[1]},", f"{register[1]} ")):
            value = re.search(r"(0x[0-9a-f]+)$", i.args)
            return [int(value[1], 16)] if value and i.base in ("IMAD", "MOV", "HFMA2") else []
    return []
