"""`liveact generate` and bench/frame.py by several processes: the same video, one voice, and every way to stop."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import av
import group
import numpy as np
import pytest
import soundfile
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SOURCE = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 50), "teal").save("face.png")
    return tmp_path


def record(seconds):
    samples = np.random.default_rng(1).normal(size=round(seconds * 16000)).astype(np.float32) * 0.2
    soundfile.write("talk.wav", samples, 16000, subtype="FLOAT")


def command(out, *more):
    return ["-m", "liveact_app", "generate", "--image", "face.png", "--audio", "talk.wav", "--out", out, *more]


def launch(size, *command):
    """One process per rank, as a launcher would start them; rank 0 first."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    places = [{"RANK": str(r), "LOCAL_RANK": str(r), "WORLD_SIZE": str(size), "MASTER_PORT": str(port)}
              for r in range(size)]  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, *command], env=os.environ | SOURCE | where, stderr=subprocess.PIPE, text=True,
            stdout=subprocess.PIPE,
        )
        for where in places
    ]  # fmt: skip


def ended(processes, seconds=group.HANGS_S):
    """[(exit code, standard error)], and that they end."""
    try:
        return [(p.returncode, text) for p in processes for text in (p.communicate(timeout=seconds)[1],)]
    finally:
        for p in processes:
            p.kill()


def pictures(path):
    with av.open(path) as file:
        return np.stack([f.to_ndarray(format="rgb24") for f in file.decode(video=0)]).astype(int)


def until_frames(process):
    """Wait for a plain progress line: the first blocks exist."""
    for line in process.stderr:
        if "video frames," in line:
            return
    raise AssertionError("the run ended before its first progress line")


def test_torchrun_makes_the_video_that_one_process_makes(place):
    record(2.2)
    edit = ["--edit-prompt", "[1,1]=he smiles"]
    subprocess.run([sys.executable, *command("one.mp4", *edit)], env=os.environ | SOURCE, check=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, *command("two.mp4", *edit, "--parallel", "overlap")], env=os.environ | SOURCE, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two.mp4") == 1 and done.stderr.count("loading 'tiny'") == 1  # one voice
    one, two = pictures("one.mp4"), pictures("two.mp4")
    assert one.shape == two.shape == (44, 64, 64, 3)
    assert abs(one - two).max() <= 8 and abs(one - two).mean() < 0.05  # float32 order of sums, rounding and H.264
    assert sorted(p.name for p in place.iterdir()) == ["face.png", "one.mp4", "talk.wav", "two.mp4"]


def test_bad_input_is_one_sentence_and_ends_all(place):
    record(1)
    Path("face.png").write_text("no picture")
    (lead, said), (other, silent) = ended(launch(2, *command("v.mp4")))
    assert (lead, other) == (2, 2) and "--image" in said and "liveact: error" not in silent
    assert not Path("v.mp4").exists() and len(list(place.iterdir())) == 2
    (lead, said), (other, silent) = ended(launch(2, *command("v.mp4", "--fps", "99")))  # every process sees this one
    assert (lead, other, silent) == (2, 2, "") and "--fps" in said


def test_ctrl_c_on_the_leading_process_leaves_a_playable_file_and_ends_all(place):
    record(90)
    processes = launch(2, *command("v.mp4"))
    until_frames(processes[0])
    for p in processes:  # a terminal sends it to all
        p.send_signal(signal.SIGINT)
    (lead, said), (other, silent) = ended(processes)
    assert (lead, other) == (130, 130) and "can be played" in said and "error" not in silent
    assert len(pictures("v.mp4")) >= 21


def test_a_dead_rank_ends_the_run_with_its_number(place):
    record(90)
    processes = launch(2, *command("v.mp4"))
    until_frames(processes[0])
    processes[1].kill()
    (code, said), _ = ended(processes)
    assert code == 1 and "rank 1 of 2 has died" in said, said
    assert said.count("liveact: error") == 1 and "Traceback" not in said
    assert sorted(p.name for p in place.iterdir()) == ["face.png", "talk.wav"]


FRAME = [str(ROOT / "bench" / "frame.py"), "--model", "tiny", "--size", "32*32", "--device", "cpu", "--blocks", "1"]


def test_torchrun_measures_frames_of_one_session(place):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*torchrun, *FRAME, "--parallel", "ulysses", "--out", "frame.jsonl"], env=os.environ | SOURCE, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in Path("frame.jsonl").read_text().splitlines()]
    assert [r.get("what", r["kind"]) for r in rows] == ["cold", "first", "steady", "breakdown"]  # by one process only
    assert all((r["ranks"], r["form"]) == (2, "ulysses") and r["ms_per_video_frame"] > 0 for r in rows)
    assert rows[2]["video_frames"] == 32 and rows[3]["breakdown"] == "not measured with several processes"
    assert done.stdout.count(": 50 ms ") == 1 and done.stderr.count("random weights of tiny") == 1  # one voice


@pytest.mark.parametrize(
    "option,words",
    [
        (["--parallel", "sideways"], "--parallel: invalid choice: 'sideways'"),  # every process sees this one
        (["--out", "face.png/frame.jsonl"], "--out: expected a file that can be written"),  # only the leading one
    ],
)
def test_a_bad_option_of_frame_is_one_sentence_and_ends_all(place, option, words):
    (lead, said), (other, silent) = ended(launch(2, *FRAME, *option), 30)
    assert (lead, other, silent) == (2, 2, "") and words in said and said.count("\n") == 1, (said, silent)
    assert [p.name for p in place.iterdir()] == ["face.png"]
