"""Which mailbox fits: the class is in `mailbox`, its two kinds import what only their machines have."""

from __future__ import annotations

import torch

from .mailbox import Mailbox
from .wire import Wire


def open_mailbox(wire: Wire, timeout_s: float) -> Mailbox:
    """The mailbox that fits the ranks' devices."""
    if wire.device == torch.device("cpu"):
        from .shared_memory import SharedMemoryMailbox

        return SharedMemoryMailbox(wire, timeout_s)
    from .symmetric_memory import SymmetricMailbox

    return SymmetricMailbox(wire, timeout_s)
