"""Write docs/evaluate.md's tables and docs/evaluate.svg from bench/results/cpu/evaluate.jsonl.

    python docs/evaluate.py

The newest row of each video counts. The table of weight files is that of liveact_app/evaluate/weights.py.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from liveact_app.evaluate.plot import draw  # noqa: E402
from liveact_app.evaluate.report import markdown  # noqa: E402
from liveact_app.evaluate.weights import KNOWN  # noqa: E402

ROWS = HERE.parent / "bench" / "results" / "cpu" / "evaluate.jsonl"
DRAWN = ("face: truth", "face: VAE alone", "face: model", "face: model, 10 min, prompts changing",
         "control: sound reversed", "control: red rising by 20", "control: another person in tenth 6")  # fmt: skip


def rows() -> dict[str, dict[str, Any]]:
    """The newest row of each video."""
    lines = ROWS.read_text(encoding="utf-8").splitlines()
    return {row["what"]: row for row in map(json.loads, lines)}


def measured(found: dict[str, dict[str, Any]]) -> str:
    """The table of videos, and what the measuring took."""
    first, long = next(iter(found.values())), next((r for k, r in found.items() if " min, " in k), None)
    machine = f"{first['chip']}, one core, shared with other work, {first['date'][:10]}."
    lines = [markdown(list(found.items())), "", machine]
    if long is not None and "took" in long:
        each = "{:.1f} s of a processor and {:.0f} MiB for {:,} video frames".format
        both = [(r["took"], r["video_frames"]) for r in (first, long)]
        took = [each(t["cpu_seconds"], t["peak_rss_bytes"] / 2**20, n) for t, n in both]
        lines[-1] += f" The command took {', '.join(took)}."
    return "\n".join(lines)


def files() -> str:
    """The public weight files."""
    lines = ["| option | file | where it is | bytes | SHA-256, and who states it |", "| --- | --- | --- | --- | --- |"]
    for name, known in KNOWN.items():
        size = "not checked" if known.bytes is None else f"{known.bytes:,}"
        stated = f"`{known.sha256}` ({known.stated})"
        lines.append(f"| `--{name}` | {known.name} | {known.home} | {size} | {stated} |")
    return "\n".join(lines)


def filled(text: str, name: str, inner: str) -> str:
    """The page with the part between the marks of `name` made anew."""
    begin, end = f"<!-- {name} from docs/evaluate.py -->", f"<!-- end {name} -->"
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n\n{inner}\n\n{end}", text, flags=re.S)


def made(page: str) -> tuple[str, str]:
    """The page and the picture."""
    found = rows()
    page = filled(filled(page, "videos", measured(found)), "files", files())
    named = [(name, found[name]) for name in DRAWN if name in found]
    return page, draw(named, "The small model, the truth and the controls over time")


def main() -> None:
    """Write both files."""
    path = HERE / "evaluate.md"
    page, picture = made(path.read_text(encoding="utf-8"))
    path.write_text(page, encoding="utf-8")
    (HERE / "evaluate.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
