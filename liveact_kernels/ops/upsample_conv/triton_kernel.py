"""Upsampling and convolution on common.conv: the enlarged frame is an address."""

from __future__ import annotations

from liveact_kernels.common.conv import candidates, launch_conv
from liveact_kernels.contract import mark


def launch(out, x, w, bias):
    """See reference."""
    launch_conv("upsample_conv", out, x, w.unsqueeze(3), bias, up=2)


mark(launch, candidates=candidates, requires_sass=("HGMMA", "LDGSTS"))
