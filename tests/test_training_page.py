"""docs/training.py: the table of models and the curves of runs."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def page():
    spec = importlib.util.spec_from_file_location("training_page", ROOT / "docs" / "training.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def report(mouth, blinks, edges):
    sways = {f"sway_{name}": 0.01 for name in ("dx", "dy", "roll", "yaw", "pitch")}
    emotions = {name: {"recognised": 1.0, "recognised_truth": 1.0, "edges": 0.1} for name in ("happy", "sad")}
    actions = {"nod": {"recognised": 0.5, "recognised_truth": 1.0, "edges": edges}}
    return {
        "config": {"clips": 24, "blocks": 4, "asked": 8, "seed": 1001},
        "mean": {
            "mouth_correlation": mouth, "mouth_amplitude": 1.0, "border_step": 1.1, "border_step_of_truth": 0.95,
            "latent_step": 0.9, "latent_step_of_truth": 0.99, "background_drift": 0.01,
        },
        "by_itself": {
            "generated": {"blinks_per_minute": blinks} | sways,
            "truth": {"blinks_per_minute": 18.0} | dict.fromkeys(sways, 0.02),
        },
        "asked": emotions | actions,
    }  # fmt: skip


def test_a_column_per_model_beside_the_truth(page):
    text = page.filled("a\n<!-- models from docs/training.py -->old<!-- end models -->\nb",
                       {"first": report(0.91, 9.0, 0.9), "second": report(0.5, 12.0, 0.7)})  # fmt: skip
    lines = text.splitlines()
    assert lines[0] == "a" and lines[-1] == "b" and "old" not in text
    assert "| | bar | truth | first | second |" in lines
    assert "| mouth, correlation | >= 0.9 | 1 | 0.91 | 0.5 |" in lines
    assert "| blinks a minute | within 30 % | 18 | 9 | 12 |" in lines
    assert "| change where a block begins | <= 1.3 | 0.95 | 1.1 | 1.1 |" in lines
    assert "| four emotions recognised | >= 90 % | 100% | 100% | 100% |" in lines
    assert "| nodding, waving, shaking recognised | >= 90 % | 100% | 50% | 50% |" in lines
    assert "| edges while nodding or waving | >= 0.85 | 1 | 0.90 | 0.70 |" in lines


def test_curves_of_a_stage_share_a_section(page):
    rows = [{"stage": "dit", "run": run, "step": s, "val_500": 1.0 - s / 10} for run in ("one", "two") for s in (1, 5)]
    rows.append({"stage": "probe", "run": "ruler", "step": 1})
    svg = page.draw(rows)
    assert svg.count("<polyline") == 2 and ">one<" in svg and ">two<" in svg and ">Denoiser<" in svg
    assert "ruler" not in svg and "VAE" not in svg


def test_the_page_is_what_the_rows_say(page):
    """The committed table and picture are those of the committed rows."""
    reports = json.loads((page.RESULTS / "evaluation.json").read_text())
    text = (ROOT / "docs/training.md").read_text()
    assert page.filled(text, reports) == text and page.table(reports) in text
    assert (ROOT / "docs/training.svg").read_text() == page.draw(page.read(page.RESULTS / "training_runs.jsonl"))
