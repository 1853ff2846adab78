"""How much memory a model needs at a size, and what to choose where that is too much."""

from __future__ import annotations

from collections.abc import Callable

import root  # noqa: F401
import torch

from liveact_model import needs
from liveact_model.avatar import Avatar

GIB = 1 << 30
FIXED = 2 * GIB  # CUDA context, the audio network, libraries' workspaces, the allocator's rounding


def predict(avatar: Avatar, size: tuple[int, int], eight_bit: bool, device: torch.device, memory: bool = False) -> int:
    """Peak bytes of a Session of `avatar`, which is on `meta`, at (width, height) on `device`.

    eight_bit  8-bit attention;  memory  8-bit memory slots
    """
    bits = {"eight_bit_attention": eight_bit, "eight_bit_memory": memory}
    return needs.predict(avatar, size, place=device, **bits).model_bytes + FIXED


def refuse(need: Callable[[str, tuple[int, int]], int], options: list[tuple[str, tuple[int, int]]], free: int,
           where: str) -> str | None:  # fmt: skip
    """None when the first of `options` (precision, size) fits in `free` bytes, else a sentence naming one that does.

    need  predicts the bytes of an option
    """
    wanted, *others = options
    first = need(*wanted)
    if first <= free:
        return None
    said = f"{_name(wanted)} needs about {first / GIB:.1f} GiB and {where} has {free / GIB:.1f} GiB free: "
    for option in others:
        if (size := need(*option)) <= free:
            return said + f"choose {_name(option)} ({size / GIB:.1f} GiB)"
    return said + "choose --model tiny"


def _name(option: tuple[str, tuple[int, int]]) -> str:
    precision, (width, height) = option
    return f"--precision {precision} --size {width}*{height}"
