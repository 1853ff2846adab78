"""Clips from a folder of recorded videos with sound and captions, in the layout of the data stage.

video.npy, mel.npy and prompts.json are as `clips` describes them, pictures of any square size; what only a drawn face
has (attributes, prompt_ids) is left out. sound.npy [N, 95200] int16 is what the clips and the two video frames after
them sound like, mono at 16 kHz, for encoders other than mel. A video gives as many clips as follow each other whole in
it. Clips lie in the order of the files' names, never in that of the disk, and whole videos are held out by the seed;
which clips a training step sees depends on its seed and number. So the same folder gives the same bytes, and a run that
is cut off continues bit for bit.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from liveact_model.audio.mel import CHANNELS, MelEncoder
from liveact_model.errors import InputError
from liveact_train.data.clips import BLOCK_STARTS, FRAMES, LOOK_AHEAD, SIZE
from liveact_train.data.processes import FPS
from liveact_train.data.recordings import SUFFIXES, Recording
from liveact_train.data.speech import SAMPLE_RATE

CAPTIONS = "captions.jsonl"
SECONDS = (FRAMES + LOOK_AHEAD) / FPS  # of pictures and sound that a clip takes
CLIP_SAMPLES = round(SECONDS * SAMPLE_RATE)


@dataclass(frozen=True)
class FolderConfig:
    """Make clips from a folder of recorded videos, instead of the data stage."""

    videos: str = "videos"  # folder of .mp4, .mkv, .mov and .webm, each with a .txt or a line in captions.jsonl
    out: str = "data/videos"  # folder to write; gets the sub-folders train and val
    pixels: int = SIZE  # side of the square pictures; a multiple of 16
    val_share: float = 0.1  # of the videos, held out whole; one at least
    seed: int = 1  # chooses them


def list_videos(folder: Path) -> list[Path]:
    """The videos of a folder by name; InputError if there are not two."""
    if not folder.is_dir():
        raise InputError(f"--videos: expected a folder, got {str(folder)!r}")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if len(found) < 2:
        least = f"at least two videos ({', '.join(SUFFIXES)}), one of them to hold out"
        raise InputError(f"--videos: expected {least}, {str(folder)!r} has {len(found)}")
    return found


def captions(folder: Path, videos: list[Path]) -> list[str]:
    """A sentence per video: of the .txt with its name, or of the line {"file": .., "caption": ..} in captions.jsonl."""
    listed = _listed(folder / CAPTIONS, {p.name for p in videos})
    out = []
    for video in videos:
        text, named = video.with_suffix(".txt"), f"--videos: expected one caption of {str(video)!r}"
        if text.is_file() == (video.name in listed):
            found = "both" if text.is_file() else "none"
            raise InputError(f"{named}, in {text.name} or in {CAPTIONS}, found {found}")
        caption = " ".join((_text(text) if text.is_file() else listed[video.name]).split())
        if not caption:
            raise InputError(f"{named}, found no words")
        out.append(caption)
    return out


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--videos: expected UTF-8 text in {str(path)!r}, found {error}") from None


def _listed(path: Path, names: set[str]) -> dict[str, str]:
    out: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines() if path.exists() else (), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, caption = row["file"], row["caption"]
        except (ValueError, KeyError, TypeError):
            name = caption = None
        if not isinstance(name, str) or not isinstance(caption, str):
            form = '{"file": name, "caption": text}'
            raise InputError(f"--videos: expected {form} in line {number} of {str(path)!r}, got {line[:60]!r}")
        if name not in names or name in out:
            why = "twice" if name in out else "which is no video of the folder"
            raise InputError(f"--videos: line {number} of {str(path)!r} names {name!r}, {why}")
        out[name] = caption
    return out


class Heard(NamedTuple):
    """The sound of a video's clips: mel [clips, 119, 128] float16, samples [clips, 95200] int16."""

    mel: np.ndarray
    sound: np.ndarray


