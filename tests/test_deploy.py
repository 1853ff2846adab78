"""What docs/deploy.md and deploy/ say of commands, ports, paths and numbers, held to what there is."""

import re
import shlex
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from liveact_app.cli import build_parser

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
DOCKER = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
UNIT = (DEPLOY / "liveact.service").read_text(encoding="utf-8")
PORT = 8000


def loaded(name):
    return yaml.safe_load((DEPLOY / name).read_text(encoding="utf-8"))


COMPOSE, CUDA, PROMETHEUS, ALERTS = map(loaded, ("compose.yaml", "compose.cuda.yaml", "prometheus.yml", "alerts.yml"))


def commands():
    """(where, arguments of `liveact`) of every command."""
    text = re.sub(r"\\\n\s*", "", PAGE)
    for line in re.findall(r"^    (.*)$", text, re.M):
        words = shlex.split(line.replace('"$(openssl rand -base64 24)"', "TOKENTOKEN"), comments=True)
        if words[:1] == ["liveact"]:
            yield "deploy.md", words[1:]
        elif words[:2] == ["serve", "run"]:
            yield "deploy.md", ["serve", "--ray", *shlex.split(words[3].removeprefix("flags="))]
        elif words[:2] == ["docker", "run"] and "serve" in words:
            yield "deploy.md", words[words.index("serve") :]
    yield "Dockerfile", re.findall(r'"([^"]*)"', re.search(r"^CMD (.*)$", DOCKER, re.M)[1])
    yield "liveact.service", shlex.split(re.search(r"^ExecStart=(.*)$", UNIT, re.M)[1])[1:]
    yield "compose.yaml", COMPOSE["services"]["liveact"]["command"]
    yield "compose.cuda.yaml", CUDA["services"]["liveact"]["command"]


ALL = list(commands())


@pytest.mark.parametrize("where, words", ALL, ids=[f"{where}-{' '.join(words)[:40]}" for where, words in ALL])
def test_every_command_is_one_that_the_parser_takes(where, words):
    args = build_parser().parse_args(words)
    assert args.command in ("serve", "plan")
    if args.command == "serve" and where != "deploy.md":
        assert (args.host, args.port) == ("0.0.0.0", PORT)


def test_there_are_commands_of_each_kind():
    assert Counter(where for where, _ in ALL)["deploy.md"] >= 6
    assert [w for w in ALL if "--ray" in w[1]] and [w for w in ALL if w[1][0] == "plan"]


def test_flags_in_the_text_are_flags():
    known = {flag for command in ("serve", "plan") for flag in options(command)}
    others = {"--build-arg", "--http-host", "--rm", "--gpus", "--build"}  # of docker and of Ray
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", PAGE)) - others
    assert len(named) > 12 and named - known == set()


def options(command):
    parser = build_parser()
    (commands,) = [a for a in parser._actions if hasattr(a, "choices") and a.choices]
    return commands.choices[command]._option_string_actions


def test_ports_agree():
    assert re.findall(r"^EXPOSE (\d+)$", DOCKER, re.M) == [str(PORT)]
    assert f"http://127.0.0.1:{PORT}/health" in DOCKER
    assert build_parser().parse_args(["serve"]).port == PORT
    assert COMPOSE["services"]["liveact"]["ports"] == [f"{PORT}:{PORT}"]
    (job,) = PROMETHEUS["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"liveact:{PORT}"]}]
    assert {f"{PORT}:{PORT}"} == set(re.findall(r"-p (\d+:\d+)", PAGE))


def test_whoever_stops_it_waits_longer_than_it_drains():
    service = COMPOSE["services"]["liveact"]
    drains = [build_parser().parse_args(words).drain for where, words in ALL if where != "deploy.md"]
    stops = [service["stop_grace_period"].removesuffix("s"), re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.M)[1]]
    assert max(drains) < min(map(float, stops))


