"""Profiles: which op device time belongs to, the report against the budget, the driver, and the scripts around them."""

import gzip
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "profiles"))

import report
import steady_block
import traces

from liveact_model.errors import InputError

PROCESS = 7 << 24
MAIN, OTHER_THREAD = PROCESS | 1, PROCESS | 2
TABLES = """
CREATE TABLE StringIds(id INTEGER PRIMARY KEY, value TEXT);
CREATE TABLE NVTX_EVENTS(start INT, end INT, eventType INT, globalTid INT, text TEXT, textId INT);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME(start INT, end INT, globalTid INT, correlationId INT, nameId INT);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL(start INT, end INT, correlationId INT, globalPid INT, shortName INT);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY(start INT, end INT, correlationId INT, globalPid INT, copyKind INT);
"""
STRINGS = dict(enumerate(
    ("fp8_linear[M=8192,K=5120]", "gemm_kernel", "attention_kernel", "cudnn_conv", "norm_silu_cuda"), 1
))  # fmt: skip
RANGES = [  # start, end, thread, label or string number
    (0, 1000, MAIN, "session"), (5, 990, MAIN, "block[3]"), (10, 500, MAIN, "step[1]"), (20, 200, MAIN, "layer[0]"),
    (30, 60, MAIN, 1), (600, 900, MAIN, "vae"), (0, 1000, OTHER_THREAD, "attention[L=1]"),
]  # fmt: skip
LAUNCHES = [(40, 45, 1), (70, 75, 2), (300, 310, 3), (650, 655, 4), (920, 925, 5), (960, 965, 6)]
KERNELS = [  # us of device time, launch, name
    (600, 1, 2), (50, 2, 4), (100, 3, 3), (200, 3, 2), (30, 3, 4), (40, 4, 4), (70, 5, 5),
]  # fmt: skip


def nsys(path, scale=1):
    """An nsys export: an op's kernel, one outside ops, a graph of three, one in the VAE, one of no op, a download."""
    db = sqlite3.connect(path)
    db.executescript(TABLES)
    db.executemany("INSERT INTO StringIds VALUES (?, ?)", STRINGS.items())
    for start, end, thread, label in RANGES:
        text = (label, None) if isinstance(label, str) else (None, label)
        db.execute("INSERT INTO NVTX_EVENTS VALUES (?, ?, 59, ?, ?, ?)", (start, end, thread, *text))
    db.execute("INSERT INTO NVTX_EVENTS VALUES (0, NULL, 34, ?, 'a mark', NULL)", (MAIN,))
    for start, end, number in LAUNCHES:
        db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, ?, ?, 0)", (start, end, MAIN, number))
    at = 10_000
    for us, number, name in KERNELS:
        db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?, ?, ?)",
                   (at, at + us * 1000 * scale, number, PROCESS, name))  # fmt: skip
        at += us * 1000 * scale + 500
    db.execute("INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (?, ?, 6, ?, 2)", (at, at + 390_000, PROCESS))
    db.commit()
    db.close()
    return path


WANT = {"fp8_linear": 600, "model_torch": 50, "self attention": 100, "linear": 200, traces.OTHER: 30, "vae_torch": 40,
        "norm_silu": 70, "to_host": 390}  # fmt: skip


def test_time_goes_to_the_op_whose_range_launched_it(tmp_path):
    p = traces.read(nsys(tmp_path / "a.sqlite"))
    assert p.us == pytest.approx(WANT)
    assert p.blocks == 1 and p.by_name == 3  # two kernels of the graph, and the one of no scope
    assert p.other == {"cudnn_conv": 30} and p.launches["linear"] == 1
    assert p.total_us == pytest.approx(1480) and p.span_us == pytest.approx(1480 + 7 * 0.5)


def chrome(path):
    """The same block as torch.profiler writes it."""
    def event(cat, name, start, dur, tid, **args):
        return {"ph": "X", "cat": cat, "name": name, "ts": start, "dur": dur, "pid": 1, "tid": tid, "args": args}

    names = {**STRINGS}
    events = [event("user_annotation", names.get(label, label), a, b - a, thread) for a, b, thread, label in RANGES]
    events += [event("cuda_runtime", "launch", a, b - a, MAIN, correlation=n) for a, b, n in LAUNCHES]
    at = 10_000
    for us, number, name in KERNELS:
        events.append(event("kernel", STRINGS[name], at, us, "stream 7", correlation=number))
        at += us + 1
    events.append(event("gpu_memcpy", "Memcpy DtoH (Device -> Pinned)", at, 390, "stream 7", correlation=6))
    events += [event("gpu_user_annotation", "fp8_linear[M=8192,K=5120]", 0, 9, "stream 7"), {"ph": "i", "cat": "x"}]
    data = json.dumps({"traceEvents": events}).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["t.json", "t.json.gz"])
