"""`liveact evaluate` on videos of the small model, on the rendered truth beside them, and on what is known to be wrong.

    python bench/evaluate.py [--blocks 376] [--out bench/results/cpu/evaluate.jsonl]
    python docs/evaluate.py                     # the table and the picture of docs/evaluate.md from these rows

Every video speaks examples/speech.wav. The truth is the training data's renderer driven by that voice, with the faces
of examples/ (never trained on); "VAE alone" is the truth through the small model's encoder and decoder. The controls
are the truth with its sound 200 ms late, with its sound reversed, with its red rising by 20 levels, and with the
second face in its sixth tenth. `--blocks` is the length of the long video (376 are ten minutes); 0 leaves it out.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from manifest import manifest
from root import ROOT
from rows import Rows
from torch import Tensor

from liveact_app.cli import answer
from liveact_app.media.audio import MODEL_RATE_HZ, AudioReader, model_audio
from liveact_app.media.image import load_image
from liveact_app.media.video import VideoWriter
from liveact_model.audio.mel import MelEncoder
from liveact_model.avatar import Avatar
from liveact_model.loading import load_avatar
from liveact_model.session import Session
from liveact_train.data.examples import FACES, example_face
from liveact_train.data.faces import render_uint8, still_pose
from liveact_train.data.motion import FPS, move

SPEECH = ROOT / "examples/speech.wav"
SIDE = 64
PROMPTS = ("a happy person", "a sad person", "an angry person nodding", "a surprised person", "a calm person waving")


def voice() -> Tensor:
    """The example's speech, mono at 16 kHz."""
    with AudioReader(str(SPEECH)) as reader:
        return torch.cat([torch.from_numpy(chunk) for chunk in model_audio(reader)])


def truth(name: str, emotion: str = "happy", action: str = "none") -> np.ndarray:
    """A face of examples/ that says the example, rendered: uint8 [F, 64, 64, 3]."""
    samples, encoder = voice(), MelEncoder()
    mel = encoder.encode(samples, FPS, encoder.measure([samples], FPS))[:, 0]
    frames, seed = len(mel), FACES[name]
    padded = torch.cat([mel, mel[-1:].expand(4, -1)])
    pose = move(padded, frames, [(0, emotion, action)], still_pose(), random.Random(seed))
    return render_uint8(example_face(seed), pose, SIDE).permute(0, 2, 3, 1).numpy()


