"""Tiles of the GEMM and attention kernels: layouts, every configuration's walk over the tiles, the tables behind it."""

import json

import pytest
import torch
from test_parity import reference

from liveact_kernels import ops, tuned
from liveact_kernels.contract import REGISTRY, Case, Op, bf16, poisoned, use
from liveact_kernels.ops.attention import memory_dims

GEMM = Case("many_tiles", M=90, N=256, K=160, G=5, A=bf16, has_b=True)
WINDOW = Case("many_tiles", L=50, R=70, P=45, H=2, D=16, **memory_dims(True))
SEGMENT = Case("many_tiles", L=50, R=70, P=45, H=2, D=16, has_out_old=True, has_lse_old=True, **memory_dims(True))
TEXT = Case("many_tiles", L=50, N=40, I=33, H=3, D=16, A=bf16, pad=5)
AUDIO = Case("many_tiles", L=2 * 33, F=2, N=40, H=3, D=16, A=bf16)
SMALL = {"bm": 16, "bn": 16, "bn_mem": 32}


def run(op: Op, inputs: dict) -> None:
    with use(**{op.name: "triton"}), poisoned():
        got = op(**inputs)
    for name, ok, said in op.check(got, reference(op, inputs)):
        assert ok, f"{op.name}.{name}: {said}"


@pytest.mark.parametrize("halves", (1, 2))
@pytest.mark.parametrize("band", (1, 2, 8))
def test_any_walk_over_the_tiles_covers_the_product(device, halves, band):
    with tuned.pinned(bm=16, bn=32, bk=32, halves=halves, band=band, warps=4):
        run(ops.fp8_linear_gate, ops.fp8_linear_gate.make(GEMM, device))


@pytest.mark.parametrize("ws", (0, 1))
def test_descriptors_made_on_the_chip_read_the_same_tiles(device, ws):
    with tuned.pinned(ws=ws, warps=4, bm=128):
        run(ops.linear_residual, ops.linear_residual.make(GEMM, device))
        run(ops.fp8_linear_gelu, ops.fp8_linear_gelu.make(GEMM, device))


@pytest.mark.parametrize(
    "op,case",
    [
        (ops.attention, WINDOW), (ops.attention_segment, SEGMENT), (ops.cross_attention, TEXT),
        (ops.audio_attention, AUDIO),
    ],
    ids=str,
)  # fmt: skip
def test_attention_in_many_small_tiles(device, op, case):
    with tuned.pinned(**SMALL, heads=2, warps=4):
        run(op, op.make(case, device))


@pytest.mark.parametrize("H,D", ((2, 16), (3, 20)))
def test_attention_reads_and_writes_columns_of_wider_buffers(device, H, D):
    L, C = 40, H * D
    qkv = torch.randn(L, 3 * C, generator=torch.Generator().manual_seed(0)).to(device, bf16)
    q, k, v = (qkv[:, i * C : (i + 1) * C].unflatten(-1, (H, D)) for i in range(3))
    out = torch.full((L, 2 * C), 7.0, dtype=bf16, device=device)
    launch = ops.attention.implementation("triton")  # the kernel can; the op itself takes contiguous tensors only
    launch(out[:, :C].unflatten(-1, (H, D)), q=q, k_new=k, v_new=v, k_mem=None, v_mem=None, k_scale=None, v_scale=None)
    want = ops.attention.reference(q, k, v, None, None, None, None)
    (_, ok, said), *_ = ops.attention.check(out[:, :C].unflatten(-1, (H, D)), want)
    assert ok, said
    assert (out[:, C:] == 7).all()


def test_a_measured_entry_overlays_the_heuristic_for_its_dims_alone(tmp_path, monkeypatch):
    entry = {"source": "test", "ops": {"op": {"M=4,N=8": {"bm": 64}}}}
    (tmp_path / "chip.json").write_text(json.dumps(entry))
    monkeypatch.setattr(tuned.resources, "files", lambda _: tmp_path)
    at = tuned.Limits("chip", 90, 1, 1000)

    def heuristic(at, M, N):
        return {"bm": 16, "warps": at.sms}

    tuned.table.cache_clear()
    try:
        assert tuned.config("op", heuristic, at, M=4, N=8) == {"bm": 64, "warps": 1}
        assert tuned.config("op", heuristic, at, M=5, N=8) == {"bm": 16, "warps": 1}
        with tuned.pinned(warps=2, other=3):
            assert tuned.config("op", heuristic, at, M=4, N=8) == {"bm": 64, "warps": 2}
    finally:
        tuned.table.cache_clear()


def test_shipped_tables_name_ops_that_exist():
    assert "h200" in tuned.tables()
    for chip in tuned.tables():
        assert tuned.table(chip).keys() <= REGISTRY.keys()
