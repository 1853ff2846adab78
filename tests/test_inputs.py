"""The door of a Session: what is accepted and scaled, what is refused in one sentence, and wrong moments."""

import numpy as np
import pytest
import small
import torch

from liveact_model import inputs
from liveact_model.errors import InputError
from liveact_model.loading import load_avatar
from liveact_model.session import Session


@pytest.fixture(scope="module")
def avatar():
    return small.avatar()


def opened(avatar, **options):
    return Session(avatar, small.picture(), "happy", **options)


def first_block(avatar, samples, image=None):
    session = Session(avatar, small.picture() if image is None else image, "happy")
    session.push_audio(samples)
    return session.next_block()


def test_int16_and_arrays_give_the_frames_of_the_floats(avatar):
    speech = small.speech(2)
    codes = (speech * 32768).round().clamp(-32768, 32767).short()
    floats = codes.float() / 32768
    want = first_block(avatar, floats)
    backwards = floats.numpy()[::-1].copy()[::-1]  # negative strides
    frozen = codes.numpy().copy()
    frozen.setflags(write=False)
    for same in (
        codes, frozen, codes.numpy().astype(">i2"), floats.numpy(), backwards, floats.double(),
        floats.numpy().astype(">f8"), floats.clone().requires_grad_(),
    ):  # fmt: skip
        assert torch.equal(first_block(avatar, same), want)
    picture = small.picture()
    assert torch.equal(first_block(avatar, floats, picture.numpy()), want)
    assert torch.equal(first_block(avatar, floats, picture.double()), want)


def test_floats_of_any_width_and_an_overshoot_pass():
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert inputs.audio_samples(torch.full((4,), 0.5, dtype=dtype)).tolist() == [0.5] * 4
    assert inputs.audio_samples(torch.tensor([-inputs.AUDIO_PEAK, 1.3])).dtype == torch.float32
    assert inputs.audio_samples(np.zeros(0)).shape == (0,)
    assert inputs.picture(torch.full((3, 16, 32), inputs.PICTURE_PEAK)).shape == (3, 16, 32)


AUDIO = [
    (torch.tensor([0, 1000], dtype=torch.int32), r"float in \[-1, 1\] or int16, .* got int32 \[2\]"),
    (torch.zeros(3, dtype=torch.bool), r"got bool \[3\]"),
    (torch.zeros(3, dtype=torch.uint8), r"got uint8 \[3\]"),
    (torch.zeros(3, dtype=torch.complex64), r"got complex64 \[3\]"),
    (torch.zeros(3, dtype=torch.float8_e4m3fn), r"got float8_e4m3fn \[3\]"),
    (torch.zeros(2, 100), r"got float32 \[2, 100\]"),
    (torch.tensor(0.5), r"got float32 \[\]"),
    (np.zeros(4, dtype=np.int64), r"got int64 \[4\]"),
    (np.array(["a"]), r"got <U1 \[1\]"),
    (np.array([None]), r"got object \[1\]"),
    ([0.1, 0.2], "got list"),
    (b"\x00\x01", "got bytes"),
    (None, "got NoneType"),
    (torch.tensor([0.0, float("nan")]), "expected finite samples, got NaN or infinity"),
    (torch.tensor([0.0, float("-inf")]), "expected finite samples, got NaN or infinity"),
    (torch.tensor([0.0, -1e5]), r"expected values in \[-1, 1\] \(up to 2 passes\), got one of size 1e\+05"),
    (np.array([1e300]), r"got one of size 1e\+300"),
    (torch.tensor([100, -20000], dtype=torch.int16).float(), r"got one of size 2e\+04"),
]


@pytest.mark.parametrize("samples,words", AUDIO, ids=range(len(AUDIO)))
def test_audio_is_refused_in_one_sentence(avatar, samples, words):
    session = opened(avatar)
    with pytest.raises(InputError, match=f"^audio: .*{words}") as error:
        session.push_audio(samples)
    assert "\n" not in str(error.value)
    assert session._audio._received == 0


def test_sparse_audio_is_refused(avatar):
    with pytest.raises(InputError, match=r"got sparse float32 \[3\]"):
        opened(avatar).push_audio(torch.zeros(3).to_sparse())


def test_measured_audio_takes_the_same_door():
    class Encoder:
        def measure(self, pieces, fps):
            return fps, [piece.tolist() for piece in pieces]

    avatar = small.avatar()
    avatar.audio = Encoder()
    codes = torch.tensor([-32768, 16384], dtype=torch.int16)
    assert avatar.measure_audio([codes, np.array([0.25])], 25) == (25.0, [[-1.0, 0.5], [0.25]])
    with pytest.raises(InputError, match=r"audio: .* got list"):
        avatar.measure_audio([[0.1]], 25)
    with pytest.raises(InputError, match="fps: expected 1 to 60, got nan"):
        avatar.measure_audio([codes], float("nan"))


