"""`liveact serve`: live sessions in a browser, and for any program that speaks WebSocket or HTTP."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from liveact_app.arguments import picture_size, real_number, whole_number
from liveact_app.generate.options import add_method
from liveact_app.serve.start import LINGER_S, SMALL_SESSIONS, VARIABLE, job_of, opened, settings_of, warm
from liveact_model.errors import InputError

if TYPE_CHECKING:
    from liveact_app.launch import Place

EPILOG = """
Open the address in a browser: pick a face, speak, and see it speak. The protocol is in docs/live.md, the HTTP interface
in /openapi.json, numbers for Prometheus in /metrics.

Only this machine can reach the server, unless --host says otherwise; clients must then show a token: --token's,
$LIVEACT_TOKEN's, or one that is made up and printed. A browser gives a microphone only to localhost and to https.
SIGTERM and Ctrl-C let running sessions end for --drain seconds and open no more; a second one ends them at once.

Several GPUs share one session under torchrun; rank 0 serves:
  torchrun --nproc_per_node 2 -m liveact_app serve --model DIR

examples:
  liveact serve
  liveact serve --host 0.0.0.0 --port 8443 --tls-cert cert.pem --tls-key key.pem --sessions 2
  liveact serve --ray --replicas 1-4

exit codes: 0 it was asked to stop, 2 unusable input
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Register the subcommand."""
    parser = commands.add_parser(
        "serve", help="live sessions in a browser: speak, and see it speak", epilog=EPILOG,
        description="Serve live sessions: a page, a WebSocket, uploads, health and metrics.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument_group("the server").add_argument
    add("--host", default="127.0.0.1", metavar="NAME", help="address to listen on (default: %(default)s)")
    add("--port", type=whole_number(0, 65535), default=8000, metavar="N", help="0 takes a free one (default: 8000)")
    add("--token", metavar="TEXT", help=f"what clients must show, 8 characters or more (default: ${VARIABLE})")
    add("--origin", action="append", default=[], metavar="URL", help="another site's pages that may open sessions")
    add("--sessions", type=whole_number(1, 256), metavar="N",
        help=f"at a time (default: {SMALL_SESSIONS} of the model that ships, 1 of any other)")  # fmt: skip
    add("--idle", type=real_number(1, 86400), default=300, metavar="S", help="a silent session ends (default: 300 s)")
    add("--longest", type=real_number(1, 86400), default=3600, metavar="S", help="so does a long one (default: 3600 s)")
    add("--drain", type=real_number(0, 3600), default=20, metavar="S", help="for running sessions (default: 20 s)")
    add("--tls-cert", metavar="FILE", help="certificate chain, for https")
    add("--tls-key", metavar="FILE", help="its private key")
    add("--webrtc", action="store_true", help="take offers of WebRTC, too (pip install liveact[webrtc])")
    add("--ray", action="store_true", help="a fleet on Ray Serve, one replica a GPU (docs/deploy.md)")
    add("--replicas", type=replica_counts, default=(1, 1), metavar="N[-M]",
        help="with --ray: how many, and up to how many when sessions come (default: 1)")  # fmt: skip
    add("--linger", type=real_number(0, 86400), metavar="S",
        help=f"with --ray: a replica that has become too many stays so long (default: {LINGER_S} s)")  # fmt: skip
    add("--log-prompts", action="store_true", help="write prompts to the log, which nothing does otherwise")
    add("--size", type=picture_size, metavar="W*H", help="largest picture, pixels (default: the model's)")
    add_method(parser.add_argument_group("how to make it"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load, warm up, serve until a signal comes; returns the exit code."""
    _must_have_extra(args.webrtc)
    from liveact_app.launch import place

    here = place()
    if args.ray:
        return _fleet(args, here)
    tls = _tls(args)
    if args.replicas != (1, 1):
        raise InputError("--replicas: expected --ray beside it, one process serves with one model")
    if args.linger is not None:
        raise InputError("--linger: expected --ray beside it, one process has no replicas that could become too many")
    if here.size > 1:
        return _share(args, here, tls)
    from liveact_app.serve.run import listen, serve

    listening = listen(args.host, args.port)
    with opened(args) as app:
        serve(app, listening, tls)
    return 0


def _fleet(args: argparse.Namespace, here: Place) -> int:
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise InputError("--ray: expected Ray to be installed, it is missing; pip install liveact[ray]")
    if here.size > 1:
        raise InputError(f"--ray: expected one process, it starts the others itself, got {here.size}")
    from liveact_app.serve import fleet

    return fleet.run(args)


def _share(args: argparse.Namespace, here: Place, tls: dict[str, Any]) -> int:
    """One session at a time, by several processes; 1 when their group is broken."""
    from liveact_app.backend import backends
    from liveact_app.generate.loading import Shelf, device_of
    from liveact_app.generate.ranks import joined, settle
    from liveact_app.serve.ranks import Group, follow
    from liveact_app.serve.run import listen, serve
    from liveact_app.serve.workdir import Workdir

    workdir, shelf = Workdir(), Shelf()
    try:
        job, settings = job_of(args, str(workdir.path)), settings_of(args, here.size)
        device = device_of(args.device, here.local)
        with backends(args.backend), joined(device, args.parallel) as ranks:
            avatar, size = shelf.load(job, device)
            settle(ranks, job.parallel, avatar, size, job.eight_bit_attention)
            if not ranks.leads:
                follow(ranks, avatar)
                return 0
            group, listening = Group(ranks), listen(args.host, args.port)
            app = warm(settings, job, shelf, device, workdir, group, webrtc=args.webrtc)
            serve(app, listening, tls)
            if app.state.live.hall.broken:
                ranks.close(1, "a session failed")
                return 1
            group.end()
            return 0
    finally:
        workdir.close()


def _must_have_extra(webrtc: bool) -> None:
    import importlib.util

    wanted = dict.fromkeys(("fastapi", "uvicorn", "websockets", "python_multipart", "prometheus_client"), "serve")
    wanted |= {"aiortc": "webrtc"} if webrtc else {}
    for package, extra in wanted.items():
        if importlib.util.find_spec(package) is None:
            what = "--webrtc" if extra == "webrtc" else "serve"
            raise InputError(f"{what}: expected its extra, but {package} is missing; pip install liveact[{extra}]")


def replica_counts(text: str) -> tuple[int, int]:
    """Argument type: N or N-M, 1 <= N <= M <= 1024."""
    match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", text.strip())
    least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not 1 <= least <= most <= 1024:
        raise argparse.ArgumentTypeError(f"expected N or N-M from 1 to 1024, such as 1-4, got {text!r}")
    return least, most


def _tls(args: argparse.Namespace) -> dict[str, Any]:
    from liveact_app.media.files import require_file

    if (args.tls_cert is None) != (args.tls_key is None):
        raise InputError("--tls-cert: expected --tls-key beside it, and the other way round, got one of them")
    if args.tls_cert is None:
        return {}
    return {"ssl_certfile": require_file(args.tls_cert, "--tls-cert"),
            "ssl_keyfile": require_file(args.tls_key, "--tls-key")}  # fmt: skip
