"""The released input file and flags, taken as they are; and edits by seconds. With a stand-in for the model."""

import json
import os
import re
from fractions import Fraction
from pathlib import Path

import fake_engine
import pytest
from fake_engine import Session
from test_generate import levels, place, record  # noqa: F401 - a fixture

from liveact_app.cli import build_parser, main
from liveact_app.generate import loading, options
from liveact_app.generate.edits import Edit, Prompts, Timeline, parse_spans
from liveact_app.generate.job import Job
from liveact_model.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
LINE = Timeline(21, 32, Fraction(20), 160)  # 8 s in 6 blocks: 0 to 1.05, 2.65, 4.25, 5.85, 7.45, 8
ENTRY = {"prompt": "he talks", "cond_image": "face.png", "cond_audio": "talk.wav"}


def listed(*entries, name="examples.json", more=()):
    Path(name).write_text(json.dumps(list(entries)))
    return ["generate", "--input_json", name, *more]


# ---- edits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "blocks"),
    [("4s-8s", (3, 5)), ("0s-1s", (0, 0)), ("0s-0.5s", (0, 0)), ("2.7s-2.8s", (2, 2)), ("1.8s-1.9s", (1, 1)),
     ("7.9s-7.95s", (5, 5)), ("0s-99s", (0, 5)), ("3-5", (3, 5)), ("5-9", (5, 9)), (" 2 - 2 ", (2, 2))],
)  # fmt: skip
def test_a_span_takes_the_blocks_whose_middle_it_covers(span, blocks):
    assert LINE.blocks == 6 and [LINE.block_at(Fraction(s)) for s in ("0", "1.04", "1.05", "7.45")] == [0, 0, 1, 5]
    (edit,) = Prompts("main", parse_spans([f"{span}: smiles: a lot "]), LINE)._edits
    assert (edit.first, edit.last, edit.text) == (*blocks, "smiles: a lot")


def test_the_first_edit_that_covers_a_block_wins():
    prompts = Prompts("main", (Edit(0, 1, "a"), *parse_spans(["1s-3s:b", "2s-5s:c"])), LINE)
    assert [prompts.of(block) for block in range(6)] == ["a", "a", "c", "main", "main", "main"]


@pytest.mark.parametrize("value", ["4s-8:x", "4-8s:x", "8s-4s:x", "4s-4s:x", "1.5-2:x", "3-2:x", "x", "4s-8s=x", ":x"])
def test_a_span_of_another_form_is_one_sentence(value):
    with pytest.raises(InputError, match=r'^--edit: expected "4s-8s:text" in seconds or "3-5:text" .*got \''):
        parse_spans([value])


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--edit", "4.4s-9s:x"], "--edit: expected a range that begins within the video of 4.40 s and 4 blocks (0 to 3), "
                               "got 4.4s-9s = 'x'"),
     (["--edit", "4-5:x"], "got blocks 4 to 5"), (["--edit-prompt", "[4,9]=x"], "--edit-prompt: expected a range")],
)  # fmt: skip
def test_an_edit_outside_the_video_is_one_sentence(place, capsys, more, said):  # noqa: F811
    args = ["generate", "--image", "face.png", "--audio", "talk.wav", "--out", "v.mp4"]
    assert main([*args, *more]) == 2
    err = capsys.readouterr().err
    assert said in err and err.count("error: ") == 1
    assert sorted(os.listdir()) == ["face.png", "talk.wav"]


def test_seconds_reach_the_session(place):  # noqa: F811
    args = ["generate", "--image", "face.png", "--audio", "talk.wav", "--out", "v.mp4", "--prompt", "he talks"]
    assert main([*args, "--edit", "1s-3s:he nods", "--edit", "3-3:he smiles"]) == 0
    assert Session.last.prompts == ["he talks", "he talks", "he nods", "he talks", "he smiles"]


# ---- the input file -------------------------------------------------------------------------------------------------


def test_several_entries_share_one_model(place, capsys):  # noqa: F811
    fake_engine.loads.clear()
    fake_engine.encoded.clear()
    record(2)
    os.mkdir("videos")
    edited = ENTRY | {"prompt": "she waves", "edit_prompt": {"[1, 1]": "she nods"}, "id": 7}
    assert main(listed(ENTRY, edited, more=["--out", "videos", "--fps", "24", "--seed", "3"])) == 0
    assert sorted(os.listdir("videos")) == ["face_talk.mp4", "face_talk_2.mp4"]
    assert Session.last.prompts == ["she waves", "she waves", "she nods"] and Session.last.fps == 24
    assert len(fake_engine.loads) == 1 and len(levels("videos/face_talk_2.mp4")) == 48
    assert fake_engine.encoded == [("he talks", "she waves", "she nods")]  # all that the run will want
    out, err = capsys.readouterr()
    assert "entry 2 of 2: " in err and "nothing here reads 'id' of " in err
    assert out.count(" 48 video frames, ") == 2


