"""Which way of counting gives the paper's TFLOP per video frame? Its convention is not stated, so it is searched for.

Every convention starts from the released denoiser at 512x512, a steady block, 2 flop per multiply-add, 10^12, and
departs from that by a few named choices. Enough choices reach any number: the count of choices is part of the answer.
"""

from __future__ import annotations

from itertools import combinations
from typing import NamedTuple

from liveact_app.budget.flops import denoiser, released_rest, tokens
from liveact_model.config import (
    BLOCK_VIDEO_FRAMES,
    FIRST_BLOCK_LATENT_FRAMES,
    FIRST_BLOCK_VIDEO_FRAMES,
    MEMORY_SLOTS,
    VIDEO_FRAMES_PER_LATENT,
    DiTConfig,
)

PAPER_TFLOP = 27.2
"""TFLOP per video frame of the SoulX-LiveAct paper's comparison of systems, for the 512x512 model."""
SIZE = (512, 512)
CLOSE = 0.01

LEFT_OUT = {
    "without cross q, o": ("cross q, o",),
    "without cross attention (q, k, v, o, products)": ("cross q, o", "cross attention", "cross keys, values"),
    "without text, image, audio attention products": ("cross attention", "audio attention"),
    "without cross keys, values": ("cross keys, values",),
    "without the audio layers": ("audio q, projection", "audio attention", "audio keys, values"),
    "without embeddings": ("embeddings",),
    "without self attention products": ("self attention",),
}
ADDED = {"with the VAE decode": "VAE decode", "with the audio network": "audio network"}
UNITS = {"in units of 2^40": 2**40 / 1e12, "1 flop per multiply-add": 2.0}
SIZES = {"at 416x720": (416, 720), "at 480x832": (480, 832), "at 384x640": (384, 640)}
BLOCKS = {"6 memory + 6 current": (6, 6), "8 memory + 8 current": (8, 8)}
SECONDS = 10
WHOLE_CLIP = f"averaged over {SECONDS} s with its first block"


class Convention(NamedTuple):
    """What was chosen, and the TFLOP per video frame it gives."""

    choices: tuple[str, ...]
    tflop: float

    @property
    def error(self) -> float:
        """Relative distance from the paper's number."""
        return self.tflop / PAPER_TFLOP - 1


def count(c: DiTConfig, choices: tuple[str, ...], rest: dict) -> float:
    """TFLOP per video frame of one convention; `rest` caches the VAE and the audio network by size."""
    size = next((SIZES[x] for x in choices if x in SIZES), SIZE)
    memory, current = next((BLOCKS[x] for x in choices if x in BLOCKS), (MEMORY_SLOTS, 8))
    without = {part for x in choices for part in LEFT_OUT.get(x, ())}
    frames = current * VIDEO_FRAMES_PER_LATENT

    def summed(parts: dict[str, float]) -> float:
        return sum(v for k, v in parts.items() if k not in without)

    flops = summed(denoiser(c, tokens(size), current, memory))
    if WHOLE_CLIP in choices:
        blocks = SECONDS * 20 // frames
        flops = flops * blocks + summed(denoiser(c, tokens(size), FIRST_BLOCK_LATENT_FRAMES, 0))
        frames = frames * blocks + FIRST_BLOCK_VIDEO_FRAMES
    added = [ADDED[x] for x in choices if x in ADDED]
    if added and size not in rest:
        rest[size] = released_rest(c, size)
    per_frame = flops / frames + sum(rest[size][part] for part in added) / BLOCK_VIDEO_FRAMES
    for x in choices:
        per_frame /= UNITS.get(x, 1.0)
    return per_frame / 1e12


def conventions(c: DiTConfig, most: int = 2) -> list[Convention]:
    """Every convention of up to `most` choices, the fewest choices first, then the nearest."""
    kinds = (SIZES, BLOCKS, dict.fromkeys(UNITS))
    every, rest, found = [*LEFT_OUT, *ADDED, *UNITS, *SIZES, *BLOCKS, WHOLE_CLIP], {}, []
    for n in range(most + 1):
        for choices in combinations(every, n):
            if any(sum(x in kind for x in choices) > 1 for kind in kinds):
                continue  # one size, one block shape, one unit
            if sum(len(LEFT_OUT[x]) for x in choices if x in LEFT_OUT) > len(
                {part for x in choices for part in LEFT_OUT.get(x, ())}
            ):
                continue  # the same part left out twice
            found.append(Convention(choices, count(c, choices, rest)))
    return sorted(found, key=lambda k: (len(k.choices), abs(k.error)))


def report(c: DiTConfig) -> list[str]:
    """What comes near the paper's number, and what that is worth."""
    found = conventions(c)
    plain = next(k for k in found if not k.choices)
    one = [k for k in found if len(k.choices) == 1]
    two = [k for k in found if len(k.choices) == 2]
    close = [k for k in two if abs(k.error) <= CLOSE]
    hits = [k for k in one if abs(k.error) <= CLOSE]
    lines = [
        f"the paper says {PAPER_TFLOP} TFLOP per video frame and not how it counts; the released denoiser at",
        f"512x512 as coded is {plain.tflop:.2f} ({plain.error:+.1%}).",
        f"one departure from that ({len(hits)} of {len(one)} within 1%):",
        *(_line(k) for k in one[:4]),
        f"two departures ({len(close)} of {len(two)} within 1%, so some do by chance):",
        *(_line(k) for k in two[:6]),
    ]
    if not hits:
        return [*lines, "no count with a single departure gives the paper's number; compare with the total as coded"]
    return [*lines, "a match does not show that the paper counts so; compare with the total as coded"]


def _line(k: Convention) -> str:
    return f"  {k.tflop:6.2f} {k.error:+6.1%}  {'; '.join(k.choices)}"
