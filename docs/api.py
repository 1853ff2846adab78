"""The public API's pages, made from the docstrings.

    python docs/api.py out/docs

Kernels of single backends are left out: they import what only a GPU's machine has, and nobody calls them by name.
"""

import importlib
import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

FLOORS = ("liveact_kernels", "liveact_model", "liveact_app", "liveact_train")
PRIVATE = ("triton_kernel", "cuda_kernel", "vendor_backend", "__main__", "_C", "aot_cuda", "symmetric_memory")


def public(floor: str) -> list[str]:
    """Modules of a floor that are for readers, the floor itself first."""
    package = importlib.import_module(floor)
    found = pkgutil.walk_packages(package.__path__, floor + ".", onerror=lambda name: None)
    kept = [m.name for m in found if m.name.split(".")[-1] not in PRIVATE]
    return [floor, *(name for name in kept if not name.startswith("liveact_kernels.common.triton"))]


def main(out: str) -> None:
    """Write one page a module and an index."""
    pdoc.render.configure(docformat="markdown", show_source=True, footer_text="liveact")
    warnings.simplefilter("ignore", UserWarning)  # a type it cannot link to is shown as it is written
    names = [name for floor in FLOORS for name in public(floor)]
    pdoc.pdoc(*names, output_directory=Path(out))
    print(f"{len(names)} modules: {Path(out) / 'index.html'}")


if __name__ == "__main__":
    main(sys.argv[1])