def test_names_are_found_from_the_working_directory_or_beside_the_file(place):  # noqa: F811
    os.mkdir("list")
    for name in ("face.png", "talk.wav"):
        os.rename(name, f"list/{name}")
    assert main(listed(ENTRY, name="list/all.json")) == 0
    assert sorted(os.listdir()) == ["face_talk.mp4", "list"]


BAD = {
    "not a list": ({}, r"expected a JSON list in \S+bad.json, got dict"),
    "nothing in it": ([], r"expected 1 to 10000 entries in '\S+bad.json', got 0"),
    "not an object": (["x"], r"expected entry 1 of '\S+bad.json' to be an object, found str"),
    "no prompt": ([{k: v for k, v in ENTRY.items() if k != "prompt"}], r"expected prompt in .* a text, found none"),
    "a number": ([ENTRY, ENTRY | {"cond_image": 5}], r"expected cond_image in entry 2 .* name of a picture, found 5"),
    "no picture": ([ENTRY, ENTRY | {"cond_image": "a.png"}], r"cond_image of entry 2: no such file: 'a.png'"),
    "no recording": ([ENTRY | {"cond_audio": "a.wav"}], r"cond_audio of entry 1: no such file: 'a.wav'"),
    "a range": ([ENTRY | {"edit_prompt": {"[2,1]": "x"}}], r"edit_prompt of entry 1: expected \[first,last\]"),
    "a list of edits": ([ENTRY | {"edit_prompt": [1]}], r"expected edit_prompt in entry 1 .* an object .* found \[1\]"),
    "half a letter": ([ENTRY | {"prompt": "\ud800"}], r"expected prompt in entry 1 of .* to be valid text"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_file_is_one_sentence_and_nothing_is_made(place, capsys, name):  # noqa: F811
    values, said = BAD[name]
    Path("bad.json").write_text(json.dumps(values))
    assert main(["generate", "--input_json", "bad.json"]) == 2
    err = capsys.readouterr().err
    assert re.search(rf"error: --input_json: {said}", err) and err.count("\n") == 1
    assert sorted(os.listdir()) == ["bad.json", "face.png", "talk.wav"]


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--image", "face.png"], "no --image beside it"), (["--prompt", ""], "no --prompt beside it"),
     (["--edit", "1-1:x"], "no --edit beside it"), (["--out", "v.mp4"], "--out: expected a folder that exists beside"),
     (["--report", "r.json"], "--report: expected one video, --input_json has 2 entries")],
)  # fmt: skip
def test_what_does_not_go_with_an_input_file(place, capsys, more, said):  # noqa: F811
    assert main(listed(ENTRY, ENTRY, more=more)) == 2
    assert said in capsys.readouterr().err and not list(Path().glob("*.mp4"))


def test_a_bad_entry_ends_the_list_there_and_says_which(place, capsys):  # noqa: F811
    Path("noise.wav").write_bytes(b"no sound" * 99)
    assert main(listed(ENTRY, ENTRY | {"cond_audio": "noise.wav"}, ENTRY)) == 2
    assert "error: entry 2 of 3: --audio: " in capsys.readouterr().err
    assert [p.name for p in Path().glob("*.mp4")] == ["face_talk.mp4"]


def test_no_video_replaces_an_input(place, capsys):  # noqa: F811
    os.rename("talk.wav", "face_talk.mp4")
    os.link("face_talk.mp4", "talk.wav")
    assert main(listed(ENTRY, ENTRY | {"cond_audio": "face_talk.mp4"})) == 2
    assert "is also an input of --input_json" in capsys.readouterr().err


# ---- the flags ------------------------------------------------------------------------------------------------------

RELEASED = (  # noqa: SIM905 - a command line
    "--size=64*32 --fps=20 --audio_cfg=1.7 --seed=42 --t5_cpu --fp8_kv_cache --fp8_gemm --mean_memory --steam_audio "
    "--dura_print --offload_cache --block_offload --ckpt_dir=tiny --wav2vec_dir=speech"
).split()


