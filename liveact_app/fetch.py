"""`liveact fetch`: the files of a published model from a hub, put where `--model` finds them, after asking."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from liveact_app.say import note
from liveact_model.config import NAMED
from liveact_model.errors import InputError

if TYPE_CHECKING:
    from liveact_model.loading import Source

EPILOG = """
Sizes and licences are shown first, and nothing is downloaded before somebody has agreed: at a terminal by an answer,
elsewhere by --yes. A connection that breaks is taken up within the file; a run that was stopped goes on, when it is
started again, with the first file that is not whole. The library huggingface_hub does the work (pip install
'liveact[hub]'), so its variables count: HF_ENDPOINT names a mirror, HF_HUB_OFFLINE=1 forbids the network, HF_TOKEN
opens what is gated. The directory is then a model like any other:

  liveact fetch liveact-18b --to liveact-18b
  liveact convert liveact-18b liveact-18b-fp8         once, for half the memory
  liveact plan --model liveact-18b --gpu-memory 80GB  before it is loaded

exit codes: 0 everything is there, 2 unusable input, no agreement, or the hub does not give it, 130 interrupted
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "fetch", help="download a published model, after showing sizes and licences", epilog=EPILOG,
        description="Download the files of a published model to where --model finds them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(NAMED)}")
    parser.add_argument("--to", metavar="DIR", help="directory to fill (default: NAME in the working directory)")
    parser.add_argument("--yes", action="store_true", help="agree to sizes and licences beforehand")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Wanted:
    """One file to have: bytes as the hub states them (None: it does not), and where it goes."""

    source: Source
    revision: str
    name: str
    bytes: int | None
    path: Path

    @property
    def there(self) -> bool:
        """Whether the file is in its place, whole as far as its size tells."""
        return self.path.is_file() and self.bytes in (None, self.path.stat().st_size)


def run(args: argparse.Namespace) -> int:
    """Ask the hub, ask the user, download; returns the exit code."""
    from liveact_model.checkpoint.files import dit_files
    from liveact_model.loading import SOURCES, lacks

    if args.name not in SOURCES:
        raise InputError(f"NAME: expected one of {', '.join(SOURCES)}, got {args.name!r:.200}")
    folder = Path(args.to or args.name)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--to: expected a directory, {str(folder)!r} is a file")
    if not folder.parent.is_dir():
        raise InputError(f"--to: the directory {str(folder.parent)!r} does not exist")
    hub = _library()
    if hub.constants.HF_HUB_OFFLINE:
        if missing := lacks(args.name, folder):
            raise InputError(f"HF_HUB_OFFLINE: expected everything in {str(folder)!r}, since the network is not to be "
                             f"used, but {missing[0]} is not there")  # fmt: skip
        dit_files(folder)  # as its index says
        print(f"{str(folder)!r}: everything is there (offline: sizes were not compared)")
        return 0
    files = [file for source in SOURCES[args.name] for file in _listed(hub, source, folder)]
    left = [file for file in files if not file.there]
    total = sum(file.bytes or 0 for file in left)
    if left:
        print(f"{len(left)} files, {_size(total)} to download into {str(folder)!r}", flush=True)
        _must_have_room(folder, total)
        _agree(args.yes)
        for number, file in enumerate(left, 1):
            size = "" if file.bytes is None else f", {_size(file.bytes)}"
            note(f"[{number}/{len(left)}] {file.source.repo}: {file.name}{size}")
            _download(hub, file, folder)
    print(f"{str(folder)!r}: everything is there, ready for --model {folder}")
    return 0


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "huggingface_hub":
            raise
        raise InputError("fetch: expected the library huggingface_hub: pip install 'liveact[hub]'") from error
    if not sys.stderr.isatty():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()
    return huggingface_hub


def _listed(hub: Any, source: Source, folder: Path) -> list[Wanted]:
    """The files to have of one repository, after its sizes and licence are shown."""
    info = _asked(hub, source, lambda: hub.HfApi().model_info(source.repo, files_metadata=True))
    sizes = {s.rfilename: s.size for s in info.siblings or []}
    names, lacking = source.chosen(n for n in sizes if ".." not in n.split("/") and not n.startswith("/"))
    if lacking:
        raise InputError(f"fetch: expected {lacking[0]} in {source.repo}, found none among its {len(sizes)} files")
    card = info.card_data
    stated = getattr(card, "license", None) if card else None
    licence = stated if isinstance(stated, str) else "none stated"
    known = [sizes[n] for n in names if sizes[n] is not None]
    print(f"{source.repo} at {hub.constants.ENDPOINT}: {len(names)} files, {_size(sum(known))}; licence: {licence}")
    for name in names:
        print(f"  {_size(sizes[name]) if sizes[name] is not None else '?':>11}  {name}")
    return [Wanted(source, info.sha or "main", n, sizes[n], source.path(folder, n)) for n in names]


def _download(hub: Any, file: Wanted, folder: Path) -> None:
    """One file to its place."""
    into = file.source.path(folder, "")
    _asked(hub, file.source, lambda: hub.hf_hub_download(
        file.source.repo, file.name, revision=file.revision, local_dir=into
    ))  # fmt: skip
    if not file.there:
        found = file.path.stat().st_size if file.path.is_file() else "none"
        raise InputError(f"fetch: expected {file.bytes} bytes in {file.path}, found {found}")


def _asked(hub: Any, source: Source, ask: Callable[[], Any]) -> Any:
    """What the hub answers; whatever goes wrong there is one sentence."""
    try:
        return ask()
    except (KeyboardInterrupt, MemoryError):
        raise
    except OSError as error:
        if error.filename is not None:  # this machine's disk
            raise
        _refused(hub, source, error)
    except Exception as error:  # the library's own kinds, and its network's
        _refused(hub, source, error)


def _refused(hub: Any, source: Source, error: Exception) -> NoReturn:
    reason = " ".join(str(error).split()) or type(error).__name__
    where = hub.constants.ENDPOINT
    raise InputError(f"fetch: expected {source.repo} from {where}, got: {reason:.200}") from error


def _must_have_room(folder: Path, total: int) -> None:
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    if total > free:
        raise InputError(f"--to: expected room for {_size(total)}, {str(folder)!r} has {_size(free)}")


def _agree(beforehand: bool) -> None:
    """Return once somebody has agreed. Raises InputError where nobody does, or nobody can be asked."""
    if beforehand:
        return
    if not sys.stdin.isatty():
        raise InputError("--yes: expected where nobody can be asked; nothing was downloaded")
    print("Download? [y/N] ", end="", flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise InputError("fetch: not agreed to, nothing was downloaded")


def _size(count: int) -> str:
    """Bytes as downloads count them."""
    for unit, power in (("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{count / 10**power:,.2f} {unit}"
    return f"{count} bytes"
