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

from . import Unpredictable, rates
from .convolution import conv
from .estimate import Prediction
from .parts import KINDS, START, STARTS, count_of, function_with, one_trip, prediction, products
from .paths import Items, Kernel, cost, limits, loops_on
from .rates import Machine
from .setting import resident
from .simulate import Copies, Memory, Simulation


def cubins() -> dict[str, bytes]:
    """Folder of csrc/ops -> machine code for sm_90. Raises ImportError without a built extension."""
    built = extension().__file__
    assert built is not None, "a built extension is a file"
    library = Path(built).resolve()
    with tempfile.TemporaryDirectory() as folder:
        tool("cuobjdump", "-xelf", f"sm_{rates.ARCH}a", library, cwd=folder)
        return {p.name.split(".")[0]: p.read_bytes() for p in Path(folder).glob("*.cubin")}


def fp8_linear(cubin: bytes, d: Dims, machine: Machine, op: Op, flops: dict, moved: float) -> Prediction:
    """Two multiplying warpgroups with tiles' rows of their own, one warp that copies; one block per SM."""
    from liveact_kernels.ops.fp8_linear import cuda_kernel as host

    out = SHORT[next(iter(op.out.values())).dtype_of(d)]
    at = tuned.Limits("h200", rates.ARCH, machine.sms, tuned.SHARED[rates.ARCH])
    c = tuned.config(f"{op.name}.cuda", host._heuristic, at, M=d.M, N=d.N, K=d.K, G=d.G, out=out)
    bn, side = c["bn"], c["side"]
    k, regs = function_with(cubin, f"gemmILi{bn}ELb{c['promote']}E", f"E{KINDS[out]}EEv")
    inner = max(range(len(k.loops)), key=lambda i: (products(k, i) > 0, k.loops[i].depth, products(k, i)))
    outer = k.loops[inner].parent
    if outer is None:
        raise Unpredictable("fp8_linear of the CUDA library: expected a loop over K inside a loop over tiles")
    tile, step_items = one_trip(k, outer), one_trip(k, inner)
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
    return prediction(machine, cycles, work, memory, parts, (regs, 1, "shared memory"), macs * steps * tiles)


ROWS_OF_CHUNK, CLUSTER, HEADS = 16, 8, 4  # csrc/ops/kv_compress: tokens of a block's chunk at D = 128, blocks, heads


