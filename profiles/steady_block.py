"""One steady block of a model with random weights, bracketed for a profiler; everything before it is warm-up.

    nsys profile --capture-range=cudaProfilerApi ... python profiles/steady_block.py --size 512*512
    python profiles/steady_block.py --trace block.json      # torch.profiler instead: no nsys, no nvtx package

The blocks before the bracket reach every signature (first, second, steady), so that nothing compiles inside it. The
bracket is cudaProfilerStart/Stop; on a CPU there is none. NVTX ranges are open inside it, in domain "liveact" where the
nvtx package is installed, else in the default domain. Ops run kernel by kernel, so that each kernel lies in its op's
range; --graphs replays the captured steps as a real run does.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["LIVEACT_NVTX"] = "0"  # the ranges here are open in the bracket alone
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

import torch  # noqa: E402
from avatars import MODELS, PRECISIONS, avatar  # noqa: E402
from manifest import chip_name  # noqa: E402
from measure import free_bytes  # noqa: E402
from memory import predict, refuse  # noqa: E402
from speech import noise  # noqa: E402

from liveact_app.arguments import picture_size  # noqa: E402
from liveact_app.cli import Parser  # noqa: E402
from liveact_kernels.contract import STATE, scope  # noqa: E402
from liveact_model.errors import InputError  # noqa: E402
from liveact_model.session import Session  # noqa: E402

WARM_BLOCKS = 3  # first, second, and one with the steady signature


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(prog="steady_block.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add("--model", default="liveact-18b", metavar="NAME", help=f"{' or '.join(MODELS)} (default: %(default)s)")
    add("--size", type=picture_size, default=(512, 512), metavar="W*H", help="pixels (default: 512*512)")
    add("--precision", metavar="NAME", help=f"{', '.join(PRECISIONS)} (default: fp8, on a CPU float32)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    add("--graphs", action="store_true", help="replay captured steps: kernels then lie in no op's range")
    add("--plain-ranges", action="store_true", help="ranges of ops are their bare names, which filters can spell")
    add("--trace", metavar="FILE", help="write a torch.profiler chrome trace of the block (.json or .json.gz)")
    return p


class Ranges:
    """What the dispatcher opens its ranges in. `enter` takes a label, `leave` closes the last one."""

    def __init__(self, enter: Callable[[str], Any], leave: Callable[[], Any], plain: bool):
        self.push_range, self.pop_range, self._plain = enter, leave, plain

    def get_event_attributes(self, message: str) -> str:
        """The label; bare where `plain` asks for names that a filter can spell."""
        return message.split("[")[0] if self._plain else message


def nvtx_ranges(plain: bool) -> Ranges:
    """NVTX ranges for nsys and ncu."""
    try:
        from nvtx import get_domain
    except ModuleNotFoundError:
        return Ranges(torch.cuda.nvtx.range_push, torch.cuda.nvtx.range_pop, plain)
    domain = get_domain("liveact")
    return Ranges(lambda s: domain.push_range(domain.get_event_attributes(message=s)), domain.pop_range, plain)


def torch_ranges(plain: bool) -> Ranges:
    """Ranges that torch.profiler writes into its trace."""
    opened: list[Any] = []

    def enter(label: str) -> None:
        opened.append(torch.profiler.record_function(label))
        opened[-1].__enter__()

    return Ranges(enter, lambda: opened.pop().__exit__(None, None, None), plain)


@contextlib.contextmanager
def bracket(args: argparse.Namespace, cuda: bool) -> Iterator[None]:
    """Profile what is inside, with ranges."""
    kinds = torch.profiler.ProfilerActivity
    old = STATE.nvtx_domain
    try:
        if args.trace:
            with torch.profiler.profile(activities=[kinds.CPU, *([kinds.CUDA] if cuda else [])]) as profile:
                STATE.nvtx_domain = torch_ranges(args.plain_ranges)
                yield
                STATE.nvtx_domain = old
            profile.export_chrome_trace(args.trace)
        elif cuda:
            torch.cuda.profiler.start()
            STATE.nvtx_domain = nvtx_ranges(args.plain_ranges)
            yield
            torch.cuda.profiler.stop()
        else:
            yield
    finally:
        STATE.nvtx_domain = old


def block(session: Session) -> torch.Tensor:
    """Audio in, video frames on the host."""
    while not session.ready():
        session.push_audio(noise(0.64))
    video = session.next_block()
    with scope("to_host"):
        return video.cpu()


def _check_memory(args: argparse.Namespace, precision: str, device: torch.device) -> None:
    """InputError before anything is allocated on a GPU that is too small."""

    def need(which: str, size: tuple[int, int]) -> int:
        return predict(avatar(args.model, which, "meta"), size, which == "fp8", device)

    if why := refuse(need, [(precision, args.size), ("fp8", (256, 256))], free_bytes(device), chip_name(device)):
        raise InputError(f"memory: {why}")


def run(args: argparse.Namespace) -> int:
    """Warm up, profile one block; returns the exit code."""
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device: expected a device that is here, got {args.device!r}")
    if args.trace and not args.trace.endswith((".json", ".json.gz")):
        raise InputError(f"--trace: expected a name that ends in .json or .json.gz, got {args.trace!r}")
    if args.trace and not Path(args.trace).resolve().parent.is_dir():
        raise InputError(f"--trace: expected a folder that exists, got {args.trace!r}")
    cuda = device.type == "cuda"
    precision = args.precision or ("fp8" if cuda else "float32")
    if cuda:
        _check_memory(args, precision, device)
    made = avatar(args.model, precision, device)
    picture = torch.rand(3, args.size[1], args.size[0], generator=torch.Generator().manual_seed(7)) * 2 - 1
    session = Session(made, picture, "", eight_bit_attention=precision == "fp8", graphs=args.graphs)
    for _ in range(WARM_BLOCKS):
        block(session)
    if cuda:
        torch.cuda.synchronize()
    with bracket(args, cuda):
        video = block(session)
        if cuda:
            torch.cuda.synchronize()
    what = f"{args.model} at {args.size[0]}x{args.size[1]} in {precision} on {args.device}"
    print(f"profiled block {session.blocks_made - 1} of {what}: {len(video)} video frames")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    try:
        return run(parser().parse_args(argv))
    except InputError as error:
        print(f"steady_block.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
