"""The optimisers of a run: Adam, or Muon for the matrices between layers and Adam for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from liveact_model.dit import DiT, Linear
from liveact_model.errors import InputError

OPTIMISERS = ("muon", "adam")
BETAS, DECAY = (0.9, 0.98), 0.01


class Joined:
    """Several optimisers as one: the groups of all, one step of each."""

    def __init__(self, *parts: torch.optim.Optimizer):
        self.parts = parts
        self.param_groups = [group for part in parts for group in part.param_groups]
        self.state = _State({p: part.state for part in parts for group in part.param_groups for p in group["params"]})

    def step(self) -> None:
        """One step of each."""
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of all."""
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)


class _State:
    """What each parameter's own optimiser remembers of it."""

    def __init__(self, owners: dict[Tensor, dict[Tensor, Any]]):
        self.owners = owners

    def __getitem__(self, p: Tensor) -> Any:
        return self.owners[p][p]

    def __setitem__(self, p: Tensor, value: Any) -> None:
        self.owners[p][p] = value


def matrices(dit: DiT) -> list[nn.Parameter]:
    """Weights of all linear layers but the head, which writes the answer and starts at zero."""
    return [m.weight for m in dit.modules() if isinstance(m, Linear) and m is not dit.head.head]


def optimiser_of(name: str, module: nn.Module, rate: float) -> torch.optim.Optimizer | Joined:
    """The optimiser of OPTIMISERS called `name`; `module` is a DiT or has some in it.

    Muon's steps are scaled to Adam's size, so both go by one rate. InputError for another name, and where
    torch has no Muon (before 2.9).
    """
    if name not in OPTIMISERS:
        raise InputError(f"--optimiser: expected one of {', '.join(OPTIMISERS)}, got {name!r}")
    if name == "adam":
        return torch.optim.AdamW(module.parameters(), rate, betas=BETAS, weight_decay=DECAY)
    muon: Callable[..., torch.optim.Optimizer] | None = getattr(torch.optim, "Muon", None)
    if muon is None:
        raise InputError(f"--optimiser: expected torch 2.9 or newer for muon, got {torch.__version__}; adam needs none")
    large = [p for part in module.modules() if isinstance(part, DiT) for p in matrices(part)]
    ids = {id(p) for p in large}
    rest = [p for p in module.parameters() if id(p) not in ids]
    return Joined(
        muon(large, rate, momentum=0.95, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, rate, betas=BETAS, weight_decay=DECAY),
    )
