"""Recorded videos as training clips: one clock for pictures and sound, the same bytes again, and what is refused."""

import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from liveact_model.vae.tiny import TinyVAE
from liveact_train.__main__ import main
from liveact_train.data import folder as stage
from liveact_train.data.clips import FRAMES, LOOK_AHEAD
from liveact_train.data.recordings import SAMPLE_RATE, Recording, upright
from liveact_train.vae import save_vae

CODECS = {".webm": ("libvpx", "libopus", 48000), ".mkv": ("libx264", "pcm_s16le", 22050)}

QUICK = {"crf": "10", "preset": "ultrafast", "cpu-used": "16", "deadline": "realtime"}


def flash(seconds):
    """Whether picture and sound are on: for the first 0.3 s of every 1.1 s."""
    return (seconds + 1e-9) % 1.1 < 0.3


def record(path, seconds=6.4, times=None, fps=25, size=(96, 64), sound=True, heard=None, loud=0.5):
    """White pictures and a tone while `flash` says so, black ones and silence otherwise; red left and right."""
    video_codec, audio_codec, rate = CODECS.get(Path(path).suffix, ("libx264", "aac", 44100))
    times = np.arange(int(seconds * fps)) / fps if times is None else times
    with av.open(str(path), "w") as file:
        video = file.add_stream(
            video_codec,
            rate=fps,
            options={"crf": "10", "preset": "ultrafast", "cpu-used": "16", "deadline": "realtime"},
        )
        video.width, video.height, video.pix_fmt = *size, "yuv420p"
        video.codec_context.time_base = Fraction(1, 1000)
        voice = file.add_stream(audio_codec, rate=rate, layout="stereo") if sound else None
        margin = max(0, (size[0] - size[1]) // 2 - 4)
        for at in times:
            picture = np.full((size[1], size[0], 3), 255 * flash(at), np.uint8)
            picture[:, :margin] = picture[:, size[0] - margin :] = (255, 0, 0)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(at * 1000), Fraction(1, 1000)
            file.mux(video.encode(frame))
        file.mux(video.encode(None))
        for begin, end in (heard or ((0.0, seconds),)) if sound else ():
            at = np.arange(int(begin * rate), int(end * rate)) / rate
            wave = (np.sin(2 * np.pi * 440 * at) * flash(at) * loud * 32767).astype(np.int16)
            resampler, fifo = av.AudioResampler(voice.format.name, "stereo", rate), av.AudioFifo()
            for start in range(0, len(wave), 4096):
                part = np.repeat(wave[start : start + 4096], 2).reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format="s16", layout="stereo")
                frame.sample_rate = rate
                for out in resampler.resample(frame):
                    out.pts = None
                    fifo.write(out)
            done = int(begin * rate)
            while out := fifo.read(voice.codec_context.frame_size or 1024, True):
                out.pts, out.time_base, done = done, Fraction(1, rate), done + out.samples
                file.mux(voice.encode(out))
        if sound:
            file.mux(voice.encode(None))
    return path


def library(root, names=("a.mp4", "b.mkv", "c.webm"), **options):
    """A folder of videos with captions; 6.4 s hold one clip."""
    root.mkdir()
    for name in names:
        record(root / name, **options)
        (root / name).with_suffix(".txt").write_text("a happy person\nwaving\n")
    return root


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return library(tmp_path_factory.mktemp("folder") / "videos")


def run(videos, out, *options):
    return main(["folder", "--videos", str(videos), "--out", str(out), *map(str, options)])


def uneven():
    """25 to 50 pictures a second, as a phone's camera makes them."""
    return np.cumsum(np.random.RandomState(0).uniform(0.02, 0.04, 130)) - 0.02


