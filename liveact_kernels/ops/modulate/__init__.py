"""Modulated LayerNorm: unquantised, quantised to e4m3 or to 4-bit codes, and e4m3 after a gated residual."""

from liveact_kernels.common.fp4 import FP4_BLOCK, FP4_TOL, fp4_rows
from liveact_kernels.contract import ACT, ByDtype, Case, Op, Rel, T, Ulp, bf16, f32, fp8, u8

from .reference import gate_modulate_quant as _gate_modulate_quant
from .reference import modulate as _modulate
from .reference import modulate_fp4 as _modulate_fp4
from .reference import modulate_quant as _modulate_quant

_ARGS = {"x": T("L C", ACT), "mul": T("C", f32), "add": T("C", f32)}
_CASES = [
    Case("tiny", L=7, C=96, A=f32),
    Case("tiny_bf16", L=7, C=96, A=ACT.allowed[1]),
    Case("one_row", L=1, C=192, A=ACT.allowed[1]),
    Case("live_512x512", rung="device", L=8192, C=5120, A=ACT.allowed[1]),
    Case("live_416x720", rung="device", L=9360, C=5120, A=ACT.allowed[1]),
]

_CODES = {
    "x8": Ulp(1, 0.01, "an fp32 scale moves a value across a rounding boundary"),
    "x_scale": Ulp(32, 1.0, "fp32 LayerNorm of a whole row, then a maximum"),
}
_SUM = "one fp32 multiply-add, one rounding"

modulate = Op(
    "modulate",
    reference=_modulate,
    args=_ARGS,
    out={"out": T("L C", ACT)},
    flops=lambda d: {"f32": 8 * d.L * d.C},
    tol=Rel(2.0, "fp32 statistics, one rounding of the output; a row of fp32 sums adds about one unit more in float32"),
    rows="L",
    cases=_CASES,
    backends={"torch": f"{__name__}.torch_backend:modulate", "triton": f"{__name__}.triton_kernel:modulate"},
)

modulate_quant = Op(
    "modulate_quant",
    reference=_modulate_quant,
    args=_ARGS,
    out={"x8": T("L C", fp8), "x_scale": T("L 1", f32)},
    flops=lambda d: {"f32": 11 * d.L * d.C},
    tol=_CODES,
    rows="L",
    cases=_CASES,
    backends={
        "torch": f"{__name__}.torch_backend:modulate_quant",
        "triton": f"{__name__}.triton_kernel:modulate_quant",
        "cuda": f"{__name__}.cuda_kernel:modulate_quant",
    },
)

modulate_fp4 = Op(
    "modulate_fp4",
    reference=_modulate_fp4,
    args=_ARGS,
    out=fp4_rows("L", "C"),
    where={"B": FP4_BLOCK},
    require=("C % B == 0",),
    flops=lambda d: {"f32": 11 * d.L * d.C},
    tol=FP4_TOL,
    rows="L",
    cases=[
        Case("tiny", L=7, C=96, A=f32),
        Case("tiny_bf16", L=37, C=96, A=ACT.allowed[1]),
        Case("mxfp4", L=37, C=96, A=ACT.allowed[1], scale_dtype=u8),
        Case("one_row", L=1, C=192, A=ACT.allowed[1]),
        Case("live_512x512", rung="device", L=8192, C=5120, A=ACT.allowed[1]),
        Case("live_416x720", rung="device", L=9360, C=5120, A=ACT.allowed[1]),
        Case("live_512x512_mxfp4", rung="device", L=8192, C=5120, A=ACT.allowed[1], scale_dtype=u8),
    ],
    backends={
        "torch": f"{__name__}.torch_backend:modulate_fp4",
        "triton": f"{__name__}.triton_kernel:modulate_fp4",
    },
)

gate_modulate_quant = Op(
    "gate_modulate_quant",
    reference=_gate_modulate_quant,
    args={"x": T("L C", ACT), "y": T("L C", ACT), "gate": T("C", f32), "mul": T("C", f32), "add": T("C", f32)},
    out={"x_out": T("L C", ACT), "x8": T("L C", fp8), "x_scale": T("L 1", f32)},
    flops=lambda d: {"f32": 13 * d.L * d.C},
    tol=_CODES | {"x_out": ByDtype({bf16: Ulp(1, 0.02, _SUM, floor=1e-6), f32: Rel(2.0, _SUM)})},
    rows="L",
    cases=_CASES,
    backends={
        "torch": f"{__name__}.torch_backend:gate_modulate_quant",
        "triton": f"{__name__}.triton_kernel:gate_modulate_quant",
    },
)
