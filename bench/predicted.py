"""What the predictor says of a frame on the chip at hand, for rows that have the measurement beside it."""

from __future__ import annotations

import root  # noqa: F401
import torch

from liveact_app.budget.dryrun import record_block
from liveact_kernels.compiled.predict import LABEL, Unpredictable
from liveact_kernels.compiled.predict.frame import frame
from liveact_kernels.compiled.predict.rates import ARCH, MACHINES
from liveact_kernels.cost.hw import CHIPS, key_of
from liveact_model.config import BLOCK_VIDEO_FRAMES, NAMED


def forecast(model: str, size: tuple[int, int], precision: str, device: torch.device) -> dict | None:
    """Predicted ms per video frame by budget row and in total, with LABEL; None where the model knows nothing.

    Called when everything is measured: compiling and replaying takes a minute and must not disturb.
    """
    if device.type != "cuda" or model not in NAMED or precision not in ("fp8", "bfloat16"):
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
