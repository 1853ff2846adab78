"""The predictor's parts on small machine code: parsing, loops, the replay, the check of multiply-adds."""

from __future__ import annotations

import dataclasses

import pytest
from sass_text import PRODUCT, PRODUCT_WORK, listing, product_cubin

from liveact_kernels.compiled.predict import Unpredictable, code, estimate, rates
from liveact_kernels.compiled.predict.explain import ISSUE, iterations
from liveact_kernels.compiled.predict.flow import blocks, loops
from liveact_kernels.compiled.predict.launches import Launch
from liveact_kernels.compiled.predict.paths import cost, limits
from liveact_kernels.compiled.predict.setting import Setting, resident
from liveact_kernels.compiled.predict.simulate import Copies, Memory, Simulation
from liveact_kernels.compiled.predict.work import KERNELS, LOOPS, Work

H200 = rates.MACHINES["h200"]


def run(*instructions, warps: int = 1, blocks: int = 1, memory: Memory | None = None, refill=None) -> Simulation:
    """The instructions replayed by some warps; `.time` is how long it took."""
    trace = [(i, 0) for i in listing(*instructions) if not isinstance(i, str)]
    sim = Simulation(H200, [trace] * blocks, warps, memory, Copies(), refill)
    sim.time = sim.run()
    return sim


@pytest.fixture
def product(monkeypatch):
    monkeypatch.setattr(code, "load", product_cubin)
    return PRODUCT


def test_control_bits_of_an_instruction():
    (i,) = listing(("@!P0 LDG.E.128 R4, [R2.64+0x10]", {"stall": 3, "sets": 2, "reads": 1, "waits": (0, 5)}))
    assert (i.predicate, i.op, i.stall, i.writes, i.reads, i.waits) == ("@!P0", "LDG.E.128", 3, 2, 1, (0, 5))
    assert (i.base, i.pipe, i.cost, i.offset) == ("LDG", "memory", 16, 16)


@pytest.mark.parametrize(
    ("op", "pipe", "cycles"),
    [("FFMA", "fma", 1), ("IMAD.WIDE", "imad", 4), ("MUFU.EX2", "special", 8), ("LDS.128", "memory", 16), ("LOP3.LUT",
     "alu", 2), ("UIADD3", "uniform", 2), ("BAR.SYNC", "control", 0), ("QGMMA.64x128x32.F32.E4M3.E4M3", "tensor", 0)],
)  # fmt: skip
def test_pipes(op, pipe, cycles):
    assert rates.pipe(op) == (pipe, cycles)


def test_shapes_of_tensor_core_instructions():
    group, warp = rates.product("QGMMA.64x128x32.F32.E4M3.E4M3"), rates.product("HMMA.16816.F32.BF16")
    assert group.macs == 64 * 128 * 32 / 4 and rates.product_cycles(group, False) == 64
    assert warp.macs == 16 * 8 * 16 and rates.product("FFMA") is None


def test_loops_spins_and_cold_blocks():
    found = blocks(listing(
        ".L_x_0:", "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2", "@!P0 BRA `(.L_x_0)",
        ".L_x_4:", "SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR4], R2", "@P0 BRA `(.L_x_1)", "BRA `(.L_x_4)",
        ".L_x_1:", "FADD R1, R1, R2", ".L_x_2:", "FMUL R3, R3, R3", "@P1 BRA `(.L_x_2)", "@P2 BRA `(.L_x_1)",
        "@P3 BRA `(.L_x_3)", "EXIT", ".L_x_3:", "CALL.REL.NOINC `($slow)", "EXIT",
    ))  # fmt: skip
    outer, inner = loops(found)
    assert (outer.depth, inner.depth, inner.parent) == (1, 2, 0)
    assert [b.code[0].base for b in found if b.cold] == ["CALL"]


def test_a_scoreboard_holds_the_reader_until_the_load_is_back():
    load = ("LDG.E R4, [R2.64]", {"sets": 0})
    near = run(load, ("FADD R5, R4, R4", {"waits": (0,)})).time
    far = run(load, ("FADD R5, R4, R4", {"waits": (0,)}), memory=Memory(dram=1.0)).time
    assert far - near == rates.LATENCY["dram"] - rates.LATENCY["l2"] and near > rates.LATENCY["l2"]
    assert run(load, "FADD R5, R4, R4").time < 5


def test_special_functions_and_stalls_set_the_pace():
    assert run(*["MUFU.EX2 R1, R1"] * 33).time - run(*["MUFU.EX2 R1, R1"] * 17).time == 16 * 8
    assert run(*[("FADD R1, R1, R1", {"stall": 4})] * 9).time >= 33
    assert run(*["LOP3.LUT R1, R1, R1, R1, 0x0, !PT"] * 16, warps=2).time >= 62  # 32 of them at one every 2 cycles


