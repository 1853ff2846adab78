"""Groups of processes on this machine for tests: a function runs on every rank, by default on the CPU over gloo."""

import multiprocessing
import os
import pickle
import queue
import sys
import time
import traceback

import torch
import torch.distributed as dist

from liveact_model.parallel.ranks import connect

PRELOAD = [
    "pytest", "numpy", "torch.testing", "liveact_model.parallel.shared_memory", "liveact_model.parallel.ranks",
    "liveact_model.session", "liveact_model.vae.wan_tiles", "liveact_app.verify.cases", "liveact_model.text.umt5",
    "liveact_model.image.clip", "torch._meta_registrations", "torch._refs.nn.functional", "torch._dynamo",
]  # fmt: skip
"""What every rank would import anyway; a name that is missing here only costs time."""


def _main(function, rank, size, port, options, args, results):
    torch.set_num_threads(1)
    device = options.pop("device", "cpu")
    os.environ.update(options.pop("env", {}))
    store = dist.TCPStore("127.0.0.1", port, size, is_master=False)
    ranks = None
    try:
        ranks = connect(device, store=store, rank=rank, size=size, **options)
        got = function(ranks, *args)
        results.put((rank, pickle.dumps(got), None))  # by value: a tensor would be shared with a process that ends
        ranks.close()
    except BaseException as error:
        results.put((rank, None, f"{type(error).__name__}: {error}"))
        if not isinstance(error, RuntimeError):
            traceback.print_exc()
        if ranks is not None:
            ranks.close(1, str(error))
        sys.exit(getattr(error, "code", 1))


def start(function, size, *args, **options):
    """Start `function(ranks, *args)` on every rank -> (processes, results); the store lives in this process."""
    context = multiprocessing.get_context("forkserver")  # imports torch once, and forks before any thread is there
    context.set_forkserver_preload(PRELOAD)
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    results = context.Queue()
    started = [
        context.Process(target=_main, args=(function, r, size, store.port, options, args, results), daemon=True)
        for r in range(size)
    ]
    for p in started:
        p.start()
        p.store = store  # it must live as long as they do
    return started, results


HANGS_S = 300.0
"""What takes longer hangs, on however busy a machine."""


def collect(started, results, seconds=HANGS_S, expect=None):
    """[(result, error sentence)] in the order of ranks, from `expect` of them (all); kills what is left."""
    got, deadline = {}, time.monotonic() + seconds
    try:
        while len(got) < (len(started) if expect is None else expect):
            try:
                rank, value, error = results.get(timeout=0.2)
                got[rank] = (value and pickle.loads(value), error)
            except queue.Empty:
                assert time.monotonic() < deadline, f"only ranks {sorted(got)} answered within {seconds} s"
        for p in started:
            p.join(max(0.1, deadline - time.monotonic()))
    finally:
        for p in started:
            p.kill()
    return [got.get(r) for r in range(len(started))]


def run(function, size, *args, **options):
    """What `function(ranks, *args)` gives on every rank, in order; the first error is raised."""
    out = collect(*start(function, size, *args, **options))
    errors = [error for _, error in out if error]
    assert not errors, errors
    return [value for value, _ in out]
