"""What each form of the exchange costs, from sizes and a chip's rates: modelled, not measured.

Attention is taken to run at the chip's dense rate, the fastest it could: it hides the least. Each wait for a peer costs
HOP_US, an assumption until it is measured.
"""

from __future__ import annotations

from typing import NamedTuple

from liveact_kernels.cost.hw import Chip
from liveact_model.config import BLOCK_LATENT_FRAMES, MEMORY_SLOTS

from .forms import LAUNCHES
from .pieces import pieces

HOP_US = 10.0


class Exchange(NamedTuple):
    """One layer at one denoise step of a steady block, on the rank with the most tokens.

    sent        bytes that leave this rank
    exposed_us  time in which it only waits for bytes, not hidden behind attention
    extra_us    time for copies and partial results that one rank would not make
    """

    sent: float
    exposed_us: float
    extra_us: float

    @property
    def total_us(self) -> float:
        """What the form adds to a layer."""
        return self.exposed_us + self.extra_us


def exchanges(
    size: int, tokens: int, heads: int, channels: int, itemsize: int, chip: Chip, coded: bool = False
) -> dict[str, Exchange]:
    """Cost of every form for `size` ranks at `tokens` per latent frame; activations of `itemsize` bytes.

    coded  8-bit attention: codes and their scales travel, which no form but "gather" can attend to in parts yet.
    Without a head for every rank there is no "ulysses".
    """
    rows = BLOCK_LATENT_FRAMES * max(len(p) for p in pieces(tokens, size))
    whole, row = BLOCK_LATENT_FRAMES * tokens, channels * itemsize
    away = size - 1
    rate = chip.flops["bf16" if itemsize == 2 else "f32"]

    def link_us(n: float) -> float:
        return 1e6 * n / chip.link

    def copy_us(n: float) -> float:
        return 2e6 * n / chip.bandwidth  # read and write

    def attention_us(keys: float) -> float:
        return 4e6 * rows * keys * channels / rate

    piece, remote = 2 * rows * row, whole - rows
    local = attention_us(MEMORY_SLOTS * tokens + rows)
    join, carry = copy_us(2 * whole * row), copy_us(rows * row)

    def staged(arrivals: list[tuple[float, float]], began: float) -> float:
        """Waiting time when (arrival, attention on it) follow what is done at `began`."""
        now = began
        for arrival, work in arrivals:
            now = max(now, arrival) + work
        return max(0.0, now - began - sum(work for _, work in arrivals))

    if coded:
        sent = away * (2 * rows * channels + 2 * rows * heads * 4)
        return {"gather": Exchange(sent, HOP_US + link_us(sent), copy_us(sent + sent / away))}
    hop = link_us(piece) + HOP_US
    ring = staged([(i * hop, attention_us(rows)) for i in range(1, size)], local)
    batches = [len(b) for b in pieces(away, LAUNCHES) if b]
    came = [sum(batches[: i + 1]) for i in range(len(batches))]
    pushed = [(HOP_US + link_us(n * piece), attention_us(remote * b / away)) for n, b in zip(came, batches)]
    swapped = rows * row * away / size
    costs = {
        "gather": Exchange(away * piece, HOP_US + link_us(away * piece), join),
        "ring": Exchange(away * piece, ring, join + away * carry),
        "overlap": Exchange(away * piece, staged(pushed, local), join + len(batches) * carry),
        "ulysses": Exchange(4 * swapped, 2 * HOP_US + link_us(4 * swapped), 8 * copy_us(rows * row)),
    }
    return {form: e for form, e in costs.items() if form != "ulysses" or heads >= size}


def best(costs: dict[str, Exchange]) -> str:
    """The form that adds least, the simpler one in a tie."""
    return min(costs, key=lambda form: costs[form].total_us)
