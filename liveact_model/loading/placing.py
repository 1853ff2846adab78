"""Where a denoiser's values go while they come: to the device, or block after block to the host."""

from __future__ import annotations

import torch

from ..dit import DiT, Precision, Streamed


class Placing:
    """Where a denoiser's values go while they come in order: to `device` (None: where they are).

    With `block_offload` those of the blocks stay on the host, where they are quantised, and each block, once it is
    whole, moves into memory that the device copies from: a block at most is there twice, and none goes through the
    device.

    plan  the formats that the layers take as they come; None: they have them already
    """

    def __init__(self, dit: DiT, device: torch.device | None, block_offload: bool, plan: Precision | None = None):
        self.device = device
        self._block: int | None = None
        if block_offload:
            like = dit
            if plan is not None:
                with torch.device("meta"):
                    like = DiT(dit.config).to_precision(plan)
            dit.streamed = Streamed(dit.blocks, device or torch.device("cpu"), like.blocks)
        self._streamed = dit.streamed

    def of(self, path: str) -> torch.device | None:
        """The device for the value of a path; "" behind the last one."""
        room, _, rest = path.partition(".")
        block = int(rest.partition(".")[0]) if room == "blocks" and self._streamed is not None else None
        if self._streamed is not None and self._block is not None and self._block != block:
            self._streamed.admit(self._block)
        self._block = block
        return self.device if block is None else torch.device("cpu")
