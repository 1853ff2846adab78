"""float32 that means float32 on every device."""

import contextlib

import torch


def float32_convolution(x: torch.Tensor) -> contextlib.AbstractContextManager:
    """Inside, cuDNN convolves float32 in float32: by default it rounds the operands to TF32, 10 bits.

    Products need no such care: torch's own default for them is exact.
    """
    if x.dtype != torch.float32 or x.device.type != "cuda":
        return contextlib.nullcontext()
    cudnn = torch.backends.cudnn
    return cudnn.flags(cudnn.enabled, cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)
