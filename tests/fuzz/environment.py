"""Streams, limits, variables and things that happen during a run."""

from __future__ import annotations

from .case import Case, Draw, Place
from .common import generate

GARBAGE = ("", " ", "x", "-1", "1.5", "²", "١", "9" * 30, "9" * 5000, "nan", "0x1", "\udcff", "1 ", "0", "+1", "1e9")
PLAIN = {
    "LIVEACT_BACKEND": ("x", "attention=x", "=", "torch", "all=torch", "\udcff", "a" * 9999, "op=op=op"),
    "LIVEACT_NVTX": ("1", "0", "x", ""), "COLUMNS": ("0", "1", "-5", "x", "9" * 30), "LINES": ("0", "x"),
    "HOME": (None, "/nowhere", "/dev/null", ""), "TMPDIR": (None, "/nowhere", "/dev/null"), "NO_COLOR": ("1",),
    "LANG": ("C", "xx_XX", "tr_TR.UTF-8", None), "LC_ALL": ("C", "POSIX", "x"), "PATH": (None, "", "/nowhere"),
    "TERM": (None, "x", "xterm-256color"), "HF_HOME": ("/dev/null", "/nowhere/x"), "TZ": ("x", ":/dev/zero"),
    "PYTHONIOENCODING": ("ascii", "latin-1", "utf-8:strict"), "PYTHONUTF8": ("0", "1"),
    "CUDA_VISIBLE_DEVICES": ("x", "99"),
    "TRANSFORMERS_VERBOSITY": ("debug", "x"), "SAFETENSORS_FAST_GPU": ("1",), "PYTHONHASHSEED": ("0",),
    "DISPLAY": ("x",),
}  # fmt: skip
STARTUP = ("LANG", "LC_ALL", "HF_HOME", "HOME")
"""Read when an interpreter or a library starts."""


def make(draw: Draw, place: Place) -> Case:
    return draw.choice((_ranks, _ranks, _ranks, _variables, _variables, _streams, _streams, _limits, _events, _events))(
        draw, place
    )


def _ranks(draw: Draw, place: Place) -> Case:
    """What a launcher would set, but none of it can be meant."""
    env = {
        name: draw.choice(GARBAGE) for name in draw.sample(("RANK", "WORLD_SIZE", "LOCAL_RANK"), draw.choice((1, 2, 3)))
    }
    if env.get("WORLD_SIZE", "1").strip().isdecimal() and 1 < int(env.get("WORLD_SIZE", "1").strip()[:40]):
        env["MASTER_PORT"] = draw.choice(("x", "-1", "99999999", ""))  # a group of others would be waited for
        env["MASTER_ADDR"] = draw.choice(("", "256.1.1.1", "\n"))
    return Case(generate(place), f"{env}"[:200], env=env)


def _variables(draw: Draw, place: Place) -> Case:
    """One or two variables; a new interpreter for those that are read at its start."""
    env = {name: draw.choice(PLAIN[name]) for name in draw.sample(list(PLAIN), draw.choice((1, 2)))}
    more = [f"--prompt={draw.choice(('happy', 'é😀', ''))}"]
    fresh = any(name in STARTUP or name.startswith("PYTHON") for name in env)
    return Case(generate(place, *more), f"{env}"[:200], env=env, fresh=fresh)


def _streams(draw: Draw, place: Place) -> Case:
    """Closed, full and broken standard streams: a closed one has no reader, so the video is what counts."""
    out = draw.choice(("file", "closed", "full", "broken"))
    err, into = draw.choice(("file", "file", "file", "closed")), draw.choice(("none", "yes", "closed"))
    argv = draw.choice(
        (generate(place), generate(place), ["--help"], ["generate", "--help"], ["--version"], ["doctor", "--backend=x"])
    )
    fresh = out != "file" or draw.random() < 0.3
    return Case(argv, f"stdout {out}, stderr {err}, stdin {into}: {argv[:2]}", stdin=into, stdout=out, stderr=err,
        fresh=fresh,
                video=argv[0] == "generate" and len(argv) > 2)  # fmt: skip


def _limits(draw: Draw, place: Place) -> Case:
    """Little memory, few files, no room."""
    limits = draw.choice((
        {"AS": draw.randrange(300, 6000) * 10**6}, {"NOFILE": draw.randrange(5, 40)},
        {"FSIZE": draw.choice((1500, 2000, 4096))}, {"NOFILE": 6},  # the words about it go to a file, too
    ))  # fmt: skip
    return Case(generate(place, "--report=r.json"), f"{limits}", limits=limits, fresh="FSIZE" not in limits,
                outputs=["v.mp4", "r.json"])  # fmt: skip


def _events(draw: Draw, place: Place) -> Case:
    """A signal, or a folder that goes away."""
    do = draw.choice(("SIGINT", "SIGTERM", "SIGHUP", "rmtree", "cwd gone"))
    (place.run / "out").mkdir() if do != "cwd gone" else None
    fresh, after = draw.random() < 0.25, draw.random() * 1.5
    outputs = ["out/v.mp4"] if do != "cwd gone" else ["v.mp4"]
    argv = generate(place, "--scale=4", out=outputs[0])
    return Case(argv, f"{do} after {after:.2f} s", do=do, after=after * (3 if fresh else 1), fresh=fresh,
                outputs=outputs, video=do != "rmtree")  # fmt: skip
