"""Shapes beyond the ops' own cases that a kernel's masks must survive: not multiples of a tile, one row, odd heads."""

from liveact_kernels.contract import Case, bf16, f32

ODD = {
    "modulate": [Case("wide", L=3, C=1280, A=bf16), Case("narrow", L=9, C=20, A=f32)],
}
"""Op name -> cases; they join the op's own "cpu" cases in every test of this folder."""
