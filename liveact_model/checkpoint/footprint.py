"""Whether something fits into the host's memory, before it is allocated: a refusal is one sentence, not a kill."""

from __future__ import annotations

from pathlib import Path

from ..errors import InputError

MEMINFO, STATUS, GROUP = Path("/proc/meminfo"), Path("/proc/self/status"), Path("/proc/self/cgroup")
GROUPS = Path("/sys/fs/cgroup")
LIMITS = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))  # cgroup 2 and 1


def must_fit(needed: int, what: str) -> None:
    """Raise InputError, naming `what`, if `needed` bytes are more than can be had here; pass where nobody knows."""
    left = available_bytes()
    if left is not None and needed > left:
        raise InputError(f"{what} needs {gib(needed)} of memory, and {gib(left)} are available")


def gib(count: int) -> str:
    """Bytes for a sentence."""
    return f"{count / (1 << 30):,.2f} GiB"


def available_bytes() -> int | None:
    """Bytes that this process may still allocate: the least of what the machine, its groups and its limits leave."""
    left = [n for n in (_machine(), _group(), _address_space()) if n is not None]
    return max(0, min(left)) if left else None


def _machine() -> int | None:
    return _field(MEMINFO, "MemAvailable:")


def _group() -> int | None:
    """What the control group leaves; mapped files that it counts can be dropped and are given back."""
    left = []
    for folder in _folders():
        for limit, used in LIMITS:
            most, now = _number(folder / limit), _number(folder / used)
            if most is not None and now is not None:
                cached = _field(folder / "memory.stat", "inactive_file", 1) or 0
                left.append(most - now + cached)
    return min(left, default=None)


def _folders() -> list[Path]:
    """The group's folder and those above it, as far as they can be seen."""
    try:
        paths = {line.split(":", 2)[2].strip("/") for line in GROUP.read_text().splitlines() if line.count(":") >= 2}
    except OSError:
        paths = set()
    found = {GROUPS, GROUPS / "memory"}
    for path in paths:
        for root in (GROUPS, GROUPS / "memory"):
            inner = root / path
            found |= {inner, *(p for p in inner.parents if p.is_relative_to(GROUPS))}
    return [folder for folder in found if folder.is_dir()]


def _address_space() -> int | None:
    """What RLIMIT_AS leaves; mapped files count."""
    try:
        import resource
    except ImportError:  # not on every system
        return None
    most, now = resource.getrlimit(resource.RLIMIT_AS)[0], _field(STATUS, "VmSize:")
    return None if most == resource.RLIM_INFINITY or now is None else most - now


def _field(path: Path, name: str, unit: int = 1024) -> int | None:
    """The number behind a name in a file of such lines, in bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = next((line.split() for line in lines if line.startswith(name)), [])
    return int(found[1]) * unit if len(found) > 1 and found[1].isdecimal() else None


def _number(path: Path) -> int | None:
    """The number that a file holds; None for "max" and where there is no such file."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
