"""Files in and out of a run: checked inputs, and outputs that appear only when they are complete."""

import contextlib
import os
import secrets

from liveact_model.errors import InputError


def require_file(path: str | os.PathLike, argument: str) -> str:
    """Return the absolute path of a readable, non-empty regular file, or raise InputError naming `argument`."""
    path = os.fspath(path)
    try:
        if os.path.isdir(path):
            raise InputError(f"{argument}: expected a file, {path!r} is a directory")
        if not os.path.exists(path):
            raise InputError(f"{argument}: no such file: {path!r}")
        if not os.path.isfile(path):
            raise InputError(f"{argument}: expected a regular file, {path!r} is a device, socket or pipe")
        with open(path, "rb") as file:
            if not file.read(1):
                raise InputError(f"{argument}: the file {path!r} is empty")
    except OSError as error:
        raise InputError(f"{argument}: cannot read {path!r} ({error.strerror or error})") from error
    return os.path.abspath(path)


def check_output(
    path: str | os.PathLike, argument: str, suffixes: tuple[str, ...], inputs: dict[str, str]
) -> str:
    """Return the real absolute path an output shall have, or raise InputError.

    Args:
        path: the file to be written; an existing file will be replaced, a symbolic link keeps pointing at it.
        argument: name used in error messages.
        suffixes: accepted endings, for example (".mp4",).
        inputs: argument name -> path of the files that must not be overwritten.
    """
    given, path = os.fspath(path), os.path.realpath(path)
    if os.path.isdir(path):
        raise InputError(f"{argument}: expected a file name, {given!r} is a directory")
    if not path.lower().endswith(suffixes):
        raise InputError(f"{argument}: expected a name ending in {' or '.join(suffixes)}, got {given!r}")
    if not os.path.isdir(os.path.dirname(path)):
        raise InputError(f"{argument}: the directory {os.path.dirname(path)!r} does not exist")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{argument}: expected a regular file, {given!r} is a device, socket or pipe")
    for name, other in inputs.items():
        if os.path.realpath(other) == path:
            raise InputError(f"{argument}: {given!r} is also given as {name}; choose another name")
    return path


class PendingFile:
    """A file that appears under its name only when it is complete.

    A context manager: entering creates an empty temporary file in the target's directory (so an unwritable directory
    is found before any work is done), `commit()` moves it in place, leaving without commit removes it.
    """

    def __init__(self, path: str, argument: str):
        self.path, self._argument = path, argument
        name = f".liveact-{secrets.token_hex(6)}{os.path.splitext(path)[1]}"
        self.temporary = os.path.join(os.path.dirname(path), name)
        self._committed = False

    def __enter__(self) -> "PendingFile":
        try:
            os.close(os.open(self.temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except OSError as error:
            raise InputError(
                f"{self._argument}: cannot write in {os.path.dirname(self.path)!r} ({error.strerror})"
            ) from error
        return self

    def commit(self) -> None:
        """Move the finished file to its name, replacing what was there."""
        os.replace(self.temporary, self.path)
        self._committed = True

    def __exit__(self, *exc: object) -> None:
        if not self._committed:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.temporary)
