"""The VAE decoder's 3x3 convolutions in CUDA C++ for sm_90a (csrc/ops/causal_conv3d): which tile, and the call."""

from __future__ import annotations

import torch

from liveact_kernels import tuned
from liveact_kernels.common.cuda import addresses, enqueue
from liveact_kernels.contract import Dims, bf16, mark

PIXELS, CHANNELS = 256, 32  # as csrc/ops/causal_conv3d has them: of a block's tile; of a stage
PATCHES = (8, 16, 32)
"""Pixels across a tile's patch; the fewest rows above and below the patch come with the first."""
FEW_COLUMNS, FEW_PATCH = 24, 16
"""Of a tile for few output channels: 8 columns for each horizontal tap; pixels across its patch, 2 more than made."""
MOST = 1 << 31  # places in the output are 32-bit numbers
FEW, PART, WIDE = 8, 96, (96, 192, 288, 384)  # output channels: few at most, of the narrow tile, those of many
_WIDE = "96, 192, 288 or 384"


def part(N: int) -> int:
    """Columns of a tile: its output channels, unless they are few."""
    return FEW_COLUMNS if N <= FEW else 2 * PART if N % (2 * PART) == 0 else PART


def tiles(H: int, W: int, pw: int, bn: int, up: int = 1) -> int:
    """Tiles of a frame of H x W pixels read (up 2: each of them four pixels out), for one part of the channels."""
    return -(-W // (pw - 2 if bn == FEW_COLUMNS else pw)) * -(-H // (PIXELS // up**2 // pw))


def patch(op: str, at: tuned.Limits, H: int, W: int, N: int, up: int = 1) -> int:
    """Pixels across a tile's patch."""
    return FEW_PATCH if N <= FEW else tuned.config(f"{op}.cuda", _heuristic, at, H=H, W=W, up=up)["pw"]


def stage_bytes(pw: int, bn: int, up: int = 1) -> tuple[int, int]:
    """(of pixels, of weights) that a stage copies."""
    patches, row = (1, 2)[up > 1], 2 * CHANNELS
    return patches * (PIXELS // up**2 + 2 * pw) * row, 3 * bn * row


def _heuristic(at: tuned.Limits, H: int, W: int, up: int) -> dict[str, int]:
    """The patch that covers the frame with the fewest tiles."""
    return {"pw": min(PATCHES, key=lambda pw: tiles(H, W, pw, PART, up))}


def _refused(d: Dims, pixels: int) -> str | None:
    if d.A != bf16:
        return f"needs bf16, got {d.A}"
    if d.C % CHANNELS:
        return f"needs C in multiples of {CHANNELS}, got {d.C}"
    count = d.F * pixels * d.O
    return None if count < MOST else f"needs an output of fewer than 2^31 numbers, got {count}"


def takes(d: Dims) -> str | None:
    """Why the kernel does not take these dims, or None."""
    if (d.KH, d.KW) != (3, 3) or d.KT not in (1, 3):
        return f"needs 3x3 pixels and 1 or 3 frames, got {d.KT}x{d.KH}x{d.KW}"
    if d.stride != 1 or d.stride_t != 1 or d.interleave != 1:
        return "needs stride, stride_t and interleave of 1"
    if d.O > FEW and d.O not in WIDE:
        return f"needs at most {FEW} output channels, {_WIDE}, got {d.O}"
    return _refused(d, d.H * d.W)


def takes_up(d: Dims) -> str | None:
    """Why the kernel does not take these dims of upsample_conv, or None."""
    return f"needs {_WIDE} output channels, got {d.O}" if d.O not in WIDE else _refused(d, 4 * d.H * d.W)


def operands(out, x, w, bias, prev=None, residual=None) -> list[int]:
    """What the C++ function takes, without the stream."""
    (F, H, W, C), (N, KT) = x.shape, (w.shape[0], w.shape[3])
    at = tuned.limits(x.device)
    pw = patch("causal_conv3d", at, H, W, N)
    pointers = addresses("causal_conv3d", out=out, x=x, w=w, bias=bias, prev=prev, residual=residual)
    return [*pointers, F, H, W, C, N, KT, pw, at.sms]


def operands_up(out, x, w, bias) -> list[int]:
    """What the C++ function of upsample_conv takes, without the stream."""
    (F, H, W, C), N = x.shape, w.shape[0]
    at = tuned.limits(x.device)
    pw = patch("upsample_conv", at, H, W, N, up=2)
    return [*addresses("upsample_conv", out=out, x=x, w=w, bias=bias), F, H, W, C, N, pw, at.sms]


def launch(
    out: torch.Tensor, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor, prev: torch.Tensor | None = None,
    residual: torch.Tensor | None = None, stride_t: int = 1, stride: int = 1, interleave: int = 1,
) -> None:  # fmt: skip
    """See reference.causal_conv3d; strides and interleave are 1."""
    enqueue("causal_conv3d", x.device, *operands(out, x, w, bias, prev, residual))


def upsample_conv(out: torch.Tensor, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor) -> None:
    """See ops.upsample_conv.reference."""
    enqueue("upsample_conv", x.device, *operands_up(out, x, w, bias))


mark(launch, takes=takes, requires_sass=("HGMMA", "UTMALDG.4D", "UTMALDG.2D", "USETMAXREG", "LDG.E.128", "STG.E.128"))
mark(upsample_conv, takes=takes_up, requires_sass=("HGMMA", "UTMALDG.4D", "UTMALDG.2D", "USETMAXREG", "STG.E.128"))
