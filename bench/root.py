"""Puts this checkout in front of any installed copy, so that `python bench/x.py` measures the code beside it."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if sys.path[:1] != [str(ROOT)]:
    sys.path.insert(0, str(ROOT))
