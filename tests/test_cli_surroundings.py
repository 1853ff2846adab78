"""What surrounds a run may break: streams, limits, the output folder, the recording. One sentence, and no work lost."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from liveact_app.media.files import check_output, require_file
from liveact_app.media.finished import check_video
from liveact_app.media.pending import PendingFile
from liveact_model.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
ENGINE = str(ROOT / "tests" / "fake_engine.py")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 50), "teal").save("face.png")
    soundfile.write("talk.wav", np.sin(np.arange(64000) * 0.1), 16000)
    os.mkdir("o")
    return tmp_path


def start(*more, delay="0", out="o/v.mp4", script=(ENGINE,), **options):
    files = ["generate", "--image", "face.png", "--audio", "talk.wav", "--out", out]
    settings = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([sys.executable, *script, delay, *files, *more], text=True,
                            env=os.environ | {"PYTHONPATH": str(ROOT)}, **settings)  # fmt: skip


def end(process):
    out, err = process.communicate(timeout=100)
    assert "Traceback" not in err and "terminate" not in err and "Exception ignored" not in err, err
    return process.returncode, out, err


def count(path):
    with av.open(str(path)) as file:
        return file.streams.video[0].frames


def wait_for(line, process):
    assert any(text.startswith(line) for text in process.stderr)


def test_a_full_standard_output_keeps_the_video(place):
    with open("/dev/full", "w") as full:
        code, _, err = end(start(stdout=full))
    assert code == 0 and "cannot write to standard output (No space left on device); '" in err
    assert count("o/v.mp4") == 80 and os.listdir("o") == ["v.mp4"]


def test_standard_error_that_is_full_and_output_without_reader(place):
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full", "w") as full:
        process = start(stdout=write, stderr=full)
        os.close(write)
        assert process.wait(100) == 0
    assert count("o/v.mp4") == 80


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["generate", "--help"], ["tune", "--help"]], ids=" ".join)
@pytest.mark.parametrize("where,code", [("full", 2), ("closed", 2), ("left", 141), ("file", 0)])
def test_help_that_nobody_gets_is_no_success(argv, where, code, tmp_path):
    """argparse swallows what goes wrong while it prints."""
    read, write = os.pipe()
    os.close(read)
    stdout = {"full": "/dev/full", "file": str(tmp_path / "text")}.get(where)
    number = write if where == "left" else os.open(stdout or os.devnull, os.O_WRONLY | os.O_CREAT)
    done = subprocess.run(
        [sys.executable, "-m", "liveact_app", *argv], stdout=number, stderr=subprocess.PIPE, text=True, timeout=100,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, preexec_fn=(lambda: os.close(1)) if where == "closed" else None,
    )  # fmt: skip
    os.close(number)
    os.close(write) if where != "left" else None
    lost = "liveact: error: cannot write to standard output ("
    assert done.returncode == code, done.stderr
    assert (done.stderr.startswith(lost) and done.stderr.count("\n") == 1) if code == 2 else done.stderr == ""
    assert where != "file" or (tmp_path / "text").read_text().startswith(("usage: liveact", "liveact "))


@pytest.mark.parametrize("what", ["renamed", "removed", "replaced"])
def test_the_output_folder_goes_while_it_runs(place, what):
    process = start(delay="0.3")
    wait_for("engine: block 1", process)
    if what == "removed":
        shutil.rmtree("o")
    else:
        os.rename("o", "moved")
    if what == "replaced":
        os.mkdir("o")
    code, out, err = end(process)
    where = out.rsplit("\n'", 1)[1].split("'")[0]
    assert count(where) == 80
    assert code == (0 if what == "replaced" else 2)
    if what == "removed":
        assert "takes no file any more; it is" in err and not os.path.exists("o")
        os.remove(where)
    else:
        assert where == str(place / ("moved" if what == "renamed" else "o") / "v.mp4")


def test_the_recording_is_cut_after_it_was_read_once(place):
    soundfile.write("talk.wav", np.sin(np.arange(320000) * 0.1), 16000)
    process = start(delay="0.3")
    wait_for("engine: block 0", process)
    os.truncate("talk.wav", 44 + 6 * 32000)
    code, out, err = end(process)
    frames = count("o/v.mp4")
    assert code == 2 and frames == 120, err
    assert "liveact: error: --audio: 'talk.wav' ends after 6.00 s, it had 20.00 s when the run began; '/" in err
    assert err.count("error") == 1 and "120 of 400 video frames" in out and os.listdir("o") == ["v.mp4"]


def test_interrupted_after_the_output_folder_was_removed(place):
    process = start(delay="0.3")
    wait_for("engine: block 1", process)
    shutil.rmtree("o")
    process.send_signal(signal.SIGINT)
    code, out, err = end(process)
    where = out.rsplit("\n'", 1)[1].split("'")[0]
    assert count(where) >= 21 and not os.path.exists("o")
    os.remove(where)
    assert code == 2 and "interrupted by SIGINT" in err and err.count("takes no file any more; it is") == 1


def test_a_killed_run_leaves_nothing(place):
    process = start(delay="0.3")
    wait_for("engine: block 1", process)
    process.kill()
    process.communicate()
    assert os.listdir("o") == []


@pytest.mark.parametrize(("limit", "value", "word"), [("AS", 200 << 20, "ulimit -v"), ("AS", 1 << 30, "ulimit -v"),
                                                      ("NOFILE", 6, "ulimit -n")])  # fmt: skip
def test_low_limits(place, limit, value, word):
    def lower():
        number = getattr(resource, f"RLIMIT_{limit}")
        resource.setrlimit(number, (value, value))

    done = subprocess.run([sys.executable, "-m", "liveact_app", "budget"], capture_output=True, text=True, timeout=100,
                          env=os.environ | {"PYTHONPATH": str(ROOT)}, preexec_fn=lower)  # fmt: skip
    assert done.returncode == 2 and word in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_damaged_video_is_found(tmp_path):
    from test_video import write

    for name in ("v.mp4", "v.mkv"):
        path = tmp_path / name
        write(path, 40)
        check_video(str(path), 40, "--out", name)
        whole = path.read_bytes()
        holed = whole[: len(whole) // 2] + bytes(2000) + whole[len(whole) // 2 + 2000 :]
        for spoiled in (whole[: len(whole) // 2], b"", holed):
            path.write_bytes(spoiled)
            with pytest.raises(InputError, match="damaged while it was written"):
                check_video(str(path), 40, "--out", name)


@pytest.mark.parametrize("name", ["v.mp4/", "v.mp4/.", "n" * 255 + ".mp4", "v\0.mp4"])
def test_output_names(place, name):
    with pytest.raises(InputError, match="--out"):
        check_output(name, "--out", (".mp4",), {})


def test_files_of_the_kernel_are_not_waited_for():
    with pytest.raises(InputError, match="--audio"):
        require_file("/proc/kmsg", "--audio")


def test_stale_files_are_swept_and_live_ones_are_not(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    stale = tmp_path / ".liveact-0123456789ab.mp4"
    stale.write_text("x")
    os.utime(stale, (0, 0))
    with PendingFile(str(tmp_path / "v.mp4"), "--out") as live:
        assert not stale.exists()
        os.utime(live.temporary, (0, 0))
        with PendingFile(str(tmp_path / "w.mp4"), "--out"):
            assert os.path.exists(live.temporary)
        assert live.commit() == live.path
    assert os.listdir(tmp_path) == ["v.mp4"]
