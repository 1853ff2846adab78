"""profiles/resources.json: what every kernel compiles to, per compiler version and chip."""

from __future__ import annotations

import json
import sys
from pathlib import Path

PATH = Path(__file__).parents[2] / "profiles" / "resources.json"

Table = dict[str, dict]
"""op/case/kernel -> registers, spilled bytes, shared memory, warps, stages, instruction counts."""


class Ledger:
    """The ledger of one compiler version. A chip that it has no entry for is not compared: close() says so."""

    def __init__(self, version: str, path: Path = PATH):
        self.version, self.path = version, path
        self._all: dict[str, dict[str, Table]] = json.loads(path.read_text()) if path.is_file() else {}
        self._own = self._all.setdefault(version, {})
        self._unknown: list[str] = []

    def knows(self, chip: str) -> bool:
        """Whether this version has been recorded for a chip."""
        return bool(self._own.get(chip))

    def _of(self, chip: str, ops: list[str]) -> Table:
        return {k: v for k, v in self._own.get(chip, {}).items() if k.split("/")[0] in ops}

    def changes(self, chip: str, new: Table, ops: list[str]) -> list[str]:
        """How a compilation of `ops` differs from what is recorded, one sentence each; none when nothing is."""
        if not self.knows(chip):
            self._unknown.append(chip)
            return []
        old = self._of(chip, ops)
        said = [f"{key}: not in the ledger" for key in new.keys() - old.keys()]
        said += [f"{key}: in the ledger, but no longer compiled" for key in old.keys() - new.keys()]
        for key in old.keys() & new.keys():
            said += [
                f"{key}: {field} was {old[key].get(field)}, is {new[key].get(field)}"
                for field in old[key].keys() | new[key].keys()
                if old[key].get(field) != new[key].get(field)
            ]
        return [f"{chip} {line}" for line in sorted(said)]

    def replace(self, chip: str, new: Table, ops: list[str]) -> None:
        """Record a compilation of `ops`; the other ops keep their entries."""
        gone = self._of(chip, ops)
        self._own[chip] = {k: v for k, v in self._own.get(chip, {}).items() if k not in gone} | new

    def save(self) -> None:
        """Write it, one kernel per line, so that a change of the ledger reads as one."""
        versions = []
        for version, chips in sorted(self._all.items()):
            blocks = []
            for chip, table in sorted(chips.items()):
                lines = [f"   {json.dumps(key)}: {json.dumps(table[key])}" for key in sorted(table)]
                blocks.append(f"  {json.dumps(chip)}: {{\n" + ",\n".join(lines) + "\n  }")
            versions.append(f" {json.dumps(version)}: {{\n" + ",\n".join(blocks) + "\n }")
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text("{\n" + ",\n".join(versions) + "\n}\n")

    def close(self, wrong: list[str], update: bool) -> int:
        """Write it if asked, say what was not compared and what is wrong, and give the exit code: 1 if anything is."""
        if update:
            self.save()
        elif self._unknown:
            print(
                f"resources are not compared for {', '.join(self._unknown)}: {self.path.name} has no {self.version}; "
                "spills, limits and required instructions are checked"
            )
        for line in wrong:
            print(line, file=sys.stderr)
        return 1 if wrong else 0
