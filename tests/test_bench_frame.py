"""bench/frame.py: random avatars, predicted memory, stages and ops of a block, the verdict."""

from pathlib import Path

import avatars
import frame
import memory
import pytest
import rows
import torch
from breakdown import STAGES, Part, parts, verdict
from small import CONFIG
from speech import RandomWav2Vec2, noise

from liveact_kernels import ops
from liveact_kernels.contract import Call, record
from liveact_kernels.cost.budget import GROUPS
from liveact_kernels.cost.hw import CHIPS
from liveact_kernels.ops.kv_compress import FIRST, STEADY
from liveact_model import needs
from liveact_model.audio.wav2vec2 import Wav2Vec2AudioEncoder
from liveact_model.config import BLOCK_LATENT_FRAMES, MEMORY_SLOTS
from liveact_model.dit import Linear
from liveact_model.dit.cache import schedules
from liveact_model.vae.wan_coder import WanVAEConfig

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
NETWORK = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "conv_dim": [16] * 7, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
SMALL = CONFIG.with_(in_dim=36, out_dim=16, audio_blocks=2, audio_channels=32)
SMALL_VAE = WanVAEConfig(dim=8, num_res_blocks=1)


def small(precision="fp8", device=CPU, config=SMALL):
    """The released architecture's parts, all of them small."""
    return avatars.assemble("small", config, SMALL_VAE, precision, device, **NETWORK)


# ---- random avatars -------------------------------------------------------------------------------------------------


def test_the_plain_wav2vec2_is_the_released_network():
    """Same weights, same embeddings as through transformers."""
    torch.manual_seed(0)
    plain = RandomWav2Vec2(**NETWORK)
    for p in plain.parameters():
        torch.nn.init.normal_(p, std=0.2)
    names = {"convolutions.": "feature_extractor.conv_layers.", "projection.": "feature_projection."}
    state = {}
    for key, value in plain.state_dict().items():
        for ours, theirs in names.items():
            key = theirs + key.removeprefix(ours) if key.startswith(ours) else key
        state[key] = value
    state["masked_spec_embed"] = torch.zeros(32)
    released = Wav2Vec2AudioEncoder(state, NETWORK)
    audio = noise(2.0)
    torch.testing.assert_close(plain.embed(audio), released.embed(audio), rtol=1e-4, atol=1e-5)


def test_random_linears_keep_the_variance_and_use_the_whole_code_range():
    dit = avatars.random_dit(CONFIG.with_(dim=256, num_heads=2, ffn_dim=512), "fp8", CPU)
    up = dit.blocks[0].ffn.up
    assert up.w8.dtype == torch.float8_e4m3fn and up.w8.float().isfinite().all() and up.w8.float().abs().max() > 300
    y = up(up.accept(torch.randn(64, 256, dtype=torch.bfloat16))).float()
    assert 0.8 < y.std() < 1.2
    again = avatars.random_dit(CONFIG.with_(dim=256, num_heads=2, ffn_dim=512), "fp8", CPU)
    assert torch.equal(up.w8.view(torch.uint8), again.blocks[0].ffn.up.w8.view(torch.uint8))


def test_no_linear_has_a_second_copy_of_its_weights():
    linears = [m for m in small().dit.modules() if isinstance(m, Linear)]
    assert len(linears) > 20 and all(m.weight is None and m.w8.element_size() == 1 for m in linears)


# ---- memory --------------------------------------------------------------------------------------------------------


def weights(avatar):
    return sum(needs.weights(avatar).values())


def test_prediction_holds_weights_window_and_the_largest_moment():
    avatar = small()
    session = frame.Run(avatar, (32, 32), True, False, CPU).start()
    for _ in range(3):
        frame.Run(avatar, (32, 32), True, False, CPU).block(session)
    hollow = small(device=torch.device("meta"))
    network = sum(p.nbytes for p in avatar.audio.parameters())
    assert weights(hollow) == weights(avatar) - network
    found = {size: memory.predict(hollow, size, True, CPU) for size in ((32, 32), (64, 64))}
    held = weights(hollow) + session.memory_bytes() + memory.FIXED
    assert held < found[32, 32] < held + (64 << 20)
    # four times the pixels: the window grows with them, and the encoder's 53 video frames
    assert found[64, 64] - memory.FIXED > 2 * (found[32, 32] - memory.FIXED)


