"""`liveact generate` from end to end, with a stand-in for the model: length, prompts, report, hooks, interruption."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from fake_engine import Session, modules
from PIL import Image

from liveact_app.cli import build_parser, main
from liveact_app.generate.command import run
from liveact_app.generate.edits import Edit, parse_edits
from liveact_app.media.audio import scan
from liveact_model.parallel import ALONE

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, module in modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    Image.new("RGB", (60, 50), "teal").save("face.png")
    record(4.4)
    return tmp_path


def record(seconds, rate=16000):
    samples = np.sin(np.arange(round(seconds * rate)) * 0.1).astype(np.float32)
    soundfile.write("talk.wav", samples, rate, subtype="FLOAT")


def command(*more):
    return ["generate", "--image", "face.png", "--audio", "talk.wav", "--out", "v.mp4", *more]


def levels(path):
    """The grey level of every video frame."""
    with av.open(str(path)) as file:
        frames = file.decode(video=0)
        return [f.reformat(format="rgb24", src_colorspace=f.colorspace).to_ndarray().mean() for f in frames]


# 21 + 32k video frames end with a block; 4.4 s and 1.3 s are the cases a floor over 32 would cut short.
LENGTHS = [(0.1, 20, 2), (1.05, 20, 21), (1.0501, 20, 22), (1.3, 20, 26), (2.65, 20, 53), (4.4, 20, 88),
           (4.4, 12.5, 55), (1.3, 29.97, 39), (1.3, 60, 78)]  # fmt: skip


@pytest.mark.parametrize(("seconds", "fps", "frames"), LENGTHS)
def test_the_video_covers_the_whole_recording(place, seconds, fps, frames):
    record(seconds)
    assert main(command("--fps", str(fps))) == 0
    got = levels("v.mp4")
    assert len(got) == frames
    made = [min(k, Session.last.made - 1) * 4 % 256 for k in range(frames)]
    assert np.abs(np.array(got) - made).max() <= 6
    sound = scan("v.mp4").seconds
    assert seconds - 1e-6 <= sound <= seconds + 2048 / 16000
    assert abs(sound - frames / fps) < max(1 / fps, 0.128)


def test_a_sliver_after_the_last_block_repeats_a_frame_instead_of_making_a_block(place):
    record(21.01 / 20)
    assert main(command()) == 0
    assert len(levels("v.mp4")) == 22 and Session.last.blocks_made == 1


def test_audio_is_pushed_as_it_is_needed(place):
    record(20, 8000)
    assert main(command()) == 0
    assert Session.last.most_held_s < 32 / 20 + 2 / 20 + 1.1  # a block, its look-ahead, two chunks
    assert abs(Session.last.pushed - 20 * 16000) <= 1


def test_options_reach_the_session_and_the_file(place):
    more = ["--size", "96*32", "--scale", "3", "--seed", "7", "--sampler", "euler", "--audio-cfg", "1.7", "--fps", "25",
            "--eight-bit-memory", "--eight-bit-attention", "--decode-latent-frames", "3", "--eager"]  # fmt: skip
    assert main(command(*more)) == 0
    s = Session.last
    assert (tuple(s.size), s.fps, vars(s.options)) == (
        (32, 96), 25.0,
        {"seed": 7, "sampler": "euler", "audio_cfg": 1.7, "eight_bit_memory": True, "audio_levels": "levels",
         "eight_bit_attention": True, "memory_offload": False, "decode_latent_frames": 3, "graphs": False,
         "parallel": ALONE},
    )  # fmt: skip
    with av.open("v.mp4") as file:
        video = file.streams.video[0]
        assert (video.width, video.height, video.average_rate) == (288, 96, 25)


def test_prompts_change_with_the_block(place):
    edits = ["--edit-prompt", "[1,1]=he nods", "--edit-prompt", "[1,2] = he [really] = smiles"]
    assert main(command("--prompt", "he talks", *edits)) == 0
    start, *per_block = Session.last.prompts
    assert start == "he talks"
    assert per_block == ["he talks", "he nods", "he [really] = smiles", "he talks"]


def test_edit_prompts_from_a_file(tmp_path):
    expected = (Edit(0, 2, "a"), Edit(3, 3, "b"))
    for name, data in (("released", {"[0, 2]": "a", "[3,3]": "b"}), ("demo", [[0, 2, "a"], [3, 3, "b"]])):
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
        assert parse_edits([str(tmp_path / f"{name}.json")]) == expected
    assert parse_edits([str(tmp_path / "demo.json"), "[4,5]="]) == (*expected, Edit(4, 5, ""))


def test_report_and_summary(place, capsys):
    assert main(command("--report", "r.json", "--prompt", "")) == 0
    report = json.loads(Path("r.json").read_text())
    assert {k: report[k] for k in ("video_frames", "blocks", "fps", "size", "interrupted", "audio_seconds")} == {
        "video_frames": 88, "blocks": 4, "fps": 20.0, "size": [64, 48], "interrupted": None, "audio_seconds": 4.4,
    }  # fmt: skip
    assert report["real_time_factor"] == pytest.approx(report["generate_seconds"] / 4.4)
    assert report["video_frames_per_second"] == pytest.approx(88 / report["generate_seconds"])
    assert 0 < report["first_block_seconds"] < report["generate_seconds"]
    assert 0 < report["encode_seconds"] < report["generate_seconds"]
    assert 2**25 < report["peak_rss_bytes"] < 2**36
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("op ")
    assert f"'{place}/v.mp4': 88 video frames, 4.40 s, 64x48 at 20 fps; " in out
    assert "loading 'tiny' on cpu" in err


def test_progress_lines_when_not_on_a_terminal(place, capsys, monkeypatch):
    monkeypatch.setattr("liveact_app.say.LOG_EVERY_S", 0.0)
    assert main(command()) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "video frames/s" in line]
    assert [line.split()[1] for line in lines] == ["21/88", "53/88", "85/88", "88/88"]


def test_hooks_see_every_block_and_the_finished_file(place):
    seen = []

    @contextlib.contextmanager
    def record_block(block):
        before = Session.last.blocks_made
        yield
        seen.append((block, Session.last.blocks_made - before))

    def print_budget(summary):
        seen.append((os.path.exists("v.mp4"), summary.video_frames))

    assert run(build_parser().parse_args(command()), record_block, print_budget) == 0
    assert seen == [(0, 1), (1, 1), (2, 1), (3, 1), (True, 88)]


def test_an_existing_output_is_replaced_and_a_link_followed(place):
    os.mkdir("real")
    Path("real/v.mp4").write_text("old")
    os.symlink("real/v.mp4", "v.mp4")
    assert main(command()) == 0
    assert os.path.islink("v.mp4") and len(levels("real/v.mp4")) == 88
    assert os.listdir("real") == ["v.mp4"]


# ---- in a process of its own ----------------------------------------------------------------------------------------


def start(*argv):
    return subprocess.Popen(
        [sys.executable, *argv], env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for(line, process):
    seen = []
    for text in process.stderr:
        seen.append(text)
        if text.startswith(line):
            return
    raise AssertionError("".join(seen))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_a_video_that_plays(place, stop):
    record(600)
    process = start(str(ROOT / "tests" / "fake_engine.py"), "0.2", *command("--report", "r.json"))
    wait_for("engine: block 3", process)
    process.send_signal(stop)
    process.send_signal(stop)  # impatience must not hurt
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130 and f"interrupted by {stop.name}; '{place}/v.mp4' holds" in err
    assert "Traceback" not in err
    report = json.loads(Path("r.json").read_text())
    got = levels("v.mp4")
    assert report["interrupted"] == stop.name and report["video_frames"] == len(got)
    assert len(got) >= 85 and (len(got) - 21) % 32 == 0 and f"{len(got)} of 12000 video frames" in out
    assert np.abs(np.array(got) - np.arange(len(got)) * 4 % 256).max() <= 6
    assert abs(scan("v.mp4").seconds - len(got) / 20) < 2048 / 16000
    assert sorted(os.listdir()) == ["face.png", "r.json", "talk.wav", "v.mp4"]


def test_a_run_stopped_before_the_first_frame_leaves_nothing(place):
    process = start(str(ROOT / "tests" / "fake_engine.py"), "3600", *command())
    wait_for("engine: block 0", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "before the first video frame; nothing was written" in err
    assert sorted(os.listdir()) == ["face.png", "talk.wav"]


def test_module_and_help_without_loading_torch(place):
    code = (
        "import sys; from liveact_app.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "assert not {'torch', 'av', 'PIL', 'numpy', 'rich'} & set(sys.modules)"
    )
    for argv, word in ((["--help"], "generate"), (["generate", "--help"], "example:"), (["--version"], "liveact ")):
        process = start("-c", code, *argv)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0 and word in out, err
    process = start("-m", "liveact_app", "generate")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2 and out == "" and err.startswith("liveact: error: ") and err.count("\n") == 1
