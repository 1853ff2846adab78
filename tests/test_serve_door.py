"""Who may come in to a live server, what its answers say, and how its process begins and ends."""

import asyncio
import fcntl
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from serving import OPEN, PATIENCE_S, ROOT, Talk, client, serving, until
from websockets.exceptions import InvalidStatus

from liveact_app.cli import build_parser, main
from liveact_app.serve import command, workdir
from liveact_app.serve.settings import is_loopback
from liveact_app.serve.workdir import LOCK, PREFIX, Workdir

STATIC = ROOT / "liveact_app" / "serve" / "static"


@pytest.fixture(scope="module")
def served():
    with serving(sessions=1, origins=("https://friend.example",)) as one:
        yield one


@pytest.fixture(scope="module")
def guarded():
    """A server that thinks others can reach it."""
    with serving(host="0.0.0.0", token="correct horse battery", sessions=1) as one:
        yield one


def test_every_answer_has_its_headers(served):
    for path in ("/", "/app.js", "/health", "/api/about", "/nowhere", "/api/videos/x"):
        _, headers, _ = served.ask("GET", path)
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy, path
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY", path
        assert not [name for name in headers if name.startswith("access-control")], path
        assert "server" not in headers


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:1", "null", "http://127.0.0.1", "http://["])
def test_another_origin_is_refused(served, origin):
    with pytest.raises(InvalidStatus) as refused:
        served.connect(origin=origin)
    assert refused.value.response.status_code == 403
    assert "origin: expected this server's own pages" in json.loads(refused.value.response.body)["error"]
    for method in ("POST", "DELETE"):
        status, _, told = served.ask(method, "/api/videos", b"", {"Origin": origin})
        assert status == 403 and "origin" in told["error"]


def test_its_own_pages_and_friends_may(served):
    for origin in (f"http://127.0.0.1:{served.port}", "https://friend.example"):
        talk = Talk(served, {"type": "hello"}, origin=origin)
        assert talk.rest()[0] == 4400


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "169.254.169.254", "["])
def test_another_name_of_this_machine_is_refused(served, host):
    """DNS that points another site's name at loopback."""
    status, _, told = served.ask("GET", "/api/about", headers={"Host": host})
    assert status == 403 and "host: expected localhost" in told["error"]


def test_loopback_is_told_from_the_rest():
    assert all(map(is_loopback, ("localhost", "LOCALHOST.", "127.0.0.1", "127.9.9.9", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "", "example", "127.1")))


def test_a_token_is_needed_where_others_can_reach_it(guarded):
    for token in (None, "wrong", "correct horse batter"):
        head = {} if token is None else {"Authorization": f"Bearer {token}"}
        for path in ("/api/about", "/api/videos/x", "/metrics"):
            status, headers, told = guarded.ask("GET", path, headers=head)
            assert status == 401 and "token" in told["error"] and headers["www-authenticate"] == "Bearer"
        opening = OPEN | ({} if token is None else {"token": token})
        assert Talk(guarded, opening).rest() == (
            4401, "token: expected this server's token in the opening message")  # fmt: skip
        watch = {"type": "watch"} | ({} if token is None else {"token": token})
        assert Talk(guarded, watch, "/api/live/x").rest()[0] == 4401
    assert guarded.ask("GET", "/health")[0] == guarded.ask("GET", "/")[0] == 200
    good = {"Authorization": f"Bearer {guarded.hall.settings.token}"}
    assert guarded.ask("GET", "/metrics", headers=good)[0] == 200
    talk = Talk(guarded, OPEN | {"token": guarded.hall.settings.token})
    talk.wait("first_frame")
    talk.leave()


def test_a_prefix_of_the_path_opens_no_door(guarded):
    """Ray Serve's --route-prefix, and proxies that state theirs."""
    httpx = pytest.importorskip("httpx")

    async def ask(*paths):
        inside = httpx.ASGITransport(guarded.app, root_path="/face")
        async with httpx.AsyncClient(transport=inside, base_url="http://face.example") as one:
            return [(await one.get(path)).status_code for path in paths]

    assert asyncio.run(ask("/face/health", "/face/api/about", "/face/metrics")) == [200, 401, 401]


def test_prompts_are_not_logged_unless_asked(served, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    talk = Talk(served, OPEN | {"prompt": "a secret happy person"})
    talk.wait("opened")
    talk.tell(type="prompt", prompt="a secret sad person")
    talk.wait("prompt")
    talk.leave()
    until(lambda: not served.hall.live)
    log = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith(("liveact", "uvicorn")))
    assert "session" in log and "secret" not in log + "".join(capfd.readouterr())


