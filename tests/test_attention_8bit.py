"""The 8-bit path as a chain: what head_major lays out is what attention_8bit reads."""

import pytest
import torch

from liveact_kernels import ops
from liveact_kernels.common.mma_order import from_mma_order, to_mma_order
from liveact_kernels.common.quantise import dequantise, per_group
from liveact_kernels.contract import f32, int8


def test_mma_order_has_an_inverse_and_keeps_groups_of_16():
    tokens = torch.arange(64)
    there = to_mma_order(tokens)
    assert there[:16].tolist() == [0, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]
    assert torch.equal(there // 16, tokens // 16) and torch.equal(from_mma_order(there), tokens)


@pytest.mark.parametrize("memory", [0, 30])
def test_the_chain_is_attention_over_what_the_codes_stand_for(memory):
    g = torch.Generator().manual_seed(0)
    L, H, D = 150, 2, 32

    def quantised(rows, dtype):
        # Rows of very different size: neighbours then meet at one scale.
        x = torch.randn(rows, H, D, generator=g) * 2.0 ** torch.randint(-2, 3, (rows, H, 1), generator=g)
        codes, scale = per_group(x, 1, dtype, power_of_two=dtype != int8)
        return codes, scale.squeeze(-1), dequantise(codes, scale)

    q, q_scale, q_values = quantised(L, int8)
    args, plain = {"q": q, "q_scale": q_scale, "out_dtype": f32}, {"q": q_values}
    for part, rows in (("new", L), ("mem", memory)):
        if rows:
            (k, k_scale, k_values), (v, v_scale, v_values) = quantised(rows, int8), quantised(rows, torch.float8_e4m3fn)
            v_t, k_scale_t, v_scale_t = ops.head_major(v=v, k_scale=k_scale, v_scale=v_scale)
            args |= {f"k_{part}": k, f"v_{part}": v_t, f"k_{part}_scale": k_scale_t, f"v_{part}_scale": v_scale_t}
            plain |= {f"k_{part}": k_values, f"v_{part}": v_values}
    got, _ = ops.attention_8bit(**args)
    torch.testing.assert_close(got, ops.attention(**plain), rtol=1e-4, atol=1e-4)
