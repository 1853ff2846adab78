"""Ceilings of chips: dense datasheet rates, and rates measured on the chip itself (`bench/ceilings.py --write`).

`hw_measured.json` beside this file holds {chip: {"flops": {kind: rate}, "bandwidth": rate, "source": text}}; it exists
once somebody measured. A kind that was not measured keeps its datasheet rate.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable
else:
    from importlib.abc import Traversable

CEILINGS = ("datasheet", "measured")
MEASURED_FILE = "hw_measured.json"


PCIE_4_X16, PCIE_5_X16 = 31.5e9, 64e9
"""Bytes per second of 16 lanes, one direction: 16 or 32 GT/s a lane, 128 of 130 bits carry data (PCI Express Base
Specification 4.0, 5.0). That makes 63.0 of the second, which datasheets give as 64."""
PINNED = 0.8
"""Of a link's rate, what copies from page-locked memory reach: assumed, 25 GB/s on PCIe 4.0 x16."""


@dataclass(frozen=True)
class Chip:
    """flops: operations per second by kind ("fp4", "fp8", "bf16", "f32"), 2 per multiply-add; bytes per second of the
    memory (bandwidth), of the links to other chips (link) and to the host (host_link: PCIe 5.0 x16 on all of these),
    one direction each.
    """

    name: str
    flops: dict[str, float]
    bandwidth: float
    link: float
    source: str
    host_link: float = PCIE_5_X16

    @property
    def pinned_link(self) -> float:
        """Bytes per second that copies from page-locked host memory reach, assumed."""
        return self.host_link * PINNED

    def rate(self, kind: str) -> float:
        """Operations per second of a kind. Tensor cores without FP4 can multiply its values as bf16, exactly."""
        return self.flops["bf16" if kind == "fp4" and kind not in self.flops else kind]


CHIPS = {
    "h200": Chip("H200 SXM", {"fp8": 1979e12, "bf16": 989e12, "f32": 67e12}, 4.8e12, 450e9, "datasheet, dense"),
    "h100": Chip("H100 SXM", {"fp8": 1979e12, "bf16": 989e12, "f32": 67e12}, 3.35e12, 450e9, "datasheet, dense"),
    "b200": Chip(
        "B200", {"fp4": 9000e12, "fp8": 4500e12, "bf16": 2250e12, "f32": 75e12}, 8.0e12, 900e9, "datasheet, dense"
    ),
    "rtx5090": Chip(
        "RTX 5090", {"fp4": 1676e12, "fp8": 419e12, "bf16": 209.5e12, "f32": 104.8e12}, 1.792e12, 64e9,
        "RTX Blackwell whitepaper, dense, float32 sums",
    ),
}  # fmt: skip
"""By the name that `--chip` takes. FP4: HGX B200's datasheet has 72 PFLOP/s dense for eight; the RTX Blackwell GPU
architecture whitepaper has 1676 TFLOP/s dense, and no NVLink: chips talk over PCIe."""


def measured_file() -> Traversable:
    """Where measured ceilings are kept."""
    return resources.files(__package__) / MEASURED_FILE


def measured(path: Traversable | None = None) -> dict[str, dict]:
    """Measured ceilings by chip, of `path` or of the package's own file; empty before the first measurement.

    Raises ValueError for a file of another form.
    """
    path = measured_file() if path is None else path
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        for entry in found.values():
            rates = [*entry["flops"].values(), entry["bandwidth"]]
            if not all(isinstance(r, int | float) and r > 0 for r in rates) or not isinstance(entry["source"], str):
                raise ValueError(f"a rate or source is unusable in {entry}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{MEASURED_FILE}: expected {{chip: {{flops, bandwidth, source}}}}, got: {error}") from error
    return found


def chip(name: str, ceilings: str = "datasheet", table: Mapping[str, dict] | None = None) -> Chip:
    """A chip by name, with its datasheet or its measured rates. `table` replaces what `measured` reads.

    Raises ValueError for an unknown chip or kind of ceilings, or where nothing was measured.
    """
    if name not in CHIPS:
        raise ValueError(f"chip: expected one of {', '.join(CHIPS)}, got {name!r}")
    if ceilings not in CEILINGS:
        raise ValueError(f"ceilings: expected one of {', '.join(CEILINGS)}, got {ceilings!r}")
    known = CHIPS[name]
    if ceilings == "datasheet":
        return known
    table = measured() if table is None else table
    if name not in table:
        raise ValueError(f"ceilings: nothing was measured on {name!r} yet: run bench/ceilings.py --write on one")
    entry = table[name]
    return replace(known, flops=known.flops | entry["flops"], bandwidth=entry["bandwidth"], source=entry["source"])


def key_of(device_name: str) -> str | None:
    """The CHIPS key of a device as its driver names it ("NVIDIA H200" -> "h200"); None for one that is not listed."""
    plain = re.sub(r"nvidia|geforce|\W", "", device_name.lower())
    return next((key for key in CHIPS if plain.startswith(key)), None)