OUTSIDE = ["/../settings.py", "/..%2fsettings.py", "/static/../app.py", "/%2e%2e/%2e%2e/cli.py", "//etc/passwd"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_the_page_is_all_there_is_to_read(served, path):
    assert served.ask("GET", path)[0] in (404, 405)


def test_the_page_needs_nobody_else():
    names = {p.relative_to(STATIC).as_posix() for p in STATIC.rglob("*") if p.is_file()}
    assert {"index.html", "style.css", "app.js", "worklet.js", "speech.wav", "faces/first.png"} <= names
    for name in names:
        if name.endswith((".html", ".css", ".js", ".svg")):
            text = (STATIC / name).read_text(encoding="utf-8")
            found = re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]{2,}[^\s\"']*", text)
            assert set(found) <= {"http://www.w3.org/2000/svg"}, name
            assert not re.search(r"\sstyle=|\son\w+=\"|<style|<script(?! type=\"module\" src)", text), name
    for name, source in {"first": "face.png", "second": "faces/second.png", "third": "faces/third.png"}.items():
        assert (STATIC / "faces" / f"{name}.png").read_bytes() == (ROOT / "examples" / source).read_bytes()
    assert (STATIC / "speech.wav").read_bytes() == (ROOT / "examples" / "speech.wav").read_bytes()


def test_every_id_in_the_script_is_in_the_page():
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    scripts = "".join(p.read_text(encoding="utf-8") for p in STATIC.glob("*.js"))
    asked = set(re.findall(r"byId\(\"([\w-]+)\"\)", scripts))
    assert len(asked) > 30 and asked <= set(re.findall(r"id=\"([\w-]+)\"", page))


# ---- the command ----------------------------------------------------------------------------------------------------


def settings(*more, monkeypatch=None):
    return command.settings_of(build_parser().parse_args(["serve", *more]))


def test_a_token_is_made_up_for_a_host_that_others_reach(monkeypatch, capsys):
    monkeypatch.delenv("LIVEACT_TOKEN", raising=False)
    assert settings().token is None
    made = settings("--host", "0.0.0.0").token
    assert len(made) > 20 and made in capsys.readouterr().err and made != settings("--host", "0.0.0.0").token
    monkeypatch.setenv("LIVEACT_TOKEN", "from the environment")
    assert settings().token == "from the environment"
    assert settings("--token", "from the option").token == "from the option"


