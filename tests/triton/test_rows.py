"""Row kernels: the number of rows per program changes no bit, and rows that are zero, huge or broken stay apart."""

import pytest
import torch
from test_parity import GRID

from liveact_kernels.contract import REGISTRY, use

pytest.importorskip("triton.language", reason="triton is not installed: pip install 'liveact[triton]'")
from liveact_kernels import tuned

# The interpreter takes 16 rows a program, a chip one: both are tested.
BY_ROWS = ("modulate", "modulate_quant", "rms_norm", "gate_residual", "quant", "qkv_norm_rope", "quant_fp4")


@pytest.mark.parametrize("op,case", [(op, c) for op, c in GRID if op.name in BY_ROWS and c.rung == "cpu"], ids=str)
def test_rows_per_program_change_no_bit(op, case, device):
    inputs = op.make(case, device)
    results = []
    for rows in (1, 4):
        with use(**{op.name: "triton"}), tuned.pinned(rows=rows):
            got = op(**inputs)
        results.append(got if isinstance(got, tuple) else (got,))
    for one, four in zip(*results):
        assert one is four is None or torch.equal(one.view(torch.uint8), four.view(torch.uint8))


def quantised(name, x):
    """(codes, scales) of `quant` or `modulate_quant` (unit multiplier, no offset) through triton."""
    args = {"x": x}
    if name == "modulate_quant":
        one = torch.ones(x.shape[1], device=x.device)
        args |= {"mul": one, "add": one * 0}
    with use(**{name: "triton"}):
        return REGISTRY[name](**args)


@pytest.mark.parametrize("name", ["quant", "modulate_quant"])
def test_zero_and_huge_rows_keep_finite_scales(name, device):
    x = torch.randn(3, 96, generator=torch.Generator().manual_seed(0)).to(device)
    x[0], x[1] = 0, x[1] * 1e15
    codes, scale = quantised(name, x)
    assert (codes[0].float() == 0).all() and scale[0] == 1e-12 * torch.ones(1, device=device)
    assert scale.isfinite().all() and codes.float().isfinite().all() and codes[1].float().abs().max() == 448


@pytest.mark.parametrize("name", ["quant", "modulate_quant"])
def test_a_broken_value_is_not_hidden_and_leaves_other_rows_alone(name, device):
    x = torch.randn(3, 96, generator=torch.Generator().manual_seed(0)).to(device)
    clean, _ = quantised(name, x)
    x[1, 7] = float("nan")
    codes, _ = quantised(name, x)
    assert codes[1].float().isnan().any()
    assert torch.equal(codes[[0, 2]].view(torch.uint8), clean[[0, 2]].view(torch.uint8))
