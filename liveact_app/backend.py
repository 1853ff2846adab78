"""Which kernels a command runs on: `--backend`, else the environment variable LIVEACT_BACKEND, else the defaults."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from liveact_model.errors import InputError

VARIABLE = "LIVEACT_BACKEND"
HELP = (
    'kernels to use: one backend for every op that has it, or "op=backend,..." '
    "(default: $LIVEACT_BACKEND, else the best of each op)"
)


@contextlib.contextmanager
def backends(flag: str | None) -> Iterator[None]:
    """Choose backends inside; raises InputError naming where the unknown name came from."""
    from liveact_kernels import ops  # noqa: F401 - fills the registry, which names are checked against
    from liveact_kernels.contract import parse_backends, use

    source, text = ("--backend", flag) if flag is not None else (VARIABLE, os.environ.get(VARIABLE, ""))
    try:
        chosen = {"all" if op == "*" else op: name for op, name in parse_backends(text).items()}
    except ValueError as error:
        raise InputError(f"{source}: {str(error).removeprefix('backend: ')}") from error
    with use(**chosen):
        yield


def must_run_on(device: str) -> None:
    """Raise InputError, with the reason and the way to get it, when a chosen backend cannot run on `device`."""
    from liveact_kernels.contract import unusable

    if why := unusable(device):
        raise InputError(f"--backend: {why}")
