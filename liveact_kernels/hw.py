"""Ceilings of chips: dense datasheet rates. Measured ceilings join them with date and driver once a run exists."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """flops: operations per second by kind ("fp8", "bf16", "f32"), 2 per multiply-add; bandwidth: bytes per second.

    host_link: bytes per second to or from the host, one direction (PCIe 5.0 x16 on all of these)."""

    name: str
    flops: dict[str, float]
    bandwidth: float
    source: str
    host_link: float = 64e9


CHIPS = {
    "h200": Chip("H200 SXM", {"fp8": 1979e12, "bf16": 989e12, "f32": 67e12}, 4.8e12, "datasheet, dense"),
    "h100": Chip("H100 SXM", {"fp8": 1979e12, "bf16": 989e12, "f32": 67e12}, 3.35e12, "datasheet, dense"),
    "b200": Chip("B200", {"fp8": 4500e12, "bf16": 2250e12, "f32": 75e12}, 8.0e12, "datasheet, dense"),
}
"""By the name that `--chip` takes."""
