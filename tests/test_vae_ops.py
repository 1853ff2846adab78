"""The cost of the Wan VAE, and what is special about its ops (tests/test_ops.py has what all ops share)."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from liveact_app.verify.golden import rel_l2
from liveact_kernels.common.exact import float32_convolution
from liveact_kernels.contract import record
from liveact_kernels.ops.causal_conv3d import causal_conv3d
from liveact_kernels.ops.frame_attention import frame_attention
from liveact_kernels.ops.norm_silu import norm_silu
from liveact_kernels.ops.upsample_conv import upsample_conv
from liveact_model.vae.wan import WanVAE

VAE_OPS = (causal_conv3d, norm_silu, upsample_conv, frame_attention)


@pytest.mark.parametrize("h,w,block,released,encode", [(64, 64, 71.0, 91.7, 70.3), (90, 52, 81.2, 104.8, 80.4)])
def test_cost_of_the_released_size(h, w, block, released, encode):
    """TFLOP counted by the recorder on the meta device, against counts made from the released code."""

    def tflop(call):
        with record() as calls:
            out = call()
        total = Counter()
        for c in calls:
            total.update(c.op.flops(c.dims))
        return total["bf16"] / 1e12, tuple(out.shape)

    with torch.device("meta"):
        full = WanVAE().to(torch.bfloat16)
        decoder, z = full.stream(), torch.empty(16, 8, h, w)
        decoder.decode(z[:, :6])
        assert tflop(lambda: decoder.decode(z)) == (pytest.approx(block, abs=0.06), (3, 32, 8 * h, 8 * w))
        assert tflop(lambda: full.decode_released(z[:, :3], z))[0] == pytest.approx(released, abs=0.06)
        assert tflop(lambda: full.encode(torch.empty(3, 53, 8 * h, 8 * w)))[0] == pytest.approx(encode, abs=0.06)


@pytest.mark.parametrize("op", VAE_OPS, ids=str)
def test_torch_backends_are_differentiable(op):
    case = next(c for c in op.cases if c.dims["A"] == torch.float32)
    made = op.make(case)
    grads = []
    for run in (op, op.reference):
        leaves = {k: v.clone().requires_grad_() if isinstance(v, torch.Tensor) else v for k, v in made.items()}
        out = run(**leaves)
        (out.double() * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
        grads.append({k: v.grad for k, v in leaves.items() if isinstance(v, torch.Tensor)})
    for name, grad in grads[0].items():
        assert rel_l2(grad, grads[1][name]) < 1e-5, name


def test_convolution_in_two_chunks_is_the_convolution_of_the_whole():
    made = causal_conv3d.make(causal_conv3d.cases[0])
    x, residual = made["x"], made["residual"]
    whole = causal_conv3d(**made)
    second = made | {"x": x[2:], "prev": x[:2], "residual": residual[2:]}
    assert torch.allclose(causal_conv3d(**second), whole[2:], atol=1e-6)
    zeros = made | {"prev": torch.zeros_like(made["prev"])}
    assert torch.allclose(causal_conv3d(**(made | {"prev": None})), causal_conv3d(**zeros), atol=1e-6)


def test_convolution_refuses_shapes_that_do_not_fit():
    made = causal_conv3d.make(causal_conv3d.cases[0])
    for change, said in (
        ({"prev": made["prev"][:1]}, "prev must be"),
        ({"residual": made["residual"][:, :-1]}, "residual must be"),
        ({"x": made["x"][:, :, :3], "prev": None, "residual": None, "stride": 2}, "needs H % stride == 0"),
        ({"stride_t": 2, "prev": None, "residual": None}, "needs F % stride_t == 0"),
    ):
        with pytest.raises(ValueError, match=said):
            causal_conv3d(**(made | change))


def test_norm_of_nothing_is_nothing():
    out = norm_silu(x=torch.zeros(1, 2, 2, 8), gamma=torch.ones(8))
    assert torch.equal(out, torch.zeros(1, 2, 2, 8))


def test_float32_convolutions_are_not_rounded_to_tf32(monkeypatch):
    """A GPU's default; here a tensor only pretends to be on one."""
    before = torch.backends.cudnn.allow_tf32
    for dtype, place, allowed in (
        (torch.float32, "cuda", False),
        (torch.bfloat16, "cuda", before),
        (torch.float32, "cpu", before),
    ):
        with float32_convolution(SimpleNamespace(dtype=dtype, device=torch.device(place))):
            assert torch.backends.cudnn.allow_tf32 == allowed and torch.backends.cudnn.enabled
    assert torch.backends.cudnn.allow_tf32 == before is True