def test_the_token_is_the_one_that_the_server_reads_and_prometheus_shows():
    from liveact_app.serve.start import VARIABLE

    assert VARIABLE in COMPOSE["services"]["liveact"]["environment"] and VARIABLE in UNIT
    assert COMPOSE["secrets"]["liveact_token"]["environment"] == VARIABLE
    (job,) = PROMETHEUS["scrape_configs"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/liveact_token"
    assert COMPOSE["services"]["prometheus"]["secrets"] == ["liveact_token"]


def test_paths_and_extras_exist():
    named = re.findall(r"deploy/[\w.]+\w", PAGE + DOCKER + (DEPLOY / "compose.cuda.yaml").read_text(encoding="utf-8"))
    named += re.findall(r"tests/\w+\.py|bench/\w+\.py|bench/results/[\w./]+\w|liveact_app/serve/\w+\.py", PAGE)
    named += [f"docs/{name}" for name in re.findall(r"\]\((\w+\.(?:md|svg))\)", PAGE)]
    assert len(set(named)) > 10 and {n for n in named if not (ROOT / n).exists()} == set()
    mounted = [v.split(":")[0] for v in COMPOSE["services"]["prometheus"]["volumes"]]
    assert all((DEPLOY / name).is_file() for name in mounted)
    assert PROMETHEUS["rule_files"] == ["alerts.yml"]
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = {e for found in re.findall(r"(?:liveact|\.)\[([\w,]+)\]", PAGE + DOCKER) for e in found.split(",")}
    assert extras >= {"serve", "ray"} and all(re.search(rf"^{extra} = \[", project, re.M) for extra in extras)
    torch = re.findall(r"^torch==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert torch and "grep -E '^torch=='" in DOCKER


def test_stages_of_the_image_join():
    stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", DOCKER, re.M)
    names = {name for _, name in stages if name}
    for source, _ in stages:
        for variant in ("cpu", "cuda") if "${VARIANT}" in source else ():
            assert source.replace("${VARIANT}", variant) in names
    assert re.findall(r"--from=(\S+)", DOCKER) == ["build"]


def names_in_metrics():
    """{name: labels} of the page for Prometheus, of a server that has done nothing yet: an alert does not see a first
    increase that comes with its series."""
    pytest.importorskip("prometheus_client", reason="the extra 'serve' is not installed: pip install liveact[serve]")
    from liveact_app.serve.hall import Hall
    from liveact_app.serve.metrics import Metrics
    from liveact_app.serve.settings import Settings

    page = Metrics(Hall(None, (64, 64), Settings()), SimpleNamespace(counts=lambda: Counter(done=1))).text().decode()
    found = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"(\w+)(\{.*\})?", line).groups()
            found.setdefault(name, set()).add(labels or "")
    return found


def test_numbers_that_are_named_are_there():
    found = names_in_metrics()
    histograms = {n.removesuffix("_bucket") for n in found if n.endswith("_bucket")}
    named = set(re.findall(r"`(liveact_[a-z_]+)`", PAGE)) - {"liveact_app"}
    rules = [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]
    asked = {n for expr in rules for n in re.findall(r"liveact_\w+", expr)}
    assert len(rules) == 5 and len(asked) >= 6 and len(named) >= 10
    assert (named | asked) - set(found) - histograms == set()
    for name, labels in re.findall(r"(liveact_\w+)(\{[^}]*\})", " ".join(rules)):
        assert labels in found[name]


def test_what_the_plan_says_is_what_its_page_says():
    (block,) = re.findall(r"```plan\n(.*?)```", PAGE, re.S)
    chosen = re.findall(r"liveact generate .*", block)
    plan = (ROOT / "docs" / "plan.md").read_text(encoding="utf-8")
    (card,) = re.findall(r"^\*\*80 GB\.\*\* (.*)$", plan, re.M)
    assert chosen == re.findall(r"`(.*?)`", card)


def test_numbers_of_the_soak_are_those_of_its_rows(monkeypatch):
    for folder in ("bench", "docs"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    monkeypatch.delitem(sys.modules, "soak", raising=False)
    import importlib.util

    spec = importlib.util.spec_from_file_location("soak_page", ROOT / "docs" / "soak.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    rows = page.read(page.ROWS)
    assert page.filled(PAGE, rows) == PAGE, "make it again: python docs/soak.py"
    assert page.draw(rows) == (ROOT / "docs" / "soak.svg").read_text(encoding="utf-8")
