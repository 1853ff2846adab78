"""The `liveact` command: subcommands, argument types, and what an error looks like.

A subcommand is one module with `add_parser(subparsers)`, which sets `run` as a parser default, and `run(args) -> int`;
its import must stay light (torch and the media libraries belong inside `run`), so that `--help` answers at once.
Adding one is that module and one line in COMMANDS.
"""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from liveact_app.launch import talks
from liveact_app.limits import check_limits, lack
from liveact_app.streams import OutputLost, guarded
from liveact_model.errors import InputError, PeerError

COMMANDS = (
    "liveact_app.generate.command",
    "liveact_app.verify.command",
    "liveact_app.budget.command",
    "liveact_app.doctor",
    "liveact_app.tune",
    "liveact_app.predict.command",
    "liveact_app.plan.command",
    "liveact_app.calibrate.command",
    "liveact_app.convert",
    "liveact_app.fetch",
    "liveact_app.evaluate.command",
    "liveact_app.serve.command",
)

EXIT_BAD_INPUT = 2
LONGEST_SENTENCE = 450
EXIT_INTERRUPTED = 130
EXIT_NO_READER = 141  # what a shell shows for a program that SIGPIPE ended


class Parser(argparse.ArgumentParser):
    """argparse that reports its own errors like every other bad input: one sentence, exit code 2."""

    def __init__(self, *args: object, **kwargs: object):
        # Abbreviations would turn into ambiguities with the next option somebody adds.
        super().__init__(*args, allow_abbrev=False, **kwargs)  # type: ignore[arg-type]

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> object:
        """argparse takes '--' out of `--size=--` too and hands on an empty list that no type has seen: keep it."""
        if action.option_strings and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value if action.nargs is None else [value]
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        """Raise InputError instead of printing the usage."""
        raise InputError(f"{message.removeprefix('argument ')} (see '{self.prog} --help')")


class _Version(argparse.Action):
    """Prints the installed version; looked up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        from importlib.metadata import PackageNotFoundError, version

        try:
            text = version("liveact")
        except PackageNotFoundError:
            text = "(source tree, not installed)"
        print(f"liveact {text}")
        parser.exit()


def build_parser() -> Parser:
    """The parser of the whole command with every subcommand registered."""
    parser = Parser(
        prog="liveact",
        description="Audio-driven streaming video avatars: a portrait, speech and a prompt become a talking video.",
        epilog="'liveact COMMAND --help' explains a command.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    for name in COMMANDS:
        importlib.import_module(name).add_parser(commands)
    return parser


def _complain(name: str, error: Exception | str, code: int, aloud: bool = True) -> int:
    """Say what is wrong in one sentence (messages of decoders can span lines) and return the exit code."""
    if aloud:
        word, text = "" if code == EXIT_INTERRUPTED else "error: ", " ".join(str(error).split())
        if len(text) > LONGEST_SENTENCE:  # it repeats what was given, of any length: its two ends say enough
            text = f"{text[: LONGEST_SENTENCE - 150]} ... {text[-145:]}"
        print(f"{name}: {word}{text}", file=sys.stderr)
    return code


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""

    def work() -> int:
        args = build_parser().parse_args(argv)
        check_limits()
        return args.run(args)

    return answer(work)


def answer(work: Callable[[], int], name: str = "liveact") -> int:
    """Do the work of the command `name` and return its exit code.

    0 done, 1 another process of a group is gone, 2 bad input (under torchrun one process says so for all) or a machine
    that gives no memory, thread or file, 130 interrupted, 141 the reader of standard output has left; anything else is
    a bug and shows itself.
    """
    with guarded() as results:
        try:
            try:
                code = work()
            except SystemExit:  # --help or --version, whose text may be lost
                results.settle()
                raise
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            return _complain(name, "interrupted", EXIT_INTERRUPTED)
        except Exception as error:
            if (code := _explained(name, error)) is None:
                raise
            return code


def _explained(name: str, error: Exception) -> int | None:
    """The exit code of an error that is not a bug, once it is told in one sentence; None for a bug."""
    if isinstance(error, OutputLost):
        return EXIT_NO_READER if error.quiet else _complain(name, error, EXIT_BAD_INPUT)
    if isinstance(error, InputError):
        return _complain(name, error, EXIT_BAD_INPUT, talks())
    if isinstance(error, PeerError):
        return _complain(name, error, error.code, bool(str(error)))
    if isinstance(error, ModuleNotFoundError) and error.name == "nvtx":  # asked for by a variable: bad input
        return _complain(name, error, EXIT_BAD_INPUT)
    sentence = lack(error)
    return None if sentence is None else _complain(name, sentence, EXIT_BAD_INPUT)
