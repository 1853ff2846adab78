"""The shipped model with a config.json that says something else."""

from __future__ import annotations

import json

from .case import Case, Draw, Place
from .common import dump, generate, mutate, no_file, put, spoil_text, tiny


def make(draw: Draw, place: Place) -> Case:
    path = tiny(place) / "config.json"
    kind = draw.random()
    if kind < 0.78:
        value, about = mutate(draw, json.loads(path.read_text()), ("dit", "vae", "size", "fps", "timesteps"))
        put(path, dump(value))
    elif kind < 0.95:
        data, about = spoil_text(draw, path.read_text())
        put(path, data)
    else:
        about = no_file(draw, path)
    return Case(generate(place, "--model=../in/model"), f"config.json: {about}")