def test_the_released_model_needs_what_its_parts_need():
    hollow = avatars.avatar("liveact-18b", "fp8", "meta")
    need = memory.predict(hollow, (512, 512), True, CPU) / memory.GIB
    window = 3 * 40 * 6 * 1024 * 2 * (5120 + 4 * 40) / memory.GIB
    assert weights(hollow) / memory.GIB + window < need < 100  # and every H200 has room for it


def test_what_does_not_fit_is_refused_with_what_does():
    sizes = {("bfloat16", (512, 512)): 60, ("fp8", (512, 512)): 45, ("fp8", (256, 256)): 30}

    def said(free):
        return memory.refuse(lambda p, s: sizes[p, s] * memory.GIB, list(sizes), free * memory.GIB, "this chip")

    assert said(61) is None
    begin = "--precision bfloat16 --size 512*512 needs about 60.0 GiB and this chip has"
    assert said(46) == f"{begin} 46.0 GiB free: choose --precision fp8 --size 512*512 (45.0 GiB)"
    assert said(31).endswith("choose --precision fp8 --size 256*256 (30.0 GiB)")
    assert said(20).endswith("choose --model tiny")


def test_too_little_memory_is_told_before_anything_is_made(monkeypatch, capsys):
    def never(*args):
        raise AssertionError("weights were made")

    monkeypatch.setattr(frame, "free_bytes", lambda device: 30 << 30)
    monkeypatch.setattr(avatars, "fill", never)
    assert frame.main(["--device", "cpu", "--precision", "bfloat16", "--size", "512*512"]) == 2
    err = capsys.readouterr().err
    assert "needs about" in err and "has 30.0 GiB free: choose --precision fp8 --size" in err and err.count("\n") == 1


# ---- one block in parts ----------------------------------------------------------------------------------------------


def call(op, where="step[0]", **dims):
    return Call(("block[2]", where), op, "torch", op.dims_of(type(op.cases[0])("x", **dims)))


def test_parts_add_up_and_ops_stand_beside_their_floors():
    spans = [("audio features", 100.0), ("denoising", 5000.0), ("VAE decode", 2000.0), ("uint8 conversion", 50.0),
             ("copy to host", 30.0), ("denoising", 1000.0)]  # fmt: skip
    quant = call(ops.quant, L=8192, C=5120, A=torch.bfloat16)
    silu = call(ops.norm_silu, "vae", F=8, H=64, W=64, C=384, A=torch.bfloat16)
    groups, single = parts(spans, [(quant, 700.0), (quant, 500.0), (silu, 1500.0)], 10, CHIPS["h200"])
    assert sum(p.ms for p in groups.values()) == pytest.approx(8180 / 1e4)
    assert groups["denoising, outside ops"].ms == pytest.approx(0.48)
    assert groups["VAE, outside ops"].ms == pytest.approx(0.05)
    assert single["quant"].ms == pytest.approx(0.12) and single["quant"].calls == 2
    assert single["quant"].floor_ms == pytest.approx(2 * 8192 * (5120 * 3 + 4) / 4.8e12 * 1e3 / 10)
    assert parts(spans, [(quant, 700.0)], 10, None)[1]["quant"].floor_ms is None


def test_the_verdict_names_what_is_furthest_above_its_floor():
    groups = {"linear": Part(20.0, 18.0), "memory": Part(9.0, 1.0), "copy to host": Part(3.0)}
    assert verdict(44.0, groups) == "50 ms met: 44.00 ms per video frame, most of it in memory (9.00 ms, floor 1.00)"
    assert verdict(62.3, groups).startswith("50 ms missed by 12.30 ms: 62.30 ms per video frame, most of it in memory")
    unknown = {n: Part(p.ms) for n, p in groups.items()}
    assert verdict(50.0, unknown).endswith("50.00 ms per video frame, most of it in linear (20.00 ms)")


