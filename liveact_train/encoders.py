"""Clips through the encoders of a released model: Wan's VAE, umT5, CLIP and wav2vec2, as a Session would ask them.

A folder then holds z.npy [N, 30, 16, h, w] (the clip), y.npy [N, 14, 16, h, w] (the conditioning: video frame 0 and
grey after it), image.npy [N, 257, 1280] (CLIP's rows of video frame 0), audio.npy [N, 119, 12, 768] (wav2vec2's rows of
every video frame and the two that a clip hears past its end), text.npy [prompts, longest, 4096] (umT5's rows of each of
`batches.texts_of`, zero rows as padding), all float16, and prompts.json. Latent frames come first and channels second.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from liveact_model.avatar import conditioning
from liveact_model.config import MASK_CHANNELS, NAMED
from liveact_model.dit import Precision
from liveact_model.errors import InputError
from liveact_model.loading import encoders
from liveact_train.batches import texts_of
from liveact_train.data.clips import FRAMES, LOOK_AHEAD, open_array
from liveact_train.data.processes import FPS
from liveact_train.shards import join
from liveact_train.vae import to_video


@torch.no_grad()
def encode_released(model: str, wav2vec_dir: str, source: Path, target: Path, device: str = "cpu") -> None:
    """Encode train and val of a folder of clips. Raises InputError for a directory that lacks something, by name."""
    place, sounds = join(device).device, {n: open_array("--data", source / n, "sound") for n in ("val", "train")}
    if not Path(model).is_dir():
        raise InputError(f"--model: expected a directory with a released model's encoders, got {model!r}")
    text_len = NAMED["liveact-18b"].text_len
    found = encoders(Path(model), text_len, wav2vec_dir or None, Precision.made("float32"))
    audio, text, image, vae = (part.to(place) for part in found)
    for name, sound in sounds.items():
        (target / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name / "prompts.json", target / name / "prompts.json")
        prompts = json.loads((source / name / "prompts.json").read_text())
        rows = [text.encode(said).cpu().half().numpy() for said in texts_of(prompts)]
        padded = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), np.float16)
        for to, got in zip(padded, rows):
            to[: len(got)] = got
        np.save(target / name / "text.npy", padded)
        _encode(target / name, open_array("--data", source / name, "video"), sound, (audio, image, vae), place)


def _encode(target: Path, videos: np.ndarray, sounds: np.ndarray, parts: tuple, place: torch.device) -> None:
    """Everything but the prompts, clip by clip, straight to the disk."""
    audio, image, vae = parts
    files: dict[str, Any] = {}
    for i, clip in enumerate(videos):
        video = to_video(clip).to(place)
        y = conditioning(vae, video[:, 0])[MASK_CHANNELS:]
        samples = torch.from_numpy(np.array(sounds[i])).float() / 32767
        stream = audio.stream(FPS, audio.measure([samples], FPS))
        stream.push(samples)
        stream.close()
        made = {
            "z": vae.encode(video).transpose(0, 1), "y": y.transpose(0, 1), "image": image.encode(video[:, 0], y[:, 0]),
            "audio": stream.embeddings(0, FRAMES + LOOK_AHEAD),
        }  # fmt: skip
        for name, value in made.items():
            if not i:
                shape = (len(videos), *value.shape)
                files[name] = np.lib.format.open_memmap(target / f"{name}.npy", "w+", np.float16, shape)
            files[name][i] = value.cpu().half().numpy()
        if i % 50 == 0:
            print(f"latents {target.name}: {i} of {len(videos)} clips", flush=True)
    for file in files.values():
        file.flush()