BAD_OPTIONS = [
    (["--port", "99999"], "--port: expected a whole number from 0 to 65535"),
    (["--token", "short"], "--token: string should have at least 8 characters"),
    (["--token", "schlüssel-wort"], "--token: expected letters, digits and signs of ASCII, which a header"),
    (["--token", "a space at the end "], "--token: expected letters, digits and signs of ASCII, which a header"),
    (["--sessions", "0"], "--sessions: expected a whole number from 1 to 256"),
    (["--host", "no.such.host.invalid"], "--host: expected a name or address of this machine"),
    (["--tls-cert", "x.pem"], "--tls-cert: expected --tls-key beside it"),
    (["--tls-cert", "x.pem", "--tls-key", "y.pem"], "--tls-cert: no such file"),
    (["--model", "nowhere"], "model: expected one of tiny"),
    (["--fp8_gemm", "--fp4_gemm"], "--fp4_gemm: expected no other --dtype beside it, got --dtype fp8"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS, ids=range(len(BAD_OPTIONS)))
def test_bad_options_are_one_sentence(options, words, capsys, monkeypatch):
    port = [] if "--port" in options else ["--port", "0"]
    assert main(["serve", *port, *options]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("liveact: error: ") and words in last


def test_a_taken_port_is_one_sentence(served, capsys):
    assert main(["serve", "--port", str(served.port)]) == 2
    assert f"--port: cannot listen on '127.0.0.1' port {served.port}" in capsys.readouterr().err


def test_without_the_extra_it_says_how_to_get_it(monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "fastapi" else find(n, *a))
    assert main(["serve"]) == 2
    assert "fastapi is missing; pip install liveact[serve]" in capsys.readouterr().err


# ---- the process ----------------------------------------------------------------------------------------------------


def process(folder, *options, **more):
    """A server as people start it, and its port."""
    env = os.environ | {"TMPDIR": str(folder), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more
    run = [sys.executable, "-m", "liveact_app", "serve", "--port", "0", *options]
    server = subprocess.Popen(run, env=env, cwd=folder, stderr=subprocess.PIPE, text=True)
    said = []
    for line in server.stderr:
        said.append(line)
        if found := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
            return server, int(found[1])
    raise AssertionError("".join(said))


class Far:
    """What `Talk` needs of a server in another process."""

    def __init__(self, port):
        self.port = port

    def connect(self, path="/api/live", **options):
        url = f"ws://127.0.0.1:{self.port}{path}"
        return client.connect(url, max_size=None, open_timeout=PATIENCE_S, **options).__enter__()


def test_killed_and_started_again_nothing_is_stale_and_sigterm_drains(tmp_path):
    first, port = process(tmp_path)
    talk = Talk(Far(port))
    talk.wait("first_frame")
    first.kill()
    assert first.wait(PATIENCE_S) == -signal.SIGKILL
    first.stderr.close()
    (left,) = tmp_path.glob(f"{PREFIX}*")
    second, port = process(tmp_path, "--drain", "300")
    try:
        assert not left.exists() and len(list(tmp_path.glob(f"{PREFIX}*"))) == 1
        talk = Talk(Far(port))
        talk.wait("first_frame")
        second.send_signal(signal.SIGTERM)
        talk.wait("draining")
        late = Talk(Far(port))
        assert late.rest() == (4429, "the server is about to stop and opens no more sessions")
        talk.wait("block")  # the one that runs goes on
        talk.leave()
        assert second.wait(PATIENCE_S) == 0
    finally:
        second.kill()
        second.wait()
        second.stderr.close()
    assert not list(tmp_path.glob(f"{PREFIX}*"))


def test_two_processes_serve_one_session_after_the_other(tmp_path, served):
    """Rank 0 serves; the picture is that of one process."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(one.getsockname()[1])}
    meeting |= {"LOCAL_WORLD_SIZE": "2", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-m", "liveact_app", "serve"]
    other = subprocess.Popen(run, env=os.environ | meeting | {"RANK": "1", "LOCAL_RANK": "1"}, cwd=tmp_path)
    server, port = process(tmp_path, **meeting, RANK="0", LOCAL_RANK="0")
    try:
        alone = Talk(served)
        alone.wait("block")
        alone.leave()
        for _ in range(2):
            talk = Talk(Far(port))
            talk.wait("block")
            talk.leave()
            assert talk.parts[: 1 + 21] == alone.parts[: 1 + 21]  # the first block, of silence
        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_S) == 0 and other.wait(PATIENCE_S) == 0
    finally:
        for one in (server, other):
            one.kill()
            one.wait()
        server.stderr.close()


def test_a_drain_ends_what_does_not_end():
    with serving(sessions=1, drain_s=0) as one:
        talk = Talk(one)
        talk.wait("first_frame")
        one.server.handle_exit(signal.SIGTERM, None)
        assert talk.rest() == (1001, "the server stops")
        until(lambda: not one.thread.is_alive())


def test_only_folders_of_dead_servers_are_swept(tmp_path):
    alive = Workdir(str(tmp_path))
    stale, other = tmp_path / f"{PREFIX}dead", tmp_path / f"{PREFIX}notours"
    stale.mkdir()
    (stale / LOCK).touch()
    (stale / "picture").write_bytes(b"x")
    other.mkdir()
    link = tmp_path / f"{PREFIX}link"
    link.symlink_to(tmp_path)
    again = Workdir(str(tmp_path))
    assert alive.path.exists() and again.path.exists() and other.exists() and not stale.exists()
    assert alive.path.stat().st_mode & 0o077 == 0
    for one in (alive, again):
        one.close()
        one.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [link.name, other.name]


def test_a_folder_is_found_by_other_servers_only_when_it_is_locked(tmp_path, monkeypatch):
    """Replicas of a fleet start together, and each sweeps."""
    lock = fcntl.flock

    def late(*args):
        monkeypatch.setattr(fcntl, "flock", lock)
        workdir._sweep(tmp_path)  # another's
        lock(*args)

    monkeypatch.setattr(fcntl, "flock", late)
    one = Workdir(str(tmp_path))
    assert (one.path / LOCK).exists()
    one.close()


def test_a_folder_closed_twice_closes_nobody_elses_file(tmp_path):
    one = Workdir(str(tmp_path))
    one.close()
    with open(tmp_path / "other", "w") as other:
        one.close()
        os.fstat(other.fileno())
