"""What sharing a block among ranks adds: the forms of the exchange, modelled, beside the floors of one rank's share."""

from __future__ import annotations

from liveact_kernels.cost.budget import Budget
from liveact_kernels.cost.hw import Chip
from liveact_model.config import BLOCK_VIDEO_FRAMES, DiTConfig
from liveact_model.errors import InputError
from liveact_model.parallel import ALONE, SeqParallel
from liveact_model.parallel.cost import Exchange, best, exchanges
from liveact_model.parallel.dry import DryRanks
from liveact_model.schedule import TIMESTEPS

BF16_BYTES = 2


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
