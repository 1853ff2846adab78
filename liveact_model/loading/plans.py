"""Precision plans: from a file, and to one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..config import DiTConfig
from ..dit import SIZES, DiT, Precision

if TYPE_CHECKING:
    from ..checkpoint.planfile import PlanFile


def read_plan(path: str | Path) -> Precision:
    """The plan that a file holds. Raises InputError for one that cannot be used, for whatever model."""
    from ..checkpoint.jsonfile import read_json
    from ..checkpoint.planfile import PlanFile
    from ..checkpoint.schema import validated

    return of_file(validated(PlanFile, read_json(Path(path), "precision"), path, "precision"), str(path))


def of_file(plan: PlanFile, source: str) -> Precision:
    """A file's content as a plan, every path of it found. Raises InputError."""
    sizes = plan.sizes.model_dump()
    made = Precision(
        plan.default, tuple(plan.linears.items()), plan.eight_bit_memory, plan.eight_bit_attention, plan.model,
        tuple(sizes.items()), source,
    )  # fmt: skip
    with torch.device("meta"):
        one = DiT(DiTConfig(num_layers=1)).linears()
    layers = [path.removeprefix("blocks.0.") for path in one if path.startswith("blocks.")]
    blocks = [f"blocks.{i}.{path}" for i in range(plan.sizes.num_layers) for path in layers]
    made.check_paths([*(path for path in one if not path.startswith("blocks.")), *blocks])
    return made


def file_of(plan: Precision, model: str, config: DiTConfig, **more: Any) -> PlanFile:
    """A plan as a file's content, for a model of these sizes; `more` are the other fields of PlanFile."""
    from ..checkpoint.planfile import PlanFile, Sizes

    sizes = Sizes(**{name: getattr(config, name) for name in SIZES})
    return PlanFile(
        format="liveact-plan-1", model=model, sizes=sizes, default=plan.default, linears=dict(plan.linears),
        eight_bit_memory=plan.eight_bit_memory, eight_bit_attention=plan.eight_bit_attention, **more,
    )  # fmt: skip
