"""Say which torch is about to be installed, and what it costs, before anything is fetched.

    python .ci/say_torch.py [CHOICE]
"""

import importlib.util
import sys

choice = sys.argv[1] if len(sys.argv) > 1 else ""
if importlib.util.find_spec("torch") is None:
    if choice:
        print(f"torch: {'the build without CUDA' if choice == 'cpu' else choice}", flush=True)
    elif sys.platform.startswith("linux"):
        print(
            "torch: the build that the package index serves; on Linux it brings CUDA libraries, about 3 GB to download "
            "and 5 GB on disk.\n       Without a GPU they are of no use: interrupt, and say TORCH=cpu (about 0.2 GB).",
            flush=True,
        )
