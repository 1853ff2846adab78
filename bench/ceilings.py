"""What this chip really reaches: copy bandwidth and the library's matrix rates, on random data, for two seconds each.

    python bench/ceilings.py [--out FILE] [--write]

Floors can then be stated against these instead of the datasheet (`--ceilings measured`); --write keeps them for that
in liveact_kernels/hw_measured.json, with date, driver and commit. A chip that warms up slows down: each rate is the
median of at least two seconds after half a second of warming.

exit codes: 0 measured, 2 unusable input or too little memory
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import root  # noqa: F401
import torch
from manifest import chip_name, manifest
from measure import free_bytes
from progress import Progress
from rows import Rows
from run import device_of

from liveact_kernels.contract import missing
from liveact_kernels.cost import hw
from liveact_kernels.cost.clock import Runner, Times, interleave
from liveact_model.errors import InputError

COPY_BYTES, SIDE = 1 << 30, 8192
WARM_SHARE = 0.25  # of the measured seconds
SAMPLE_US = 100_000.0  # long samples: the pause for reading the clock after each must not let the chip rest


@dataclass(frozen=True)
class Probe:
    """A piece of work whose rate is a ceiling: `work` operations or bytes per call. kind is hw's, or "bandwidth"."""

    kind: str
    work: float
    call: Callable[[int], object]


def copy_probe(device: torch.device, nbytes: int) -> Probe:
    """Device-to-device copy: every byte is read and written."""
    source = torch.randint(0, 255, (nbytes,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return Probe("bandwidth", 2 * nbytes, lambda i: target.copy_(source))


def matrix_probe(kind: str, device: torch.device, n: int) -> Probe:
    """n x n x n product of normal random matrices through torch's library, float32 sums; f32 without TF32."""
    dtype = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn, "f32": torch.float32}[kind]
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    work = 2.0 * n**3
    if kind == "fp8":
        one = torch.ones((), device=device)
        b = b.t()  # column major, as the library wants it
        return Probe(kind, work, lambda i: torch._scaled_mm(a, b, scale_a=one, scale_b=one, out_dtype=torch.bfloat16))
    out = torch.empty(n, n, dtype=dtype, device=device)
    return Probe(kind, work, lambda i: torch.mm(a, b, out=out))


def probes(device: torch.device, nbytes: int, n: int) -> list[Callable[[], Probe]]:
    """What can be measured on the device, made one at a time: they need a good deal of memory."""
    kinds = ["bf16", "f32", *(["fp8"] if missing("scaled_mm", device) is None else [])]
    return [lambda: copy_probe(device, nbytes), *(lambda k=k: matrix_probe(k, device, n) for k in kinds)]


def rate(probe: Probe, times: Times) -> float:
    """Operations or bytes per second."""
    return 1e6 * probe.work / times.us


def store(path: Path, key: str, entry: dict) -> None:
    """Put a chip's ceilings into the JSON file; the file is replaced at once or not at all."""
    known = hw.measured(path)
    text = json.dumps(known | {key: entry}, indent=1) + "\n"
    fresh = path.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def entry_of(rows: list[dict]) -> dict:
    """What hw keeps of measured rows: rates by kind, and who measured, when, with what."""
    flops, about = {r["ceiling"]: r["per_second"] for r in rows}, rows[-1]
    bandwidth, day = flops.pop("bandwidth"), about["date"][:10]
    source = f"measured {day}, driver {about['driver']}, torch {about['torch']}, commit {about['commit'][:9]}"
    return {"flops": flops, "bandwidth": bandwidth, "source": source}


def run(args: argparse.Namespace) -> int:
    """Measure, print, append, keep."""
    device = device_of(args.device)
    key = hw.key_of(chip_name(device)) if device.type == "cuda" else None
    if args.write and key is None:
        raise InputError(f"--write: expected one of {', '.join(hw.CHIPS)}, this is {chip_name(device)}")
    if not args.seconds > 0 or args.side < 16 or args.side % 16 or args.megabytes < 1:
        raise InputError("--seconds, --side, --megabytes: expected more than 0, a multiple of 16, at least 1, "
                         f"got {args.seconds}, {args.side}, {args.megabytes}")  # fmt: skip
    need = max(2 * args.megabytes << 20, 3 * 4 * args.side**2)
    if need > free_bytes(device):
        where = chip_name(device)
        raise InputError(f"memory: expected {need / 2**30:.1f} GiB free on {where}: choose a smaller --side")
    rows, todo = Rows(args.out), probes(device, args.megabytes << 20, args.side)
    bar = Progress(len(todo))
    for make in todo:
        probe = make()
        bar.step(probe.kind)
        runner = Runner(probe.call, 1, device, sample_us=min(SAMPLE_US, 1e5 * args.seconds))
        times = interleave({probe.kind: runner}, args.seconds, WARM_SHARE * args.seconds)[probe.kind]
        row = rows.add(manifest(device) | {
            "kind": "ceiling", "ceiling": probe.kind, "per_second": rate(probe, times), "seconds": args.seconds,
            "p20_us": times.p20_us, "us": times.us, "p80_us": times.p80_us, "how": times.how,
            "side": args.side, "copy_bytes": args.megabytes << 20,
        })  # fmt: skip
        unit = "GB/s, read and written" if probe.kind == "bandwidth" else "GFLOP/s"
        bar.say(f"{probe.kind:10} {row['per_second'] / 1e9:12.1f} {unit}")
    bar.end()
    if args.write:
        store(Path(str(hw.measured_file())), key, entry_of(rows.all))
        bar.say(f"kept as {key} in {hw.MEASURED_FILE}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    add("--seconds", type=float, default=2.0, help="per ceiling (default: %(default)s)")
    add("--side", type=int, default=SIDE, help="of the square matrices (default: %(default)s)")
    add("--megabytes", type=int, default=COPY_BYTES >> 20, help="copied at a time, in MiB (default: %(default)s)")
    add("--out", metavar="FILE", help="append the rows to this .jsonl file")
    add("--write", action="store_true", help="keep the rates beside the datasheet's")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    try:
        return run(parser().parse_args(argv))
    except InputError as error:
        print(f"ceilings.py: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