def test_a_chrome_trace_says_the_same(tmp_path, name):
    p = traces.read(chrome(tmp_path / name))
    assert p.us == pytest.approx(WANT) and (p.blocks, p.by_name) == (1, 3)


def test_the_ledger_names_kernels():
    known = traces.names()
    assert known["attention_kernel"] == "self attention" and known["gemm_kernel"] == "linear"  # shared: the group
    assert traces.row_by_name("void kv_compress_wgmma<128>(int)", known) == "kv_compress"
    assert traces.row_by_name("elementwise", known) == traces.OTHER


def test_report(tmp_path, capsys):
    svg, rows = tmp_path / "b.svg", tmp_path / "b.json"
    files = [str(nsys(tmp_path / "a.sqlite")), "--svg", str(svg), "--json", str(rows)]
    assert report.main([*files, "--size", "64*64"]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert "assigned by kernel name" in text and "cudnn_conv" in text and "no range block" not in text
    found = {r["op"]: r for r in json.loads(rows.read_text())["rows"]}
    assert found["to_host"]["measured_ms"] == pytest.approx(0.390 / 32)
    assert found["kv_compress"]["measured_ms"] is None and found["kv_compress"]["floor_ms"] > 0
    floor = 32 * 64 * 64 * 3 / 64e9 * 1e3 / 32
    assert found["to_host"]["floor_ms"] == pytest.approx(floor)
    shown = next(line.split() for line in lines if line.startswith("  to_host"))
    assert shown[3] == f"{0.390 / 32 / floor:.2f}"
    total = lines[next(i for i, line in enumerate(lines) if line.startswith("total"))].split()
    assert float(total[1]) == pytest.approx(1.480 / 32, abs=1e-3) and "100.0%" in total
    bars = [e for e in ET.parse(svg).iter() if e.get("fill") == "#a9c7e8"]
    assert len(bars) == len(WANT)


def test_no_blocks_and_whole_graphs_are_said(tmp_path, capsys):
    path = nsys(tmp_path / "a.sqlite")
    db = sqlite3.connect(path)
    db.executescript("DELETE FROM NVTX_EVENTS; CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE(start INT);"
                     "INSERT INTO CUPTI_ACTIVITY_KIND_GRAPH_TRACE VALUES (1)")  # fmt: skip
    db.close()
    assert report.main([str(path), "--size", "64*64"]) == 0
    out = capsys.readouterr().out
    assert "no range block[..]" in out and "--cuda-graph-trace=node" in out


def test_diff(tmp_path, capsys):
    a, b = nsys(tmp_path / "a.sqlite"), nsys(tmp_path / "b.sqlite", scale=2)
    assert report.main(["--diff", str(a), str(b)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["fp8_linear", "0.019", "0.037", "+0.019", "2.00"]  # the largest first
    assert lines[-1].split()[-1] == f"{(2 * 1090 + 390) / 1480:.2f}" and "to_host" in lines[-2]


@pytest.mark.parametrize("arguments,words", [
    ([], "expected a file, or --diff"), (["nothere.sqlite"], "expected a file"), (["x.nsys-rep"], "nsys export"),
    (["bad.sqlite"], "is neither"), (["bad.json"], "is neither"), (["empty.json"], "found none"),
    (["empty.json", "--chip", "z"], "--chip"), (["empty.json", "--model", "z"], "--model"),
    (["empty.json", "--diff", "a", "b"], "--diff: expected two"),
    (["--diff", "nothere", "empty.json"], "expected a file"),
])  # fmt: skip
def test_bad_input_is_one_sentence(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    files = {"bad.sqlite": "text", "bad.json": "{", "empty.json": '{"traceEvents": []}', "x.nsys-rep": ""}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert report.main(arguments) == 2
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == 1


def test_an_svg_that_cannot_be_written(tmp_path, capsys):
    args = [str(nsys(tmp_path / "a.sqlite")), "--size", "64*64", "--svg", str(tmp_path / "no" / "b.svg")]
    assert report.main(args) == 2 and "can be written" in capsys.readouterr().err


def test_the_driver_profiles_exactly_one_steady_block(tmp_path, capsys):
    path = tmp_path / "block.json"
    assert steady_block.main(["--model", "tiny", "--size", "64*64", "--device", "cpu", "--trace", str(path)]) == 0
    assert "block 3 of tiny at 64x64 in float32 on cpu: 32 video frames" in capsys.readouterr().out
    trace = json.loads(path.read_text())
    ranges = [e for e in trace["traceEvents"] if e.get("cat") == "user_annotation"]
    labels = {e["name"] for e in ranges}
    assert {label for label in labels if label.startswith("block[")} == {"block[3]"}
    assert {"session", "step[2]", "layer[0]", "vae", "to_host"} <= labels
    with pytest.raises(InputError, match="found none"):
        traces.read(path)  # a CPU has no device work, and nothing is made up
    linear = next(e for e in ranges if e["name"].startswith("linear_gate["))
    common = {"ph": "X", "pid": linear["pid"], "tid": linear["tid"], "args": {"correlation": 1}}
    trace["traceEvents"] += [
        common | {"cat": "cuda_runtime", "name": "launch", "ts": linear["ts"] + linear["dur"] / 2, "dur": 0.1},
        common | {"cat": "kernel", "name": "k", "ts": linear["ts"], "dur": 12.0, "tid": 7},
    ]
    path.write_text(json.dumps(trace))
    assert traces.read(path).us == pytest.approx({"linear_gate": 12.0})


def test_the_driver_leaves_no_ranges_behind_and_spells_plain_names():
    plain = steady_block.Ranges(None, None, plain=True)
    assert plain.get_event_attributes("fp8_linear[M=1]") == "fp8_linear"
    assert steady_block.STATE.nvtx_domain is None


def script(tmp_path, name, *arguments, tools=()):
    """Run a script with stand-ins for the profilers that write down how they were called."""
    stub = tmp_path / "bin"
    stub.mkdir(exist_ok=True)
    for tool in tools:
        path = stub / tool
        path.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "{tool} $*" >> "{tmp_path}/calls"\n'
            f'case "$*" in export*) cp "{tmp_path}/a.sqlite" "{tmp_path}/o.sqlite";; esac\n'
        )
        path.chmod(0o755)
    env = os.environ | {"PYTHON": sys.executable, "PATH": f"{stub}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    command = [str(ROOT / "profiles" / name), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
    calls = tmp_path / "calls"
    return done, calls.read_text() if calls.exists() else ""


def test_nsys_script(tmp_path):
    nsys(tmp_path / "a.sqlite")
    out = str(tmp_path / "o")
    done, calls = script(tmp_path, "nsys.sh", "--size", "64*64", "--out", out, "--graphs", tools=["nsys"])
    assert done.returncode == 0, done.stderr
    assert "--capture-range=cudaProfilerApi" in calls and "steady_block.py --device cuda --size 64*64 --graphs" in calls
    assert "liveact-18b, 64x64" in done.stdout and "fp8_linear" in done.stdout


def test_ncu_script(tmp_path):
    arguments = ["--op", "kv_compress", "--count", "2", "--out", str(tmp_path / "o")]
    done, calls = script(tmp_path, "ncu.sh", *arguments, tools=["ncu"])
    assert done.returncode == 0, done.stderr
    assert "--nvtx-include liveact@kv_compress/" in calls and "--launch-count 2" in calls and "--plain-ranges" in calls


@pytest.mark.parametrize("name", ["nsys.sh", "ncu.sh"])
def test_scripts_explain_themselves_and_refuse(tmp_path, name):
    done, _ = script(tmp_path, name, "--help")
    assert done.returncode == 0 and done.stdout.startswith("usage:") and max(map(len, done.stdout.splitlines())) <= 120
    for arguments in (["--nope"], ["--size"], ["--op", "attention"] if name == "ncu.sh" else []):
        done, _ = script(tmp_path, name, *arguments)
        assert done.returncode == 2 and done.stderr.startswith(f"{name}: ") and done.stderr.count("\n") == 1
    text = (ROOT / "profiles" / name).read_text()
    assert "set -euo pipefail" in text and subprocess.run(["bash", "-n", str(ROOT / "profiles" / name)]).returncode == 0


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck():
    subprocess.run(["shellcheck", *map(str, (ROOT / "profiles").glob("*.sh"))], check=True)
