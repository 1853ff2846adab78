"""A generation by several processes: what torchrun says of this one, and what the ones that do not lead do."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from liveact_app.cli import EXIT_INTERRUPTED
from liveact_app.launch import Place, place, seconds
from liveact_model.errors import InputError, PeerError

if TYPE_CHECKING:
    from liveact_app.generate.job import Job
    from liveact_app.generate.loading import Shelf
    from liveact_model.avatar import Avatar
    from liveact_model.parallel import SeqParallel
    from liveact_model.parallel.ranks import Ranks

FORMS = ("auto", "gather", "ring", "overlap", "ulysses")


@contextlib.contextmanager
def joined(device: str, form: str) -> Iterator[SeqParallel]:
    """The group of this launch; whatever ends this process ends the others, too.

    An error of a process that does not lead reaches the leading one as PeerError, with its number.
    """
    here = place()
    if here.size == 1:
        from liveact_model.parallel import ALONE

        yield ALONE
        return
    try:
        ranks = _join(here, device, "gather" if form == "auto" else form)
    except PeerError as error:
        raise _voiced(error) from error
    if not ranks.leads:  # the leading process finishes its file; then it ends the others
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            signal.signal(number, signal.SIG_IGN)
    code, reason = 1, ""
    try:
        yield ranks
        code = 0
    except PeerError as error:
        code = error.code
        raise _voiced(error) from error
    except InputError as error:
        code, reason = 2, "" if ranks.leads else str(error)
        raise
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        ranks.close(code, reason)


def _voiced(error: PeerError) -> PeerError:
    """Without its words where another process says them."""
    return PeerError(str(error) if error.aloud else "", error.code)


def _join(here: Place, device: str, form: str) -> Ranks:
    from liveact_model.parallel.meeting import JOIN_WITHIN_S, open_store, resolve
    from liveact_model.parallel.ranks import connect
    from liveact_model.parallel.watch import DEAD_AFTER_S

    join_within_s = seconds("LIVEACT_JOIN_WITHIN", JOIN_WITHIN_S)
    dead_after_s = seconds("LIVEACT_DEAD_AFTER", DEAD_AFTER_S)
    at = resolve(here.host, here.port, here.near)
    if at.near and "lo" in (name for _, name in socket.if_nameindex()):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # else it listens where the machine's name points
    store = open_store(at, here.rank == 0 and not here.hosted, here.size, join_within_s)
    return connect(
        device, form, store=store, rank=here.rank, size=here.size, at=at, join_within_s=join_within_s,
        dead_after_s=dead_after_s,
    )  # fmt: skip


def settle(ranks: SeqParallel, form: str, avatar: Avatar, size: tuple[int, int], eight_bit_attention: bool) -> None:
    """Choose the form that "auto" leaves open: modelled for this size on GPUs; a CPU has no copies to hide."""
    if ranks.size == 1 or form != "auto" or avatar.anchor().device.type == "cpu":
        return
    from liveact_kernels.cost.hw import CHIPS
    from liveact_model.parallel.cost import best, exchanges

    c = avatar.dit.config
    tokens = size[0] * size[1] // 256
    shape = (ranks.size, tokens, c.num_heads, c.dim, avatar.dit.dtype.itemsize)
    ranks.form = best(exchanges(*shape, CHIPS["h200"], eight_bit_attention))


def follow(jobs: tuple[Job, ...], shelf: Shelf, device: str, ranks: SeqParallel) -> int:
    """All that a process does that does not lead: load the same model, and do as it is told. Returns the exit code."""
    from liveact_app.backend import backends
    from liveact_model.session import Session

    for job in jobs:
        with backends(job.backend):
            avatar, size = shelf.load(job, device, leads=False)
            settle(ranks, job.parallel, avatar, size, job.eight_bit_attention)
            avatar.text = avatar.image = avatar.audio = None  # the leading process encodes
            Session(avatar, None, "", fps=job.fps, parallel=ranks, **job.session(device)).follow()
    return 0