def kv_compress(cubin: bytes, d: Dims, machine: Machine, op: Op, flops: dict, moved: float) -> Prediction:
    """Clusters walk the schedule; keys, which are rotated, take longer than values. One loop per kind of entry."""
    codes = SHORT[d.KN] != "bf16"
    store = ("5CodesIN2la4Int8", f"Li{HEADS}E") if codes else ("kernelIN2la4Int8", f"Li{HEADS}E")
    if SHORT[d.k_dtype] == "bf16":
        store = ("kernelIN2la4Bf16", f"Li{HEADS}E")
    k, regs = function_with(cubin, *store)
    tops = [i for i, loop in enumerate(k.loops) if loop.depth == 1 and count_of(k, i, "STG") >= 40]
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
            kind = (count_of(k, loop, "LDS") > 0, count_of(k, loop, "UCGABAR_ARV") > 0)
            chunks = chosen.get(kind, 0)
            if not chunks:
                continue
            trip = one_trip(k, loop)
            one = _steady(machine, k, trip, Memory(0.5, rate)) + (rates.LATENCY["cluster"] if kind[1] else 0)
            parts[f"{side} {'5 taps' if kind[0] else 'copy'}, {'memory' if kind[1] else 'block'} x{chunks}"] = one
            total += chunks * one
        sides.append(total)
    held = resident(machine, regs, 256, 5 * HEADS * d.D * 4)
    memory = {"HBM": moved / machine.dram, "L2": moved / machine.l2}
    return prediction(machine, max(sides) + 2 * START, {}, memory, parts, (regs, *held))


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
    if op.name == "qkv_norm_rope":
        kind, lanes = "N2la4Bf16ES2_", 0
    else:
        kind, lanes = "N2la4Int8ENS1_4E4m3E", 16 if d.D == 128 and d.C > 1024 else 0
    k, regs = function_with(cubin, f"kernelI{kind}Li{5 if d.C > 1024 else 1}ELi{lanes}E")
    copy, norm = sorted(range(len(k.loops)), key=lambda i: len(k.flat(one_trip(k, i))))[:2]
    trips = {i: one_trip(k, i) for i in (copy, norm)}
    passed = cost([x for i in (norm, norm, copy) for x in k.flat(trips[i])])
    if not passed["loaded"] + passed["stored"]:
        raise Unpredictable(f"qkv_norm_rope: its loops over tokens were not found for D={d.D}, C={d.C}")
    misses = min(1.0, moved / (4 * d.L * (passed["loaded"] + passed["stored"])))  # rope rows stay near
    rate = machine.dram / misses / machine.sms / machine.clock / 4

    def time(n: int) -> float:
        traces = [k.trace(trips[i] * n, {}) for i in (norm, norm, copy, norm)]
        return Simulation(machine, traces, 1, Memory(misses, rate), Copies()).run()

    token = (time(14) - time(4)) / 10
    blocks = 3 * min(d.L, -(-4 * machine.sms // 3))
    pipes = {name: n * d.L / blocks for name, n in limits(passed, 16).items()}
    held = resident(machine, regs, 128, 64)
    memory = {"HBM": moved / machine.dram, "L2": moved / machine.l2}
    return prediction(machine, token * 3 * d.L / blocks + START, pipes, memory, {"token": token}, (regs, *held))


def modulate_quant(cubin: bytes, d: Dims, machine: Machine, op: Op, flops: dict, moved: float) -> Prediction:
    """Blocks of four warps walk rows, several on an SM."""
    from liveact_kernels.ops.modulate import cuda_kernel as host

    k, regs = function_with(cubin, f"modulate_quant_kernelILi{host.WORDS if d.C > 8 * host.THREADS else 1}E")
    trip = max((one_trip(k, i) for i in range(len(k.loops))), key=lambda trip: len(k.flat(trip)))
    held = resident(machine, regs, host.THREADS, 8 * d.C + 64)
    blocks, rate = min(d.L, held[0] * machine.sms), machine.dram / machine.sms / machine.clock / 4

    def time(n: int) -> float:
        return Simulation(machine, [k.trace(trip * n, {})] * held[0], 1, Memory(1.0, rate), Copies()).run()

    row, rows = (time(12) - time(4)) / 8, d.L / blocks
    pipes = {name: n * rows for name, n in limits(cost(k.flat(trip)), 4 * held[0]).items()}
    memory = {"HBM": moved / machine.dram, "L2": moved / machine.l2}
    return prediction(machine, row * rows + START, pipes, memory, {"row": row}, (regs, *held))


def attention_8bit(cubin: bytes, d: Dims, machine: Machine, op: Op, flops: dict, moved: float) -> Prediction:
    """Two multiplying warpgroups with queries of their own, one warp that copies; one block per SM.

    The replay lets the ring be full whenever a warpgroup looks. The second one starts when the first has made its first
    probabilities: later by what a tile takes a warpgroup that has the SM to itself.
    """
    from liveact_kernels.ops.attention_8bit import cuda_kernel as host

    k, regs = function_with(cubin, f"attention86kernelI{KINDS[SHORT[d.out_dtype]]}E")
    loop = max(range(len(k.loops)), key=lambda i: products(k, i))
    trip = k.walk(lambda n, hot: _unmasked(k, loop, n, hot), k.loops[loop].header, loop)[0]
    one = cost(k.flat(trip))
    step = host.ROWS * host.KEYS * (2 * d.D + host.ONES)
    each = round(one["macs"] * 8 / step)  # tiles of keys in a trip of the loop
    if not each or one["macs"] * 8 != each * step:
        raise Unpredictable(f"attention_8bit: a trip multiplies {one['macs'] * 8:.0f} times, a tile of keys {step}")

    def tile(groups: int, stagger: float = 0.0) -> float:
        times = [
            Simulation(machine, [k.trace(trip * n, {})] * groups, 1, Memory(), Copies(), stagger=stagger).run()
            for n in (4, 12)
        ]
        return (times[1] - times[0]) / 8 / each

    late = tile(1)
    per = tile(2, late)
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
    cycles = waves * (tiles * per + START + late)
    parts = {"tile of keys": per, "start and end of a block": START, "start of the second warpgroup": late}
    return prediction(machine, cycles, pipes, memory, parts, (regs, 1, "shared memory"), step * tiles * blocks)


def _unmasked(k: Kernel, loop: int, n: int, hot: list[int]) -> int:
    """At a branch around the mask of a segment's last tile: the way without it."""
    stop = {k.loops[loop].header}
    for s, other in (hot[:2], hot[1::-1]):
        if sum(i.base in ("FSEL", "SEL") for i in k.only(s, other, stop)) >= 32:
            return other
    return k.prefer(n, hot)


OPS: dict[str, tuple[str, Callable[..., Prediction]]] = {
    "attention_8bit": ("attention_8bit", attention_8bit),
    "causal_conv3d": ("causal_conv3d", conv), "upsample_conv": ("causal_conv3d", conv),
    **{f"fp8_linear{end}": ("fp8_linear", fp8_linear) for end in ("", "_gate", "_gelu", "_residual")},
    "kv_compress": ("kv_compress", kv_compress), "qkv_norm_rope": ("qkv_norm_rope", qkv_norm_rope),
    "modulate_quant": ("modulate", modulate_quant), "qkv_norm_rope_8bit": ("qkv_norm_rope", qkv_norm_rope),
}  # fmt: skip
"""Op -> (folder of csrc/ops, its model)."""
