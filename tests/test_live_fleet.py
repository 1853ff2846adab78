"""`liveact serve --ray` on a Ray of this machine: sessions on both replicas, and one that goes cuts none."""

import importlib.util
import os
import signal
import subprocess
import time

import httpx
import pytest
from live_client import PATIENCE_S, ROOT, Client, served, watched

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed: pip install liveact[ray]", allow_module_level=True)

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


def until(true, what):
    """Wait for something that comes with time."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, f"in vain: {what}"
        time.sleep(0.2)


def owner(client):
    return client.id.split(".")[0]


def processes():
    """Pids of replicas on this machine."""
    done = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines() if "ServeReplica:liveact:liveact" in line}


def replicas():
    """{state: how many} of the fleet."""
    from ray import serve

    states = serve.status().applications["liveact"].deployments["liveact"].replica_states
    return {state.value if hasattr(state, "value") else str(state): n for state, n in states.items()}


def opened(base):
    """A session, as soon as there is room for one."""
    while (client := Client(base)).opened["type"] != "opened":
        assert client.opened["code"] == "busy" and client.end()[0] == 4429
        time.sleep(0.5)
    return client


@pytest.mark.slow
def test_sessions_bring_a_second_replica_and_one_that_goes_cuts_none(ray):
    before = processes()
    flags = ["--ray", "--replicas", "1-2", "--sessions", "3", "--linger", "1", "--drain", "600"]
    with served(*flags, RAY_ADDRESS=ray.get_runtime_context().gcs_address) as (child, base):
        http = base.replace("ws://", "http://")
        crowd = [Client(base) for _ in range(3)]
        assert len({owner(c) for c in crowd}) == len(processes() - before) == 1
        until(lambda: replicas().get("RUNNING") == 2, "a second replica for three sessions of three")
        other, one = opened(base), crowd[0]
        assert owner(other) != owner(one), "a full replica has got one more session"
        for client in (one, other):
            client.see(3)
            for _ in range(3):  # whoever asks by an id reaches the replica that has it
                assert watched(base, client.id)["type"] == "watching"
        uploads_stay_with_their_replica(http)

        for client in crowd[1:]:
            assert client.close()[0] == 1000
        until(lambda: replicas() == {"RUNNING": 1, "STOPPING": 1}, "one of two replicas to go")
        newer = [Client(base), Client(base)]
        assert len({owner(c) for c in newer}) == 1, "a replica that goes has got a session"
        for client in (one, other, *newer):
            client.see(25)
        assert len(processes() - before) == 2
        stays = owner(newer[0])
        (going,) = [c for c in (one, other) if owner(c) != stays]
        assert going.close()[0] == 1000
        until(lambda: len(processes() - before) == 1, "the end of the replica that goes")
        assert [c.close()[0] for c in (one, other, *newer) if c is not going] == [1000] * 3

        child.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE_S) == 0
        until(lambda: not processes() - before, "the last replica's end")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{http}/health")


def uploads_stay_with_their_replica(http):
    with open(ROOT / "examples" / "speech.wav", "rb") as speech:
        sent = httpx.post(f"{http}/api/videos", data={"face": "first"}, files={"audio": speech}, timeout=PATIENCE_S)
    assert sent.status_code == 202
    where = f"{http}{sent.headers['location']}"
    assert [httpx.get(where, timeout=PATIENCE_S).status_code for _ in range(6)] == [200] * 6
    assert httpx.delete(where, timeout=PATIENCE_S).status_code == 204


@pytest.mark.parametrize("flags, sentence", [
    (["--replicas", "2"], "--replicas: expected --ray beside it"),
    (["--ray", "--replicas", "3-2"], "--replicas: expected N or N-M from 1 to 1024"),
    (["--ray", "--replicas", "0"], "--replicas: expected N or N-M from 1 to 1024"),
    (["--ray", "--tls-cert", "a.pem"], "--tls-cert: expected no --ray beside it"),
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


def test_an_id_names_its_replica():
    from types import SimpleNamespace

    from liveact_app.serve.fleet import _owner

    def of(path):
        return _owner(SimpleNamespace(args=[SimpleNamespace(asgi_scope={"path": path})]))

    assert of("/api/live/abc123.x_-Y") == of("/api/videos/abc123.x/file") == "abc123"
    assert of("/api/live") is of("/api/videos/none") is of("/") is _owner(None) is None


