"""What a warp instruction costs on an SM of sm_90, what its memories give, and where each number comes from.

Costs are cycles of one sub-partition (four per SM). Sources:
  [G]  CUDA C++ Programming Guide, throughput of native arithmetic instructions, compute capability 9.0, results per
       clock and SM: fp32 add/mul/fma 128, integer add/compare/logic/shift 64, integer multiply-add 64, special
       functions 16, shuffles 32, conversions 64
  [N]  NVIDIA developer forum 302018: GH100 has FMAheavy (IMAD, FP32) and FMAlite (FP32) pipes
  [A]  FlashAttention-3 (arXiv 2407.08608): 3.9 T special functions/s of an H100 = 16 x 132 x 1.83 GHz
  [D]  NVIDIA H100 and H200 datasheets, dense: 1979 (fp8) and 989 (bf16) TFLOP/s = 8192 and 4096 flop per clock and SM;
       HBM 3.35 and 4.8 TB/s
  [H]  "Dissecting the NVIDIA Hopper architecture" (arXiv 2402.13499, 2501.12084): wgmma reaches its peak from N = 64
       with both operands in shared memory, so operands come at 128 bytes per clock; latencies shared 29, L1 40, L2 260,
       HBM 570-800 clocks; mma.sync reaches 62% of wgmma's rate
  [P]  DeepGEMM's README and cuBLAS runs on H800/H100: best sustained dense products, which power limits
  [M]  assumed by this model, no source: stated where used
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

ARCH = 90  # the architecture that every number here is about


@dataclass(frozen=True)
class Machine:
    """A chip of sm_90 as the model sees it; rates in bytes per second, clock in Hz."""

    name: str
    dram: float
    sms: int = 132  # [D]
    clock: float = 1.755e9  # [M] a boost clock under load; heavy tensor work throttles further, see POWER
    l2: float = 5.5e12  # [H] reads that hit L2, whole chip
    l2_tile: float = 39.0  # [M] bytes per clock and SM of tiles that many SMs fetch at once: cuBLAS's 128x256 bf16 rate
    l2_port: float = 64.0  # [H] bytes per clock of one SM's port, a burst
    shared: int = 228 * 1024  # [G] shared memory of an SM
    registers: int = 65536  # [G]
    threads: int = 2048  # [G]

    def us(self, cycles: float) -> float:
        """Microseconds of SM clocks."""
        return cycles / self.clock * 1e6

    def tile_rate(self) -> float:
        """Bytes per second of shared tiles, whole chip."""
        return self.l2_tile * self.sms * self.clock


MACHINES = {"h200": Machine("H200 SXM", 0.9 * 4.8e12), "h100": Machine("H100 SXM", 0.9 * 3.35e12)}
"""90% of the datasheet's bandwidth [D]: what copies reach [M]."""

POWER = {"fp8": 1347e12, "bf16": 800e12}
"""flop/s that no kernel is predicted to exceed for long [P]."""

LATENCY = {
    "shared": 30, "matrix": 33, "shuffle": 24, "special": 22, "l1": 40, "l2": 270, "dram": 700,  # [H]
    "s2r": 25, "constant": 40, "try_wait": 22, "barrier": 25, "membar": 40, "fence": 15, "uniform": 12,  # [M]
    "bulk": 600, "product_tail": 30, "atomic": 300, "fixed": 6, "cluster": 250,  # [M]
}  # fmt: skip
REFILL = 300  # cycles from a block's end to its successor's first instruction [M]
GAP_US = 1.5  # from a kernel's end to the next one's start inside a CUDA graph [M]
QUEUE = 512  # cycles of products that the tensor core takes ahead [M]

