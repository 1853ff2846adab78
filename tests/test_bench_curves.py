"""bench/curves.py: reports of training runs become rows."""

import json
from itertools import pairwise

import curves

LOG = """vae has 5 parameters
vae continues after step 20
dit 10/100  0.500 s a step  0.1 h left  loss 0.9  val_1000 0.8
dit 20/100  0.500 s a step  0.1 h left  loss 0.7  val_1000 0.6
dit continues after step 10
dit 20/100  0.600 s a step  0.1 h left  loss 0.5  val_1000 nan
vae 3/9  0.100 s a step  0.0 h left  loss 2  psnr 20.5
"""


def test_reports_are_those_of_the_last_continuation(tmp_path, capsys):
    log, out = tmp_path / "a.log", tmp_path / "rows.jsonl"
    log.write_text(LOG)
    assert curves.main([str(log), "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["run"], r["stage"], r["step"], r["loss"]) for r in rows] == [
        ("a", "dit", 10, 0.9), ("a", "dit", 20, 0.5), ("a", "vae", 3, 2.0),
    ]  # fmt: skip
    assert rows[0]["val_1000"] == 0.8 and rows[1]["s_a_step"] == 0.6 and rows[2]["psnr"] == 20.5
    capsys.readouterr()


def test_long_logs_are_thinned_and_end_with_their_end():
    for count in (1, 2, 59, 60, 61, 62, 200):
        kept = curves.thinned([{"step": i} for i in range(count)])
        assert kept[0]["step"] == 0 and kept[-1]["step"] == count - 1 and len(kept) <= curves.KEPT + 2
        steps = [row["step"] for row in kept[:-1]]
        assert len({b - a for a, b in pairwise(steps)}) <= 1


def test_logs_without_reports_are_told(tmp_path, capsys):
    log = tmp_path / "empty.log"
    log.write_text("nothing\n")
    for name, said in ((log, "found none"), (tmp_path / "no.log", "got: ")):
        assert curves.main([str(name)]) == 2
        error = capsys.readouterr().err
        assert "log: expected " in error and said in error and str(name) in error and error.count("\n") == 1
