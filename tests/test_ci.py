"""CI: the workflows parse and call targets that exist, and parity is written where a CI can read it."""

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
import yaml
from conftest import ROOT
from junit import PROPERTIES, keep

from liveact_app.cli import main
from liveact_kernels.proof.parity import Result

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def makefile():
    """{target: (prerequisites, recipe)}."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.findall(r"^([a-z]+):(.*)\n((?:\t.*\n)*)", text, re.MULTILINE)
    return {name: (head, recipe) for name, head, recipe in found}


def steps(workflow):
    """(job, step, matrix) of a parsed workflow."""
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            yield job, step, job.get("strategy", {}).get("matrix", {})


def commands(workflow):
    """Shell lines of a workflow with its matrix written out."""
    for _, step, matrix in steps(workflow):
        for line in step.get("run", "").splitlines():
            name = re.search(r"\$\{\{ matrix\.(\w+) \}\}", line)
            more = [row[name[1]] for row in matrix.get("include", ()) if name and name[1] in row]
            for value in [*matrix[name[1]], *more] if name else [None]:
                yield line.replace(name[0], value) if name else line


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_workflows_are_there():
    assert [p.name for p in WORKFLOWS] == ["ci.yml", "gpu.yml"]
    ci, gpu = map(load, WORKFLOWS)
    assert {"push", "pull_request"} <= set(ci[True])  # YAML 1.1 reads the key `on` as true
    assert set(gpu[True]) == {"workflow_dispatch", "pull_request"}
    assert gpu[True]["pull_request"] == {"types": ["labeled"]}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_targets_and_files_exist(path):
    targets, found = makefile(), []
    for line in commands(load(path)):
        found += re.findall(r"\bmake (?:--[\w-]+ )*([a-z]+)", line)
        for file in re.findall(r"\b(?:profiles|bench|tests)/[\w./*-]+\.(?:py|sh)\b", line):
            assert list(ROOT.glob(file)), file
    assert found and set(found) <= set(targets)
    for target in found:
        for file in re.findall(r"\b(?:profiles|bench)/[\w/]+\.(?:py|sh)\b", targets[target][1]):
            assert (ROOT / file).is_file(), file


def test_ci_runs_what_people_run():
    wanted = ("test", "aot", "verify", "lockcheck", "floors")
    assert set(commands(load(WORKFLOWS[0]))) >= {f"make {target}" for target in wanted}
    matrix = load(WORKFLOWS[0])["jobs"]["cpu"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]


def test_parity_is_a_gate_and_timings_are_a_report():
    found = {step.get("run", "").split("\n")[0]: step for _, step, _ in steps(load(WORKFLOWS[1]))}
    assert "continue-on-error" not in found["make gpu"] and "continue-on-error" not in found["make campaign"]
    compare = next(step for step in found.values() if "make --no-print-directory compare" in step.get("run", ""))
    assert compare["continue-on-error"] is True
    done = subprocess.run(["bash", "-n"], input=compare["run"], text=True)
    assert done.returncode == 0


def test_every_make_target_is_phony_and_explained():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    for name, (head, _) in makefile().items():
        assert name in phony and (name == "clean" or "##" in head), name


def test_what_a_parity_test_records():
    op, case, kept = SimpleNamespace(name="x"), SimpleNamespace(id="tiny"), {}
    rows = [Result("a", True, 0.5, 2.0, "fine"), Result("b", True, 1.5, 2.0, "near")]
    keep(kept.__setitem__, op, "torch", case, rows)
    assert tuple(kept) == PROPERTIES and (kept["output"], kept["error"], kept["bound"]) == ("b", 1.5, 2.0)
    with pytest.raises(AssertionError, match="a: wrong"):
        keep(kept.__setitem__, op, "torch", case, [Result("a", False, 0.1, 2.0, "wrong"), rows[1]])
    assert kept["output"] == "a"


def test_the_cpu_suite_writes_them(tmp_path):
    xml = tmp_path / "t.xml"
    chosen = ["tests/test_ops.py", "-k", "test_backend_matches_reference and quant-torch", "--junitxml", str(xml)]
    subprocess.run([sys.executable, "-m", "pytest", *chosen], cwd=ROOT, check=True, capture_output=True, timeout=500)
    cases = list(ET.parse(xml).iter("testcase"))
    assert cases
    for case in cases:
        found = {p.get("name"): p.get("value") for p in case.iter("property")}
        assert tuple(found) == PROPERTIES and found["backend"] == "torch"
        assert float(found["bound"]) >= float(found["error"])


def test_verify_writes_junit(golden, tmp_path, capsys):
    for suffix in ("json", "safetensors"):
        (tmp_path / f"sampler.{suffix}").write_bytes((golden / f"sampler.{suffix}").read_bytes())
    xml = tmp_path / "v.xml"
    assert main(["verify", "--golden", str(tmp_path), "--junit", str(xml)]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sampler")]
    suite = ET.parse(xml).getroot()[0]
    assert int(suite.get("tests")) == len(rows) == len(suite) and suite.get("failures") == "0"
    found = {p.get("name") for p in suite[0].iter("property")}
    assert found == set(PROPERTIES) - {"op", "ok"}


def test_verify_junit_keeps_failures_and_skips(tmp_path):
    from liveact_app.verify.golden import Row
    from liveact_app.verify.junit import junit

    rows = [Row("c", "a", 1e-6, 2e-5, "pass"), Row("c", "b", 1.0, 2e-5, "FAIL", "off")]
    rows.append(Row("c", "d", None, None, "skip", "x"))
    suite = ET.fromstring(junit(rows, "torch"))[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    assert suite[1].find("failure") is not None and suite[2].find("skipped") is not None
    assert suite[0].find("failure") is None and suite[0].find("skipped") is None


def test_verify_junit_bad_path(golden, tmp_path, capsys):
    for name, words in (("no/x.xml", "--junit"), ("x.txt", ".xml")):
        assert main(["verify", "--golden", str(golden), "--junit", str(tmp_path / name)]) == 2
        assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
