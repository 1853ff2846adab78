"""The hot path through a kernel, what it costs per pipe, and which branches are alternatives."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from . import rates
from .code import Instruction, Listing
from .flow import blocks, loops, reachable

ALTERNATIVE = 60  # instructions that both sides of a branch must have to count as alternatives instead of a guard


class Repeat(NamedTuple):
    """A loop on a path: its number and what one trip passes."""

    loop: int
    items: list


Items = list["int | Repeat"]
"""A path: block numbers and loops, in order."""

Choose = Callable[[int, list[int]], int]
"""(block, its hot successors) -> the one to follow."""


class Kernel:
    """One function: blocks, loops, paths."""

    def __init__(self, listing: Listing):
        self.blocks = blocks(listing)
        self.loops = loops(self.blocks)
        self._headers = {loop.header: i for i, loop in enumerate(self.loops)}
        self._multiplies = any(i.product for b in self.blocks for i in b.code)

    def only(self, start: int, other: int, stop: frozenset[int] | set[int] = frozenset()) -> list[Instruction]:
        """Code reachable from one side of a branch and not from the other."""
        own = reachable(self.blocks, start, stop) - reachable(self.blocks, other, stop)
        return [i for n in sorted(own) for i in self.blocks[n].code]

    def alternatives(self) -> list[int]:
        """Blocks that end in a branch both of whose sides are large."""
        out = []
        for b in self.blocks:
            if b.cold or len(b.next) != 2 or any(self.blocks[s].cold for s in b.next):
                continue
            one, other = b.next
            if min(len(self.only(one, other)), len(self.only(other, one))) >= ALTERNATIVE:
                out.append(b.n)
        return out

    def prefer(self, n: int, hot: list[int]) -> int:
        """The fall-through, unless only the other side multiplies."""
        if len(hot) > 1 and self._multiplies:
            sides = [any(i.product for i in self.only(s, o)) for s, o in (hot[:2], hot[1::-1])]
            if sides == [False, True]:
                return hot[1]
        return hot[0]

    def walk(self, choose: Choose | None = None, start: int = 0, inside: int | None = None) -> tuple[Items, int | None]:
        """(path, block at which a loop's trip ended): from `start`, or one trip of the loop `inside`."""
        choose = choose or self.prefer
        items: Items = []
        seen: set[int] = set()
        n: int | None = start
        while n is not None:
            if n in self._headers and self._headers[n] != inside:
                n = self._through(items, choose, n, inside)
                continue
            if n in seen:
                break
            seen.add(n)
            items.append(n)
            hot = [s for s in self.blocks[n].next if not self.blocks[s].cold]
            if inside is not None:
                body, header = self.loops[inside].body, self.loops[inside].header
                hot = [s for s in hot if s in body and s != header]
                if not hot:
                    return items, n
            if not hot:
                break
            n = choose(n, hot) if len(hot) > 1 else hot[0]
        return items, None

    def _through(self, items: Items, choose: Choose, n: int, inside: int | None) -> int | None:
        """Append the loop at header n; the block after it."""
        loop = self.loops[self._headers[n]]
        trip, last = self.walk(choose, n, self._headers[n])
        items.append(Repeat(self._headers[n], trip))

        def out_of(m: int) -> list[int]:
            return [s for s in self.blocks[m].next if s not in loop.body and not self.blocks[s].cold]

        first = out_of(last) if last is not None else []
        every = sorted((s for m in sorted(loop.body) for s in out_of(m)), key=lambda s: -self._size(s))
        after = next(iter(first or every), None)
        if inside is not None and after is not None and after not in self.loops[inside].body:
            return None
        return after

    def _size(self, start: int) -> int:
        return sum(len(self.blocks[n].code) for n in reachable(self.blocks, start))

    def variants(self) -> list[Items]:
        """One hot path per combination of alternatives."""
        major = set(self.alternatives())

        def paths(decided: dict[int, int]) -> Iterator[Items]:
            open_: list[tuple[int, list[int]]] = []

            def choose(n: int, hot: list[int]) -> int:
                if n in major and n not in decided:
                    open_.append((n, hot))
                return decided.get(n, hot[0])

            items, _ = self.walk(choose)
            if not open_:
                yield items
                return
            n, hot = open_[0]
            for s in hot:
                yield from paths(decided | {n: s})

        return list(paths({})) if major else [self.walk()[0]]

    # ---- what lies on a path ------------------------------------------------------------------------------------

    def straight(self, items: Items) -> list[Instruction]:
        """Code of the path, loops left out."""
        return [i for n in items if isinstance(n, int) for i in self.blocks[n].code]

    def flat(self, items: Items) -> list[Instruction]:
        """Code of the path, each loop once."""
        out: list[Instruction] = []
        for n in items:
            out += self.flat(n.items) if isinstance(n, Repeat) else self.blocks[n].code
        return out

    def trace(self, items: Items, trips: Mapping[int, int]) -> list[tuple[Instruction, int]]:
        """(instruction, epoch) with loops unrolled. An epoch ends with each loop: copies meet waits of their own."""
        out: list[tuple[Instruction, int]] = []
        epoch = 0

        def add(part: Items) -> None:
            nonlocal epoch
            for n in part:
                if isinstance(n, int):
                    out.extend((i, epoch) for i in self.blocks[n].code)
                    continue
                for _ in range(trips.get(n.loop, 1)):
                    add(n.items)
                epoch += 1

        add(items)
        return out

    def cost(self, items: Items, trips: Mapping[int, float]) -> Counter:
        """One warp's costs along the path."""
        total = cost(self.straight(items))
        for n in items:
            if isinstance(n, Repeat):
                total.update(scaled(self.cost(n.items, trips), trips.get(n.loop, 1)))
        return total


def loops_on(items: Items) -> list[int]:
    """Numbers of the loops of a path, outer ones first."""
    return [x for n in items if isinstance(n, Repeat) for x in (n.loop, *loops_on(n.items))]


def trip_of(items: Items, loop: int) -> Items:
    """One trip of a loop anywhere on a path; raises KeyError when it is not there."""
    for n in items:
        if isinstance(n, Repeat):
            if n.loop == loop:
                return n.items
            if loop in loops_on(n.items):
                return trip_of(n.items, loop)
    raise KeyError(loop)


def cost(code: list[Instruction]) -> Counter:
    """One warp's pass: cycles per pipe of its sub-partition, of the SM (`tensor`, `shared`), multiply-adds, bytes."""
    c: defaultdict[str, float] = defaultdict(int)
    for i in code:
        c["issue"] += 1
        c[i.pipe] += i.cost
        if p := i.product:
            c["macs"] += p.macs
            # four warps issue a warpgroup's product; an mma.sync keeps one of four sub-partitions busy
            c["tensor"] += (max(p.n / 2, 8) if p.group else rates.product_cycles(p, False)) / 4
            c["shared"] += rates.operand_bytes(p, i.from_registers) / 128 / 4
        if i.base in rates.SHARED:
            c["shared"] += rates.wavefronts(i.op)
        if i.base in ("LDG", "LD", "LDGSTS"):
            c["loaded"] += 32 * rates.width(i.op)
        if i.base in ("STG", "ST"):
            c["stored"] += 32 * rates.width(i.op)
    return Counter(c)


def scaled(c: Mapping[str, float], factor: float) -> Counter:
    """Every entry times a factor."""
    return Counter({k: v * factor for k, v in c.items()})


def limits(c: Mapping[str, float], warps: float) -> dict[str, float]:
    """SM cycles per pipe for `warps` warps that each cost c."""
    k = warps / 4
    return {
        "tensor": c["tensor"] * warps, "issue": c["issue"] * k, "shared": c["shared"] * warps,
        "fma": max(c["imad"], (2 * c["fma"] + c["imad"]) / 2) * k,
        **{pipe: c[pipe] * k for pipe in ("alu", "special", "memory", "uniform")},
    }  # fmt: skip
