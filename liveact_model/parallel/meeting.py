"""How the ranks of a launch find each other: a store at an address they all know, then a socket for every peer.

On one machine everything listens on loopback alone. Every step has a deadline and ends in one sentence.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist

from liveact_model.errors import InputError, PeerError

JOIN_WITHIN_S = 120.0  # the others may still be importing torch from a slow disk
LOOK_S, STAY_S = 0.05, 3.0


class Address(NamedTuple):
    """Where the store of a launch listens.

    near  all ranks run on this machine: nothing needs to be reached from outside
    """

    host: str
    port: int
    near: bool


def resolve(host: str, port: int, near: bool = False) -> Address:
    """The address behind a name; `near` also where it is a loopback address. Raises InputError for a name of nobody."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise InputError(f"MASTER_ADDR: expected the name or address of rank 0's machine, got {host!r}") from None
    first = min(found, key=lambda f: f[0] != socket.AF_INET)[4][0]
    return Address(str(first), port, near or _is_loopback(str(first)))


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    return host == "localhost"


def open_store(at: Address, leads: bool, size: int, within_s: float = JOIN_WITHIN_S) -> dist.TCPStore:
    """The store of a launch: the leading rank's own where `leads`, else a connection to it.

    Raises InputError where the leading rank cannot listen, and PeerError where nobody answers within `within_s`.
    """
    until = time.monotonic() + within_s
    where = f"{at.host} port {at.port}"
    more: dict[str, Any] = {}
    if leads:
        host = at.host if _is_loopback(at.host) else "127.0.0.1"
        more = {"is_master": True, "master_listen_fd": _listen(at).detach()}
    else:
        host = at.host
        _await_listener(at, until, f"nobody answered at {where} within {within_s:g} s: is rank 0 running there?")
    make = lambda: dist.TCPStore(  # noqa: E731
        host, at.port, size, timeout=timedelta(seconds=within_s), wait_for_workers=False, **more
    )
    return _within(make, until, f"what answers at {where} is not rank 0 of a launch")


def _listen(at: Address) -> socket.socket:
    """A listening socket: on loopback for a launch on one machine, else on every interface."""
    try:
        if _is_loopback(at.host):
            family = socket.AF_INET6 if ":" in at.host else socket.AF_INET
            return socket.create_server((at.host, at.port), family=family, backlog=512)
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", at.port), family=socket.AF_INET6, backlog=512, dualstack_ipv6=True)
        return socket.create_server(("", at.port), backlog=512)
    except OSError as error:
        why = "in use" if error.errno == errno.EADDRINUSE else os.strerror(error.errno or 0)
        raise InputError(f"MASTER_PORT: expected a port that rank 0 can listen on, got {at.port} ({why})") from None


def _await_listener(at: Address, until: float, sentence: str) -> None:
    """Until something accepts connections; torch's own attempts would write pages to standard error."""
    for _ in _looks(until):
        try:
            socket.create_connection((at.host, at.port), 5.0).close()
            return
        except OSError:
            continue
    raise PeerError(sentence)


def _within(make: Callable[[], dist.TCPStore], until: float, sentence: str) -> dist.TCPStore:
    """`make()`, which may hang with a peer that speaks something else."""
    made: list[dist.TCPStore] = []

    def work() -> None:
        with contextlib.suppress(RuntimeError):
            made.append(make())

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(max(0.1, until - time.monotonic()))
    if not made:
        raise PeerError(sentence)
    return made[0]


def meet(
    store: dist.Store, rank: int, size: int, at: Address, within_s: float = JOIN_WITHIN_S
) -> list[socket.socket | None]:
    """Wait for all ranks -> per rank a UDP socket that only this rank and that one share; None for this one.

    Raises PeerError naming the ranks that did not come, or saying which of the numbers of this launch do not fit.
    """
    until = time.monotonic() + within_s
    try:
        _check_in(store, rank, size)
        host = "::1" if at.near and ":" in at.host else "127.0.0.1"
        if not at.near:
            host = _route(at.host, at.port)
            everyone = _gather(store, "host", rank, size, host, until, within_s)
            if _is_loopback(host):  # the name of a machine may mean loopback on that machine
                host = next((_route(h, at.port) for h in everyone if not _is_loopback(h)), host)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        mine = [None if r == rank else socket.socket(family, socket.SOCK_DGRAM) for r in range(size)]
        for s in filter(None, mine):
            s.setblocking(False)
            s.bind((host, 0))
        ports = [s and s.getsockname()[1] for s in mine]
        everyone = _gather(store, "beat", rank, size, (host, ports), until, within_s)
        for peer, (other, theirs) in zip(mine, everyone):
            if peer is not None:
                peer.connect((other, theirs[rank]))
        return mine
    except (RuntimeError, OSError) as error:
        if isinstance(error, PeerError):
            raise
        raise PeerError(f"rank {rank} lost the others while they gathered: rank 0 or its launcher is gone") from error


def _route(host: str, port: int) -> str:
    """The address of this machine from which it would send to `host`."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect((host, port))
        return str(s.getsockname()[0])


def _check_in(store: dist.Store, rank: int, size: int) -> None:
    agreed = int(store.compare_set("size", "", str(size)))
    sentence = ""
    if agreed != size:
        sentence = f"WORLD_SIZE: expected the same number for every rank, got {size} for rank {rank}, {agreed} before"
    elif store.add(f"rank/{rank}", 1) > 1:
        sentence = f"RANK: expected a number of its own for every process, got {rank} twice"
    if sentence:
        store.set("refused", "2")
        raise PeerError(sentence, 2)


def _gather(store: dist.Store, what: str, rank: int, size: int, mine: object, until: float, within_s: float) -> list:
    """What every rank says of `what`, in order."""
    store.set(f"{what}/{rank}", json.dumps(mine))
    keys = [f"{what}/{r}" for r in range(size)]
    for _ in _looks(until):
        if store.check(keys):
            return [json.loads(store.get(k)) for k in keys]
        if store.check(["refused"]):
            _stay(store, keys, rank)
            raise PeerError("", int(store.get("refused")))  # who refused has said why
    here = [r for r, k in enumerate(keys) if store.check([k])]
    late = ", ".join(str(r) for r in range(size) if r not in here)
    if rank == min(here):
        store.set("refused", "1")
        _stay(store, keys, rank)
        raise PeerError(f"these ranks of {size} did not come within {within_s:g} s: {late}")
    raise PeerError()


def _stay(store: dist.Store, keys: list[str], rank: int) -> None:
    """The store may live in rank 0's process: that one stays until the others that came have read that it is over."""
    store.set(f"told/{rank}", "1")
    for _ in _looks(time.monotonic() + STAY_S) if rank == 0 else ():
        if all(store.check([f"told/{r}"]) for r, k in enumerate(keys) if store.check([k])):
            return


def _looks(until: float) -> Iterator[None]:
    while time.monotonic() < until:
        yield
        time.sleep(LOOK_S)
