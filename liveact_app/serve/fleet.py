"""A fleet: the same application as a deployment of Ray Serve, every replica with a model and a GPU of its own.

`liveact serve --ray` starts it here or on the cluster that $RAY_ADDRESS names; `serve run` and `serve deploy` take
`liveact_app.serve.fleet:app`, whose argument `flags` is the same command line. A session is one WebSocket, hence one
ongoing request of its replica: autoscaling counts them, a replica that shall go gets no more and waits for those that
run. What is asked by an id (a viewer's socket, the state of an upload) goes to the replica that has given it out.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import pickle
import re
import shlex
import signal
import threading
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.config import AutoscalingConfig, HTTPOptions, RequestRouterConfig
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from liveact_app.say import note
from liveact_app.serve.start import LINGER_S, settings_of
from liveact_model.errors import InputError

if TYPE_CHECKING:
    from fastapi import FastAPI

NAME = "liveact"
BUSY_SHARE = 0.75
"""Of a replica's sessions, from which on another replica is started: no client shall wait for a model to load."""
OTHERS = 32
"""Requests beside sessions that a replica takes at a time: viewers, uploads, the page."""
SURGE_PERCENT = 20
"""Replicas with new flags that come before old ones go: one in five, one at least."""
UP_S, SEEN_S, LOOK_S = 2.0, 5.0, 1.0
METRICS_S = 5.0
BY_ID = re.compile(r"/api/(?:live|videos)/([\w-]+?)\.")


def app(args: dict[str, str]) -> serve.Application:
    """The application for `serve run liveact_app.serve.fleet:app flags="--model tiny --replicas 1-4"`.

    `flags` are those of `liveact serve`; where to listen is Ray's affair there (`serve start --http-host`), and
    `--host` then only says whether others than this machine come. Raises InputError.
    """
    from liveact_app.cli import build_parser

    unknown = sorted(set(args) - {"flags"})
    if unknown:
        raise InputError(f"fleet: expected flags=\"...\" alone, got {', '.join(unknown)}")
    known = build_parser().parse_args(["serve", "--ray", *shlex.split(args.get("flags", ""))])
    must_be_possible(known)
    return application(known)


def must_be_possible(args: argparse.Namespace) -> None:
    """Raise InputError for flags that a fleet cannot do."""
    if args.tls_cert is not None or args.tls_key is not None:
        raise InputError("--tls-cert: expected no --ray beside it, got both; Ray Serve speaks http alone")
    if args.webrtc:  # media would go around Ray's proxy, and its sessions would be no requests that Ray counts
        raise InputError("--webrtc: expected no --ray beside it, got both; a fleet cannot drain its sessions")


def application(args: argparse.Namespace) -> serve.Application:
    """A deployment of the command line's server. Raises InputError for bounds that cannot be."""
    settings = settings_of(args)
    args.token = settings.token  # one for all: a replica would make up its own
    least, most = args.replicas
    scale: dict[str, Any] = {"num_replicas": least}
    linger = LINGER_S if args.linger is None else args.linger
    if least != most:
        scale = {"autoscaling_config": AutoscalingConfig(
            min_replicas=least, max_replicas=most, target_ongoing_requests=BUSY_SHARE * settings.sessions,
            metrics_interval_s=LOOK_S, look_back_period_s=SEEN_S, upscale_delay_s=UP_S, downscale_delay_s=linger,
        )}  # fmt: skip
    deployment = serve.deployment(
        Replica, name=NAME, max_ongoing_requests=settings.sessions + OTHERS, graceful_shutdown_wait_loop_s=LOOK_S,
        graceful_shutdown_timeout_s=max(LOOK_S, settings.drain_s), health_check_period_s=5,
        max_surge_percent=SURGE_PERCENT,
        ray_actor_options={"num_cpus": 1, "num_gpus": _gpus(args.device)},
        request_router_config=RequestRouterConfig(request_router_class=Router), **scale,
    )  # fmt: skip
    return deployment.bind(args)


def _gpus(device: str) -> int:
    """Of one replica."""
    import ray

    if device != "auto":
        return int(device != "cpu")
    return int(ray.is_initialized() and ray.cluster_resources().get("GPU", 0) >= 1)


@serve.ingress()
class Replica:
    """One process: weights, warm-up and application of `liveact serve`."""

    def __init__(self, args: argparse.Namespace) -> None:
        from liveact_app.serve.start import opened

        self._open = contextlib.ExitStack()
        self._app = self._open.enter_context(opened(args))
        state = self._app.state.live
        state.hall.name = serve.get_replica_context().replica_id.unique_id + "."
        self._stop = threading.Event()
        threading.Thread(target=_mirror, args=(state.metrics, self._stop), name="metrics", daemon=True).start()

    def __serve_build_asgi_app__(self) -> FastAPI:
        return self._app

    def __del__(self) -> None:
        self._stop.set()
        self._open.close()


class Router(RequestRouter):
    """Ids begin with the name of their replica; anything else goes to the replica that has least to do."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """As Ray asks for it: the best rank first."""
        owner = _owner(pending_request)
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # nobody spins while all are full
        named = [r for r in candidate_replicas if r.replica_id.unique_id == owner]
        return [named] if named else [candidate_replicas]


def _owner(request: PendingRequest | None) -> str | None:
    """The replica that the path of a request names; a proxy hands it on pickled."""
    for arg in request.args if request is not None else ():
        scope = getattr(pickle.loads(arg) if isinstance(arg, bytes) else arg, "asgi_scope", None) or {}
        if found := BY_ID.search(scope.get("path", "")):
            return found[1]
    return None


def _mirror(metrics: Any, stop: threading.Event) -> None:
    """Hand the numbers of /metrics to Ray, whose exporter on each node has them with the replica's name."""
    from ray.serve.metrics import Gauge

    gauges: dict[str, Gauge] = {}
    while not stop.wait(METRICS_S):
        for family in metrics.registry.collect():
            for sample in family.samples:
                if sample.name.endswith("_created") or not math.isfinite(sample.value):
                    continue
                if sample.name not in gauges:
                    gauges[sample.name] = Gauge(sample.name, family.documentation, tag_keys=tuple(sample.labels))
                gauges[sample.name].set(sample.value, tags=dict(sample.labels))


def run(args: argparse.Namespace) -> int:
    """Serve a fleet until a signal comes; the first lets sessions end, a second one does not wait."""
    import ray

    must_be_possible(args)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that is started here tells nobody of itself
    ray.init(log_to_driver=False, include_dashboard=False)
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    try:
        serve.start(http_options=HTTPOptions(host=args.host, port=args.port))
        serve.run(application(args), name=NAME, route_prefix="/")
        path = f"#token={args.token}" if args.token else ""
        note(f"serving {args.model!r} on http://{args.host}:{args.port}/{path}")
        over.wait()
        note(f"stopping; running sessions are given {args.drain:g} s")
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.default_int_handler)
        with contextlib.suppress(KeyboardInterrupt):
            serve.delete(NAME)
            serve.shutdown()
    finally:
        ray.shutdown()
    return 0
