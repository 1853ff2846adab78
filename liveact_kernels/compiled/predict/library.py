"""The kernels of the built CUDA extension, as their hosts would launch them.

Their warps do different things, so no generic walk fits: for each op, which function runs, which of its loops a warp
walks how often, and what shares an SM. Blocks, tiles and chunks are those of csrc/ops.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from liveact_kernels import tuned
from liveact_kernels.common.cuda import extension
from liveact_kernels.compiled.sass import tool
from liveact_kernels.contract import SHORT, Dims, Op

from . import Unpredictable, code, rates
from .estimate import Prediction
from .paths import Items, Kernel, cost, limits, loops_on
from .rates import Machine
from .setting import function, resident
from .simulate import Copies, Memory, Simulation

START = 3000  # cycles of a persistent kernel's start and end: descriptors, barriers of the cluster, first copies [M]
STARTS = (0, 400, 800, 1600, 3200)
"""Cycles between the starts of two warpgroups that share only a ring. Products of both fall into step or interleave by
chance, which moves a tile's time by up to a quarter: no start stands for all, so their mean does [M]."""
KINDS = {"bf16": "13__nv_bfloat16", "e4m3": "h", "f32": "f"}


def cubins() -> dict[str, bytes]:
    """Folder of csrc/ops -> machine code for sm_90. Raises ImportError without a built extension."""
    built = extension().__file__
    assert built is not None, "a built extension is a file"
    library = Path(built).resolve()
    with tempfile.TemporaryDirectory() as folder:
        tool("cuobjdump", "-xelf", f"sm_{rates.ARCH}a", library, cwd=folder)
        return {p.name.split(".")[0]: p.read_bytes() for p in Path(folder).glob("*.cubin")}


def _function(cubin: bytes, *words: str) -> tuple[Kernel, int]:
    """(code, registers) of the one function whose symbol has all the words."""
    found = code.load(cubin)
    names = [n for n in found.functions if all(w in n for w in words)]
    if len(names) != 1:
        raise Unpredictable(f"expected one function of the CUDA library with {' and '.join(words)}, found {len(names)}")
    _, listing, use = function(found, names[0])
    return Kernel(listing), use["REG"]


def _trip(k: Kernel, loop: int) -> Items:
    return k.walk(k.prefer, k.loops[loop].header, loop)[0]


def _prediction(
    machine: Machine, cycles: float, pipes: dict[str, float], memory: dict[str, float], parts: dict[str, float],
    held: tuple[int, int, str], macs: float = 0.0,
) -> Prediction:  # fmt: skip
    """pipes in cycles of the busiest SM; memory (and power) in seconds."""
    bounds = {n: machine.us(c) for n, c in pipes.items()} | {n: 1e6 * t for n, t in memory.items()}
    limiter, simulated = max(bounds, key=lambda n: bounds[n]), machine.us(cycles)
    return Prediction(
        max(simulated, bounds[limiter]), simulated, bounds[limiter], limiter, bounds,
        {n: round(c) for n, c in parts.items()}, *held, macs,
    )  # fmt: skip


