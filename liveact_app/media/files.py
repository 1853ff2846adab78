"""Names of files in and out of a run, checked before anything is opened that could wait."""

import contextlib
import os
import stat

from liveact_model.errors import InputError


def require_file(path: str | os.PathLike, argument: str) -> str:
    """Return the absolute path of a readable, non-empty regular file, or raise InputError naming `argument`."""
    path = os.fspath(path)
    try:
        found = os.stat(path)
        if stat.S_ISDIR(found.st_mode):
            raise InputError(f"{argument}: expected a file, {path!r} is a directory")
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{argument}: expected a regular file, {path!r} is a device, socket or pipe")
        # The kernel's own files (/proc/kmsg) call themselves regular, have no size, and may wait for ever.
        if not found.st_size:
            raise InputError(f"{argument}: the file {path!r} is empty")
        with open(path, "rb", opener=_without_waiting) as file:
            file.read(1)
    except InputError:
        raise
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{argument}: no such file: {path!r}") from error
    except OSError as error:
        raise InputError(f"{argument}: cannot read {path!r} ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{argument}: expected a file name, got {path!r} ({error})") from error
    return os.path.abspath(path)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


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
    given = os.fspath(path)
    if os.path.basename(given) in ("", ".", ".."):
        raise InputError(f"{argument}: expected a file name, {given!r} is a directory or names one")
    try:
        path = os.path.realpath(given)
    except (OSError, ValueError) as error:
        raise InputError(f"{argument}: cannot find {given!r} ({getattr(error, 'strerror', None) or error})") from error
    if os.path.isdir(path):
        raise InputError(f"{argument}: expected a file name, {given!r} is a directory")
    if not path.lower().endswith(suffixes):
        raise InputError(f"{argument}: expected a name ending in {' or '.join(suffixes)}, got {given!r}")
    if not os.path.isdir(os.path.dirname(path)):
        raise InputError(f"{argument}: the directory {os.path.dirname(path)!r} does not exist")
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise InputError(f"{argument}: expected a regular file, {given!r} is a device, socket or pipe")
    except FileNotFoundError:
        pass  # it is to be made
    except OSError as error:
        raise InputError(f"{argument}: cannot write {given!r} ({error.strerror})") from error
    for name, other in inputs.items():
        with contextlib.suppress(OSError, ValueError):  # such an input is refused when it is opened
            other = os.path.realpath(other)
        if other == path:
            raise InputError(f"{argument}: {given!r} is also given as {name}; choose another name")
    return path
