"""The picture in the README: current, and a measured bar appears once somebody measured."""

import importlib.util
import json
import sys
import xml.etree.ElementTree as ET

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def svg():
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("budget_svg", ROOT / "docs" / "budget_svg.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def rects(text):
    return [r for r in ET.fromstring(text).iter() if r.tag.endswith("rect") and len(r)]


def test_the_committed_picture_is_current(svg):
    committed = (ROOT / "docs" / "budget.svg").read_text(encoding="utf-8")
    assert svg.draw() == committed, "python docs/budget_svg.py docs/budget.svg"


def test_measured_bars(svg, tmp_path):
    empty = svg.draw(results=tmp_path)
    assert empty.count("not yet measured") == 2
    row = {"schema": 1, "kind": "frame", "model": "liveact-18b", "what": "steady", "size": "512*512", "date": "2",
           "ms_per_video_frame": 41.5, "parts": {"linear": {"ms": 20.0}, "copy to host": {"ms": 1.5}}}  # fmt: skip
    older = row | {"date": "1", "ms_per_video_frame": 99.0}
    other = [row | {"size": "64*64"}, row | {"what": "first"}, row | {"model": "tiny"},
             row | {"ranks": 2, "date": "3", "ms_per_video_frame": 99.0}]  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(r) for r in [row, older, *other]) + "\n")
    assert svg.measured(tmp_path, (512, 512))[0]["outside ops"] == 1.5
    text = svg.draw(results=tmp_path)
    assert text.count("not yet measured") == 1 and "41.5 ms" in text and "99.0" not in text
    assert "linear: 20.00 ms" in text


def test_rates_seen_elsewhere_by_hand(svg):
    row = {"tflop_per_video_frame": 20.515, "gb_per_video_frame": 6.945}
    assert svg.elsewhere("linear", row, (512, 512)) == pytest.approx(15.23, abs=0.01)
    assert svg.elsewhere("memory", row | {"gb_per_video_frame": 4.1}, (512, 512)) == pytest.approx(1.0)
    assert svg.elsewhere("VAE decode", row, (512, 512)) == pytest.approx(9.5, abs=0.05)


def test_bars_are_as_long_as_their_milliseconds(svg):
    bars = rects(svg.draw())
    per_ms = (svg.WIDTH - svg.LEFT - svg.RIGHT) / 56.0
    for r in bars:
        ms = float(r[0].text.split(": ")[1].split()[0])
        assert float(r.get("width")) == pytest.approx(ms * per_ms, abs=0.2)
    assert len(bars) == 2 * 2 * len(svg.GROUPS)
