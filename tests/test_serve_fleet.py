"""`liveact serve --ray` on a Ray of this machine: sessions on both replicas, and one that goes cuts none."""

import os
import signal
import socket
import subprocess

import httpx
import pytest
from serving import PATIENCE_S, ROOT, Talk, until
from test_serve_door import Far, process

pytest.importorskip("ray", reason="Ray is not installed: pip install liveact[ray]")

ENV = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def ray():
    """A Ray of our own with four CPUs in name."""
    import ray

    old = dict(os.environ)
    os.environ.update(ENV)
    try:
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, address="local")
    except Exception as error:
        pytest.skip(f"Ray does not start here: {str(error).splitlines()[0]:.200}")
    yield ray
    ray.shutdown()
    os.environ.clear()
    os.environ.update(old)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def opened(port):
    """A session that reads ahead, as a browser does, and its id; as soon as there is room for one."""

    def try_it():
        talk = Talk(Far(port), max_queue=None)
        talk.next()
        if talk.events[0]["type"] == "opened":
            return talk
        assert talk.rest()[0] == 4429
        return None

    return until(try_it)


def owner(talk):
    return talk.events[0]["id"].split(".")[0]


def runs_on(talk):
    """It does what it is told from now on."""
    talk.tell(type="prompt", prompt="a sad person", number=7)
    assert talk.wait("prompt")["number"] == 7


def watched(port, number):
    """What a viewer of a session is first told."""
    talk = Talk(Far(port), {"type": "watch"}, f"/api/live/{number}")
    talk.next()
    talk.ws.close()
    return talk.events[0]["type"]


def replicas():
    """{state: how many} of the fleet."""
    from ray import serve

    states = serve.status().applications["liveact"].deployments["liveact"].replica_states
    return {getattr(state, "value", state): count for state, count in states.items()}


def processes():
    """Pids of replicas on this machine."""
    done = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines() if "ServeReplica:liveact:liveact" in line}


@pytest.mark.slow
def test_sessions_bring_a_second_replica_and_one_that_goes_cuts_none(ray, tmp_path):
    before, port = processes(), free_port()
    flags = ["--ray", "--port", str(port), "--replicas", "1-2", "--sessions", "3", "--linger", "1", "--drain", "600",
             "--device", "cpu"]  # fmt: skip
    server, _ = process(tmp_path, *flags, RAY_ADDRESS=ray.get_runtime_context().gcs_address, **ENV)
    try:
        one, *crowd = [opened(port) for _ in range(3)]
        assert {owner(one)} == {owner(talk) for talk in crowd} and len(processes() - before) == 1
        until(lambda: replicas().get("RUNNING") == 2)
        other = opened(port)
        assert owner(other) != owner(one), "a full replica has got one more session"
        for talk in (one, other):
            talk.wait("first_frame")  # whoever asks by an id reaches the replica that has it
            assert [watched(port, talk.events[0]["id"]) for _ in range(3)] == ["watching"] * 3
        uploads_stay_with_their_replica(f"http://127.0.0.1:{port}")

        assert [talk.leave()[0] for talk in crowd] == [1000] * 2
        until(lambda: replicas() == {"RUNNING": 1, "STOPPING": 1})
        newer = [opened(port), opened(port)]
        assert len({owner(talk) for talk in newer}) == 1, "a replica that goes has got a session"
        for talk in (one, other, *newer):
            runs_on(talk)
        assert len(processes() - before) == 2
        (going,) = [talk for talk in (one, other) if owner(talk) != owner(newer[0])]
        assert going.leave()[0] == 1000
        until(lambda: len(processes() - before) == 1)
        assert [talk.leave()[0] for talk in (one, other, *newer) if talk is not going] == [1000] * 3

        server.send_signal(signal.SIGTERM)
        assert server.wait(PATIENCE_S) == 0
        until(lambda: not processes() - before)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/health")
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


def uploads_stay_with_their_replica(http):
    with open(ROOT / "examples" / "speech.wav", "rb") as speech:
        sent = httpx.post(f"{http}/api/videos", data={"face": "first"}, files={"audio": speech}, timeout=PATIENCE_S)
    assert sent.status_code == 202
    where = f"{http}{sent.headers['location']}"
    assert [httpx.get(where, timeout=PATIENCE_S).status_code for _ in range(6)] == [200] * 6
    assert httpx.delete(where, timeout=PATIENCE_S).status_code == 204


@pytest.mark.parametrize("flags, sentence", [
    (["--replicas", "2"], "--replicas: expected --ray beside it"),
    (["--linger", "5"], "--linger: expected --ray beside it"),
    (["--ray", "--replicas", "3-2"], "--replicas: expected N or N-M from 1 to 1024"),
    (["--ray", "--replicas", "0"], "--replicas: expected N or N-M from 1 to 1024"),
    (["--ray", "--tls-cert", "a.pem"], "--tls-cert: expected no --ray beside it"),
    (["--ray", "--webrtc"], "--webrtc: expected no --ray beside it"),
])  # fmt: skip
def test_flags_that_cannot_be_are_a_sentence(capsys, flags, sentence):
    from liveact_app.cli import main

    assert main(["serve", *flags]) == 2
    assert sentence in capsys.readouterr().err


def test_what_serve_run_is_given():
    from liveact_app.serve import fleet
    from liveact_model.errors import InputError

    made = fleet.app({"flags": "--model tiny --device cpu --sessions 4 --replicas 1-3 --host 0.0.0.0"})
    deployment = made._bound_deployment
    scale = deployment._deployment_config.autoscaling_config
    assert (scale.min_replicas, scale.max_replicas, scale.target_ongoing_requests) == (1, 3, 3.0)
    assert deployment.ray_actor_options["num_gpus"] == 0
    assert deployment.init_args[0].token, "reached from outside without a token"
    with pytest.raises(InputError, match="fleet: expected flags"):
        fleet.app({"flag": "--model tiny"})
    for flags in ("--webrtc", "--tls-cert a.pem --tls-key b.pem"):
        with pytest.raises(InputError, match=f"{flags.split()[0]}: expected no --ray"):
            fleet.app({"flags": flags})


def test_an_id_names_its_replica():
    from types import SimpleNamespace

    from liveact_app.serve.fleet import _owner

    def of(path):
        return _owner(SimpleNamespace(args=[SimpleNamespace(asgi_scope={"path": path})]))

    assert of("/api/live/abc123.x_-Y") == of("/api/videos/abc123.x/file") == "abc123"
    assert of("/face/api/live/abc123.x") == "abc123"  # under a route prefix
    assert of("/api/live") is of("/api/videos/none") is of("/") is _owner(None) is None