ARGUMENTS = [
    ({"image": torch.zeros(3, 32, 32, dtype=torch.uint8)}, r"image: .* got uint8 \[3, 32, 32\]; bytes are x / 127"),
    ({"image": torch.zeros(3, 32, 32, dtype=torch.int64)}, r"image: expected \[3, H, W\], float .* got int64"),
    ({"image": np.zeros((3, 32, 32), dtype=np.uint8)}, r"image: .* got uint8"),
    ({"image": torch.full((3, 32, 32), float("nan"))}, "image: expected finite values, got NaN"),
    ({"image": torch.rand(3, 32, 32) * 255}, r"image: expected values in \[-1, 1\] \(up to 1.5 passes\), got one of"),
    ({"image": torch.zeros(32, 32)}, r"image: .* got float32 \[32, 32\]"),
    ({"image": torch.zeros(4, 32, 32)}, r"image: .* multiples of 16, got \(4, 32, 32\)"),
    ({"image": torch.zeros(3, 0, 32)}, r"image: .* multiples of 16, got \(3, 0, 32\)"),
    ({"image": None}, "image: .* got NoneType"),
    ({"image": "face.png"}, "image: .* got str"),
    ({"prompt": None}, r"prompt: expected text, got None \(NoneType\)"),
    ({"prompt": b"happy"}, "prompt: expected text, got b'happy'"),
    ({"prompt": "\ud800"}, "prompt: expected valid Unicode text"),
    ({"fps": "25"}, "fps: expected 1 to 60, got '25'"),
    ({"fps": float("nan")}, "fps: expected 1 to 60, got nan"),
    ({"fps": True}, "fps: expected 1 to 60, got True"),
    ({"seed": "x" * 500}, r"seed: expected a whole number, got 'x+\.\.\.$"),
    ({"seed": 1.5}, "seed: expected a whole number, got 1.5"),
    ({"sampler": None}, "sampler: expected one of renoise, euler, got None"),
    ({"audio_cfg": [2]}, r"audio_cfg: expected 1 to 10, got \[2\]"),
    ({"eight_bit_memory": "no"}, "eight_bit_memory: expected True or False, got 'no'"),
    ({"audio_levels": 3}, "audio_levels: expected what measure_audio returns, or None, got 3"),
    ({"avatar": "tiny"}, "avatar: expected a model as load_avatar returns it, got 'tiny'"),
]


@pytest.mark.parametrize("change,words", ARGUMENTS, ids=range(len(ARGUMENTS)))
def test_arguments_are_refused_in_one_sentence(avatar, change, words):
    with pytest.raises(InputError, match=words) as error:
        Session(**({"avatar": avatar, "image": small.picture(), "prompt": ""} | change))
    assert "\n" not in str(error.value)


def test_numbers_of_other_libraries_pass(avatar):
    session = opened(avatar, fps=np.float32(25), seed=np.int64(7), audio_cfg=np.float64(1.0))
    assert (type(session.fps), session.fps, session.seed) == (float, 25.0, 7)


@pytest.mark.parametrize("prompt", [None, 5, ["happy"], "\udfff"])
def test_a_prompt_that_is_no_text_changes_nothing(avatar, prompt):
    session = opened(avatar)
    with pytest.raises(InputError, match="prompt: expected"):
        session.set_prompt(prompt)
    assert session._prompt_text == "happy"


@pytest.mark.parametrize(
    "change", [{"name_or_dir": None}, {"name_or_dir": "a\0b"}, {"name_or_dir": "x" * 5000}, {"dtype": 5},
               {"device": None}, {"device": 1.5}, {"wav2vec_dir": 5}]
)  # fmt: skip
def test_load_avatar_names_the_argument(change):
    with pytest.raises(InputError, match=f"^{next(iter(change)).removesuffix('_or_dir').replace('name', 'model')}: "):
        load_avatar(**({"name_or_dir": "tiny"} | change))


def test_wrong_moments_are_sentences(avatar):
    session = opened(avatar)
    session.push_audio(small.speech(0.5))
    session.close_audio()
    with pytest.raises(RuntimeError, match="push_audio: the audio is closed"):
        session.push_audio(small.speech(0.1))
    made = 0
    while session.ready():  # and so it ends
        session.next_block()
        made += 1
    assert made == 1 and session.done and not session.ready()
    with pytest.raises(RuntimeError, match="next_block: 1 blocks cover all of the audio, which is closed"):
        session.next_block()
    session.close()
    session.close()
    for asked, call in (
        ("next_block", session.next_block), ("set_prompt", lambda: session.set_prompt("sad")),
        ("push_audio", lambda: session.push_audio(small.speech(0.1))),
    ):  # fmt: skip
        with pytest.raises(RuntimeError, match=f"{asked}: the Session is closed"):
            call()
    assert session.blocks_made == 1 and not session.ready()
