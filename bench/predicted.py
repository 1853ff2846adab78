"""What the predictor says of a frame or of an op, for rows that have the measurement beside it."""

from __future__ import annotations

import functools
import json

import root
import torch

from liveact_app.budget.dryrun import record_block
from liveact_kernels.compiled.predict import LABEL, Unpredictable
from liveact_kernels.compiled.predict.frame import frame
from liveact_kernels.compiled.predict.rates import ARCH, MACHINES
from liveact_kernels.cost.hw import CHIPS, key_of
from liveact_model.config import BLOCK_VIDEO_FRAMES, NAMED
from liveact_model.dit import Precision


def forecast(model: str, size: tuple[int, int], precision: str | Precision, device: torch.device) -> dict | None:
    """Predicted ms per video frame by budget row and in total, with LABEL; None where the model knows nothing.

    Called when everything is measured: compiling and replaying takes a minute and must not disturb.
    """
    if device.type != "cuda" or model not in NAMED or precision == "float32":
        return None
    chip = key_of(torch.cuda.get_device_name(device))
    if chip not in MACHINES or torch.cuda.get_device_capability(device) != (ARCH // 10, ARCH % 10):
        return None
    try:
        found = frame(record_block(model, size, precision), CHIPS[chip], MACHINES[chip], size, BLOCK_VIDEO_FRAMES)
    except (Unpredictable, ModuleNotFoundError) as error:
        return {"label": LABEL, "error": str(error)}
    groups = {group: round(found.ms(lines), 4) for group, lines in found.groups().items()}
    return {"label": LABEL, "compiler": found.compiler, "ms_per_video_frame": groups | {"total": found.total_ms()}}


@functools.cache
def _ledger() -> dict[str, dict[str, dict]]:
    """profiles/predicted.json: compiler -> op/case -> what was predicted, of an H200."""
    path = root.ROOT / "profiles" / "predicted.json"
    if not path.is_file():
        return {}
    book = json.loads(path.read_text(encoding="utf-8"))
    return {compiler: entries for compiler, chips in book.items() for entries in chips.values()}


def of_op(op: str, case: str, backend: str, triton: str | None = None) -> dict | None:
    """{"us", "compiler"} that the ledger has for one of this project's backends, its launches added; else None.

    triton  the version at hand; where the ledger does not know it, any other stands in, and is named
    """
    kind = {"triton": "triton ", "cuda": "nvcc "}.get(backend)
    mine = sorted(c for c in _ledger() if kind and c.startswith(kind))
    if not mine:
        return None
    compiler = f"triton {triton}" if f"triton {triton}" in mine else mine[-1]
    name = f"{op}/{case}"
    parts = [v["us"] for k, v in _ledger()[compiler].items() if k == name or k.startswith(f"{name}/")]
    return {"us": round(sum(parts), 1), "compiler": compiler} if parts else None
