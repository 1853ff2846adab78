"""A generation by several processes: what torchrun says of this one, and what the ones that do not lead do."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from liveact_app.cli import EXIT_INTERRUPTED
from liveact_model.errors import InputError, PeerError

if TYPE_CHECKING:
    from liveact_app.job import Job
    from liveact_model.avatar import Avatar
    from liveact_model.parallel import SeqParallel

FORMS = ("auto", "gather", "ring", "overlap", "ulysses")


class Place(NamedTuple):
    """This process among those of a launch: its number, how many there are, its number on this machine."""

    rank: int
    size: int
    local: int


def place() -> Place:
    """What the launcher says; one process where there is none. Raises InputError for numbers that make no sense."""
    text = {name: os.environ.get(name, d) for name, d in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))}
    if not all(v.isdigit() for v in text.values()) or not int(text["RANK"]) < int(text["WORLD_SIZE"]):
        raise InputError(f"torchrun: expected RANK below WORLD_SIZE and LOCAL_RANK, all whole numbers, got {text}")
    return Place(*map(int, text.values()))


def talks() -> bool:
    """Whether this process is the one that speaks to the user."""
    return os.environ.get("RANK", "0") in ("", "0")


@contextlib.contextmanager
def joined(device: str, form: str) -> Iterator[SeqParallel]:
    """The group of this launch; whatever ends this process ends the others, too.

    An error of a process that does not lead reaches the leading one as PeerError, with its number.
    """
    if place().size == 1:
        from liveact_model.parallel import ALONE

        yield ALONE
        return
    from liveact_model.parallel.ranks import connect

    ranks = connect(device, "gather" if form == "auto" else form)
    if not ranks.leads:  # the leading process finishes its file; then it ends the others
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            signal.signal(number, signal.SIG_IGN)
    code, reason = 1, ""
    try:
        yield ranks
        code = 0
    except PeerError as error:
        code = error.code
        raise
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