@torch.no_grad()
def through_vae(avatar: Avatar, video: np.ndarray) -> np.ndarray:
    """A video encoded and decoded: uint8, cut to whole latent frames."""
    count = (len(video) - 1) // 4 * 4 + 1
    x = torch.from_numpy(video[:count]).permute(3, 0, 1, 2).float() / 127.5 - 1
    decoded = avatar.vae.stream().decode(avatar.vae.encode(x))
    return ((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()


def generated(avatar: Avatar, name: str, prompts: Sequence[str], blocks: int, guidance: float) -> Iterator[np.ndarray]:
    """Blocks of the small model; the voice repeats, the prompt changes every eight blocks."""
    picture, samples = load_image(str(ROOT / "examples" / name), (SIDE, SIDE)), voice()
    session = Session(avatar, picture, prompts[0], audio_cfg=guidance, seed=42)
    for block in range(blocks):
        while not session.ready():
            session.push_audio(samples)
        session.set_prompt(prompts[block // 8 % len(prompts)])
        yield session.next_block().numpy()


def write(path: Path, blocks: Iterator[np.ndarray], sound: np.ndarray) -> str:
    """A video of pictures and a mono sound at 16 kHz."""
    wav = path.with_suffix(".wav")
    soundfile.write(wav, sound, MODEL_RATE_HZ, subtype="PCM_16")
    with AudioReader(str(wav)) as audio:
        writer = VideoWriter(str(path), "mp4", (SIDE, SIDE), FPS, audio)
        for frames in blocks:
            writer.write(frames)
        writer.close()
    return str(path)


def evaluated(videos: Sequence[str], references: Sequence[str]) -> tuple[list[dict], dict]:
    """Rows of the command, run as a process of its own; for one video also what the process took."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, "-m", "liveact_app", "evaluate", *videos, "--reference", *references]
        command += ["--json", str(out)]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        found = json.loads(out.read_text())
        return found["videos"], {"took": found["took"]} if len(videos) == 1 else {}


def short(folder: Path, avatar: Avatar) -> Iterator[tuple[str, str, str]]:
    """(what, video, reference picture) of every short video."""
    sound = voice().numpy()
    for number, (name, said) in enumerate(zip(FACES, ("face", "second", "third")), 1):
        picture, real = str(ROOT / "examples" / name), truth(name)

        def made(prompt: str, guidance: float = 1.0, name: str = name, n: int = len(real)) -> Iterator[np.ndarray]:
            blocks = generated(avatar, name, [prompt], -(-n // 32) + 1, guidance)
            yield np.concatenate(list(blocks))[:n]

        kinds = {"truth": iter([real]), "VAE alone": iter([through_vae(avatar, real)]),
                 "model": made("a happy person"), "model, --audio-cfg 1.5": made("a happy person", 1.5)}  # fmt: skip
        if number == 1:
            nods = iter([truth(name, "happy", "nod")])
            kinds |= {"truth, nodding": nods, "model, nodding": made("a happy person nodding")}
        for place, (kind, blocks) in enumerate(kinds.items()):
            yield f"{said}: {kind}", write(folder / f"{number}-{place}.mp4", blocks, sound), picture
        if number == 1:
            other = truth(list(FACES)[1])
            red = real.astype(float)
            red[..., 0] += np.linspace(0, 20, len(red))[:, None, None]
            swapped = real.copy()
            tenth = slice(len(real) // 2, len(real) * 6 // 10)
            swapped[tenth] = other[tenth]
            late = np.concatenate([np.zeros(MODEL_RATE_HZ // 5, np.float32), sound])
            yield "control: sound 200 ms late", write(folder / "late.mp4", iter([real]), late), picture
            yield "control: sound reversed", write(folder / "back.mp4", iter([real]), sound[::-1]), picture
            red = red.clip(0, 255).astype(np.uint8)
            yield "control: red rising by 20", write(folder / "red.mp4", iter([red]), sound), picture
            yield "control: another person in tenth 6", write(folder / "swap.mp4", iter([swapped]), sound), picture


def run(argv: Sequence[str] | None) -> int:
    """Make the videos, measure them, print and append the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=376, help="of the long video (default: 376, ten minutes)")
    parser.add_argument("--out", metavar="FILE", help="append the rows to this .jsonl file")
    args = parser.parse_args(argv)
    rows, about = Rows(args.out), manifest()
    torch.set_num_threads(1)
    avatar = load_avatar("tiny")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        wanted = list(short(folder, avatar))
        if args.blocks:
            frames = 21 + 32 * (args.blocks - 1)
            sound = np.tile(voice().numpy(), 2 + int(frames / FPS * MODEL_RATE_HZ) // len(voice()))
            blocks = generated(avatar, next(iter(FACES)), PROMPTS, args.blocks, 1.0)
            name = f"face: model, {frames / FPS / 60:.0f} min, prompts changing"
            wanted.append((name, write(folder / "long.mp4", blocks, sound), str(ROOT / "examples" / next(iter(FACES)))))
        alone = [wanted[:1], wanted[1:-1], wanted[-1:]] if args.blocks else [wanted[:1], wanted[1:]]
        for group in alone:  # the first and the long one by themselves: time and memory are theirs
            names, videos, pictures = zip(*group)
            found, took = evaluated(videos, pictures)
            for what, row in zip(names, found):
                del row["file"]
                said = {"what": what, "command": "liveact evaluate VIDEO --reference PICTURE"}
                print(json.dumps(rows.add(about | said | row | took)), flush=True)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return answer(lambda: run(argv), "evaluate.py")


if __name__ == "__main__":
    sys.exit(main())
