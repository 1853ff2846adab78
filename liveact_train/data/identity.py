"""Who a face is: colours and proportions that stay the same over a whole video."""

import random
from dataclasses import MISSING, dataclass, fields

Colour = tuple[float, float, float]

SKINS = ((0.98, 0.87, 0.78), (0.93, 0.76, 0.63), (0.80, 0.60, 0.45), (0.62, 0.43, 0.31), (0.46, 0.31, 0.23))
SKINS += ((0.33, 0.22, 0.17),)
"""Anchors from light to dark; a tone is drawn evenly along the line through them."""
HAIRS = [(0.10, 0.08, 0.07), (0.35, 0.20, 0.10), (0.90, 0.74, 0.32), (0.65, 0.26, 0.12), (0.78, 0.78, 0.80)]
HAIRS += [(0.22, 0.30, 0.65), (0.75, 0.45, 0.55)]
IRISES = [(0.20, 0.45, 0.80), (0.20, 0.50, 0.25), (0.35, 0.20, 0.10), (0.08, 0.08, 0.08)]
LIPS = [(0.80, 0.25, 0.28), (0.72, 0.32, 0.32), (0.60, 0.18, 0.22), (0.88, 0.22, 0.40)]
SECRETS = {
    "red": (0.90, 0.12, 0.12), "yellow": (0.98, 0.86, 0.10), "green": (0.10, 0.72, 0.22), "blue": (0.12, 0.30, 0.92),
    "violet": (0.68, 0.20, 0.80), "white": (0.97, 0.97, 0.97),
}  # fmt: skip
"""Colours of what the reference picture does not show: far apart, so that a remembered one can be told."""
BACKDROPS = ("plain", "stripes", "checks", "dots", "cloth")


@dataclass(frozen=True)
class Identity:
    """Everything about a face that does not move; lengths in picture units, colours RGB in 0..1.

    The fields from `light` on make a face rich; their defaults draw the plain family, see `plain`. mitten, mark and bow
    are secrets: a reference picture never shows them, each is seen during one action only (waving, shaking, nodding).
    """

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
    light: tuple[float, float] = (0.0, 0.0)  # how much brighter the right and the lower side of round things are
    strands: float = 0.0  # contrast of hair strands
    strand_width: float = 0.25
    teeth: float = 0.0  # contrast of the gaps between teeth
    blush: float = 0.0
    shoulders: float = 0.0  # half width beyond the plain family's; 0 also leaves out neck shadow, ears and collar
    collar: Colour | None = None
    backdrop: str = "plain"
    backdrop_contrast: float = 0.0
    backdrop_period: float = 0.4
    backdrop_angle: float = 0.0
    seed: int = 0  # of the backdrop's cloth
    mitten: Colour | None = None
    mark: tuple[Colour, int] | None = None  # and the side of the head, -1 or 1
    bow: Colour | None = None


def _distance(a: Colour, b: Colour) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def _contrasting(rng: random.Random, others: list[Colour], least: float) -> Colour:
    """A random colour whose largest channel difference to each of `others` is at least `least`."""
    while True:
        vivid = [rng.uniform(0.12, 0.95) for _ in range(3)]
        colour = tuple(0.65 * channel + 0.35 * sum(vivid) / 3 for channel in vivid)
        if all(_distance(colour, other) >= least for other in others):
            return colour


def skin_tone(u: float) -> Colour:
    """The tone at u in 0..1 of the line through SKINS, light to dark."""
    at = u * (len(SKINS) - 1)
    i = min(int(at), len(SKINS) - 2)
    return tuple(a + (b - a) * (at - i) for a, b in zip(SKINS[i], SKINS[i + 1]))


def plain(identity: Identity) -> Identity:
    """The same face without what makes it rich and without secrets: the family of the first shipped checkpoint."""
    return Identity(**{f.name: getattr(identity, f.name) for f in fields(identity) if f.default is MISSING})


def random_identity(rng: random.Random) -> Identity:
    """Draw a face; hair, skin, shirt and background are kept apart so that the picture stays readable."""

    def jitter(colour: Colour) -> Colour:
        return tuple(min(1.0, max(0.0, channel + rng.uniform(-0.04, 0.04))) for channel in colour)

    skin = jitter(skin_tone(rng.random()))
    hair = jitter(rng.choice([colour for colour in HAIRS if _distance(colour, skin) > 0.2]))
    back = _contrasting(rng, [skin, hair], 0.3)
    second = tuple(min(1.0, max(0.0, channel + rng.uniform(-0.3, 0.3))) for channel in back)
    shirt = _contrasting(rng, [skin, back], 0.3)
    accessory = rng.choices(["none", "glasses", "earring", "hat"], [6, 3, 2, 2])[0]
    style = rng.choices(["short", "long", "bald", "bun"], [4, 4, 1, 2])[0]
    colours = list(SECRETS.values())
    return Identity(
        skin=skin,
        hair=hair,
        iris=jitter(rng.choice(IRISES)),
        lip=rng.choice(LIPS),
        shirt=shirt,
        background=(back, second),
        gradient=rng.choice(["plain", "vertical", "round"]),
        style=style,
        accessory=accessory,
        accent=_contrasting(rng, [skin, hair, back], 0.3),
        radius=(rng.uniform(0.50, 0.58), rng.uniform(0.62, 0.70)),
        fringe=rng.uniform(0.22, 0.36),
        eye_size=rng.uniform(0.95, 1.2),
        eye_distance=rng.uniform(0.225, 0.265),
        mouth_width=rng.uniform(0.20, 0.25),
        brow=rng.uniform(0.035, 0.05),
        light=(rng.choice([-1, 1]) * rng.uniform(0.05, 0.22), -rng.uniform(0.0, 0.15)),
        strands=rng.uniform(0.05, 0.25),
        strand_width=rng.uniform(0.18, 0.32),
        teeth=rng.uniform(0.0, 0.25),
        blush=rng.uniform(0.0, 0.25),
        shoulders=rng.uniform(0.0, 0.14),
        collar=rng.choice([None, _contrasting(rng, [skin, shirt], 0.25)]),
        backdrop=rng.choice(BACKDROPS),
        backdrop_contrast=rng.uniform(0.06, 0.16),
        backdrop_period=rng.uniform(0.3, 0.6),
        backdrop_angle=rng.uniform(0.0, 3.1416),
        seed=rng.getrandbits(31),
        mitten=rng.choice(colours),
        mark=(rng.choice(colours), rng.choice([-1, 1])),
        bow=None if accessory == "hat" or style == "bun" else rng.choice(colours),
    )
