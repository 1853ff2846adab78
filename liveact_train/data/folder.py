"""Clips from a folder of recorded videos with sound and captions, in the layout of the data stage.

video.npy, mel.npy and prompts.json are as `clips` describes them; what only a drawn face has (attributes, prompt_ids)
is left out. A video gives as many clips as follow each other whole in it. Clips lie in the order of the files' names,
never in that of the disk, and whole videos are held out by the seed; which clips a training step sees depends on
its seed and number. So the same folder gives the same bytes, and a run that is cut off continues bit for bit.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from liveact_model.audio.mel import CHANNELS, MelEncoder
from liveact_model.errors import InputError
from liveact_train.data.clips import BLOCK_STARTS, FRAMES, LOOK_AHEAD, SIZE
from liveact_train.data.processes import FPS
from liveact_train.data.recordings import SUFFIXES, Recording

CAPTIONS = "captions.jsonl"
SECONDS = (FRAMES + LOOK_AHEAD) / FPS  # of pictures and sound that a clip takes
CLIP_VALUES = FRAMES * 3 * SIZE * SIZE


@dataclass(frozen=True)
class FolderConfig:
    """Make clips from a folder of recorded videos, instead of the data stage."""

    videos: str = "videos"  # folder of .mp4, .mkv, .mov and .webm, each with a .txt or a line in captions.jsonl
    out: str = "data/videos"  # folder to write; gets the sub-folders train and val
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


def clips_of(path: Path, file: Any) -> np.ndarray:
    """Append the whole clips of a video, uint8 [117, 3, 64, 64] each, to an open file; returns mel [clips, 119, 128].

    The sound is brought to the level of training as a whole, as `liveact generate` does with a recording.
    """
    begin, recording, held, written = file.tell(), Recording(path, SIZE, FPS), [], 0
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
    file.seek(begin + count * CLIP_VALUES)
    rows = [mel[i * FRAMES : (i + 1) * FRAMES + LOOK_AHEAD] for i in range(count)]
    return np.stack(rows).astype(np.float16) if rows else np.zeros((0, FRAMES + LOOK_AHEAD, CHANNELS), np.float16)


def build_folder(config: FolderConfig) -> None:
    """Run the stage: all videos are read before anything that was there is replaced."""
    videos, out = list_videos(Path(config.videos)), Path(config.out)
    if not 0 < config.val_share < 1:
        raise InputError(f"--val-share: expected more than 0 and less than 1, got {config.val_share}")
    said = captions(Path(config.videos), videos)
    if any((out / name / "attributes.npy").exists() for name in ("train", "val")):
        raise InputError(f"--out: expected another folder than that of drawn clips, got {config.out!r}")
    part = out / "part"
    try:
        part.mkdir(parents=True, exist_ok=True)
        mels = _read(videos, part / "video.raw")
        held_out = _held_out([i for i, mel in enumerate(mels) if len(mel)], config)
        for name in ("train", "val"):
            _write(
                part / name,
                part / "video.raw",
                mels,
                said,
                [(i in held_out) == (name == "val") for i in range(len(mels))],
            )
        for name in ("train", "val"):
            (out / name).mkdir(exist_ok=True)
            for file in sorted((part / name).iterdir()):
                os.replace(file, out / name / file.name)
    except OSError as error:
        raise InputError(f"--out: {config.out!r} could not be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read(videos: list[Path], raw: Path) -> list[np.ndarray]:
    mels: list[np.ndarray] = []
    with open(raw, "wb") as file:
        for i, video in enumerate(videos):
            mels.append(clips_of(video, file))
            if not len(mels[-1]):
                print(
                    f"folder: {video.name} is left out, no clip of {SECONDS:g} s is in it",
                    flush=True,
                )
            if i % 20 == 19 or i == len(videos) - 1:
                print(f"folder: {i + 1} of {len(videos)} videos, {sum(map(len, mels))} clips", flush=True)
    return mels


def _held_out(usable: list[int], config: FolderConfig) -> set[int]:
    """Which of the videos that have clips are for validation."""
    if len(usable) < 2:
        least = f"at least two videos with pictures and sound for {SECONDS:g} s"
        raise InputError(f"--videos: expected {least}, {config.videos!r} has {len(usable)}")
    count = min(max(1, round(config.val_share * len(usable))), len(usable) - 1)
    return set(random.Random(f"held out {config.seed}").sample(usable, count))


def _write(folder: Path, raw: Path, mels: list[np.ndarray], said: list[str], chosen: list[bool]) -> None:
    """One set of clips from the raw pictures of all."""
    folder.mkdir(exist_ok=True)
    keep = np.flatnonzero(np.repeat(chosen, [len(mel) for mel in mels]))
    videos = np.memmap(raw, np.uint8, "r", shape=(sum(map(len, mels)), FRAMES, 3, SIZE, SIZE))
    target = np.lib.format.open_memmap(folder / "video.npy", "w+", np.uint8, (len(keep), *videos.shape[1:]))
    for to, at in enumerate(keep):
        target[to] = videos[at]
    target.flush()
    np.save(folder / "mel.npy", np.concatenate([mel for mel, here in zip(mels, chosen) if here]))
    prompts = [[text] * len(BLOCK_STARTS) for text, mel, here in zip(said, mels, chosen) if here for _ in mel]
    (folder / "prompts.json").write_text(json.dumps(prompts))
