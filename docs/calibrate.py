"""Write docs/calibrate.md's tables and docs/calibrate.svg from docs/calibrate.json, which a run of calibrate wrote.

    liveact calibrate --cost floor --bound 0.06 --out docs/calibrate-plan.json --json docs/calibrate.json
    python docs/calibrate.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from liveact_app.calibrate.picture import draw  # noqa: E402
from liveact_app.calibrate.report import kinds_table  # noqa: E402

BEGIN, END = "<!-- from docs/calibrate.py -->", "<!-- end -->"


def page(told: dict) -> str:
    """The tables: plans that were run, then every kind of linear layer."""
    at, inputs = told["chosen"], told["inputs"]
    lines = [
        f"`{told['model']}` at {inputs['size'][0]}x{inputs['size'][1]} on a {inputs['device'].upper()}, "
        f"{inputs['blocks']} blocks, seed {inputs['seed']}, against {inputs['dtype']}. Errors are measured, relative "
        f"L2; ms of the denoiser on one {told['chip']} are **{told['cost_label']}**.", "",
        "| plan | ms per video frame | error of the latents |", "| --- | --- | --- |",
    ]  # fmt: skip
    for run in told["runs"]:
        name = f"**{run['name']}: chosen**" if run["name"] == at["name"] else run["name"]
        lines.append(f"| {name} | {run['ms_per_video_frame']:.6f} | {run['error']:.4f} |")
    heads = " | ".join(f"error in {name}" for name in told["formats"])
    lines += ["", f"| linear layers | {heads} | latents, alone | saved by one, us per video frame | chosen |",
              "|" + " --- |" * (len(told["formats"]) + 4)]  # fmt: skip
    for kind, errors, said in kinds_table(told):
        unit = kind if kind in told["kinds"] else kind.rpartition(".")[0]
        row, first = told["kinds"][unit], told["formats"][0]
        alone = "-" if row["latents_error_alone"] is None else f"{row['latents_error_alone']:.4f}"
        cells = " | ".join("-" if e is None else f"{e:.4f}" for e in errors)
        lines.append(f"| `{kind}` | {cells} | {alone} | {1e3 * row['saved_ms'][first]:.4f} | {said} |")
    for name, row in told["window"].items():
        alone = "-" if row["latents_error_alone"] is None else f"{row['latents_error_alone']:.4f}"
        chosen = "yes" if at["plan"][name] else "no"
        blank = " | ".join("" for _ in told["formats"])
        lines.append(f"| {name.replace('_', ' ')} | {blank} | {alone} | {1e3 * row['saved_ms']:.4f} | {chosen} |")
    return "\n".join(lines)


def filled(text: str, told: dict) -> str:
    """The page with its part between the marks made anew."""
    inner = "\n".join([BEGIN, "", page(told), "", END])
    return re.sub(f"{BEGIN}.*{END}", lambda _: inner, text, flags=re.S)


def main() -> None:
    """Write both files."""
    told = json.loads((HERE / "calibrate.json").read_text(encoding="utf-8"))
    path = HERE / "calibrate.md"
    path.write_text(filled(path.read_text(encoding="utf-8"), told), encoding="utf-8")
    (HERE / "calibrate.svg").write_text(draw(told), encoding="utf-8")


if __name__ == "__main__":
    main()
