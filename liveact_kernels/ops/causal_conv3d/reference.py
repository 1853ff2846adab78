"""Convolution over frames and pixels that never looks ahead, in float64."""

import torch


def causal_conv3d(x, w, bias, prev=None, residual=None, stride_t: int = 1, stride: int = 1, interleave: int = 1):
    """out[f, y, x] = bias + sum over taps of w[:, i, j, t] @ window[f*stride_t+t, y*stride+i, x*stride+j] (+ residual).

    x         [F, H, W, C] activations, channels last; F % stride_t == 0, H and W % stride == 0
    w         [O, KH, KW, KT, C]: one row of a GEMM per output channel, time taps next to the channels they read
    bias      [O]
    prev      [KT-stride_t, H, W, C] the frames before x (the caller's cache); None = zeros
    residual  [F', H', W', O'] added after the bias, in the shape of out
    window    prev and x joined in time (nothing after the last frame), zero-padded in space by K - stride in total,
              the smaller half on the top and left: 1 on each side for 3x3, only right and bottom for 3x3 stride 2
    out       [F*interleave/stride_t, H/stride, W/stride, O/interleave] in x's dtype, fp32 inside; with interleave 2 the
              first half of the output channels is the even video frame and the second half the odd one
    Source    Wan2.1 VAE: CausalConv3d, its 1x1x1 and 2-D convolutions, Resample's time_conv (down: stride_t 2,
              up: interleave 2) and its zero-padded 3x3 stride-2 convolution.
    """
    kh, kw, kt = w.shape[1:4]
    frames, height, width = x.shape[0] // stride_t, x.shape[1] // stride, x.shape[2] // stride
    top, left = (kh - stride) // 2, (kw - stride) // 2
    window = x.new_zeros(x.shape[0] + kt - stride_t, x.shape[1] + kh - stride, x.shape[2] + kw - stride, x.shape[3])
    window = window.double()
    window[kt - stride_t :, top : top + x.shape[1], left : left + x.shape[2]] = x.double()
    if prev is not None:
        window[: kt - stride_t, top : top + x.shape[1], left : left + x.shape[2]] = prev.double()
    out = bias.double().expand(frames, height, width, -1)
    for i, j, t in torch.cartesian_prod(*(torch.arange(k) for k in (kh, kw, kt))).tolist():
        rows, columns = slice(i, i + height * stride, stride), slice(j, j + width * stride, stride)
        out = out + window[t : t + frames * stride_t : stride_t, rows, columns] @ w[:, i, j, t].double().T
    if interleave > 1:
        halves = out.chunk(interleave, -1)
        out = torch.stack(halves, 1).flatten(0, 1)
    return out if residual is None else out + residual.double()
