"""torch's own functions that encoders and VAEs call between the ops, on this machine's processor against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from ..contract import ByDtype, Rel, bf16, cast, f32

TOL = ByDtype({f32: Rel(200.0, "fp32 sums; rows may cancel"), bf16: Rel(2.0, "fp32 sums, two roundings")})


class Primitive(NamedTuple):
    """One function of torch in one dtype.

    call    (inputs...) -> output; float64 inputs give the reference, by torch's plain loops instead of oneDNN's code
    shapes  of the inputs: values first, then weights, drawn so that a sum of products is of size 1
    user    who calls it, or None: nothing here does
    """

    name: str
    dtype: torch.dtype
    call: Callable[..., torch.Tensor]
    shapes: tuple[tuple[int, ...], ...]
    user: str | None

    def wrong(self) -> str | None:
        """What is wrong with it here, None if nothing is."""
        g, made = torch.Generator().manual_seed(0), []
        for i, shape in enumerate(self.shapes):
            fan = torch.Size(shape[1:]).numel() if i and len(shape) > 1 else 1
            made.append(cast(torch.randn(shape, generator=g) * fan**-0.5, self.dtype))
        with torch.no_grad():
            got, want = self.call(*made), self.call(*(x.double() for x in made))
        found = TOL.measure(got.flatten(0, -2), want.flatten(0, -2))
        return None if found.ok else found.said


def _grouped(x, w, b):
    return F.conv1d(x, w, b, padding=w.shape[-1] // 2, groups=x.shape[1] // w.shape[1])


def _attention(q, k, v):
    return F.scaled_dot_product_attention(q, k / 4, v)


_HEADS = (2, 3, 40, 32)
_BOTH: dict[str, tuple[Callable[..., torch.Tensor], tuple[tuple[int, ...], ...], str]] = {
    "linear": (F.linear, ((33, 256), (320, 256), (320,)), "every network"),
    "scaled_dot_product_attention": (_attention, (_HEADS, _HEADS, _HEADS), "the encoders"),
    "layer_norm": (lambda x, w, b: F.layer_norm(x, w.shape, w, b), ((33, 96), (96,), (96,)), "the encoders"),
    "gelu": (F.gelu, ((33, 96),), "the encoders"),
    "silu": (F.silu, ((33, 96),), "denoiser and VAEs"),
    "group_norm": (lambda x: F.group_norm(x, 4), ((2, 16, 9, 9),), "the small VAE"),
    "conv1d, one channel": (lambda x, w: F.conv1d(x, w, stride=5), ((1, 1, 900), (32, 1, 10)), "the audio encoder"),
    "conv1d": (lambda x, w: F.conv1d(x, w, stride=2), ((1, 64, 101), (64, 64, 3)), "the audio encoder"),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), ((2, 32, 9, 11), (48, 32, 3, 3), (48,)), "the VAEs"),
    "conv2d, stride 2": (lambda x, w, b: F.conv2d(x, w, b, 2, 1), ((1, 32, 8, 8), (48, 32, 4, 4), (48,)), "the VAEs"),
    "conv_transpose2d": (lambda x, w: F.conv_transpose2d(x, w, None, 2), ((1, 32, 6, 7), (32, 8, 2, 2)), "the VAEs"),
    "interpolate": (
        lambda x: F.interpolate(x, size=18, mode="linear", align_corners=True), ((1, 32, 37),), "the audio encoder"
    ),
}  # fmt: skip
_GROUPS = {"16 groups of 4": ((1, 64, 40), (64, 4, 128), (64,)), "4 groups of 4": ((1, 16, 40), (16, 4, 16), (16,))}

PRIMITIVES = [
    *(Primitive(n, dtype, call, shapes, user) for n, (call, shapes, user) in _BOTH.items() for dtype in (f32, bf16)),
    *(
        Primitive(f"conv1d, {n}", dtype, _grouped, shapes, user)
        for n, shapes in _GROUPS.items()
        for dtype, user in ((f32, "the audio encoder"), (bf16, None))
    ),
]
"""The last kind: oneDNN 3.12 is wrong there in bf16 on processors with AMX, so nothing here calls it."""