@pytest.mark.parametrize(
    "name,options",
    [
        ("a.mp4", {"fps": 20}), ("a.mov", {"fps": 24}), ("a.mkv", {"fps": 30}), ("a.webm", {"fps": 25}),
        ("a.mp4", {"fps": 60}), ("a.mkv", {"times": uneven()}), ("a.mkv", {"heard": ((0.7, 3.9),)}),
        ("a.mkv", {"heard": ((0.0, 1.2), (2.3, 3.9))}),
    ],
)  # fmt: skip
def test_pictures_and_sound_share_one_clock(tmp_path, name, options):
    recording = Recording(record(tmp_path / name, 3.9, **options), 32, 20.0)
    pictures = np.stack(list(recording))
    last = options["times"][-1] if "times" in options else 3.9
    assert abs(len(pictures) - last * 20) <= 2 and pictures.shape[1:] == (3, 32, 32) and pictures.dtype == np.uint8
    assert abs(len(recording.samples) / SAMPLE_RATE - 3.9) < 0.1
    seen, starts = pictures.mean((1, 2, 3)), np.arange(len(pictures)) / 20
    assert np.abs(pictures.astype(int) - pictures[:, :1]).max() < 60  # grey: the red margins were cut off
    sure = [k for k, t in enumerate(starts) if flash(t - 0.03) == flash(t + 0.03)]
    assert [seen[k] > 128 for k in sure] == [bool(flash(starts[k])) for k in sure]
    times = np.arange(len(recording.samples) // 160) * 0.01
    loud = np.abs(recording.samples[: len(times) * 160].reshape(-1, 160)).max(1) > 0.1
    sure = [k for k, t in enumerate(times) if flash(t - 0.02) == flash(t + 0.03) and t < 3.8]
    there = options.get("heard", ((0, 3.9),))
    assert [loud[k] for k in sure] == [bool(flash(times[k])) and any(a <= times[k] < b for a, b in there) for k in sure]


def test_clips_are_those_of_the_data_stage_and_the_same_again(videos, tmp_path, monkeypatch, capsys):
    assert run(videos, tmp_path / "a") == 0
    assert "3 of 3 videos, 3 clips" in capsys.readouterr().out
    read = {n: np.load(tmp_path / "a" / n / "video.npy") for n in ("train", "val")}
    assert read["train"].shape == (2, FRAMES, 3, 64, 64) and read["val"].shape == (1, FRAMES, 3, 64, 64)
    mel = np.load(tmp_path / "a/train/mel.npy")
    assert mel.shape == (2, FRAMES + LOOK_AHEAD, 128) and mel.dtype == np.float16
    loud, white = mel[0, :FRAMES].mean(1).astype(float), read["train"][0].mean((1, 2, 3))
    lags = {lag: np.corrcoef(loud[5 + lag : 110 + lag], white[5:110])[0, 1] for lag in range(-4, 5)}
    assert max(lags, key=lags.get) == 0 and lags[0] > 0.7
    assert json.loads((tmp_path / "a/val/prompts.json").read_text()) == [["a happy person waving"] * 4]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["train", "val"]
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: sorted(listed(self), reverse=True))  # another file system
    assert run(videos, tmp_path / "b") == 0
    for file in ("train/video.npy", "train/mel.npy", "train/prompts.json", "val/video.npy"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    chosen = [tuple(stage._held_out(list(range(9)), stage.FolderConfig(seed=s))) for s in (1, 1, 2, 3, 4)]
    assert chosen[0] == chosen[1] and len(set(chosen)) > 1


def test_a_run_on_recorded_clips_is_continued_bit_for_bit(videos, tmp_path):
    assert run(videos, tmp_path / "clips") == 0
    torch.manual_seed(0)
    save_vae(TinyVAE(8, overlap=True), str(tmp_path / "vae.safetensors"))
    latents = ["--vae", str(tmp_path / "vae.safetensors"), "--out", str(tmp_path / "latents")]
    assert main(["latents", "--data", str(tmp_path / "clips"), *latents]) == 0
    for out, steps in (("whole", 2), ("parts", 1), ("parts", 2)):
        dit = ["dit", "--latents", str(tmp_path / "latents"), "--batch", "1", "--out", str(tmp_path / out)]
        assert main([*dit, "--steps", str(steps)]) == 0
    whole, parts = (load_file(tmp_path / out / "checkpoint.safetensors") for out in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_several_clips_of_one_video_follow_each_other_and_short_videos_are_left_out(tmp_path, capsys):
    root = library(tmp_path / "videos", ("b.mkv",), seconds=12.2, fps=20)
    record(root / "a.mkv", 6.4)
    record(root / "c.mkv", 2.0)
    rows = [{"file": f"{n}.mkv", "caption": "angry"} for n in "ac"]
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert run(root, tmp_path / "out") == 0
    assert "c.mkv is left out, no clip of 5.95 s is in it" in capsys.readouterr().out
    found = [np.load(tmp_path / "out" / n / "video.npy") for n in ("train", "val")]
    long = next(f for f in found if len(f) == 2).reshape(-1, 3, 64, 64).mean((1, 2, 3)) > 128
    assert [bool(x) for x in long] == [bool(flash(k / 20)) for k in range(2 * FRAMES)]


def test_pictures_without_sound_make_no_clip_and_disturb_no_other(tmp_path):
    root = library(tmp_path / "videos", ("b.mkv", "c.mkv"), fps=20)
    record(root / "a.mkv", 12.2, fps=20, heard=((0.0, 6.1),), size=(64, 64))
    (root / "a.txt").write_text("sad")
    assert run(root, tmp_path / "out", "--seed", 2) == 0
    found = np.concatenate([np.load(tmp_path / "out" / n / "video.npy") for n in ("train", "val")])
    white = found.mean((2, 3, 4)) > 128
    assert white.shape == (3, FRAMES) and all((row == flash(np.arange(FRAMES) / 20)).all() for row in white)


def test_quarter_turns_are_a_players():
    picture = np.zeros((4, 4, 3))
    picture[0, 3] = 1  # top right
    assert upright(picture, 90)[0, 0, 0] == 1 and upright(picture, -90)[3, 3, 0] == 1


def spoil_truncate(path):
    path.write_bytes(path.read_bytes()[: int(os.path.getsize(path) * 0.6)])


def spoil_middle(path):
    data = bytearray(path.read_bytes())
    for i in range(len(data) // 3, len(data) // 2):
        data[i] ^= 0x5A
    path.write_bytes(data)


REFUSED = [
    (lambda p: record(p, sound=False), "expected sound in every video, {} has none"),
    (lambda p: record(p, loud=0), "expected sound in every video, that of {} is silence"),
    (lambda p: record(p, fps=15), "expected at least 20 video frames per second, the model's rate, {} has 15"),
    (lambda p: p.write_bytes(b"what is this"), "expected videos that can be decoded whole, {} is not ("),
    (lambda p: p.write_bytes(b""), "expected videos that can be decoded whole, {} is not ("),
    (lambda p: p.write_text("#EXTM3U\n#EXTINF:9,\na.mp4\n"), "expected videos that can be decoded whole, {} is not ("),
    (spoil_truncate, "expected videos that can be decoded whole, {} is not ("),
    (spoil_middle, "expected videos that can be decoded whole, {} is not ("),
    (lambda p: p.with_suffix(".txt").unlink(), "expected one caption of {}, in b.txt or in captions.jsonl, found none"),
    (lambda p: p.with_suffix(".txt").write_text(" \n"), "expected one caption of {}, found no words"),
    (lambda p: p.with_name("captions.jsonl").write_text('{"file": "b.mkv", "caption": "x"}'),
     "expected one caption of {}, in b.txt or in captions.jsonl, found both"),
    (lambda p: p.with_name("captions.jsonl").write_text('{"file": "b.mkv"}'),
     'expected {{"file": name, "caption": text}} in line 1 of '),
    (lambda p: p.with_name("captions.jsonl").write_text('{"file": "z.mkv", "caption": "x"}'),
     "line 1 of "),
    (lambda p: p.with_suffix(".txt").write_bytes(b"\xff\xfe\xff"), "expected UTF-8 text in "),
]  # fmt: skip


@pytest.mark.parametrize("spoil,said", REFUSED)
def test_what_cannot_be_learnt_from_is_refused_and_nothing_is_left(videos, tmp_path, capsys, spoil, said):
    folder = tmp_path / "videos"
    folder.mkdir()
    for file in ("a.mp4", "a.txt", "b.mkv", "b.txt"):
        (folder / file).write_bytes((videos / file).read_bytes())
    spoil(folder / "b.mkv")
    assert run(folder, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --videos: " + said.format(repr(str(folder / "b.mkv")))) and error.count("\n") == 1
    assert not list((tmp_path / "out").glob("*"))


def test_a_folder_that_holds_too_little_is_refused(tmp_path, capsys):
    library(tmp_path / "short", ("a.mkv", "b.mkv"), seconds=1.0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "drawn/train").mkdir(parents=True)
    (tmp_path / "drawn/train/attributes.npy").write_bytes(b"")
    for flag, folder, out, said in (
        ("videos", "nowhere", "out", "expected a folder, got "),
        ("videos", "empty", "out", "expected at least two videos (.mkv, .mov, .mp4, .webm), one of them to hold out, "),
        ("videos", "short", "out", "expected at least two videos with pictures and sound for 5.95 s, "),
        ("out", "short", "drawn", "expected another folder than that of drawn clips, got "),
    ):
        assert run(tmp_path / folder, tmp_path / out) == 2
        assert capsys.readouterr().err.startswith(f"error: --{flag}: {said}")
    assert run(tmp_path / "short", tmp_path / "out", "--val-share", "1.5") == 2
    assert capsys.readouterr().err == "error: --val-share: expected more than 0 and less than 1, got 1.5\n"
