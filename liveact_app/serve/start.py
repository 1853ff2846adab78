"""From a command line of `liveact serve` to the application on a model that is loaded and warm."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from liveact_app.say import note
from liveact_model.errors import InputError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from liveact_app.generate.job import Job
    from liveact_app.generate.loading import Shelf
    from liveact_app.serve.clock import Clock
    from liveact_app.serve.ranks import Group
    from liveact_app.serve.settings import Settings
    from liveact_app.serve.workdir import Workdir

VARIABLE = "LIVEACT_TOKEN"
LINGER_S = 120
SMALL_SESSIONS = 4


@contextlib.contextmanager
def opened(args: argparse.Namespace, clock: Clock | None = None) -> Iterator[FastAPI]:
    """The application of one process, its model loaded and warm; its temporary files are removed at the end.

    `clock` paces the sessions, if not by real seconds. Raises InputError.
    """
    from liveact_app.backend import backends
    from liveact_app.generate.loading import Shelf, device_of
    from liveact_app.serve.workdir import Workdir

    settings, workdir = settings_of(args), Workdir()
    try:
        job = job_of(args, str(workdir.path))
        with backends(args.backend):
            yield warm(settings, job, Shelf(), device_of(args.device), workdir, None, clock, args.webrtc)
    finally:
        workdir.close()


def warm(
    settings: Settings, job: Job, shelf: Shelf, device: str, workdir: Workdir, group: Group | None,
    clock: Clock | None = None, webrtc: bool = False,
) -> FastAPI:  # fmt: skip
    """The application on a model that has made its first blocks."""
    from liveact_app.serve.app import build
    from liveact_app.serve.files import Files
    from liveact_app.serve.hall import Hall

    avatar, size = shelf.load(job, device)
    options = {name: value for name, value in job.session(device).items() if name != "seed"}  # each wish has its own
    hall = Hall(avatar, size, settings, clock, group=group, **options)
    note("warming up")
    hall.warm()
    return build(hall, Files(hall, workdir.path, job, shelf, device), workdir, webrtc)


def settings_of(args: argparse.Namespace, ranks: int = 1) -> Settings:
    """The bounds that a command line asks for, of `ranks` processes. Raises InputError."""
    import secrets

    from pydantic import ValidationError

    from liveact_app.serve.protocol import sentence
    from liveact_app.serve.settings import Settings, is_loopback
    from liveact_model.loading import AVATARS

    token = args.token if args.token is not None else os.environ.get(VARIABLE) or None
    if token is None and not is_loopback(args.host):
        token = secrets.token_urlsafe(24)
        note(f"others can reach {args.host!r}, so clients must show this token: {token}")
    if token is not None and (token != token.strip() or not all(" " <= letter <= "~" for letter in token)):
        raise InputError("--token: expected letters, digits and signs of ASCII, which a header can hold, got others")
    if ranks > 1 and (args.sessions or 1) > 1:
        raise InputError(f"--sessions: expected 1, since {ranks} processes share it, got {args.sessions}")
    sessions = args.sessions or (SMALL_SESSIONS if args.model in AVATARS and ranks == 1 else 1)
    try:
        return Settings(
            host=args.host, token=token, origins=tuple(args.origin), sessions=sessions, idle_s=args.idle,
            longest_s=args.longest, drain_s=args.drain, log_prompts=args.log_prompts,
        )  # fmt: skip
    except ValidationError as error:
        raise InputError(f"--{sentence(error)}") from None


def job_of(args: argparse.Namespace, folder: str) -> Job:
    """A job with the model's options; what it is made from and into stands for nothing."""
    from liveact_app.generate.job import Job
    from liveact_app.generate.options import method_of

    return Job(image="", audio="", prompt="", out=os.path.join(folder, "model.mp4"), **method_of(args))
