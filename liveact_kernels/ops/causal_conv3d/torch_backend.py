"""Plain eager torch: any device, differentiable.

Frames are the batch and the time taps lie beside the channels, so every kernel size is one 2-D convolution: torch has a
fast channels-last one on every device, while its float32 3-D one on a CPU is ten times slower.
"""

import torch
import torch.nn.functional as F

from liveact_kernels.common.exact import float32_convolution


def causal_conv3d(x, w, bias, prev=None, residual=None, stride_t=1, stride=1, interleave=1):
    """See reference.causal_conv3d. The convolution is rounded before the residual is added: torch fuses no epilogue."""
    o, kh, kw, kt, _ = w.shape
    x = _beside(x, prev, kt, stride_t)
    if kh == kw == stride == 1:
        out = F.linear(x, w.reshape(o, -1), bias)
    else:
        flat, padding = w.reshape(o, kh, kw, -1).permute(0, 3, 1, 2), (kh // 2, kw // 2)
        if stride > 1:  # right and bottom only
            x, padding = F.pad(x, (0, 0, 0, kw - stride, 0, kh - stride)), 0
        with float32_convolution(x):
            out = F.conv2d(x.permute(0, 3, 1, 2), flat, bias, stride, padding).permute(0, 2, 3, 1)
    if interleave > 1:
        out = out.unflatten(-1, (interleave, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1)
    return (out if residual is None else out + residual).contiguous()


def _beside(x, prev, kt, stride_t):
    """[F, H, W, C] -> [F/stride_t, H, W, KT*C]: the frames each output reads, oldest first."""
    if kt == 1:
        return x
    history = kt - stride_t
    if prev is None:
        prev = x.new_zeros(history, *x.shape[1:])
    x = torch.cat((prev, x))
    last = x.shape[0] - kt + 1
    return torch.cat([x[t : t + last : stride_t] for t in range(kt)], -1)
