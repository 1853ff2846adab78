"""Bad input is one sentence and exit code 2, and leaves no file behind."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from fake_engine import Session, modules
from PIL import Image

from liveact_app.cli import main
from liveact_model.errors import InputError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A directory with good inputs and every kind of bad one, made once: no test may leave a trace in it."""
    before, path = os.getcwd(), tmp_path_factory.mktemp("inputs")
    os.chdir(path)
    make_inputs()
    os.chdir(before)
    return path


@pytest.fixture
def place(inputs, monkeypatch):
    """The inputs as working directory, and the stand-in for the model."""
    monkeypatch.chdir(inputs)
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def make_inputs():
    Image.new("RGB", (60, 50), "teal").save("face.png")
    speech = np.sin(np.arange(16000 * 2) * 0.1).astype(np.float32)
    soundfile.write("talk.wav", speech, 16000, subtype="FLOAT")
    for name, at, value in (("nan", 20000, np.nan), ("inf", 31999, -np.inf), ("huge", 5, 32767.0)):
        spoiled = speech.copy()
        spoiled[at] = value
        soundfile.write(f"{name}.wav", spoiled, 16000, subtype="FLOAT")
    soundfile.write("none.wav", speech[:0], 16000)
    soundfile.write("short.wav", speech[:1000], 16000)
    soundfile.write("half.wav", speech[:8000], 16000)
    soundfile.write("slow.wav", speech[:2000], 1000)
    Path("empty").touch()
    Path("text.txt").write_text("hello, this is neither a picture nor a recording\n" * 50)
    os.mkdir("folder")
    os.mkfifo("pipe")
    Image.new("RGB", (15, 400)).save("narrow.png")
    Image.new("1", (16385, 16)).save("wide.png")
    Image.new("1", (10001, 10000)).save("big.png")
    Image.new("1", (16000, 16000)).save("bomb.png")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "webp", "gif", "bmp"):
        noise.save(f"whole.{suffix}")
        data = Path(f"whole.{suffix}").read_bytes()
        Path(f"cut.{suffix}").write_bytes(data[: len(data) // 3])
    for name, text in (("bad", "{"), ("span", '{"[2,1]": "x"}'), ("deep", f'{{"{"[" * 50000}": "x"}}'),
                       ("list", "[1, 2]"), ("value", '{"[0,1]": 3}'),
                       ("half", '{"[0,1]": "\\ud800"}')):  # fmt: skip
        Path(f"{name}.json").write_text(text)


def command(**changed):
    """The arguments of a run that works, with some changed; None leaves one out."""
    values = {"image": "face.png", "audio": "talk.wav", "out": "v.mp4"} | changed
    return ["generate"] + [part for name, value in values.items() if value is not None
                           for part in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip


BAD = [
    # what is wrong, the argument named, words of the sentence
    ({"image": "absent.png"}, "--image", "no such file: 'absent.png'"),
    ({"image": "folder"}, "--image", "is a directory"),
    ({"image": "empty"}, "--image", "is empty"),
    ({"image": "pipe"}, "--image", "regular file"),
    ({"image": "text.txt"}, "--image", "unknown image format"),
    ({"image": "talk.wav"}, "--image", "unknown image format"),
    *[({"image": f"cut.{s}"}, "--image", "cannot decode") for s in ("png", "jpg", "webp", "gif", "bmp")],
    ({"image": "narrow.png"}, "--image", "at least 16 pixels"),
    ({"image": "wide.png"}, "--image", "16385x16"),
    ({"image": "big.png"}, "--image", "100 megapixels"),
    ({"image": "bomb.png"}, "--image", "100 megapixels"),
    ({"audio": "absent.wav"}, "--audio", "no such file: 'absent.wav'"),
    ({"audio": "folder"}, "--audio", "is a directory"),
    ({"audio": "empty"}, "--audio", "is empty"),
    ({"audio": "pipe"}, "--audio", "regular file"),
    ({"audio": "text.txt"}, "--audio", "no decoder reads"),
    ({"audio": "face.png"}, "--audio", "no decoder reads"),
    ({"audio": "none.wav"}, "--audio", "at least 0.1 s"),
    ({"audio": "short.wav"}, "--audio", "0.062 s (1000 samples)"),
    ({"audio": "half.wav", "fps": 1}, "--audio", "at least one video frame"),
    ({"audio": "slow.wav"}, "--audio", "1000 Hz"),
    ({"audio": "nan.wav"}, "--audio", "NaN or infinity at 1.250 s"),
    ({"audio": "inf.wav"}, "--audio", "NaN or infinity at 2.000 s"),
    ({"audio": "huge.wav"}, "--audio", "reaches 3.277e+04"),
    ({"out": "folder"}, "--out", "is a directory"),
    ({"out": "v.avi"}, "--out", ".mp4 or .mkv or .mov, got 'v.avi'"),
    ({"out": "v"}, "--out", "ending in"),
    ({"out": "nowhere/v.mp4"}, "--out", "does not exist"),
    ({"out": "/proc/v.mp4"}, "--out", "cannot write in '/proc'"),
    ({"out": "folder/../talk.mp4", "audio": "./talk.mp4"}, "--out", "also given as --audio"),
    ({"report": "folder"}, "--report", "is a directory"),
    ({"report": "r.txt"}, "--report", ".json"),
    ({"report": "/proc/r.json"}, "--report", "cannot write in '/proc'"),
    *[({"size": s}, "--size", "width first") for s in ("480", "480,832", "480*", "16 16", "16*16*16", "a*b", "")],
    *[({"size": s}, "--size", "multiples of 16") for s in ("0*16", "8*16", "480*830", "4112*16", "16x99999")],
    *[({"fps": f}, "--fps", f"from 1 to 60, got '{f}'") for f in ("0", "0.99", "60.5", "-5", "nan", "inf", "x", "")],
    *[({"seed": s}, "--seed", "whole number") for s in ("1.5", "x", "-1", "", 2**63, "9" * 5000)],
    *[({"scale": s}, "--scale", "from 1 to 16") for s in ("0", "17", "2.0", "x")],
    ({"size": "1024*1024", "scale": 16}, "--scale", "16384x16384"),
    ({"model": "large"}, "--model", "'large'"),
    ({"backend": "abacus"}, "--backend", "'abacus'"),
    ({"device": "gpu"}, "--device", "expected auto, cpu, cuda or cuda:N, got 'gpu'"),
    ({"device": "cuda:99"}, "--device", "'cuda:99' cannot be used here ("),
    ({"sampler": "heun"}, "--sampler", "invalid choice: 'heun'"),
    ({"dtype": "int3"}, "--dtype", "expected one of auto, float32"),
    *[({"audio_cfg": s}, "--audio-cfg", "from 1 to 10") for s in ("0.5", "11", "x")],
    ({"prompt": "\udcff"}, "--prompt", "valid UTF-8"),
    *[({"edit_prompt": e}, "--edit-prompt", "0 <= first <= last")
      for e in ("[2,1]=x", "[-1,1]=x", "[1]=x", "[0,1,2]=x", "[0.5,1]=x", "[a,b]=x", "[true,1]=x", "[]=x")],
    ({"edit_prompt": "deep.json"}, "--edit-prompt", "0 <= first <= last"),
    *[({"edit_prompt": e}, "--edit-prompt", ".json file, got") for e in ("hello", "[0,1]", "0,1=x", "")],
    ({"edit_prompt": "absent.json"}, "--edit-prompt", "no such file: 'absent.json'"),
    ({"edit_prompt": "bad.json"}, "--edit-prompt", "not valid JSON"),
    ({"edit_prompt": "list.json"}, "--edit-prompt", "to hold an object"),
    *[({"edit_prompt": f"{e}.json"}, "--edit-prompt", "0 <= first <= last") for e in ("span", "value", "half")],
    ({"image": None}, "--image", "required"),
    ({"audio": None}, "--audio", "required"),
    ({"out": None}, "--out", "required"),
    ({"imag": "face.png"}, "--imag", "unrecognized"),
]  # fmt: skip


def error_of(capsys):
    """The one error line, after whatever was noted before."""
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("liveact: ") for line in lines)
    assert [line.startswith("liveact: error: ") for line in lines] == [False] * (len(lines) - 1) + [True]
    return lines[-1]


@pytest.mark.parametrize(("changed", "argument", "words"), BAD, ids=[f"{a}:{c}"[:60] for c, a, _ in BAD])
def test_bad_input(place, capsys, changed, argument, words):
    before = sorted(os.listdir())
    assert main(command(**changed)) == 2
    error = error_of(capsys)
    assert argument in error and words in error
    assert sorted(os.listdir()) == before and os.listdir("folder") == []


@pytest.mark.parametrize("option", ["scale", "seed", "size", "fps", "audio-cfg", "sampler"])
def test_two_dashes_are_a_value_like_any_other(place, capsys, option):
    assert main([*command(), f"--{option}=--"]) == 2
    error = error_of(capsys)
    assert f"--{option}" in error and "'--'" in error


def test_a_sentence_stays_one_however_long_the_value(place, capsys):
    for changed in ({"seed": "9" * 5000}, {"parallel": "a" * 20000}, {"edit_prompt": f"[{'1' * 5000},2]=x"}):
        assert main(command(**changed)) == 2
        error = error_of(capsys)
        assert len(error) < 500 and f"--{next(iter(changed)).replace('_', '-')}" in error


def test_a_report_does_not_overwrite_the_edits(place, capsys, tmp_path):
    edits = tmp_path / "edits.json"
    edits.write_text('{"[0,1]": "he nods"}')
    assert main([*command(), "--edit-prompt", str(edits), "--report", str(edits)]) == 2
    assert "--report" in error_of(capsys) and edits.read_text() == '{"[0,1]": "he nods"}'


@pytest.mark.parametrize(("argv", "words"), [([], "COMMAND"), (["paint"], "'paint'"), (["--fast"], "COMMAND")])
def test_bad_command(capsys, argv, words):
    assert main(argv) == 2
    error = error_of(capsys)
    assert words in error and "liveact --help" in error


def test_an_unreadable_file_is_named(place, capsys, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("liveact_app.media.files.open", refuse, raising=False)  # root can read everything
    assert main(command()) == 2
    assert "--image: cannot read 'face.png' (Permission denied)" in error_of(capsys)


def test_an_error_keeps_the_old_output(place, capsys):
    Path("v.mp4").write_text("precious")
    assert main(command(audio="nan.wav")) == 2
    assert Path("v.mp4").read_text() == "precious"
    os.remove("v.mp4")


def test_a_bug_shows_itself_and_leaves_nothing(place, monkeypatch):
    monkeypatch.setattr(Session, "fail_at", 1)
    before = sorted(os.listdir())
    with pytest.raises(RuntimeError, match="the engine broke") as caught:
        main(command(report="r.json"))
    assert sorted(os.listdir()) == before
    if os.path.isdir("/proc/self/fd"):  # while the traceback keeps everything alive
        names = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        assert not [name for name in names if ".liveact-" in name], caught


def test_a_session_that_ends_early_is_a_bug(place, monkeypatch):
    before = sorted(os.listdir())
    monkeypatch.setattr(Session, "done", property(lambda self: self.made >= 21))
    with pytest.raises(RuntimeError, match="ended 19 video frames before the audio"):
        main(command())
    assert sorted(os.listdir()) == before


def test_a_full_disk_is_an_error_and_leaves_nothing(place):
    before = sorted(os.listdir())
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); sys.argv.pop(0); "
    script = limit + "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", script, str(ROOT / "tests" / "fake_engine.py"), "0", *command(size="256*256")],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "liveact: error: --out: cannot write" in done.stderr and "File too large" in done.stderr
    assert sorted(os.listdir()) == before


def test_a_message_of_several_lines_becomes_one(place, capsys, monkeypatch):
    def broken(*args, **kwargs):
        raise InputError("model: expected two files,\n   found one")

    monkeypatch.setattr(sys.modules["liveact_model.loading"], "load_avatar", broken)
    assert main(command()) == 2
    assert error_of(capsys) == "liveact: error: model: expected two files, found one"
