"""Offloaded weights and memory: the same video bit for bit with copies as late as may be, and no order left to chance."""

from pathlib import Path

import pytest
import released
import small
import torch
from copy_emulator import late

from liveact_kernels import copies
from liveact_model import offload
from liveact_model.dit import Streamed, streamed
from liveact_model.dit.streamed import AUDIO, IMAGE, STEP, TEXT
from liveact_model.errors import InputError
from liveact_model.loading import convert, load_avatar
from liveact_model.session import Session

BLOCKS = 4
OPTIONS = [
    ("float32", {}),
    ("fp8", {"eight_bit_attention": True}),
    ("bfloat16", {"audio_cfg": 1.7, "eight_bit_memory": True, "sampler": "euler"}),
]


def avatar(precision="float32", layers=2, blocks=False):
    made = small.avatar(small.CONFIG.with_(num_layers=layers))
    made.dit.to_precision(precision)
    if blocks:
        made.dit.streamed = Streamed.of(made.dit.blocks, torch.device("cpu"))
    return made


def named(block):
    return dict([*block.named_parameters(), *block.named_buffers()])


def video(made, **options):
    """Blocks of a session, with another prompt in the middle."""
    session = small.session(made, BLOCKS, **options)
    out = []
    for block in range(BLOCKS):
        if block == 2:
            session.set_prompt("a sad person nodding")
        out.append(session.next_block())
    return torch.cat(out)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("blocks,memory", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize("precision,options", OPTIONS, ids=str)
def test_the_same_video_however_late_copies_are(monkeypatch, precision, options, blocks, memory, layers):
    want = video(avatar(precision, layers), **options)
    with late(monkeypatch) as machine:
        got = video(avatar(precision, layers, blocks), memory_offload=memory, **options)
    assert torch.equal(want, got)
    assert machine.races == [] and machine.log


# ---- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored", ["ours", "released", "converted"])
def test_a_load_brings_block_after_block_to_the_host(tmp_path, monkeypatch, stored):
    folder = "tiny" if stored == "ours" else str(released.write_released(tmp_path / "model"))
    if stored == "converted":
        convert(Path(folder), tmp_path / "codes")
        folder = str(tmp_path / "codes")
    there, admit = [], Streamed.admit

    def counting(self, number):
        admit(self, number)
        there.append([b.ffn.up.is_fp8 for b in self._blocks if not next(b.ffn.up.buffers(), b.modulation).is_meta])

    monkeypatch.setattr(Streamed, "admit", counting)
    want = load_avatar(folder, dtype="fp8").dit
    got = load_avatar(folder, dtype="fp8", block_offload=True).dit
    assert there == [[True] * n for n in range(1, want.config.num_layers + 1)]
    for part in (STEP, TEXT, IMAGE, AUDIO):
        for own, away in zip(want.blocks, got.walk(part), strict=True):
            for name, value in named(own).items():
                if part == streamed.part_of(name) or name == streamed.STAYS:
                    assert torch.equal(value.view(torch.uint8), named(away)[name].view(torch.uint8)), (part, name)
    host = sum(v.nbytes for b in want.blocks for n, v in named(b).items() if n != streamed.STAYS)
    assert host <= got.streamed.host_bytes < 1.05 * host or want.config.dim < 128  # rounded to 256 bytes a tensor
