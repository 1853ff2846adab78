"""A generation by several processes: what torchrun says of this one, and what the ones that do not lead do."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from liveact_app.cli import EXIT_INTERRUPTED, real_number, whole_number
from liveact_model.errors import InputError, PeerError

if TYPE_CHECKING:
    from liveact_app.job import Job
    from liveact_model.avatar import Avatar
    from liveact_model.parallel import SeqParallel
    from liveact_model.parallel.ranks import Ranks

MOST_RANKS = 512  # each has a socket for every other
FORMS = ("auto", "gather", "ring", "overlap", "ulysses")


class Place(NamedTuple):
    """This process among those of a launch: its number, how many there are, its number on this machine.

    host, port  where rank 0 (or the launcher, where `hosted`) keeps the store by which they find each other
    near        all of them are on this machine
    """

    rank: int
    size: int
    local: int
    host: str = ""
    port: int = 0
    near: bool = True
    hosted: bool = False


def place() -> Place:
    """What the launcher says; one process where there is none. Raises InputError for what makes no sense."""
    if not _said("WORLD_SIZE"):
        if _said("RANK") not in ("", "0"):
            raise InputError(f"WORLD_SIZE: expected the number of processes beside RANK={_said('RANK')}, got nothing")
        return Place(0, 1, 0)
    size = _number("WORLD_SIZE", 1, MOST_RANKS)
    if size == 1:
        return Place(_number("RANK", 0, 0, "0"), 1, _number("LOCAL_RANK", 0, 0, "0"))
    rank, local = _number("RANK", 0, size - 1), _number("LOCAL_RANK", 0, size - 1)
    port, host = _number("MASTER_PORT", 1, 65535), _said("MASTER_ADDR")
    if not host:
        raise InputError("MASTER_ADDR: expected the name or address of rank 0's machine, got nothing")
    near = _number("LOCAL_WORLD_SIZE", 1, size, "1") == size
    return Place(rank, size, local, host, port, near, _said("TORCHELASTIC_USE_AGENT_STORE") == "True")


def _said(name: str) -> str:
    return os.environ.get(name, "").strip()


def _number(name: str, low: int, high: int, default: str = "") -> int:
    text = _said(name) or default
    try:
        return whole_number(low, high)(text)
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{name}: {str(error) if text else str(error).replace(repr(text), 'nothing')}") from None


def _seconds(name: str, default: float) -> float:
    try:
        return real_number(1, 86400)(_said(name) or str(default))
    except argparse.ArgumentTypeError as error:
        raise InputError(f"{name}: {error}, in seconds") from None


def talks() -> bool:
    """Whether this process is the one that speaks to the user; one that does not know its place does, too."""
    try:
        return place().rank == 0
    except InputError:
        return True


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

    join_within_s = _seconds("LIVEACT_JOIN_WITHIN", JOIN_WITHIN_S)
    dead_after_s = _seconds("LIVEACT_DEAD_AFTER", DEAD_AFTER_S)
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
    from liveact_kernels.hw import CHIPS
    from liveact_model.parallel.cost import best, exchanges

    c = avatar.dit.config
    tokens = size[0] * size[1] // 256
    shape = (ranks.size, tokens, c.num_heads, c.dim, avatar.dit.dtype.itemsize)
    ranks.form = best(exchanges(*shape, CHIPS["h200"], eight_bit_attention))


def follow(job: Job, device: str, ranks: SeqParallel) -> int:
    """All that a process does that does not lead: load the same model, and do as it is told. Returns the exit code."""
    from liveact_app.backend import backends
    from liveact_app.loading import load
    from liveact_model.session import Session

    with backends(job.backend):
        avatar, size = load(job, device)
        settle(ranks, job.parallel, avatar, size, job.eight_bit_attention)
        avatar.text = avatar.image = avatar.audio = None  # the leading process encodes
        Session(
            avatar, None, "", fps=job.fps, seed=job.seed, audio_cfg=job.audio_cfg, sampler=job.sampler,
            eight_bit_memory=job.eight_bit_memory, eight_bit_attention=job.eight_bit_attention,
            graphs=False if job.eager else None, parallel=ranks,
        ).follow()  # fmt: skip
    return 0