def test_warps_meet_at_a_barrier_in_every_block_of_a_place():
    slow = [("LDG.E R4, [R2.64]", {"sets": 0}), ("BAR.SYNC.DEFER_BLOCKING 0x0", {"waits": (0,)}), "EXIT"]
    left = iter([[(i, 0) for i in listing(*slow)]])
    sim = run(*slow, warps=2, refill=lambda: next(left, None))
    assert len(sim.ends) == 2
    each = rates.LATENCY["l2"] + rates.LATENCY["barrier"]
    assert sim.ends[0] > each and sim.ends[1] - sim.ends[0] > each + rates.REFILL


def test_products_queue_and_are_waited_for():
    one = "QGMMA.64x128x32.F32.E4M3.E4M3 R24, gdesc[UR4], RZ, !UPT, gsb0"
    alone = run(one, "WARPGROUP.DEPBAR.LE gsb0, 0x0").time
    four = run(*[one] * 4, "WARPGROUP.DEPBAR.LE gsb0, 0x0").time
    assert four - alone == pytest.approx(3 * rates.product_cycles(rates.product(one.split()[0]), True), abs=2)
    assert run(*[one] * 4, "WARPGROUP.DEPBAR.LE gsb0, 0x4").time < alone


def test_warps_that_wait_for_each_other_for_ever_are_said():
    trace = [(i, 0) for i in listing("BAR.SYNC.DEFER_BLOCKING 0x0", "EXIT")]
    sim = Simulation(H200, [trace], 2, None, Copies())
    sim.warps[1].trace = trace[1:]
    with pytest.raises(Unpredictable, match=r"wait for each other for ever at BAR\.SYNC"):
        sim.run()


def test_cost_is_a_sum_of_pipes():
    c = cost(listing("FFMA R1, R1, R1, R1", "IMAD R1, R1, R1, R1", "LDG.E.128 R4, [R2.64]"))
    assert (c["issue"], c["fma"], c["imad"], c["loaded"]) == (3, 1, 2, 512)
    assert limits(c, 8)["issue"] == 6


def test_what_holds_blocks_on_an_sm():
    assert resident(H200, 255, 256, 0) == (1, "registers")
    assert resident(H200, 32, 128, 100 * 1024) == (2, "shared memory")


def test_a_compiled_product(product):
    found = estimate.predict(product, H200, {"fp8": 2.0 * 512**3}, 786432.0, PRODUCT_WORK)
    assert found.macs == 512**3
    assert found.cycles == EXPECTED, "the model has changed: look at every prediction, then at profiles/predicted.json"
    assert found.us >= found.bound_us == max(found.limits.values())


EXPECTED = {"step": 996, "tile end": 654}


def test_where_a_steady_iteration_goes(product):
    (one,) = iterations(Setting(product, H200, PRODUCT_WORK, 0.0))
    assert round(sum(one.reasons.values())) == one.cycles and one.reasons[ISSUE] >= one.instructions
    assert {"products", "bulk copies"} & set(one.reasons)


def test_multiply_adds_of_the_code_must_be_those_of_the_tiles_and_of_the_op(product):
    wrong = dataclasses.replace(PRODUCT_WORK, steps=5)
    with pytest.raises(Unpredictable, match="the path found multiplies"):
        estimate.predict(product, H200, {"fp8": 2.0 * 512**3}, 1.0, wrong)
    with pytest.raises(Unpredictable, match=r"the op counts .* the launch"):
        estimate.predict(product, H200, {"fp8": 3.0 * 512**3}, 1.0, PRODUCT_WORK)


def test_trips_must_be_known(product):
    with pytest.raises(Unpredictable, match=r"strange: its code has 2 loops .* no trips"):
        estimate.predict(dataclasses.replace(product, kernel="strange"), H200, {}, 1.0)
    with pytest.raises(Unpredictable, match="tells the trips of 2"):
        estimate.predict(product, H200, {}, 1.0, Work(LOOPS, (3, 4)))


@pytest.mark.parametrize("content", [b"", b"text", bytes(64)])
def test_a_file_that_is_no_cubin(content):
    with pytest.raises(Unpredictable, match="got a file that is no cubin"):
        code.load(content)


@pytest.mark.parametrize(("abi", "flags", "arch"), [(7, 0x640064, 100), (8, 0x9006402, 100), (7, 0x590059, 89)])
def test_a_cubin_of_another_architecture(abi, flags, arch):
    head = bytearray(64)
    head[:4], head[8], head[18] = b"\x7fELF", abi, code.EM_CUDA
    head[48:52] = flags.to_bytes(4, "little")
    with pytest.raises(Unpredictable, match=f"expected machine code of sm_90a, got a cubin of sm_{arch}"):
        code.load(bytes(head))


def test_edges_are_counted_in_the_tiles_and_not_in_the_op():
    a = {"M": 100, "N": 200, "K": 256, "BM": 64, "BN": 128, "BK": 128, "HALVES": 1, "G": 1, "STEPS": 2}
    w = KERNELS["gemm_kernel"](a, (4,), 1, 0.0)
    assert (w.macs, w.useful, w.tiles, w.per_block) == (128 * 256 * 256, 100 * 200 * 256, 4, 1)


def test_a_launch_counts_its_blocks():
    assert Launch("k", b"", (3, 4, 5), 4, 1, 0, {}).blocks == 60