def test_every_part_of_the_released_architecture_is_measured(tmp_path):
    run = frame.Run(small(), (32, 32), True, None, CPU)
    kept = []
    row = frame.at_size(run, 1, {"kind": "frame", "size": "32*32"}, CHIPS["h200"], kept.append)
    assert [r.get("what", r["kind"]) for r in kept] == ["cold", "first", "steady", "breakdown"]
    assert kept[2]["ms_per_video_frame"] == row["ms_per_video_frame"] and kept[3]["parts"] == row["parts"]
    assert kept[0]["video_frames"] == 21 and row["video_frames"] == 32 and row["graphs"] == 0
    have_ops = {n for n in GROUPS if n in row["parts"]}
    assert {"linear", "self attention", "cross attention", "memory", "sampler", "VAE decode"} <= have_ops
    assert set(row["parts"]) - have_ops == {"audio features", "denoising, outside ops", "VAE, outside ops",
                                            "uint8 conversion", "copy to host"}  # fmt: skip
    assert all(p["ms"] > 0 for p in row["parts"].values())
    assert row["ops"]["attention_8bit"]["calls"] == row["ops"]["kv_compress"]["calls"] == 2 * 3
    assert row["backends"]["fp8_linear"] == "torch" and row["ops"]["causal_conv3d"]["floor_ms"] > 0
    assert len(STAGES) == 5


def test_the_tiny_model_end_to_end(tmp_path, capsys):
    out = tmp_path / "frame.jsonl"
    assert frame.main(["--model", "tiny", "--device", "cpu", "--blocks", "2", "--out", str(out)]) == 0
    found = rows.read(out)
    assert [r.get("what") for r in found] == ["cold", "first", "steady", None] and found[2]["blocks"] == 2
    assert [r["kind"] for r in found] == ["frame"] * 3 + ["breakdown"]
    assert all(r["ms_per_video_frame"] > 0 for r in found)
    assert "ms per video frame, most of it in" in capsys.readouterr().out


@pytest.mark.parametrize("memory_slots,block", [(6, 6), (8, 8)])
def test_other_windows_keep_their_sizes(tmp_path, memory_slots, block):
    """The paper's ablation."""
    avatar = small(config=SMALL.with_(memory_slots=memory_slots, block_latent_frames=block))
    run = frame.Run(avatar, (32, 32), True, False, CPU)
    session = run.start()
    made = [run.block(session)[1] for _ in range(4)]
    assert made == [4 * memory_slots - 3, *[4 * block] * 3] and session.video_frames_made == sum(made)
    tokens, layers, steps, width = 4, SMALL.num_layers, 3, SMALL.dim + 4 * SMALL.num_heads
    assert session.memory_bytes() == 2 * memory_slots * tokens * width * layers * steps
    with record() as calls:
        run.block(session)
    window = avatar.dit.window(2, 2)
    assert torch.equal(window.positions(block, False), window.rope[tokens * memory_slots :])
    seen = {c.dims.L + c.dims.P for c in calls if c.op.name == "attention_8bit"}
    assert seen == {tokens * (memory_slots + block)}


def test_the_released_window_is_the_default():
    assert schedules(MEMORY_SLOTS, BLOCK_LATENT_FRAMES) == (FIRST, STEADY)
    for memory_slots, block in ((6, 6), (8, 8), (4, 3)):
        first, steady = schedules(memory_slots, block)
        assert [slot for slot, _ in first] == list(range(memory_slots))
        assert [slot for slot, _ in steady] == list(range(2, memory_slots))
        assert {s for _, sources in steady for s in sources} == set(range(2, memory_slots + block))
        assert all(len(sources) in (1, 5) for _, sources in steady)


@pytest.mark.parametrize(
    "argv,words",
    [
        (["--model", "huge"], "--model: expected one of liveact-18b, tiny, got 'huge'"),
        (["--size", "512"], "--size: expected W*H in pixels"),
        (["--precision", "fp4"], "--precision: expected one of fp8, "),
        (["--blocks", "0"], "--blocks: expected at least 1, got 0"),
        (["--memory-slots", "3"], "memory_slots must be at least 4"),
    ],
)
def test_bad_input_is_one_sentence(capsys, argv, words):
    assert frame.main(["--device", "cpu", *argv]) == 2
    err = capsys.readouterr().err.strip()
    assert words in err and "\n" not in err
