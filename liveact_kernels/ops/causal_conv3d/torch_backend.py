"""Plain eager torch: any device, differentiable.

Frames are the batch and the time taps lie beside the channels, so every kernel size is one 2-D convolution: torch has a
fast channels-last one on every device, while its float32 3-D one on a CPU can be ten times slower. Outside autograd
oneDNN's own 3-D one is asked by name there: it reads every frame once instead of a copy for each tap.
"""

import torch
import torch.nn.functional as F

from liveact_kernels.common.exact import float32_convolution
from liveact_kernels.common.products import by_onednn, product


def causal_conv3d(x, w, bias, prev=None, residual=None, stride_t=1, stride=1, interleave=1):
    """See reference.causal_conv3d. The convolution is rounded before the residual is added: torch fuses no epilogue."""
    o, kh, kw, kt, _ = w.shape
    if kh == kw == stride == 1:
        out = product(_beside(x, prev, kt, stride_t), w.reshape(o, -1), bias)
    elif kt > 1 and stride == interleave == 1 and by_onednn(x):
        return _volume(_joined(x, prev, kt - stride_t), w, bias, residual, stride_t)
    else:
        x = _beside(x, prev, kt, stride_t)
        flat, padding = w.reshape(o, kh, kw, -1).permute(0, 3, 1, 2), (kh // 2, kw // 2)
        if stride > 1:  # right and bottom only
            x, padding = F.pad(x, (0, 0, 0, kw - stride, 0, kh - stride)), 0
        with float32_convolution(x):
            out = F.conv2d(x.permute(0, 3, 1, 2), flat, bias, stride, padding).permute(0, 2, 3, 1)
    if interleave > 1:
        out = out.unflatten(-1, (interleave, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1)
    return (out if residual is None else out + residual).contiguous()


def _volume(x, w, bias, residual, stride_t):
    """oneDNN's 3-D convolution of x [F, H, W, C], with the residual in its epilogue; see `products`."""

    def volume(frames):  # [F, H, W, C] -> [1, C, F, H, W], channels last in memory
        return frames.permute(3, 0, 1, 2)[None]

    taps = w.permute(0, 4, 3, 1, 2).contiguous(memory_format=torch.channels_last_3d)
    shape = (0, w.shape[1] // 2, w.shape[2] // 2), (stride_t, 1, 1), (1, 1, 1), 1
    convolve = torch.ops.mkldnn._convolution_pointwise
    if residual is None:
        out = convolve(volume(x), taps, bias, *shape, "none", [], "")
    else:
        out = convolve.binary(volume(x), volume(residual), taps, bias, *shape, "add", None, None, [], None)
    return out[0].permute(1, 2, 3, 0).contiguous()


def _joined(x, prev, history):
    """The frames before x, zeros where there are none, and x."""
    return torch.cat((x.new_zeros(history, *x.shape[1:]) if prev is None else prev, x))


def _beside(x, prev, kt, stride_t):
    """[F, H, W, C] -> [F/stride_t, H, W, KT*C]: the frames each output reads, oldest first."""
    if kt == 1:
        return x
    x = _joined(x, prev, kt - stride_t)
    last = x.shape[0] - kt + 1
    return torch.cat([x[t : t + last : stride_t] for t in range(kt)], -1)
