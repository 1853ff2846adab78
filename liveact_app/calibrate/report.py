"""What a calibration found, as plain values: for `--json`, for the terminal, and for whoever draws it."""

from __future__ import annotations

from typing import Any

from liveact_app.calibrate.cost import Costs, kind_of
from liveact_app.calibrate.search import WIDE, WINDOW, Found, Tried
from liveact_model.config import DiTConfig
from liveact_model.dit import Precision

FORMAT = "liveact-calibration-1"


def report(found: Found, costs: Costs, model: str, config: DiTConfig, bound: float, inputs: dict[str, Any]) -> dict:
    """Everything that was measured or predicted; errors are relative L2 against the bf16 run."""
    assert found.chosen is not None, "a search has ended"
    chosen, paths = found.chosen.plan, [path for unit in found.units.values() for path in unit]
    return {
        "format": FORMAT, "model": model, "layers": config.num_layers, "inputs": inputs, "bound": bound,
        "cost": costs.kind, "cost_label": costs.label, "chip": costs.chip, "formats": list(found.names),
        "linears": {
            path: {"chosen": chosen.of(path), "error": {n: found.errors.of(path, n) for n in found.names}}
            for path in paths
        },
        "kinds": {
            kind: {"saved_ms": saved, "latents_error_alone": found.spoilt.get(kind)}
            for kind, saved in found.saved.items() if kind != WINDOW
        },
        "window": {n: {"saved_ms": ms, "latents_error_alone": found.spoilt.get(n)}
                   for n, ms in found.saved[WINDOW].items()},
        "order": [f"{unit}: {name}" for unit, name in found.order],
        "runs": [_run(run) for run in found.runs], "chosen": _run(found.chosen) | {"plan": plain(chosen)},
    }  # fmt: skip


def _run(run: Tried) -> dict:
    return {"name": run.name, "moves": run.moves, "ms_per_video_frame": run.ms, "error": run.error}


def plain(plan: Precision) -> dict:
    """A plan's own part."""
    bits = {"eight_bit_memory": plan.eight_bit_memory, "eight_bit_attention": plan.eight_bit_attention}
    return {"default": plan.default, "linears": dict(plan.linears), **bits}


def by_kind(told: dict, name: str) -> dict[str, list[tuple[str, float | None, str]]]:
    """Kind of linear layer -> (path, the worst step's error in a format, the chosen format) by layer.

    The error is None for a layer whose width the format does not take.
    """
    out: dict[str, list[tuple[str, float | None, str]]] = {}
    for path, row in told["linears"].items():
        steps = row["error"][name].values()
        out.setdefault(kind_of(path), []).append((path, max(steps, default=None), row["chosen"]))
    return out


def kinds_table(told: dict) -> list[tuple[str, list[float | None], str]]:
    """(kind, largest error of its layers by format or None, "how many of its layers are narrow")."""
    tables, out = {n: by_kind(told, n) for n in told["formats"]}, []
    for kind, rows in next(iter(tables.values())).items():
        errors = [max((e for _, e, _ in tables[n][kind] if e is not None), default=None) for n in told["formats"]]
        narrow = [name for _, _, name in rows if name != WIDE]
        said = ", ".join(f"{narrow.count(n)} {n}" for n in dict.fromkeys(narrow)) or "none"
        out.append((kind, errors, f"{said} of {len(rows)}"))
    return out


def terminal(told: dict) -> str:
    """Tables at most 100 columns wide."""
    names = told["formats"]
    head = f"{'largest error of a step':40}" + "".join(f"{n:>12}" for n in names) + "   chosen"
    lines = [f"{told['model']} on {told['inputs']['device']}, {told['inputs']['blocks']} blocks; relative L2 errors "
             "against bfloat16", "", head]  # fmt: skip
    for kind, errors, said in kinds_table(told):
        lines.append(f"{kind:40}" + "".join(f"{'-' if e is None else f'{e:.2e}':>12}" for e in errors) + f"   {said}")
    lines += ["", f"{'plan':44}{'ms per video frame':>20}{'error of latents':>20}"]
    for run in told["runs"]:
        mark = "  <- chosen" if run["name"] == told["chosen"]["name"] else ""
        lines.append(f"{run['name']:44}{run['ms_per_video_frame']:20.6f}{run['error']:20.3e}{mark}")
    lines += ["", f"ms of the denoiser on one {told['chip']}: {told['cost_label']}; bound {told['bound']:g}"]
    return "\n".join(lines)
