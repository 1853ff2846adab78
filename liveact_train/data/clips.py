"""Training clips: speech, prompts and the face that follows them, rendered to uint8 arrays on disk.

A folder of clips holds video.npy [N, 117, 3, 64, 64] uint8, mel.npy [N, 119, 128] float16, attributes.npy [N, 117, 15]
float32 (the order is `faces.POSE`), prompt_ids.npy [N, 4] uint8 (emotion * 4 + action) and prompts.json (N lists of 4
sentences). Video frame 0 is the reference picture.

Half of the clips need memory: an action shows what the picture did not (a mitten's colour, a mark beside the face, a
bow on the crown), stops for a block or two, so that the short-term slots forget it, and comes back.
"""

import json
import multiprocessing
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from liveact_model.audio.mel import CHANNELS, MelEncoder
from liveact_model.config import BLOCK_VIDEO_FRAMES, FIRST_BLOCK_VIDEO_FRAMES
from liveact_model.errors import InputError
from liveact_model.text.words import ACTIONS, EMOTIONS
from liveact_train.data.faces import POSE, render_uint8
from liveact_train.data.identity import Identity, random_identity
from liveact_train.data.motion import move, random_pose, random_prompt, random_segments
from liveact_train.data.processes import FPS
from liveact_train.data.speech import SAMPLE_RATE, random_speech

FRAMES = 117  # 30 latent frames: blocks of 6, 8, 8 and 8


def block_starts(blocks: int) -> tuple[int, ...]:
    """First video frame of each block of the released sizes."""
    return tuple(max(0, FIRST_BLOCK_VIDEO_FRAMES + BLOCK_VIDEO_FRAMES * (i - 1)) for i in range(blocks))


BLOCK_STARTS = block_starts(4)
LOOK_AHEAD = 2  # video frames of audio the model may see past the end
SIZE = 64


@dataclass(frozen=True)
class Clip:
    """One clip in memory; see the module docstring for the arrays."""

    identity: Identity
    samples: Tensor  # [n] mono at 16 kHz
    video: Tensor
    mel: Tensor
    attributes: Tensor
    pose: dict[str, Tensor]
    prompt_ids: list[int]
    prompts: list[str]


def make_clip(
    seed: int, index: int, switch: float = 0.6, silence: float = 0.05, blocks: int = 4, returning: float = 0.5,
    asked: tuple[str, str] | None = None,
) -> Clip:  # fmt: skip
    """Draw and render clip `index` of the set `seed`; the same arguments always give the same clip.

    `blocks` says how long it is; of `returning`, see `random_segments`; `asked` is an emotion and an action for all of
    it, instead of random ones.
    """
    rng = random.Random(f"{seed}/{index}")
    identity = random_identity(rng)
    *starts, frames = block_starts(blocks + 1)
    seconds = (frames + LOOK_AHEAD) / FPS
    if rng.random() < silence:
        noise = np.random.RandomState(rng.getrandbits(31)).standard_normal(int(seconds * SAMPLE_RATE))
        samples = (noise * 10 ** rng.uniform(-5.0, -3.0)).astype(np.float32)
    else:
        samples = random_speech(seconds, rng)
    mel = MelEncoder().encode(torch.from_numpy(samples), FPS)[:, 0]
    segments = [(0, *asked)] if asked else random_segments(rng, tuple(starts), switch, returning)
    pose = move(mel, frames, segments, random_pose(rng), rng)
    emotions, actions = list(EMOTIONS), list(ACTIONS)
    return Clip(
        identity=identity,
        samples=torch.from_numpy(samples),
        video=render_uint8(identity, pose, SIZE),
        mel=mel,
        attributes=torch.stack([pose[name] for name in POSE], 1),
        pose=pose,
        prompt_ids=[emotions.index(emotion) * len(actions) + actions.index(act) for _, emotion, act in segments],
        prompts=[random_prompt(emotion, act, rng) for _, emotion, act in segments],
    )


@dataclass(frozen=True)
class DataConfig:
    """Render the training and validation clips."""

    out: str = "data/tiny"  # folder to write; gets the sub-folders train and val
    clips: int = 3000  # training clips
    val_clips: int = 100  # validation clips, drawn from another seed
    seed: int = 1  # seed of the training clips; validation uses seed + 1000
    processes: int = 2  # rendering processes


def open_array(flag: str, folder: Path, name: str) -> np.ndarray:
    """One array of a folder of clips or latents, from disk; InputError naming the option that led there."""
    try:
        return np.load(folder / f"{name}.npy", mmap_mode="r")
    except (OSError, ValueError) as error:
        raise InputError(f"{flag}: expected {name}.npy of an earlier stage in {folder}, found {error}") from None


def _arrays(folder: Path, count: int, mode: str) -> dict[str, np.memmap]:
    shapes = {
        "video": ((count, FRAMES, 3, SIZE, SIZE), np.uint8),
        "mel": ((count, FRAMES + LOOK_AHEAD, CHANNELS), np.float16),
        "attributes": ((count, FRAMES, len(POSE)), np.float32),
        "prompt_ids": ((count, len(BLOCK_STARTS)), np.uint8),
    }
    if mode == "r+":
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in shapes}
    return {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", mode=mode, dtype=dtype, shape=shape)
        for name, (shape, dtype) in shapes.items()
    }


def _render_range(folder: Path, seed: int, start: int, stop: int, step: int) -> list[tuple[int, list[str]]]:
    torch.set_num_threads(1)
    arrays = _arrays(folder, 0, "r+")
    prompts = []
    for index in range(start, stop, step):
        clip = make_clip(seed, index)
        arrays["video"][index] = clip.video.numpy()
        arrays["mel"][index] = clip.mel.numpy()
        arrays["attributes"][index] = clip.attributes.numpy()
        arrays["prompt_ids"][index] = clip.prompt_ids
        prompts.append((index, clip.prompts))
        if start == 0 and (index // step) % 100 == 99:
            print(f"{folder.name}: {index + 1} of {stop} clips", flush=True)
    return prompts


def write_clips(folder: Path, count: int, seed: int, processes: int) -> None:
    """Render `count` clips of the set `seed` into `folder` with several processes."""
    folder.mkdir(parents=True, exist_ok=True)
    _arrays(folder, count, "w+")
    jobs = [(folder, seed, first, count, processes) for first in range(processes)]
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        prompts = sorted(pair for part in pool.starmap(_render_range, jobs) for pair in part)
    (folder / "prompts.json").write_text(json.dumps([sentences for _, sentences in prompts]))


def build(config: DataConfig) -> None:
    """Write both sets of clips."""
    write_clips(Path(config.out) / "val", config.val_clips, config.seed + 1000, config.processes)
    write_clips(Path(config.out) / "train", config.clips, config.seed, config.processes)
