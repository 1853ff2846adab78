"""Basic blocks of a function, which of them are cold, and its loops."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field

from .code import Instruction, Listing

ENDS = {"BRA", "EXIT", "RET", "BRX", "JMP", "BREAK"}
SLOW = ("CALL", "NANOSLEEP", "BPT", "RET")  # divisions' slow paths, traps
SPIN = 14  # a loop of no more instructions that retries a wait is no loop


@dataclass
class Block:
    """Straight-line code; `next` holds the successors, the fall-through first."""

    n: int
    code: list[Instruction]
    next: list[int] = field(default_factory=list)
    cold: bool = False


@dataclass
class Loop:
    """A natural loop: header, all its blocks, the blocks that jump back, the loop around it."""

    header: int
    body: set[int]
    latches: list[int]
    parent: int | None = None
    depth: int = 1


def blocks(listing: Listing) -> list[Block]:
    """Basic blocks in address order, successors and cold ones marked."""
    found: list[Block] = []
    labels: dict[str, int] = {}
    current: Block | None = None
    for item in listing:
        if isinstance(item, str):
            if current is None or current.code:
                found.append(current := Block(len(found), []))
            labels[item] = current.n
            continue
        if current is None:
            found.append(current := Block(len(found), []))
        current.code.append(item)
        if item.base in ENDS:
            current = None
    for b in found:
        b.next = _successors(b, labels, len(found))
    _mark_cold(found)
    return found


def _successors(b: Block, labels: dict[str, int], count: int) -> list[int]:
    fall = [b.n + 1] if b.n + 1 < count else []
    if not b.code or b.code[-1].base not in ENDS - {"BREAK"}:
        return fall
    last = b.code[-1]
    if last.base != "BRA":
        return [] if last.always else fall
    taken = None if last.target is None else labels.get(last.target)
    conditional = not last.always or re.match(r"!?U?P\d", last.args)
    out = fall if conditional else []
    return out if taken is None or taken in out else [*out, taken]


def _mark_cold(found: list[Block]) -> None:
    """Retries of waits, slow paths of divisions, traps, and what only they reach. Drops the jumps of spins."""
    waits = {b.n for b in found if any(i.tries for i in b.code)}
    for b in found:
        if b.n in waits and b.n in b.next:
            b.next.remove(b.n)
            b.cold = any(b.n in p.next and len(p.next) == 2 and p is not b and p.n in waits for p in found)
    for b in found:
        b.cold |= any(i.op.startswith(SLOW) for i in b.code)
    hot = reachable(found)
    for b in found:
        b.cold |= b.n not in hot


def reachable(found: list[Block], start: int = 0, stop: frozenset[int] | set[int] = frozenset()) -> set[int]:
    """Blocks that hot paths from `start` reach, nothing followed into `stop`."""
    seen, todo = set(), [start]
    while todo:
        n = todo.pop()
        if n in seen or found[n].cold or n in stop:
            continue
        seen.add(n)
        todo += found[n].next
    return seen


def dominators(found: list[Block]) -> tuple[dict[int, set[int]], dict[int, set[int]]]:
    """(block -> the blocks that every path to it passes, block -> predecessors) of the hot part."""
    order = sorted(reachable(found))
    before: dict[int, set[int]] = defaultdict(set)
    for n in order:
        for s in found[n].next:
            before[s].add(n)
    over = {n: set(order) for n in order} | {0: {0}}
    changed = True
    while changed:
        changed = False
        for n in order[1:]:
            paths = [over[p] for p in before[n] if p in over]
            new = {n} | (set.intersection(*paths) if paths else set())
            if new != over[n]:
                over[n], changed = new, True
    return over, before


def loops(found: list[Block]) -> list[Loop]:
    """Natural loops in address order; spins on a barrier are not among them, and their jumps are dropped."""
    over, before = dominators(found)
    by_header: dict[int, Loop] = {}
    for n in over:
        for header in found[n].next:
            if header in over and header in over[n]:
                body, todo = {header, n}, [n]
                while todo:
                    if (x := todo.pop()) != header:
                        todo += before[x] - body
                        body |= before[x]
                at = by_header.setdefault(header, Loop(header, set(), []))
                at.body |= body
                at.latches.append(n)
    for header, loop in list(by_header.items()):
        code = [i for n in loop.body for i in found[n].code]
        if len(code) <= SPIN and any(i.tries or i.base == "NANOSLEEP" for i in code):
            for n in loop.latches:
                found[n].next.remove(header)
            del by_header[header]
    out = sorted(by_header.values(), key=lambda loop: loop.header)
    for i, a in enumerate(out):
        around = [j for j, b in enumerate(out) if j != i and a.header in b.body and a.body < b.body]
        a.parent = min(around, key=lambda j: len(out[j].body)) if around else None
        a.depth = 1 + len(around)
    return out