def test_a_released_command_line_is_taken_as_it_is(place, capsys):  # noqa: F811
    fake_engine.loads.clear()
    assert main(listed(ENTRY, more=[*RELEASED, "--device", "cpu"])) == 0
    s, err = Session.last, capsys.readouterr().err
    assert (tuple(s.size), s.fps) == ((32, 64), 20.0)
    assert (s.options.seed, s.options.audio_cfg, s.options.eight_bit_memory) == (42, 1.7, True)
    assert s.options.audio_levels is None  # as a live stream has it; without the flag they are measured
    how = {"mean_memory": True, "text_on_host": True, "block_offload": False}
    assert fake_engine.loads == [{"name": "tiny", "dtype": "fp8"} | how] and not s.options.memory_offload
    blocks = re.findall(r"block (\d): (\d+) video frames in [0-9.]+ s, [0-9.]+ ms each", err)
    assert blocks == [("0", "21"), ("1", "32"), ("2", "32"), ("3", "32")]
    both = "--block-offload and --offload-cache"
    assert f"liveact: {both}: the whole model is in host memory here, so there is nothing to move\n" in err


@pytest.mark.parametrize(("flag", "dtype"), options.RELEASED_DTYPES.items())
def test_released_precisions_are_a_dtype(place, flag, dtype):  # noqa: F811
    for more in ([flag], [flag, "--dtype", dtype], ["--dtype", dtype]):
        fake_engine.loads.clear()
        assert main(listed(ENTRY, more=[*more, "--device", "cpu"])) == 0
        assert fake_engine.loads[0]["dtype"] == dtype


def test_without_flags_nothing_of_it_happens(place, capsys):  # noqa: F811
    fake_engine.loads.clear()
    assert main(listed(ENTRY)) == 0
    how = {"mean_memory": False, "text_on_host": False, "block_offload": False}
    assert fake_engine.loads == [{"name": "tiny", "dtype": "auto"} | how]
    assert Session.last.options.audio_levels == "levels" and "ms each" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "said"),
    [(["--fp8_gemm", "--fp4_gemm"], "--fp4_gemm: expected no other --dtype beside it, got --dtype fp8"),
     (["--fp8_gemm", "--dtype", "float32"], "--fp8_gemm: expected no other --dtype beside it, got --dtype float32")],
)  # fmt: skip
def test_flags_that_cannot_be_met_say_so(place, capsys, more, said):  # noqa: F811
    assert main(listed(ENTRY, more=more)) == 2
    assert said in capsys.readouterr().err and not list(Path().glob("*.mp4"))


def test_an_offload_from_a_gpu_reaches_the_loader_and_says_what_it_does_without(place, monkeypatch, capsys):  # noqa: F811
    for name in ("must_run_on", "self_test"):
        monkeypatch.setattr(loading, name, lambda *args: None)
    fake_engine.loads.clear()
    loading.load(Job("face.png", "talk.wav", "", "v.mp4", block_offload=True, offload_cache=True), "cuda:0")
    assert fake_engine.loads[0]["block_offload"]
    both = "--block-offload and --offload-cache"
    assert f"{both}: kernels are launched one by one, no CUDA graph has copies beside it\n" in capsys.readouterr().err
    loading.load(Job("face.png", "talk.wav", "", "v.mp4", offload_cache=True, eager=True), "cuda:0")
    assert not fake_engine.loads[1]["block_offload"] and "one by one" not in capsys.readouterr().err


def test_so_many_prompts_that_the_encoder_stays(place):  # noqa: F811
    jobs = [Job("face.png", "talk.wav", f"prompt {n}", "v.mp4") for n in range(loading.MOST_PROMPTS + 1)]
    assert loading.Shelf(jobs).prompts is None and len(loading.Shelf(jobs[1:]).prompts) == loading.MOST_PROMPTS
    assert loading.Shelf(jobs[:1] * 999).prompts == ("prompt 0",)
    fake_engine.encoded.clear()
    loading.Shelf(jobs).load(jobs[0], "cpu")
    loading.Shelf(jobs[:1]).load(jobs[0], "cpu", leads=False)
    assert fake_engine.encoded == [None, ()]


def test_the_readme_lists_every_released_flag():
    """| `--flag` | ours | what it does here |"""
    rows = dict(re.findall(r"^\| `(--\w+)` \| (\S+) \|", (ROOT / "README.md").read_text(), re.MULTILINE))
    generate = next(a for a in build_parser()._actions if a.dest == "command").choices["generate"]
    named = {name: action for action in generate._actions for name in action.option_strings}
    flags = {name for name in named if "_" in name} | {"--fps", "--size", "--seed"}  # these have one name
    assert rows.keys() == flags and len(flags) == 16
    for flag, ours in rows.items():
        assert ours == "-" or ours.strip("`") in (*named[flag].option_strings, "--precision")
