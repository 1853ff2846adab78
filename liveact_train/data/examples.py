"""The example pictures and the example speech: a face drawn large, and a voice synthesised by espeak-ng."""

import random
from dataclasses import dataclass, replace
from pathlib import Path

import soundfile
from PIL import Image

from liveact_train.data.faces import render_uint8, still_pose
from liveact_train.data.identity import Identity, random_identity
from liveact_train.data.speech import speak

SIDE = 256
# Seeds of `random_identity`, none of which a training clip uses; chosen by eye for clear contrast.
FACES = {"face.png": "example/30", "faces/second.png": "example/0", "faces/third.png": "example/37"}
TEXT = (
    "Hello! I am a small cartoon face, and every frame you see is made while I speak. "
    "This engine listens to my voice, remembers what I look like, and draws the next second before you need it. "
    "My memory never grows."
)


@dataclass(frozen=True)
class ExampleConfig:
    """Write the example pictures and the example speech."""

    out: str = "examples"  # folder to write


def example_face(seed: str) -> Identity:
    """The face of a seed, without accessories."""
    return replace(random_identity(random.Random(seed)), accessory="none")


def write_examples(config: ExampleConfig) -> None:
    """Write face.png, faces/*.png and speech.wav."""
    folder = Path(config.out)
    for name, seed in FACES.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        picture = render_uint8(example_face(seed), still_pose(), SIDE)[0]
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(target, optimize=True)
    samples, rate = speak(TEXT, "en-us", 175, 45)
    soundfile.write(folder / "speech.wav", samples, rate, subtype="PCM_16")
