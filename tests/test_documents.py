"""Documents that speak of files, folders and variables, held to what there is."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
SOURCES = ("*.py", "*.sh", "*.cpp", "*.h", "*.cu", "*.cuh", "*.yml", "Makefile")


def tracked(*patterns):
    done = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True)
    return [ROOT / name for name in done.stdout.split("\n") if name]


def variables_in(paths):
    """LIVEACT_* that stand in files."""
    return {v for p in paths for v in re.findall(r"\bLIVEACT_[A-Z0-9_]*[A-Z0-9]\b", p.read_text(encoding="utf-8"))}


def test_every_file_that_the_architecture_names_exists():
    named = set(re.findall(r"`((?:liveact_|tests/|docs/|bench/)[\w./]*)`", ARCHITECTURE))
    files = {n for n in named if "/" in n}
    assert len(files) > 25 and {n for n in files if not (ROOT / n).exists()} == set()


def test_the_drawing_of_the_house_is_of_this_version():
    script = "import sys; sys.path.insert(0, 'docs'); from rooms_svg import picture; sys.stdout.write(picture())"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    fresh = done.stdout == (ROOT / "docs" / "rooms.svg").read_text(encoding="utf-8")
    assert fresh, "draw it again: python docs/rooms_svg.py docs/rooms.svg"


def test_every_variable_has_a_row():
    paths = [p for p in tracked(*SOURCES) if "tests" not in p.parts]
    used = variables_in(paths)
    rows = set(re.findall(r"^\| `(LIVEACT_\w+)` \|", ARCHITECTURE, re.M))
    assert "LIVEACT_BACKEND" in used and used == rows
