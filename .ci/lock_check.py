"""Whether constraints.txt can be installed: every Python and platform we promise, against the index as it is now.

    python .ci/lock_check.py

Nothing is downloaded but metadata. Exit code 1 when some combination has no solution, 0 with a line that says so when
no index can be reached.
"""

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28", "aarch64-apple-darwin")
# torch has had no wheel for an older macOS since 2.13; uv assumes 13 unless it is told.
ENV = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
UNREACHED = (
    "network was disabled", "error sending request", "Failed to fetch", "dns error", "Could not connect", "timed out",
)  # fmt: skip


def resolve(python: str, platform: str) -> str:
    """What uv says against a combination; nothing when it can be installed from wheels alone."""
    command = [
        sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-config", "--all-extras",
        "--only-binary", ":all:", "--no-binary", "docopt",  # pure Python, but its author never made a wheel
        "--python-version", python, "--python-platform", platform, "-c", "constraints.txt", "pyproject.toml",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=ENV)
    return done.stderr.strip() if done.returncode else ""


def main() -> int:
    """Every combination, a line each."""
    wrong = 0
    combinations = list(itertools.product(PYTHONS, PLATFORMS))
    with ThreadPoolExecutor(2) as pool:
        for (python, platform), said in zip(combinations, pool.map(lambda c: resolve(*c), combinations)):
            if any(words in said for words in UNREACHED):
                print(f"lock: no package index reached, constraints.txt is not checked ({said.splitlines()[0][:120]})")
                return 0
            wrong += bool(said)
            print(f"lock: Python {python} on {platform}: {said or 'resolves'}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
