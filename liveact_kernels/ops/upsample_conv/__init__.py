"""Nearest x2 and a 3x3 convolution: the upsampled frame need not exist."""

import torch.nn.functional as F

from liveact_kernels.common.exact import float32_convolution
from liveact_kernels.contract import ACT, Case, Op, T, bf16, compute_kind, f32
from liveact_kernels.ops.causal_conv3d import CONV_TOL, unit_rows
from liveact_kernels.ops.causal_conv3d.reference import causal_conv3d


def reference(x, w, bias):
    """out = conv3x3(nearest-x2(x)) + bias, zero padding of one pixel after the upsampling, frame by frame.

    x [F, H, W, C] activations; w [O, 3, 3, C]; bias [O]; out [F, 2H, 2W, O] in x's dtype, fp32 inside, one rounding.
    Source: Wan2.1 VAE, Resample upsample2d (nearest-exact, scale 2, then Conv2d 3x3 with C -> C/2).
    """
    return causal_conv3d(x.repeat_interleave(2, 1).repeat_interleave(2, 2), w.unsqueeze(3), bias)


def torch_backend(x, w, bias):
    """Plain eager torch: any device, differentiable; it writes the upsampled frames once."""
    up = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="nearest-exact")
    with float32_convolution(x):
        return F.conv2d(up, w.permute(0, 3, 1, 2), bias, padding=1).permute(0, 2, 3, 1).contiguous()


upsample_conv = Op(
    "upsample_conv",
    reference=reference,
    args={"x": T("F H W C", ACT), "w": T("O 3 3 C", ACT, draw=unit_rows), "bias": T("O", ACT)},
    out={"out": T("F 2*H 2*W O", ACT)},
    # Nine taps per output pixel, as the network defines it; summing the taps that meet one input pixel needs four.
    flops=lambda d: {compute_kind(d.A): 2 * d.F * 4 * d.H * d.W * d.O * 9 * d.C},
    tol=CONV_TOL,
    rows="F",
    cases=[
        Case("tiny", F=2, H=3, W=4, C=16, O=8, A=bf16),
        Case("tiny_f32", F=1, H=2, W=5, C=6, O=3, A=f32),
        Case("wide", F=1, H=3, W=2, C=32, O=96, A=bf16),
        Case("live_512x512_up96", rung="device", F=32, H=256, W=256, C=192, O=96, A=bf16),
        Case("live_512x512_up192", rung="device", F=32, H=128, W=128, C=384, O=192, A=bf16),
        Case("live_720x416_up192", rung="device", F=16, H=90, W=52, C=384, O=192, A=bf16),
    ],
    backends={
        "torch": torch_backend, "triton": f"{__name__}.triton_kernel:launch",
        "cuda": "liveact_kernels.ops.causal_conv3d.cuda_kernel:upsample_conv",
    },
)  # fmt: skip