def fp8_linear(cubin: bytes, d: Dims, machine: Machine, op: Op, flops: dict, moved: float) -> Prediction:
    """Two multiplying warpgroups with tiles' rows of their own, one warp that copies; one block per SM."""
    from liveact_kernels.ops.fp8_linear import cuda_kernel as host

    out = SHORT[next(iter(op.out.values())).dtype_of(d)]
    at = tuned.Limits("h200", rates.ARCH, machine.sms, tuned.SHARED[rates.ARCH])
    c = tuned.config(f"{op.name}.cuda", host._heuristic, at, M=d.M, N=d.N, K=d.K, G=d.G, out=out)
    bn, side = c["bn"], c["side"]
    k, regs = _function(cubin, f"gemmILi{bn}ELb{c['promote']}E", f"E{KINDS[out]}EEv")
    inner = max(range(len(k.loops)), key=lambda i: (_products(k, i) > 0, k.loops[i].depth, _products(k, i)))
    outer = k.loops[inner].parent
    if outer is None:
        raise Unpredictable("fp8_linear of the CUDA library: expected a loop over K inside a loop over tiles")
    tile, step_items = _trip(k, outer), _trip(k, inner)
    steps, waves = -(-d.K // host.STEP), host.waves(d.M, d.N, bn, side, machine.sms)
    others = {i: 4 for i in loops_on(tile) if i != inner}  # prefetches of x: 64 rows of 64-byte lines by 128 threads

    def time(tiles: int, n: int, start: int = 400) -> float:
        trace = k.trace(tile * tiles, others | {inner: n})
        return Simulation(machine, [trace] * 2, 1, Memory(0.3), Copies(), stagger=start).run()

    step = (time(1, 24) - time(1, 8)) / 16
    n = min(steps, 40)
    whole = sum(time(4, n, start) - time(2, n, start) for start in STARTS) / 2 / len(STARTS)
    end = max(0.0, whole - n * step)
    asked = host.STEP * (
        host.ROWS + bn - (bn if side == 0 else host.ROWS) / 2
    )  # half of one operand is the peer's copy
    paced = max(step, asked / machine.l2_tile, host.STEP * (host.ROWS + bn) / machine.l2_port)
    macs = cost(k.flat(step_items))["macs"] * 8
    if macs != host.ROWS * bn * host.STEP:
        raise Unpredictable(
            f"fp8_linear: a step multiplies {macs:.0f} times, its tile {host.ROWS * bn * host.STEP} times"
        )
    work = {name: n * waves * steps for name, n in limits(cost(k.flat(step_items)), 8).items()}
    tiles = waves * machine.sms
    memory = {
        "HBM": moved / machine.dram, "L2": tiles * steps * asked / machine.tile_rate(),
        "power": sum(flops.get(kind, 0) / rates.POWER[kind] for kind in rates.POWER),
    }  # fmt: skip
    cycles = waves * (steps * paced + end) + START
    parts = {"step": paced, "step simulated": step, "tile end": end}
    return _prediction(machine, cycles, work, memory, parts, (regs, 1, "shared memory"), macs * steps * tiles)


def _products(k: Kernel, loop: int) -> int:
    return sum(bool(i.product) for n in k.loops[loop].body for i in k.blocks[n].code)


def _base(k: Kernel, loop: int, base: str) -> int:
    return sum(i.base == base for n in k.loops[loop].body for i in k.blocks[n].code)


ROWS_OF_CHUNK, CLUSTER, HEADS = 16, 8, 4  # csrc/ops/kv_compress: tokens of a block's chunk at D = 128, blocks, heads


def kv_compress(cubin: bytes, d: Dims, machine: Machine, op: Op, flops: dict, moved: float) -> Prediction:
    """Clusters walk the schedule; keys, which are rotated, take longer than values. One loop per kind of entry."""
    codes = SHORT[d.KN] != "bf16"
    store = ("5CodesIN2la4Int8", f"Li{HEADS}E") if codes else ("kernelIN2la4Int8", f"Li{HEADS}E")
    if SHORT[d.k_dtype] == "bf16":
        store = ("kernelIN2la4Bf16", f"Li{HEADS}E")
    k, regs = _function(cubin, *store)
    tops = [i for i, loop in enumerate(k.loops) if loop.depth == 1 and _base(k, i, "STG") >= 40]
    if len(tops) != 2:
        raise Unpredictable(
            f"kv_compress of the CUDA library: expected a loop each for keys and values, got {len(tops)}"
        )
    rate = 2 * machine.l2 / machine.sms / machine.clock / 4  # 132 SMs, 160 blocks: most have an SM's rate alone
    chosen = _entries(d)
    sides, parts = [], {}
    for side, top in zip(("values", "keys"), tops):
        total = 0.0
        for loop in (i for i, x in enumerate(k.loops) if x.parent == top):
            kind = (_base(k, loop, "LDS") > 0, _base(k, loop, "UCGABAR_ARV") > 0)
            chunks = chosen.get(kind, 0)
            if not chunks:
                continue
            trip = _trip(k, loop)
            one = _steady(machine, k, trip, Memory(0.5, rate)) + (rates.LATENCY["cluster"] if kind[1] else 0)
            parts[f"{side} {'5 taps' if kind[0] else 'copy'}, {'memory' if kind[1] else 'block'} x{chunks}"] = one
            total += chunks * one
        sides.append(total)
    held = resident(machine, regs, 256, 5 * HEADS * d.D * 4)
    memory = {"HBM": moved / machine.dram, "L2": moved / machine.l2}
    return _prediction(machine, max(sides) + 2 * START, {}, memory, parts, (regs, *held))


def _entries(d: Dims) -> dict[tuple[bool, bool], int]:
    """(several taps, reads memory) -> chunks that a block walks."""
    chunks: dict[tuple[bool, bool], int] = {}
    for _, sources in d.schedule:
        kind = (len(sources) > 1, min(sources) * d.tokens < getattr(d, "P", 0))  # no P: no memory yet
        each = 2 if kind == (False, False) else 1
        chunks[kind] = chunks.get(kind, 0) + -(-d.tokens // (each * ROWS_OF_CHUNK * CLUSTER))
    return chunks


def _steady(machine: Machine, k: Kernel, trip: Items, memory: Memory) -> float:
    def time(n: int) -> float:
        return Simulation(machine, [k.trace(trip * n, {})], 2, memory, Copies()).run()

    return (time(6) - time(2)) / 4


def qkv_norm_rope(cubin: bytes, d: Dims, machine: Machine, op: Op, flops: dict, moved: float) -> Prediction:
    """Blocks in threes (q, k, v) walk tokens: of four blocks on an SM three norm and one copies."""
    k, regs = _function(cubin, f"kernelILi{5 if d.C > 1024 else 1}E")
    copy, norm = sorted(range(len(k.loops)), key=lambda i: len(k.flat(_trip(k, i))))[:2]
    trips = {i: _trip(k, i) for i in (copy, norm)}
    passed = cost([x for i in (norm, norm, copy) for x in k.flat(trips[i])])
    misses = min(1.0, moved / (4 * d.L * (passed["loaded"] + passed["stored"])))  # rope rows stay near
    rate = machine.dram / misses / machine.sms / machine.clock / 4

    def time(n: int) -> float:
        traces = [k.trace(trips[i] * n, {}) for i in (norm, norm, copy, norm)]
        return Simulation(machine, traces, 1, Memory(misses, rate), Copies()).run()

    token = (time(14) - time(4)) / 10
    blocks = 3 * min(d.L, -(-4 * machine.sms // 3))
    pipes = {name: n * 3 * d.L / blocks for name, n in limits(cost(k.flat(trips[norm])), 16).items()}
    held = resident(machine, regs, 128, 64)
    memory = {"HBM": moved / machine.dram, "L2": moved / machine.l2}
    return _prediction(machine, token * 3 * d.L / blocks + START, pipes, memory, {"token": token}, (regs, *held))


def attention_8bit(cubin: bytes, d: Dims, machine: Machine, op: Op, flops: dict, moved: float) -> Prediction:
    """Two multiplying warpgroups with queries of their own, one warp that copies; one block per SM.

    The replay lets the ring be full whenever a warpgroup looks, and starts both warpgroups together: they then stay in
    step and want the same pipe at the same time, which is the slowest they can do.
    """
    from liveact_kernels.ops.attention_8bit import cuda_kernel as host

    k, regs = _function(cubin, f"attention86kernelI{KINDS[SHORT[d.out_dtype]]}E")
    loop = max(range(len(k.loops)), key=lambda i: _products(k, i))
    trip = k.walk(lambda n, hot: _unmasked(k, loop, n, hot), k.loops[loop].header, loop)[0]
    one = cost(k.flat(trip))
    step = host.ROWS * host.KEYS * (2 * d.D + host.ONES)
    each = round(one["macs"] * 8 / step)  # tiles of keys in a trip of the loop
    if not each or one["macs"] * 8 != each * step:
        raise Unpredictable(f"attention_8bit: a trip multiplies {one['macs'] * 8:.0f} times, a tile of keys {step}")

    def time(n: int) -> float:
        return Simulation(machine, [k.trace(trip * n, {})] * 2, 1, Memory(), Copies()).run()

    per = (time(12) - time(4)) / 8 / each
    memory_keys = getattr(d, "P", 0) if d.has_k_mem else 0
    tiles = -(-d.R // host.KEYS) + -(-memory_keys // host.KEYS)
    blocks = -(-d.L // host.ROWS) * d.H
    waves = -(-blocks // machine.sms)
    pipes = {name: n * waves * tiles / each for name, n in limits(one, 8).items()}
    asked = blocks * tiles * host.KEYS * 2 * d.D
    memory = {
        "HBM": moved / machine.dram, "L2": asked / machine.tile_rate(),
        "power": sum(flops.get(kind, 0) / rates.POWER[kind] for kind in rates.POWER),
    }  # fmt: skip
    cycles = waves * (tiles * per + START)
    parts = {"tile of keys": per, "start and end of a block": START}
    return _prediction(machine, cycles, pipes, memory, parts, (regs, 1, "shared memory"), step * tiles * blocks)


def _unmasked(k: Kernel, loop: int, n: int, hot: list[int]) -> int:
    """At a branch around the mask of a segment's last tile: the way without it."""
    stop = {k.loops[loop].header}
    for s, other in (hot[:2], hot[1::-1]):
        if sum(i.base in ("FSEL", "SEL") for i in k.only(s, other, stop)) >= 32:
            return other
    return k.prefer(n, hot)


def conv(cubin: bytes, d: Dims, machine: Machine, op: Op, flops: dict, moved: float) -> Prediction:
    """Two multiplying warpgroups with pixels of their own, one warp that copies; one block per SM.

    Pixels come from L2 at its own rate, weights, which all SMs fetch, at that of tiles. The replay lets the ring be
    full whenever a warpgroup looks.
    """
    from liveact_kernels.ops.causal_conv3d import cuda_kernel as host

    up, kt = (2, 1) if op.name == "upsample_conv" else (1, d.KT)
    at = tuned.Limits("h200", rates.ARCH, machine.sms, tuned.SHARED[rates.ARCH])
    pw = tuned.config(f"{op.name}.cuda", host._heuristic, at, H=d.H, W=d.W, up=up)["pw"]
    bn = host.part(d.O)
    k, regs = _function(cubin, f"kernelILi{bn}ELb{up - 1}E")
    pairs = [(x.parent, i) for i, x in enumerate(k.loops) if x.parent is not None and _products(k, i)]
    if not pairs:
        raise Unpredictable("causal_conv3d of the CUDA library: expected a loop over stages inside a loop over tiles")
    choose = max if getattr(d, "has_residual", False) else min  # with and without a residual are two loops
    outer, inner = choose(pairs, key=lambda p: _base(k, p[0], "LDG"))
    tile, stage = _trip(k, outer), _trip(k, inner)
    macs = cost(k.flat(stage))["macs"] * 8
    if macs != 3 * host.PIXELS * bn * host.CHANNELS:
        raise Unpredictable(
            f"{op.name}: a stage multiplies {macs:.0f} times, its tile {3 * host.PIXELS * bn * host.CHANNELS} times"
        )
    taps = [kt if up > 1 or d.has_prev else min(kt, f + 1) for f in range(d.F)]  # nothing is before the first frame
    per_tap, wide = 3 * d.C // host.CHANNELS, -(-d.O // bn)
    tiles = host.tiles(d.H, d.W, pw, up) * wide * d.F
    stages, waves = sum(taps) / d.F * per_tap, -(-tiles // machine.sms)

    def time(tiles: int, n: int, start: int = 400) -> float:
        trace = k.trace(tile * tiles, {inner: n})
        return Simulation(machine, [trace] * 2, 1, Memory(0.3), Copies(), stagger=start).run()

    step = (time(1, 24) - time(1, 8)) / 16
    n = min(round(stages), 27)
    whole = sum(time(4, n, start) - time(2, n, start) for start in STARTS) / 2 / len(STARTS)
    end = max(0.0, whole - n * step)
    pixels, weights = host.stage_bytes(pw, bn, up)
    copies = machine.clock * machine.sms * (pixels / machine.l2 + weights / machine.tile_rate())
    paced = max(step, copies, (pixels + weights) / machine.l2_port)
    out = sum(s.nbytes(d) for s in op.out.values()) * (2 if getattr(d, "has_residual", False) else 1)
    work = {name: c * waves * stages for name, c in limits(cost(k.flat(stage)), 8).items()}
    memory = {
        "HBM": moved / machine.dram,
        "L2": tiles * stages * copies / machine.clock / machine.sms + out / machine.l2,
        "power": sum(flops.get(kind, 0) / rates.POWER[kind] for kind in rates.POWER),
    }  # fmt: skip
    cycles = waves * (stages * paced + end) + START
    parts = {"stage": paced, "stage simulated": step, "tile end": end}
    return _prediction(machine, cycles, work, memory, parts, (regs, 1, "shared memory"), macs * stages * tiles)


OPS: dict[str, tuple[str, Callable[..., Prediction]]] = {
    "attention_8bit": ("attention_8bit", attention_8bit),
    "causal_conv3d": ("causal_conv3d", conv), "upsample_conv": ("causal_conv3d", conv),
    **{f"fp8_linear{end}": ("fp8_linear", fp8_linear) for end in ("", "_gate", "_gelu", "_residual")},
    "kv_compress": ("kv_compress", kv_compress), "qkv_norm_rope": ("qkv_norm_rope", qkv_norm_rope),
}  # fmt: skip
"""Op -> (folder of csrc/ops, its model)."""
