"""The convolution kernels of the CUDA library (csrc/ops/causal_conv3d) as their host would launch them."""

from __future__ import annotations

from liveact_kernels import tuned
from liveact_kernels.contract import Dims, Op

from . import Unpredictable, rates
from .estimate import Prediction
from .parts import START, STARTS, count_of, function_with, one_trip, prediction, products
from .paths import cost, limits
from .rates import Machine
from .simulate import Copies, Memory, Simulation

SHARED = 128  # bytes per clock that copies write to shared memory, on the path that operands are read on [M]


def conv(cubin: bytes, d: Dims, machine: Machine, op: Op, flops: dict, moved: float) -> Prediction:
    """Two multiplying warpgroups with pixels of their own, one warp that copies; one block per SM.

    Pixels come from L2 at its own rate, weights, which all SMs fetch, at that of tiles. The replay lets the ring be
    full whenever a warpgroup looks.
    """
    from liveact_kernels.ops.causal_conv3d import cuda_kernel as host

    up, kt = (2, 1) if op.name == "upsample_conv" else (1, d.KT)
    at = tuned.Limits("h200", rates.ARCH, machine.sms, tuned.SHARED[rates.ARCH])
    bn, pw = host.part(d.O), host.patch(op.name, at, d.H, d.W, d.O, up)
    k, regs = function_with(cubin, f"kernelILi{bn}ELb{up - 1}E")
    pairs = [(x.parent, i) for i, x in enumerate(k.loops) if x.parent is not None and products(k, i)]
    if not pairs:
        raise Unpredictable("causal_conv3d of the CUDA library: expected a loop over stages inside a loop over tiles")
    choose = max if getattr(d, "has_residual", False) else min  # with and without a residual are two loops
    outer, inner = choose(pairs, key=lambda p: count_of(k, p[0], "LDG"))
    tile, stage = one_trip(k, outer), one_trip(k, inner)
    macs = cost(k.flat(stage))["macs"] * 8
    if macs != (due := 3 * host.PIXELS * bn * host.CHANNELS):
        raise Unpredictable(f"{op.name}: a stage multiplies {macs:.0f} times, its tile {due} times")
    taps = [kt if up > 1 or d.has_prev else min(kt, f + 1) for f in range(d.F)]  # nothing is before the first frame
    per_tap, wide = (1 if bn == host.FEW_COLUMNS else 3) * d.C // host.CHANNELS, -(-d.O // bn)
    tiles = host.tiles(d.H, d.W, pw, bn, up) * wide * d.F
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
    used = limits(cost(k.flat(stage)), 8)
    used["shared"] += (pixels + weights) / SHARED
    paced = max(step, copies, (pixels + weights) / machine.l2_port, used["shared"])
    out = sum(s.nbytes(d) for s in op.out.values()) * (2 if getattr(d, "has_residual", False) else 1)
    work = {name: c * waves * stages for name, c in used.items()}
    memory = {
        "HBM": moved / machine.dram,
        "L2": tiles * stages * copies / machine.clock / machine.sms + out / machine.l2,
        "power": sum(flops.get(kind, 0) / rates.POWER[kind] for kind in rates.POWER),
    }  # fmt: skip
    cycles = waves * (stages * paced + end) + START
    parts = {"stage": paced, "stage simulated": step, "tile end": end}
    return prediction(machine, cycles, work, memory, parts, (regs, 1, "shared memory"), macs * stages * tiles)
