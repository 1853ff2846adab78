"""The self-test, and a whole small avatar on the device against the CPU."""

import importlib.util

import pytest
import small
import torch

from liveact_kernels.proof import selftest
from liveact_model.dit import Streamed
from liveact_model.loading import load_avatar


def test_the_self_test_passes(device):
    outcomes, _ = selftest.run(device)
    assert [f"{o.op} on {o.backend}: {o.said}" for o in outcomes if not o.ok] == []


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    """The small VAE is plain torch, whose float32 convolutions would round to TF32 on a GPU."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("options", [{}, {"eight_bit_memory": True}], ids=["", "eight-bit memory"])
def test_a_small_session_is_the_cpus(device, options):
    here, there = (small.latents(a, **options) for a in (small.avatar(), small.avatar().to(device)))
    assert small.relative(there, here) <= small.LATENTS


OPTIONS = [{}, {"eight_bit_attention": True}, {"audio_cfg": 1.5, "sampler": "euler"}]


@pytest.mark.parametrize("options", OPTIONS, ids=["", "8-bit attention", "guidance"])
def test_graph_replay_is_bitwise_eager(device, options):
    """Nothing compiles after the capture either, prompts of another length included."""

    def blocks(**more):
        made, out = small.session(small.avatar().to(device), 5, **options, **more), []
        for prompt in ("happy", "happy", "angry", "a very sad person nodding", "happy"):
            made.set_prompt(prompt)
            out.append(made.next_latents().cpu())
        return made, out

    (replayed, got), (eager, want) = blocks(), blocks(graphs=False)
    assert replayed.captured() >= 8 and eager.captured() == 0
    assert all(torch.equal(a, b) for a, b in zip(got, want))
    assert replayed.live_compilations() == 0


@pytest.mark.parametrize("options", OPTIONS, ids=["", "8-bit attention", "guidance"])
@pytest.mark.parametrize("blocks,memory", [(True, False), (False, True), (True, True)])
def test_offload_is_bitwise_what_stays(device, options, blocks, memory):
    """Copies beside the computing change nothing, whenever they happen."""

    def made(**more):
        avatar = small.avatar().to(device)
        if blocks and more:
            avatar.dit.streamed = Streamed.of(avatar.dit.blocks, avatar.anchor().device)
        return small.latents(avatar, 6, graphs=False, **options, **more)

    assert torch.equal(made(), made(memory_offload=memory))


def test_the_shipped_avatar_is_the_cpus(device):
    if importlib.util.find_spec("safetensors") is None:
        pytest.skip("the shipped weights need safetensors: pip install safetensors")
    pair = [load_avatar("tiny", dtype="float32", device=d) for d in ("cpu", device)]
    picture = torch.rand(3, *reversed(pair[0].default_size), generator=torch.Generator().manual_seed(2)) * 2 - 1
    worst, mean = small.difference(*(small.video(a, picture_=picture) for a in pair))
    assert worst <= small.LEVELS and mean <= small.MEAN_LEVELS
