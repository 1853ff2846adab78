"""A schedule in the form that kernels take, checked once for what walking it in order would destroy."""

from __future__ import annotations

import functools
from typing import NamedTuple


class Entries(NamedTuple):
    """A schedule as flat tuples: per entry its slot, how many sources, and which kinds."""

    slots: tuple[int, ...]
    counts: tuple[int, ...]
    reads_memory: tuple[bool, ...]
    reads_block: tuple[bool, ...]
    sources: tuple[int, ...]


@functools.lru_cache(maxsize=64)
def entries(schedule: tuple, memory_slots: int, taps: int, raster: bool) -> Entries:
    """Flatten a schedule, once per schedule.

    Raises ValueError when walking it in order would overwrite a memory slot before its last reader.
    """
    written: set[int] = set()
    for slot, sources in schedule:
        if written & set(sources) or (raster and slot < memory_slots and slot in sources[1:]):
            want = "a schedule that reads a slot before it overwrites it"
            raise ValueError(f"kv_compress: expected {want}, got {schedule}")
        written |= {slot} & set(range(memory_slots))
    lists = [sources for _, sources in schedule]
    return Entries(
        slots=tuple(slot for slot, _ in schedule),
        counts=tuple(len(sources) for sources in lists),
        reads_memory=tuple(min(sources) < memory_slots for sources in lists),
        reads_block=tuple(max(sources) >= memory_slots for sources in lists),
        sources=tuple(s for sources in lists for s in (*sources, *[0] * (taps - len(sources)))),
    )
