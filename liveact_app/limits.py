"""Limits of this process that are too low to start: torch ends in a crash without words where it meets them."""

import os

from liveact_model.errors import InputError

# On two cores `liveact generate` with the small model peaks at 1.2 GiB of addresses; every core adds threads.
ADDRESSES_MIB, PER_CORE_MIB = 1536, 80
OPEN_FILES = 32  # it was seen to hold 6 at once, and what a GPU's driver opens comes on top
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory", "std::bad_alloc")


def check_limits() -> None:
    """Raise InputError when the address space or the number of open files is limited to less than any command needs."""
    try:
        import resource
    except ImportError:
        return
    addresses = (ADDRESSES_MIB + PER_CORE_MIB * (os.cpu_count() or 1)) << 20
    needs = (
        ("RLIMIT_AS", "ulimit -v", "KiB of address space", addresses, 1024),
        ("RLIMIT_NOFILE", "ulimit -n", "open files", OPEN_FILES, 1),
    )
    for name, command, unit, need, per in needs:
        limit = resource.getrlimit(getattr(resource, name))[0] if hasattr(resource, name) else resource.RLIM_INFINITY
        if limit != resource.RLIM_INFINITY and limit < need:
            raise InputError(f"{command}: expected a limit of at least {need // per} {unit}, got {limit // per}")


def lack(error: BaseException) -> str | None:
    """The sentence for an error that is the machine's: no memory, thread, file or disk. None for any other."""
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY):
        return f"out of memory ({text[:160] or type(error).__name__})"
    if "can't start new thread" in text or "Thread creation failed" in text:
        return "the system gives no more threads (ulimit -u, ulimit -v)"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.filename!r}: {error.strerror}" if error.filename else f"{error.strerror or error}"
    return None
