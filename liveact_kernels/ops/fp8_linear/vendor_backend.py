"""torch's row-wise scaled product (cuBLASLt or CUTLASS, as torch chooses), to compare with."""

import torch

from liveact_kernels.contract import mark


def scaled_mm(a8, a_scale, w8, w_scale, b, out_dtype=torch.bfloat16):
    """reference.fp8_linear with the bias in the library's epilogue, rounded to bf16 as it asks for.

    Without fast accumulation: 14 bits in the tensor core are another contract.
    """
    bias = None if b is None else b.to(torch.bfloat16)
    scales = {"scale_a": a_scale, "scale_b": w_scale[None, :]}
    return torch._scaled_mm(a8, w8.t(), bias=bias, out_dtype=out_dtype, use_fast_accum=False, **scales)


def _takes(d) -> str | None:
    if d.G != 1:
        return f"it wants one activation scale per token, got G={d.G}"
    if d.N % 16 or d.K % 16:
        return f"it wants N and K that 16 divides, got N={d.N} and K={d.K}"
    if d.out_dtype != torch.bfloat16:
        return f"it wants a bfloat16 output, got {d.out_dtype}"
    return None


mark(scaled_mm, takes=_takes)
