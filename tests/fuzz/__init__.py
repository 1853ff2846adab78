"""Drives the command with bad and odd input in forked children: exit 0 or 2, one sentence, nothing left behind.

    python -m tests.fuzz --case images:17        one case, shown in full
    python -m tests.fuzz -n 2000 --out FILE      many; `make fuzz N=2000`

A case is a pure function of its name (class, seed). `case.SHARES` lists the classes, `zygote`
runs a case in a fork, `judge` says what is wrong with what came out, `planted` are programs that the judge must catch.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for place in (ROOT / "bench", ROOT / "tests", ROOT):  # this checkout, in front of any installed copy
    if str(place) not in sys.path:
        sys.path.insert(0, str(place))
