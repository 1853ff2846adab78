"""The causal convolution on common.conv: history, padding and residual without a copy."""

from __future__ import annotations

from liveact_kernels.common.conv import candidates, launch_conv
from liveact_kernels.contract import mark


def launch(out, x, w, bias, prev=None, residual=None, stride_t=1, stride=1, interleave=1):
    """See reference.causal_conv3d."""
    launch_conv("causal_conv3d", out, x, w, bias, prev, residual, stride_t, stride, interleave=interleave)


mark(launch, candidates=candidates, requires_sass=("HGMMA", "LDGSTS"))
