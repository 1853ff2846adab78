"""Who a face is: colours and proportions that stay the same over a whole video."""

import random
from dataclasses import dataclass

Colour = tuple[float, float, float]

SKINS = [(0.96, 0.80, 0.69), (0.87, 0.67, 0.52), (0.66, 0.46, 0.33), (0.48, 0.32, 0.24), (0.98, 0.86, 0.76)]
HAIRS = [(0.10, 0.08, 0.07), (0.35, 0.20, 0.10), (0.90, 0.74, 0.32), (0.65, 0.26, 0.12), (0.78, 0.78, 0.80)]
HAIRS += [(0.22, 0.30, 0.65), (0.75, 0.45, 0.55)]
IRISES = [(0.20, 0.45, 0.80), (0.20, 0.50, 0.25), (0.35, 0.20, 0.10), (0.08, 0.08, 0.08)]
LIPS = [(0.80, 0.25, 0.28), (0.72, 0.32, 0.32), (0.60, 0.18, 0.22), (0.88, 0.22, 0.40)]


@dataclass(frozen=True)
class Identity:
    """Everything about a face that does not move; lengths in picture units, colours RGB in 0..1."""

    skin: Colour
    hair: Colour
    iris: Colour
    lip: Colour
    shirt: Colour
    background: tuple[Colour, Colour]
    gradient: str  # plain, vertical, round
    style: str  # short, long, bald, bun
    accessory: str  # none, glasses, earring, hat
    accent: Colour
    radius: tuple[float, float]
    fringe: float
    eye_size: float
    eye_distance: float
    mouth_width: float
    brow: float


def _distance(a: Colour, b: Colour) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def _contrasting(rng: random.Random, others: list[Colour], least: float) -> Colour:
    """A random colour whose largest channel difference to each of `others` is at least `least`."""
    while True:
        vivid = [rng.uniform(0.12, 0.95) for _ in range(3)]
        colour = tuple(0.65 * channel + 0.35 * sum(vivid) / 3 for channel in vivid)
        if all(_distance(colour, other) >= least for other in others):
            return colour


def random_identity(rng: random.Random) -> Identity:
    """Draw a face; hair, skin, shirt and background are kept apart so that the picture stays readable."""

    def jitter(colour: Colour) -> Colour:
        return tuple(min(1.0, max(0.0, channel + rng.uniform(-0.04, 0.04))) for channel in colour)

    skin = jitter(rng.choice(SKINS))
    hair = jitter(rng.choice([colour for colour in HAIRS if _distance(colour, skin) > 0.25]))
    back = _contrasting(rng, [skin, hair], 0.3)
    second = tuple(min(1.0, max(0.0, channel + rng.uniform(-0.3, 0.3))) for channel in back)
    return Identity(
        skin=skin,
        hair=hair,
        iris=jitter(rng.choice(IRISES)),
        lip=rng.choice(LIPS),
        shirt=_contrasting(rng, [skin, back], 0.3),
        background=(back, second),
        gradient=rng.choice(["plain", "vertical", "round"]),
        style=rng.choices(["short", "long", "bald", "bun"], [4, 4, 1, 2])[0],
        accessory=rng.choices(["none", "glasses", "earring", "hat"], [6, 3, 2, 2])[0],
        accent=_contrasting(rng, [skin, hair, back], 0.3),
        radius=(rng.uniform(0.50, 0.58), rng.uniform(0.62, 0.70)),
        fringe=rng.uniform(0.22, 0.36),
        eye_size=rng.uniform(0.95, 1.2),
        eye_distance=rng.uniform(0.225, 0.265),
        mouth_width=rng.uniform(0.20, 0.25),
        brow=rng.uniform(0.035, 0.05),
    )
