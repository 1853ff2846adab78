"""bench/ceilings.py and the measured rates that liveact_kernels/cost/hw.py reads."""

import ceilings
import pytest
import rows
from test_bench_run import refused

from liveact_kernels.cost import hw


def test_measured_ceilings_replace_the_datasheets(tmp_path):
    path = tmp_path / "hw.json"
    assert hw.measured(path) == {}
    about = {"date": "2026-01-02T03:04:05", "driver": "1.2", "torch": "2", "commit": "abc"}
    found = [about | {"ceiling": k, "per_second": v} for k, v in (("bandwidth", 4.3e12), ("bf16", 7.7e14))]
    ceilings.store(path, "h100", {"flops": {}, "bandwidth": 1.0, "source": "x"})
    ceilings.store(path, "h200", ceilings.entry_of(found))
    assert set(hw.measured(path)) == {"h100", "h200"} and [p.name for p in tmp_path.iterdir()] == ["hw.json"]
    chip = hw.chip("h200", "measured", hw.measured(path))
    assert (chip.bandwidth, chip.flops["bf16"], chip.flops["fp8"]) == (4.3e12, 7.7e14, 1979e12)
    assert chip.source == "measured 2026-01-02, driver 1.2, torch 2, commit abc"
    assert hw.chip("h200").bandwidth == 4.8e12
    with pytest.raises(ValueError, match="nothing was measured on 'b200' yet"):
        hw.chip("b200", "measured", hw.measured(path))


BROKEN = ["{", "[]", '{"a": {"flops": {}}}', '{"a": {"flops": {}, "bandwidth": -1, "source": ""}}']


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_ceilings_file_is_refused(tmp_path, text):
    (tmp_path / "hw.json").write_text(text)
    with pytest.raises(ValueError, match=r"json: expected \{chip: "):
        hw.measured(tmp_path / "hw.json")


def test_chips_are_known_by_their_drivers_names():
    assert hw.key_of("NVIDIA H200") == "h200" and hw.key_of("NVIDIA H100 80GB HBM3") == "h100"
    assert hw.key_of("NVIDIA GeForce RTX 4090") is None


def test_ceilings_are_measured_and_kept_for_known_chips_only(tmp_path, capsys):
    out = tmp_path / "c.jsonl"
    small = ["--device", "cpu", "--seconds", "0.01", "--side", "64", "--megabytes", "1"]
    assert ceilings.main([*small, "--out", str(out)]) == 0
    found = {r["ceiling"]: r for r in rows.read(out)}
    assert set(found) == {"bandwidth", "bf16", "f32", "fp8"}
    for kind, row in found.items():
        work = 2 << 20 if kind == "bandwidth" else 2 * 64**3
        assert row["per_second"] == pytest.approx(1e6 * work / row["us"])
    capsys.readouterr()
    refused(capsys, ceilings.main, [*small, "--write"], "--write: expected one of h200, ")
    refused(capsys, ceilings.main, ["--device", "cpu", "--side", "10"], "a multiple of 16")