FMA = {"FFMA", "FMUL", "FADD", "FFMA32I", "FMUL32I", "FADD32I", "HFMA2", "HADD2", "HMUL2", "FSWZADD"}
HEAVY = {"IMAD", "IDP", "IMUL"}  # [N]
SPECIAL = {"MUFU", "F2I", "I2F", "F2F", "FRND", "POPC", "FLO", "BREV"}
SHARED = {"LDS", "STS", "LDSM", "STSM", "SHFL", "ATOMS", "LDGSTS", "MATCH", "LDL", "STL", "ATOMG"}
GLOBAL = {"LDG", "STG", "LD", "ST", "ATOM", "RED"}
CONTROL = {
    "BRA", "EXIT", "BSSY", "BSYNC", "NOP", "WARPSYNC", "RET", "CALL", "BAR", "DEPBAR", "LDGDEPBAR", "MEMBAR", "FENCE",
    "ERRBAR", "WARPGROUP", "SYNCS", "ELECT", "UTMALDG", "UTMASTG", "UTMACMDFLUSH", "UTMACCTL", "CCTL", "BREAK", "YIELD",
    "ACQBULK", "USETMAXREG", "S2R", "CS2R", "LDC", "ULDC", "UCGABAR_ARV", "UCGABAR_WAIT", "UTMAPF", "B2R",
    "GETLMEMBASE", "CCTLL", "PMTRIG", "NANOSLEEP", "UBLKCP", "UBLKPF",
}  # fmt: skip
UNIFORM = re.compile(r"^(U[A-Z]|R2UR|S2UR|VOTEU|LDCU)")
WIDTHS = {"128": 16, "64": 8, "U16": 2, "S16": 2, "16": 2, "U8": 1, "S8": 1, "8": 1}


class Product(NamedTuple):
    """One tensor core instruction: shape, bytes per element, and whether a warpgroup (4 warps) makes it together."""

    m: int
    n: int
    k: int
    bytes: int
    group: bool

    @property
    def macs(self) -> float:
        """Multiply-adds per warp that issues it."""
        return self.m * self.n * self.k / (4 if self.group else 1)


def product(op: str) -> Product | None:
    """Shape of a tensor core instruction, None for others."""
    if m := re.match(r"([QHI])GMMA\.(?:SP\.)?(\d+)x(\d+)x(\d+)", op):
        return Product(int(m[2]), int(m[3]), int(m[4]), 2 if m[1] == "H" else 1, True)
    if m := re.match(r"([QHI])MMA\.(?:SP\.)?(\d{2})(\d)(\d{1,2})\b", op):
        return Product(int(m[2]), int(m[3]), int(m[4]), 2 if m[1] == "H" else 1, False)
    return None


def width(op: str) -> int:
    """Bytes per thread of a memory instruction."""
    m = re.search(r"\.(128|64|U16|S16|U8|S8|16|8)\b", op)
    return WIDTHS[m[1]] if m else 4


def wavefronts(op: str) -> int:
    """SM cycles of the path to shared memory and L1, without bank conflicts, for one warp; 128 bytes a clock [H]."""
    base = op.split(".")[0]
    if base == "SHFL":
        return 1
    if base in ("LDSM", "STSM"):
        m = re.search(r"\.(\d)$", op)
        return int(m[1]) if m else 1
    n = max(1, width(op) * 32 // 128)
    return max(n, 2) if base == "STS" else n  # a store issues at most every second clock [M]


def pipe(op: str) -> tuple[str, int]:
    """(pipe, cycles of a sub-partition) of an opcode."""
    base = op.split(".")[0]
    if product(op):
        return "tensor", 0
    if base in FMA:
        return "fma", 1
    if base in HEAVY:
        return "imad", 4 if base == "IMAD" and (".WIDE" in op or ".HI" in op) else 2
    if base in SPECIAL:
        return "special", 8  # 16 per clock and SM [G] [A]
    if base in SHARED or base in GLOBAL:
        return "memory", 4 * wavefronts(op)
    if base in CONTROL:
        return "control", 0
    return ("uniform", 2) if UNIFORM.match(base) else ("alu", 2)


def product_cycles(p: Product, from_registers: bool) -> float:
    """SM cycles of one warpgroup product (of one warp's mma.sync on its sub-partition): arithmetic or operands."""
    if not p.group:
        return p.m * p.n * p.k * p.bytes / 1024 / 0.62  # [D] / [H]
    return max(p.n / 2, 8, operand_bytes(p, from_registers) / 128)


def operand_bytes(p: Product, from_registers: bool) -> float:
    """Bytes of a warpgroup product that come from shared memory."""
    return (p.n * p.k + (0 if from_registers else p.m * p.k)) * p.bytes if p.group else 0.0
