"""Outputs that appear under their name only when they are complete."""

import contextlib
import os
import re
import secrets
import stat
import tempfile
import time

from liveact_model.errors import InputError

try:
    import fcntl
except ImportError:  # not a POSIX system: nothing is locked, so nothing is swept
    fcntl = None  # type: ignore[assignment]

STALE = re.compile(r"\.liveact-[0-9a-f]{12}\.[a-z0-9]{1,5}", re.IGNORECASE)
STALE_AFTER_S = 60.0
FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_PATH", 0)


class PendingFile:
    """A file that appears under its name only when it is complete.

    A context manager: entering makes an empty file in the target's folder (so an unwritable folder is found before any
    work is done), `commit()` puts it in place, leaving without commit removes it. Where the platform can, the file has
    no name until then, so that not even a killed process leaves one; elsewhere a stale one is swept by the next run.

    Attributes:
        temporary: the path under which to write, valid in this process.
    """

    def __init__(self, path: str, argument: str):
        self.path, self._argument = path, argument
        self.temporary = ""
        self._folder = self._file = -1
        self._name: str | None = None

    def __enter__(self) -> "PendingFile":
        folder = os.path.dirname(self.path)
        try:
            self._folder = os.open(folder, FOLDER)
            sweep(folder)
            if not self._unnamed():
                self._name = self._fresh_name()
                self._file = os.open(self._name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666, dir_fd=self._folder)
                self.temporary = os.path.join(folder, self._name)
            _lock(self._file)
        except OSError as error:
            self.__exit__()
            raise InputError(f"{self._argument}: cannot write in {folder!r} ({error.strerror})") from error
        return self

    def _unnamed(self) -> bool:
        """Make a file without a name; False where the file system or the platform has none."""
        if not hasattr(os, "O_TMPFILE"):
            return False
        try:
            self._file = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o666, dir_fd=self._folder)
        except OSError:
            return False
        self.temporary = f"/proc/self/fd/{self._file}"
        if os.path.exists(self.temporary):
            return True
        os.close(self._file)
        return False

    def _fresh_name(self) -> str:
        return f".liveact-{secrets.token_hex(6)}{os.path.splitext(self.path)[1]}"

    def commit_text(self, text: str) -> str:
        """Make `text` the whole content, then `commit()`."""
        try:
            with open(self.temporary, "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise InputError(f"{self._argument}: cannot write {self.path!r} ({error.strerror})") from error
        return self.commit()

    def moved(self, where: str) -> str:
        """The sentence for a `commit()` that returned another path than asked for; empty if it did not."""
        return "" if where == self.path else f"{self._argument}: {self.path!r} takes no file any more; it is {where!r}"

    def commit(self) -> str:
        """Put the finished file in place, replacing what was there, and return where it is.

        That is another path than asked for only where the folder is gone: the folder's new name, or the system's
        folder of temporary files. Raises InputError when none of these takes it.
        """
        first: OSError | None = None
        for place in (self._by_name, self._in_its_folder, self._elsewhere):
            try:
                return place()
            except OSError as error:
                first = first or error
        raise InputError(f"{self._argument}: cannot write {self.path!r} ({first.strerror})") from first

    def _by_name(self) -> str:
        return self._put(self.path)

    def _in_its_folder(self) -> str:
        """The folder was renamed, or what now has its name takes no file."""
        folder = os.readlink(f"/proc/self/fd/{self._folder}")
        return self._put(os.path.join(folder, os.path.basename(self.path)))

    def _elsewhere(self) -> str:
        stem, suffix = os.path.splitext(os.path.basename(self.path))
        return self._put(os.path.join(tempfile.gettempdir(), f"{stem[:60]}-{secrets.token_hex(4)}{suffix}"))

    def _put(self, path: str) -> str:
        """Link, rename or copy the file to a fresh name beside `path`, then move it there: never half of it is seen."""
        folder, name = os.path.split(path)
        at = os.open(folder, FOLDER)
        fresh = self._fresh_name()
        try:
            try:
                if self._name is None:
                    os.link(self.temporary, fresh, dst_dir_fd=at, follow_symlinks=True)
                else:
                    os.rename(self._name, fresh, src_dir_fd=self._folder, dst_dir_fd=at)
                    os.close(self._folder)
                    self._folder, self._name = os.dup(at), fresh
            except OSError:  # another file system, or one that links nothing without a name
                self._copy(fresh, at)
            os.replace(fresh, name, src_dir_fd=at, dst_dir_fd=at)
            if fresh == self._name:
                self._name = None
        except OSError:
            if fresh != self._name:
                with contextlib.suppress(OSError):
                    os.remove(fresh, dir_fd=at)
            raise
        finally:
            os.close(at)
        return path

    def _copy(self, name: str, folder: int) -> None:
        with open(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666, dir_fd=folder), "wb") as out:
            at = 0
            while piece := os.pread(self._file, 1 << 20, at):
                out.write(piece)
                at += len(piece)

    def __exit__(self, *exc: object) -> None:
        """Drop what is not in place; a second call does nothing."""
        name, self._name = self._name, None
        if name is not None:
            with contextlib.suppress(OSError):
                os.remove(name, dir_fd=self._folder)
        for number in (self._file, self._folder):
            if number >= 0:
                os.close(number)
        self._file = self._folder = -1


def _lock(file: int) -> None:
    """Show that this process is at work on the file; the lock ends with the process, however that ends."""
    with contextlib.suppress(OSError):  # a file system without locks
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sweep(folder: str) -> None:
    """Remove what killed runs left in `folder`: named like a pending file, old, and locked by no process."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder) if fcntl is not None else ():
            if STALE.fullmatch(name):
                with contextlib.suppress(OSError):
                    _sweep_one(os.path.join(folder, name))


def _sweep_one(path: str) -> None:
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode) or time.time() - found.st_mtime < STALE_AFTER_S:
        return
    file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.remove(path)
    finally:
        os.close(file)
