"""A dry group of ranks: the real forms and model on the meta device, every byte that would be sent counted."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor

from liveact_kernels.cost.budget import Budget
from liveact_kernels.cost.hw import Chip
from liveact_model.config import BLOCK_VIDEO_FRAMES, DiTConfig
from liveact_model.errors import InputError
from liveact_model.parallel import ALONE, SeqParallel
from liveact_model.parallel.cost import Exchange, best, exchanges
from liveact_model.parallel.mailbox import Mailbox
from liveact_model.parallel.pieces import pieces
from liveact_model.parallel.ranks import Ranks
from liveact_model.schedule import TIMESTEPS

BF16_BYTES = 2


class DryWire:
    """A Wire without processes: results have shapes only. `sent` adds up the bytes that leave this rank."""

    device = torch.device("meta")

    def __init__(self, rank: int, size: int):
        self.rank, self.size, self.sent = rank, size, 0

    def gather(self, x: Tensor, rows: list[int]) -> list[Tensor]:
        """See Wire.gather."""
        self.sent += (self.size - 1) * max(rows) * prod(x.shape[1:]) * x.element_size()
        return [x.new_empty(n, *x.shape[1:]) for n in rows]

    def swap(self, parts: list[Tensor], shapes: list[tuple[int, ...]]) -> list[Tensor]:
        """See Wire.swap."""
        self.sent += sum(p.nbytes for r, p in enumerate(parts) if r != self.rank)
        return [parts[0].new_empty(s) for s in shapes]

    def shift(self, tensors: tuple[Tensor, ...], rows: int) -> Callable[[], tuple[Tensor, ...]]:
        """See Wire.shift."""
        self.sent += sum(t.nbytes for t in tensors)
        return lambda: tuple(t.new_empty(rows, *t.shape[1:]) for t in tensors)

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """See Wire.broadcast."""
        return value


class DryMailbox(Mailbox):
    """A Mailbox whose boxes have shapes only."""

    def _reserve(self, nbytes: int) -> None:
        self._memory = torch.empty(nbytes, dtype=torch.uint8, device="meta")

    def _box(self, rank: int, turn: int) -> Tensor:
        return self._memory

    def _submit(self, send: Callable[[], None]) -> None:
        send()

    def _copy(self, box: Tensor, x: Tensor, target: int) -> None:
        assert box.shape == x.shape
        self.wire.sent += len(x)

    def _signal(self, target: int, epoch: int, turn: int) -> None:
        pass

    def _await(self, source: int, epoch: int, turn: int, what: str) -> None:
        pass


class DryRanks(Ranks):
    """The rank with the most tokens of `size`, inside the picture where there is a choice; it is given the inputs."""

    def __init__(self, size: int, tokens: int, form: str = "gather"):
        shares = [len(p) for p in pieces(tokens, size)]
        busiest = max(range(size), key=lambda r: (shares[r], 0 < r < size - 1))
        super().__init__(DryWire(busiest, size), form, lambda wire: DryMailbox(wire, 0.0))
        self.leads = True


def sharing(
    ranks: int, c: DiTConfig, size: tuple[int, int], chip: Chip, coded: bool
) -> tuple[SeqParallel, dict[str, dict]]:
    """One dry rank of `ranks` in the best form, and what each form adds per video frame: modelled, see parallel.cost.

    coded  8-bit attention
    Raises InputError for more ranks than tokens of a latent frame.
    """
    if ranks == 1:
        return ALONE, {}
    tokens = size[0] * size[1] // 256
    if tokens < ranks:
        raise InputError(f"--ranks: expected at most one per token of a latent frame ({tokens}), got {ranks}")
    costs = exchanges(ranks, tokens, c.num_heads, c.dim, BF16_BYTES, chip, coded)
    chosen = best(costs)
    times = c.num_layers * len(TIMESTEPS) / BLOCK_VIDEO_FRAMES

    def row(form: str, e: Exchange) -> dict:
        return {
            "gb_sent_per_video_frame": e.sent * times / 1e9,
            "exposed_ms_per_video_frame": e.exposed_us * times / 1e3,
            "extra_ms_per_video_frame": e.extra_us * times / 1e3,
            "default": form == chosen,
        }

    return DryRanks(ranks, tokens, chosen), {form: row(form, e) for form, e in costs.items()}


def table(forms: dict[str, dict], budget: Budget) -> str:
    """One line per form, then the total of the floors with what the default form leaves exposed."""
    lines = [
        f"exchange of keys and values, modelled for links of {budget.chip.link / 1e9:g} GB/s a direction",
        f"{'':24}{'GB sent':>9}{'exposed ms':>12}{'copies ms':>11}   per video frame",
    ]
    total = budget.to_dict()["total"]["floor_ms_per_video_frame"]
    for form, row in forms.items():
        sent, exposed, extra = (v for k, v in row.items() if k != "default")
        lines.append(f"{form:24}{sent:9.3f}{exposed:12.3f}{extra:11.3f}{'   default' if row['default'] else ''}")
        total += exposed * row["default"]
    return "\n".join([*lines, f"{'floors and exposed time of the default form':45}{total:11.3f}"])
