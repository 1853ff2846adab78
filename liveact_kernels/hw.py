"""Ceilings of chips: dense datasheet rates. Measured ceilings join them with date and driver once a run exists."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """flops: operations per second by kind ("fp8", "bf16", "f32"), 2 per multiply-add; bytes per second of the memory
    (bandwidth) and of the links to other chips, in one direction (link).
    """

    name: str
    flops: dict[str, float]
    bandwidth: float
    link: float
    source: str


CHIPS = {
    "h200": Chip("H200 SXM", {"fp8": 1979e12, "bf16": 989e12, "f32": 67e12}, 4.8e12, 450e9, "datasheet, dense"),
    "h100": Chip("H100 SXM", {"fp8": 1979e12, "bf16": 989e12, "f32": 67e12}, 3.35e12, 450e9, "datasheet, dense"),
    "b200": Chip("B200", {"fp8": 4500e12, "bf16": 2250e12, "f32": 75e12}, 8.0e12, 900e9, "datasheet, dense"),
}
"""By the name that `--chip` takes."""