def clips_of(path: Path, file: Any, pixels: int) -> Heard:
    """Append the whole clips of a video, uint8 [117, 3, pixels, pixels] each, to an open file; returns their sound.

    The sound is brought to the level of training as a whole, as `liveact generate` does with a recording.
    """
    begin, recording, held, written = file.tell(), Recording(path, pixels, FPS), [], 0
    for picture in recording:
        held.append(picture)
        if len(held) == FRAMES:
            file.write(np.stack(held).tobytes())
            held, written = [], written + 1
    encoder, samples = MelEncoder(), torch.from_numpy(recording.samples)
    mel = encoder.encode(samples, FPS, encoder.measure([samples], FPS))[:, 0].numpy()
    # the last row may be of a started video frame
    heard = int(len(samples) / encoder.sample_rate * FPS) - LOOK_AHEAD
    count = min(written, max(0, heard) // FRAMES)
    file.seek(begin + count * FRAMES * 3 * pixels * pixels)
    made = Heard(
        np.zeros((count, FRAMES + LOOK_AHEAD, CHANNELS), np.float16), np.zeros((count, CLIP_SAMPLES), np.int16)
    )
    for i in range(count):
        made.mel[i] = mel[i * FRAMES : (i + 1) * FRAMES + LOOK_AHEAD]
        first = round(i * FRAMES / FPS * SAMPLE_RATE)
        part = recording.samples[first : first + CLIP_SAMPLES]
        made.sound[i, : len(part)] = (part.clip(-1, 1) * 32767).round()
    return made


def build_folder(config: FolderConfig) -> None:
    """Run the stage: all videos are read before anything that was there is replaced."""
    videos, out = list_videos(Path(config.videos)), Path(config.out)
    if not 0 < config.val_share < 1:
        raise InputError(f"--val-share: expected more than 0 and less than 1, got {config.val_share}")
    if config.pixels < 16 or config.pixels > 4096 or config.pixels % 16:
        raise InputError(f"--pixels: expected a multiple of 16 from 16 to 4096, got {config.pixels}")
    said = captions(Path(config.videos), videos)
    if any((out / name / "attributes.npy").exists() for name in ("train", "val")):
        raise InputError(f"--out: expected another folder than that of drawn clips, got {config.out!r}")
    part = out / "part"
    try:
        part.mkdir(parents=True, exist_ok=True)
        heard = _read(videos, part / "video.raw", config.pixels)
        held_out = _held_out([i for i, one in enumerate(heard) if len(one.mel)], config)
        for name in ("train", "val"):
            _write(
                part / name,
                part / "video.raw",
                heard,
                said,
                [(i in held_out) == (name == "val") for i in range(len(heard))],
                config.pixels,
            )
        for name in ("train", "val"):
            (out / name).mkdir(exist_ok=True)
            for file in sorted((part / name).iterdir()):
                os.replace(file, out / name / file.name)
    except OSError as error:
        raise InputError(f"--out: {config.out!r} could not be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read(videos: list[Path], raw: Path, pixels: int) -> list[Heard]:
    heard: list[Heard] = []
    with open(raw, "wb") as file:
        for i, video in enumerate(videos):
            heard.append(clips_of(video, file, pixels))
            if not len(heard[-1].mel):
                print(
                    f"folder: {video.name} is left out, no clip of {SECONDS:g} s is in it",
                    flush=True,
                )
            if i % 20 == 19 or i == len(videos) - 1:
                count = sum(len(one.mel) for one in heard)
                print(f"folder: {i + 1} of {len(videos)} videos, {count} clips", flush=True)
    return heard


def _held_out(usable: list[int], config: FolderConfig) -> set[int]:
    """Which of the videos that have clips are for validation."""
    if len(usable) < 2:
        least = f"at least two videos with pictures and sound for {SECONDS:g} s"
        raise InputError(f"--videos: expected {least}, {config.videos!r} has {len(usable)}")
    count = min(max(1, round(config.val_share * len(usable))), len(usable) - 1)
    return set(random.Random(f"held out {config.seed}").sample(usable, count))


def _write(folder: Path, raw: Path, heard: list[Heard], said: list[str], chosen: list[bool], pixels: int) -> None:
    """One set of clips from the raw pictures of all."""
    folder.mkdir(exist_ok=True)
    counts = [len(one.mel) for one in heard]
    keep = np.flatnonzero(np.repeat(chosen, counts))
    videos = np.memmap(raw, np.uint8, "r", shape=(sum(counts), FRAMES, 3, pixels, pixels))
    target = np.lib.format.open_memmap(folder / "video.npy", "w+", np.uint8, (len(keep), *videos.shape[1:]))
    for to, at in enumerate(keep):
        target[to] = videos[at]
    target.flush()
    for name in Heard._fields:
        parts = [getattr(one, name) for one, here in zip(heard, chosen) if here]
        np.save(folder / f"{name}.npy", np.concatenate(parts))
    prompts = [[text] * len(BLOCK_STARTS) for text, n, here in zip(said, counts, chosen) if here for _ in range(n)]
    (folder / "prompts.json").write_text(json.dumps(prompts))
