"""What offload takes and copies, predicted, against what a CPU allocates and copies; and the released model by hand."""

import re

import numpy as np
import pytest
import small
import test_plan
import torch
from test_plan import CPU, docs, models, recorded  # noqa: F401 - fixtures

from liveact_app.cli import main
from liveact_app.plan import fit
from liveact_kernels.copies import Copies
from liveact_kernels.cost import memory
from liveact_kernels.cost.hw import CHIPS, PCIE_4_X16, PINNED
from liveact_model import needs
from liveact_model.dit import streamed
from liveact_model.loading import load_avatar, named, open_avatar


@pytest.mark.parametrize(
    "dtype,size,options",
    [("float32", (64, 64), {}), ("fp8", (96, 64), {"eight_bit_attention": True, "audio_cfg": 1.5})],
)
@pytest.mark.parametrize("blocks,memory_too", [(True, False), (False, True), (True, True)])
def test_within_five_percent_of_what_is_allocated_on_both_sides(monkeypatch, dtype, size, options, blocks, memory_too):
    options = options | {"memory_offload": memory_too}
    hollow = open_avatar("tiny", dtype).blueprint.avatar(blocks)
    said = needs.predict(hollow, size, place=CPU, **options)
    kept = []

    def host(self, count):
        kept.append(count)
        return torch.from_numpy(np.empty(count, np.uint8))  # memory that torch's record does not see

    monkeypatch.setattr(Copies, "_host", host)
    avatar = load_avatar("tiny", dtype=dtype, block_offload=blocks)
    weights, there = test_plan.storages(avatar), sum(kept)
    assert said.model["denoiser"] + said.model["VAE"] == weights
    assert said.host.get(needs.BLOCKS, 0) == there
    test_plan.steady(test_plan.begun(avatar, size, options))  # what libraries make once is theirs
    kept.clear()
    session, peak = recorded(lambda: test_plan.begun(avatar, size, options))
    window = sum(kept)
    assert said.host.get(needs.WINDOW, 0) == window and said.host_bytes == there + window
    assert (window > 0) == memory_too and (there > 0) == blocks
    _, more = recorded(lambda: test_plan.steady(session))
    held = memory.nbytes(needs.tensors(session)) - memory.nbytes(needs.tensors(avatar))
    most = max(peak, held - window + more)
    assert weights + most == pytest.approx(said.model_bytes, rel=0.05)
    assert most == pytest.approx(said.model_bytes - weights, rel=0.05)  # the Session alone
    assert said.moved == moved(session)


def moved(session):
    """Bytes that one more block copies."""
    session.push_audio(small.speech(3.2))
    before = needs._moved(session)
    session.next_block()
    return tuple(now - then for now, then in zip(needs._moved(session), before))


def test_the_released_model_by_hand(models):  # noqa: F811
    size, tokens = (416, 720), 416 * 720 // 256
    both = fit.Setting("fp8", eight_bit_attention=True, block_offload=True, offload_cache=True)
    said = models.needs(both, size)
    window = 120 * 6 * tokens * (2 * 5120 + 2 * 4 * 40)
    assert said.host[needs.WINDOW] == pytest.approx(window, rel=1e-3)
    ropes = 3 * 14 * tokens * 64 * 2 * 4
    assert said.model[needs.WINDOW] == pytest.approx(2 * window / 120 + ropes, rel=1e-3)
    once = 40 * (4 * 5120 * 5120 + 2 * 5120 * 768)  # keys and values of text and picture; of sound
    linear = 40 * (12 * 5120 * 5120 + 2 * 5120 * 13824 + 2 * 5120 * 768)
    assert said.host[needs.BLOCKS] == pytest.approx(linear, rel=0.01)
    to, back = said.moved
    assert to == pytest.approx(3 * (linear - once) + 40 * 2 * 5120 * 768 + window, rel=0.01)
    assert back == pytest.approx(window * 2 / 3, rel=0.01)
    whole = models.needs(fit.Setting("fp8", eight_bit_attention=True), size)
    slots = 2 * (linear - once) / 40 + 2 * 2 * 5120 * 5120
    stays = whole.model["denoiser"] - linear
    assert said.model["denoiser"] == pytest.approx(stays + slots, rel=0.05) and said.model["denoiser"] < 1.1 * 2**30


def test_nothing_of_a_window_on_the_host_counts_on_the_device():
    said = [needs.predict(open_avatar("tiny").blueprint.avatar(), (64, 64), memory_offload=m) for m in (False, True)]
    layers = 3 * open_avatar("tiny").blueprint.dit.num_layers
    gone = said[1].host[needs.WINDOW]
    assert said[0].model[needs.WINDOW] - said[1].model[needs.WINDOW] == pytest.approx(gone * (1 - 2 / layers), rel=0.01)
    others = [{k: v for k, v in s.model.items() if k not in (needs.WINDOW, needs.WORK[1])} for s in said]
    assert others[0] == others[1] and said[1].model_bytes <= said[0].model_bytes


def test_a_run_on_the_cpu_offloads_nothing():
    b = open_avatar("tiny").blueprint
    plain, asked = (fit.needs_of(b, fit.Setting(**o), (64, 64), "cpu") for o in ({}, {"block_offload": True}))
    assert plain == asked and not asked.host


def test_rates_of_links():
    assert PCIE_4_X16 * PINNED == pytest.approx(25e9, rel=0.01)
    assert all(chip.pinned_link == chip.host_link * PINNED for chip in CHIPS.values())


@pytest.mark.parametrize(
    "asked,words",
    [
        (["--gpu-memory", "7GB"], r"needs 6\.\d\d GiB on a GPU of 7 GB .*6\.30 GiB are available"),
        (["--gpu-memory", "24GB", "--host-memory", "16GB"], r"GiB of host memory .*16\.00 GiB are available"),
    ],
)
def test_less_than_offload_needs_is_one_sentence(monkeypatch, capsys, models, asked, words):  # noqa: F811
    monkeypatch.setattr("liveact_app.plan.ladder.Models", lambda args, here: _of(models, args))
    monkeypatch.setattr("liveact_app.plan.ladder._smaller", lambda models, plan: None)
    only = ["--block-offload", "--offload-cache", "--precision", "fp8", "--eight-bit-attention"]
    assert main(["plan", *only, *asked]) == 2
    err = capsys.readouterr().err
    assert re.search(words, err) and err.count("\n") == 1


def _of(models, args):  # noqa: F811
    models.args = args
    return models


def test_what_stays_of_a_block_is_small():
    dit = named("liveact-18b", "fp8").avatar(True).dit
    slots = {m.untyped_storage()._cdata for rooms in dit.streamed._rooms.values() for m in rooms}
    values = dict([*dit.blocks[0].named_parameters(), *dit.blocks[0].named_buffers()])
    assert [n for n, v in values.items() if v.untyped_storage()._cdata not in slots] == [streamed.STAYS]
    assert values[streamed.STAYS].nbytes == 4 * 6 * 5120
