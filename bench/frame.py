"""What one video frame costs here, everything that recurs: audio features, denoising, memory, VAE decode, uint8, copy.

    python bench/frame.py [--model liveact-18b] [--size 512*512,416*720,480*832] [--out FILE]
    python bench/frame.py --memory-slots 8 --block 8   # the paper's ablation: 6 and 6, 8 and 8, 6 and 8
    torchrun --nproc_per_node 2 bench/frame.py         # one Session shared out; the leading process times and writes

The whole architecture runs with random weights made on the device (speed does not depend on their values, and random
data costs what real data costs). Per size: cold start, first block, steady state, and one breakdown without CUDA
graphs, in which every op stands beside its floor (one process only). Memory is predicted before anything is allocated.

exit codes: 0 measured (whatever the verdict), 1 another process is gone, 2 unusable input or too little memory
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import root  # noqa: F401
import torch
from avatars import MODELS, PRECISIONS, avatar
from breakdown import OpTimes, Part, Stages, parts, verdict
from manifest import chip_name, manifest
from measure import free_bytes
from memory import predict, refuse
from predicted import LABEL, forecast
from progress import Progress
from rows import Rows
from run import chip_of, one_of
from speech import noise

from liveact_app.arguments import picture_size
from liveact_app.cli import Parser, answer
from liveact_app.generate.loading import device_of
from liveact_app.generate.ranks import FORMS, joined, settle
from liveact_app.launch import place
from liveact_app.precision import eight_bit
from liveact_app.precision import precision as precision_of
from liveact_kernels.cost.clock import Marks, quantile, synchronise
from liveact_kernels.cost.hw import Chip
from liveact_model.avatar import Avatar
from liveact_model.config import BLOCK_LATENT_FRAMES, MEMORY_SLOTS
from liveact_model.dit import Precision
from liveact_model.errors import InputError
from liveact_model.parallel import ALONE, SeqParallel
from liveact_model.session import Session

SIZES = "512*512,416*720,480*832"
TARGET_MS = 50.0
BREAKDOWN_BLOCKS = 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = p.add_argument
    add("--model", default="liveact-18b", metavar="NAME", help=f"{' or '.join(MODELS)} (default: %(default)s)")
    add("--size", metavar="W*H,..", help=f"pixels (default: {SIZES}; 64*64 for tiny)")
    add("--precision", metavar="NAME|FILE", type=precision_of(PRECISIONS),
        help=f"{', '.join(PRECISIONS)} or a plan.json (default: fp8, on a CPU float32)")  # fmt: skip
    add("--memory-slots", type=int, default=MEMORY_SLOTS, help="latent frames of memory (default: %(default)s)")
    add("--block", type=int, default=BLOCK_LATENT_FRAMES, help="latent frames of a block (default: %(default)s)")
    add("--blocks", type=int, default=8, help="steady blocks to time (default: %(default)s)")
    add("--no-graphs", action="store_true", help="launch kernel by kernel")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    add("--chip", metavar="NAME", help="ceilings for the floors (default: the GPU's own)")
    add("--ceilings", default="datasheet", help="datasheet or measured (default: %(default)s)")
    add("--parallel", choices=FORMS, default="auto", help="under torchrun, how keys and values travel (default: auto)")
    add("--out", metavar="FILE", help="append the rows to this .jsonl file")
    return p


@dataclass
class Run:
    """One Session at one size, block by block."""

    avatar: Avatar
    size: tuple[int, int]
    eight_bit: bool
    graphs: bool | None
    device: torch.device
    parallel: SeqParallel = ALONE
    eight_bit_memory: bool = False

    def start(self) -> Session:
        """A new Session; captures its graphs."""
        options = {"eight_bit_attention": self.eight_bit, "eight_bit_memory": self.eight_bit_memory}
        options |= {"graphs": self.graphs, "parallel": self.parallel}
        if not self.parallel.leads:
            return Session(self.avatar, None, "", **options)
        g = torch.Generator().manual_seed(7)
        picture = torch.rand(3, self.size[1], self.size[0], generator=g) * 2 - 1
        return Session(self.avatar, picture, "", **options)

    def block(self, session: Session, mark: Callable[[str], None] = lambda stage: None) -> tuple[float, int]:
        """Audio in, video frames on the host: (seconds, video frames). `mark` hears the ends of the last two stages."""
        synchronise(self.device)
        began = time.perf_counter()
        mark("start")
        while not session.ready():
            session.push_audio(noise(0.64))
        video = session.next_block()
        mark("uint8 conversion")
        host = torch.empty(video.shape, dtype=video.dtype, pin_memory=self.device.type == "cuda")
        host.copy_(video, non_blocking=True)
        mark("copy to host")
        synchronise(self.device)
        return time.perf_counter() - began, video.shape[0]


def breakdown(run: Run, chip: Chip | None) -> tuple[dict[str, Part], dict[str, Part], dict[str, str]]:
    """(groups, ops, backend of each op) of steady blocks, kernel by kernel, their mean."""
    stages = Stages(run.avatar)
    eager = Run(stages.avatar, run.size, run.eight_bit, False, run.device, eight_bit_memory=run.eight_bit_memory)
    session = eager.start()
    for _ in range(3):
        eager.block(session)
    found, backends = [], {}
    for _ in range(BREAKDOWN_BLOCKS):
        stages.marks, ops = Marks(run.device), OpTimes(run.device)
        with ops.on():
            _, frames = eager.block(session, stages.mark)
        found.append(parts(stages.marks.spans(), ops.pairs(), frames, chip))
        backends |= {c.op.name: c.backend for c in ops.calls}
    groups, single = ({n: _mean([f[i][n] for f in found]) for n in found[0][i]} for i in (0, 1))
    return groups, single, backends


def _mean(same: list[Part]) -> Part:
    return Part(sum(p.ms for p in same) / len(same), same[0].floor_ms, same[0].calls)


def at_size(run: Run, blocks: int, base: dict, chip: Chip | None, keep: Callable[[dict], object]) -> dict:
    """Measure one size; `keep` gets each row when it is known, the steady state before the slower breakdown of it.

    Returns the steady state and its breakdown as one row.
    """
    if run.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(run.device)
    began = time.perf_counter()
    session = run.start()
    started = time.perf_counter() - began
    seconds, frames = run.block(session)
    cold = {"start_s": round(started, 4), "first_block_s": round(seconds, 4), "graphs": session.captured()}
    keep(base | _times("cold", [started + seconds], frames) | cold)
    session.close()
    del session  # two windows at once would not be what a run needs
    session = run.start()
    seconds, frames = run.block(session)
    keep(base | _times("first", [seconds], frames) | {"first_block_s": round(seconds, 4)})
    run.block(session)  # the second block is the first that sees a full window
    steady = [run.block(session) for _ in range(blocks)]
    row = base | _times("steady", [s for s, _ in steady], steady[0][1]) | {
        "graphs": session.captured(), "compiled_late": session.live_compilations(),
        "memory_window_bytes": session.memory_bytes(), "target_ms": TARGET_MS,
        "peak_bytes": torch.cuda.max_memory_allocated(run.device) if run.device.type == "cuda" else None,
    }  # fmt: skip
    keep(row | {"verdict": verdict(row["ms_per_video_frame"], {}, TARGET_MS)})
    session.close()
    del session
    alone = run.parallel.size == 1
    groups, ops, backends = breakdown(run, chip) if alone else ({}, {}, {})
    found = {
        "breakdown": "measured" if alone else "not measured with several processes",
        "verdict": verdict(row["ms_per_video_frame"], groups, TARGET_MS),
        "parts": {n: asdict(p) for n, p in groups.items()}, "ops": {n: asdict(p) for n, p in ops.items()},
        "backends": backends, "ceilings": None if chip is None else f"{chip.name}: {chip.source}",
    }  # fmt: skip
    keep(base | {"kind": "breakdown", "ms_per_video_frame": row["ms_per_video_frame"]} | found)
    return row | found


def follow(run: Run) -> None:
    """What a process does that does not lead, while the leading one is in `at_size`."""
    for _ in ("cold", "first and steady"):
        run.start().follow()


def _times(what: str, seconds: list[float], frames: int) -> dict:
    ms = [1e3 * s / frames for s in seconds]
    p20, p50, p80 = (round(quantile(ms, q), 4) for q in (0.2, 0.5, 0.8))
    return {"what": what, "video_frames": frames, "blocks": len(ms), "ms_per_video_frame": p50, "p20": p20, "p80": p80}


def table(row: dict) -> list[str]:
    """The steady state part by part, in the order of the budget."""
    spread = f"{row['p20']:.3f} to {row['p80']:.3f}"
    steady = f"{'steady state':28} {'':8} {row['ms_per_video_frame']:19.3f}   {spread}"
    if not row["parts"]:
        return [steady]
    said = (row.get("predicted") or {}).get("ms_per_video_frame", {})
    head = f"{'part':28} {'launches':>8} {'ms per video frame':>19} {'floor':>8} {'share':>7}"
    head += f" {'predicted':>10}" if said else ""
    total = sum(p["ms"] for p in row["parts"].values())
    lines = [head]
    for name, p in row["parts"].items():
        floor = "" if p["floor_ms"] is None else f"{p['floor_ms']:.3f}"
        beside = f" {said[name]:10.3f}" if name in said else ""
        lines.append(f"{name:28} {p['calls'] or '':>8} {p['ms']:19.3f} {floor:>8} {p['ms'] / total:7.1%}{beside}")
    if said:
        steady += f"   predicted {said['total']:.3f} (the column and this: {LABEL})"
    return [*lines, f"{'sum, launched one by one':28} {'':8} {total:19.3f}", steady]


def run(args: argparse.Namespace) -> int:
    """Predict, join the other processes, measure."""
    device = torch.device(device_of(args.device, place().local if place().size > 1 else None))
    one_of("--model", args.model, MODELS)
    precision = args.precision or ("fp8" if device.type == "cuda" else "float32")
    if args.blocks < 1:
        raise InputError(f"--blocks: expected at least 1, got {args.blocks}")
    sizes = args.size or ("64*64" if args.model == "tiny" else SIZES)
    try:
        sizes = [picture_size(text) for text in sizes.split(",")]
    except argparse.ArgumentTypeError as error:
        raise InputError(f"--size: {error}") from error
    chip = chip_of(args.chip, args.ceilings, device)
    need = functools.cache(lambda which, size: predict(hollow(which), size, _bits(which)[0], device, _bits(which)[1]))
    window = {"memory_slots": args.memory_slots, "block_latent_frames": args.block}
    hollow = functools.cache(lambda which: avatar(args.model, which, "meta", **window))
    area = {size: size[0] * size[1] for size in (*sizes, (256, 256))}
    options = [(precision, max(sizes, key=area.get)), *(("fp8", s) for s in sorted(area, key=area.get, reverse=True))]
    if why := refuse(need, list(dict.fromkeys(options)), free_bytes(device), chip_name(device)):
        raise InputError(f"memory: {why}")
    with joined(str(device), args.parallel) as ranks:
        measure(args, device, precision, sizes, chip, need, window, ranks)
    return 0


def measure(
    args: argparse.Namespace, device: torch.device, precision: str | Precision, sizes: list[tuple[int, int]],
    chip: Chip | None, need: Callable[[str, tuple[int, int]], int], window: dict[str, int], ranks: SeqParallel,
) -> None:  # fmt: skip
    """Build, measure every size; the leading process prints and appends."""
    if ranks.leads:
        rows, bar = Rows(args.out), Progress(1 + len(sizes))
        bar.step(f"random weights of {args.model} in {precision}")
    began, (attention, memory) = time.perf_counter(), _bits(precision)
    torch.manual_seed(0)  # every process makes the same
    made = avatar(args.model, precision, device, **window)
    synchronise(device)
    built = time.perf_counter() - began
    if not ranks.leads:
        made.text = made.image = made.audio = None
    measured = []
    for size in sizes:
        settle(ranks, args.parallel, made, size, attention)
        one = Run(made, size, attention, False if args.no_graphs else None, device, ranks, memory)
        if not ranks.leads:
            follow(one)
            continue
        bar.step(f"{args.model} at {size[0]}*{size[1]}")
        base = manifest(device) | {
            "kind": "frame", "model": args.model, "size": f"{size[0]}*{size[1]}", "precision": str(precision),
            "build_s": round(built, 3), "predicted_bytes": need(precision, size), **window,
            "ranks": ranks.size, "form": getattr(ranks, "form", None),
        }  # fmt: skip
        row = at_size(one, args.blocks, base, chip, rows.add)
        measured.append((size, base, row))
        shared = f", {ranks.size} processes" if ranks.size > 1 else ""
        bar.say(f"{args.model} {row['size']} {precision} on {row['chip']}{shared}: {row['verdict']}")
        for text in table(row):
            bar.say(text)
    for size, base, row in measured if ranks.size == 1 else ():  # last: compiling for it takes a minute or two
        if said := forecast(args.model, size, precision, device):
            rows.add(base | {"kind": "predicted", "predicted": said})
            for text in [f"{args.model} {row['size']} {precision}, measured beside predicted:",
                         *table(row | {"predicted": said})]:  # fmt: skip
                bar.say(text)
    if ranks.leads:
        bar.end()


def _bits(precision: str | Precision) -> tuple[bool, bool]:
    """(8-bit attention, 8-bit memory) that go with a precision."""
    bits = eight_bit(precision)
    return bits["eight_bit_attention"], bits.get("eight_bit_memory", False)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return answer(lambda: run(parser().parse_args(argv)), "frame.py")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
