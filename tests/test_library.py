"""torch.library: opcheck of every op, and the denoiser as one graph."""

import pytest
import small
import torch

from liveact_kernels.contract import REGISTRY, library
from liveact_kernels.ops.kv_compress import FIRST, STEADY

library.register()
CASES = [(op, case) for op in REGISTRY.values() for case in op.cases if case.rung == "cpu"]


def arguments(op, case):
    made = op.make(case)
    values = [made[a] for a in op.args] + [made[s] for s in op.scalars]
    return [library.flat(v) if isinstance(v, tuple) else v for v in values]


@pytest.mark.parametrize("op,case", CASES, ids=str)
def test_opcheck(op, case):
    """Schema, fake and dispatch agree; the torch backend differentiates by itself, so there is no autograd formula."""
    values = arguments(op, case)
    e4m3 = any(isinstance(v, torch.Tensor) and v.dtype == torch.float8_e4m3fn for v in values)
    tests = ("test_faketensor",) if e4m3 else ("test_schema", "test_faketensor")  # test_schema cannot compare e4m3
    torch.library.opcheck(getattr(torch.ops.liveact, op.name).default, values, test_utils=tests)


@pytest.mark.parametrize("op,case", CASES, ids=str)
def test_out_variant_writes_what_the_op_returns(op, case):
    values = arguments(op, case)
    fresh = getattr(torch.ops.liveact, op.name)(*values)
    fresh = [fresh] if isinstance(fresh, torch.Tensor) else list(fresh)
    outs = [torch.zeros_like(f) if f.numel() else None for f in fresh]
    getattr(torch.ops.liveact, f"{op.name}_out")(*values, *outs)
    for f, o in zip(fresh, outs):
        assert o is None or torch.equal(f.view(torch.uint8), o.view(torch.uint8))


def test_schedules_survive_the_schema():
    for schedule in (FIRST, STEADY):
        assert library.unflat(library.flat(schedule)) == schedule


@pytest.mark.parametrize("options", [{}, {"eight_bit": True, "eight_bit_attention": True}], ids=["", "8-bit"])
def test_the_denoiser_is_one_graph(options):
    """Two blocks, the second against a window, traced whole; equal to eager, memory written in place included."""
    dit = small.dit()
    g = torch.Generator().manual_seed(0)
    c = dit.config
    image = dit.image_kv(torch.randn(c.clip_tokens, c.clip_dim, generator=g))
    prompt, time = dit.prompt(torch.randn(3, c.text_dim, generator=g), image), dit.at(937.5)
    heard = dit.hear(torch.randn(8, 8, c.audio_blocks, c.audio_channels, generator=g))
    x = torch.randn(c.out_dim, 14, 4, 4, generator=g)
    y = torch.randn(c.in_dim - c.out_dim, 14, 4, 4, generator=g)

    def run(forward):
        window, out = dit.window(2, 2, **options), []
        blocks = ((True, slice(0, 6), None), (False, slice(6, 14), heard), (False, slice(6, 14), heard))
        for first, part, audio in blocks:
            out.append(forward(x[:, part].contiguous(), y[:, part], time, prompt, audio, window, first))
        return out, [t.clone() for m in window.layers.values() for t in m.tensors()]

    with torch.inference_mode():
        want, memory = run(dit)
        got, traced = run(torch.compile(dit, fullgraph=True, backend="aot_eager"))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(want, got))
    assert all(torch.allclose(a.float(), b.float(), atol=1e-6) for a, b in zip(memory, traced))
