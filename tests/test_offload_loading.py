"""Weights that go to the host block after block, and a text encoder that is freed once the prompts are encoded."""

import pytest
import released
import torch

from liveact_model.avatar import Encoded
from liveact_model.dit import Precision, Streamed, streamed
from liveact_model.dit.streamed import AUDIO, IMAGE, STEP, TEXT
from liveact_model.errors import InputError
from liveact_model.loading import convert, keymap, load_avatar
from liveact_model.session import Session
from liveact_model.text.umt5 import UMT5TextEncoder


def named(block):
    return dict([*block.named_parameters(), *block.named_buffers()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return released.write_released(tmp_path_factory.mktemp("miniature") / "model")


@pytest.mark.parametrize("stored", ["ours", "released", "converted", "mixed"])
def test_a_load_brings_block_after_block_to_the_host(folder, tmp_path, monkeypatch, stored):
    name = "tiny" if stored == "ours" else str(folder)
    if stored == "converted":
        convert(folder, tmp_path / "codes")
        name = str(tmp_path / "codes")
    mixed = Precision("fp8", (("blocks.1.ffn", "bfloat16"),), source="mixed")  # the second block is the larger one
    dtype = mixed if stored == "mixed" else "fp8"
    values, admit = [], Streamed.admit

    def counting(self, number):
        values.append([i for i, b in enumerate(self._blocks) if not b.audio_attn.norm["bias"].is_meta])
        admit(self, number)

    monkeypatch.setattr(Streamed, "admit", counting)
    want = load_avatar(name, dtype=dtype).dit
    got = load_avatar(name, dtype=dtype, block_offload=True).dit
    assert values == [list(range(n)) for n in range(1, want.config.num_layers + 1)]  # none is read before its turn
    for part in (STEP, TEXT, IMAGE, AUDIO):
        for own, away in zip(want.blocks, got.walk(part), strict=True):
            for key, value in named(own).items():
                if streamed.part_of(key) == part or key == streamed.STAYS:
                    assert torch.equal(value.view(torch.uint8), named(away)[key].view(torch.uint8)), (part, key)
    own = [value for b in want.blocks for key, value in named(b).items() if key != streamed.STAYS]
    assert got.streamed.host_bytes == sum(-(-value.nbytes // 256) * 256 for value in own)


def test_a_block_that_is_streamed_has_no_values_of_its_own(folder):
    got = load_avatar(str(folder), dtype="fp8", block_offload=True).dit
    slots = {m.untyped_storage().data_ptr() for rooms in got.streamed._rooms.values() for m in rooms}
    for block in got.blocks:
        own = [k for k, v in named(block).items() if v.untyped_storage().data_ptr() not in slots]
        assert own == [streamed.STAYS]


def test_prompts_are_encoded_before_anything_else_is_read_and_the_encoder_is_freed(folder, monkeypatch):
    happened, fill, encode = [], keymap.fill, UMT5TextEncoder.encode
    encoders = []

    def encoding(self, prompt):
        encoders.append(self)
        happened.append(prompt)
        return encode(self, prompt)

    monkeypatch.setattr(UMT5TextEncoder, "encode", encoding)
    monkeypatch.setattr(keymap, "fill", lambda *args: happened.append("value") or fill(*args))
    heard = []
    made = load_avatar(str(folder), prompts=["one", "two", "one"], watch=lambda *told: heard.append(told))
    assert happened[:3] == ["one", "two", "value"] and "two" not in happened[2:]
    assert all(p.is_meta for p in encoders[0].parameters()) and isinstance(made.text, Encoded)
    assert heard[0][0] == heard[1][0] == "text encoder" and heard[1][1] == heard[1][2] > 0
    whole = load_avatar(str(folder))
    for prompt in ("one", "two"):
        assert torch.equal(made.text.encode(prompt), whole.text.encode(prompt))
    with pytest.raises(InputError, match=r"^prompt: expected one of the 2 that were encoded before .*, got 'three'"):
        made.text.encode("three")


def test_a_session_of_encoded_prompts_makes_the_same_video(folder):
    def video(made):
        session = Session(made, released.picture(), "one", fps=20)
        session.push_audio(torch.zeros(48000))
        session.close_audio()
        frames = [session.next_block()]
        session.set_prompt("two")
        return torch.cat([*frames, session.next_block()]), session

    want, _ = video(load_avatar(str(folder), dtype="float32"))
    got, session = video(load_avatar(str(folder), dtype="float32", prompts=("one", "two"), block_offload=True))
    assert torch.equal(want, got)
    with pytest.raises(InputError, match="got 'three'"):
        session.set_prompt("three")
    session.set_prompt("one")  # what could not be taken changed nothing


def test_an_encoder_without_weights_stays():
    assert not isinstance(load_avatar("tiny", prompts=["happy"]).text, Encoded)


def test_a_process_that_encodes_no_prompt_does_not_move_the_encoder(folder, monkeypatch):
    """Of several ranks only the leading one encodes: the others free the encoder unread."""
    places, to = [], UMT5TextEncoder.to
    monkeypatch.setattr(UMT5TextEncoder, "to", lambda self, *args: places.append(str(args[0])) or to(self, *args))
    text = load_avatar(str(folder), prompts=()).text
    assert isinstance(text, Encoded) and places == ["meta"]
    load_avatar(str(folder), prompts=iter(["a"]))
    assert places == ["meta", "cpu", "meta"]
