"""Activations to packed e2m1 codes with a scale per block: nvfp4 or mxfp4, by the dtype of the scales."""

import torch

from liveact_kernels.common.fp4 import FP4_BLOCK, fp4_rows, quantise_fp4
from liveact_kernels.contract import ACT, ByDtype, Case, Nibbles, Op, T, Ulp, bf16, f32, fp8, u8

from .reference import quant_fp4 as reference


def torch_backend(x, scale_dtype=torch.float8_e4m3fn):
    """Plain eager torch: any device."""
    return quantise_fp4(x, scale_dtype)


quant_fp4 = Op(
    "quant_fp4",
    reference=reference,
    args={"x": T("L C", ACT)},
    out=fp4_rows("L", "C"),
    where={"B": FP4_BLOCK},
    require=("C % B == 0",),
    flops=lambda d: {"f32": 3 * d.L * d.C},
    tol={
        "x4": Nibbles(1, 0.002, "an fp32 product beside a quotient moves float32 values next to a tie"),
        "x_scale": ByDtype({fp8: Ulp(1, 0.002, "one fp32 division"), u8: Ulp(0, 0.0, "an exponent")}),
        "x_row": Ulp(0, 0.0, "a power of two"),
    },
    rows="L",
    cases=[
        Case("tiny", L=7, C=96, A=bf16),
        Case("mxfp4", L=7, C=96, A=bf16, scale_dtype=u8),
        Case("float32", L=5, C=208, A=f32),
        Case("float32_mxfp4", L=5, C=224, A=f32, scale_dtype=u8),
        Case("live_512x512", rung="device", L=8192, C=5120, A=bf16),
        Case("live_512x512_mxfp4", rung="device", L=8192, C=5120, A=bf16, scale_dtype=u8),
    ],
    backends={"torch": torch_backend, "triton": f"{__name__}.triton_kernel:launch"},
)
