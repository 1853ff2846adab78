"""The floors of the house: imports point down only, and the model names no backend, device, environment or rank.

The rules read the syntax tree, so comments and docstrings may speak of anything.
"""

import ast
import re
import sys
from pathlib import Path

import pytest

from liveact_kernels import ops  # noqa: F401 - fills the registry
from liveact_kernels.contract import PREFERRED, REGISTRY, VENDORS

ROOT = Path(__file__).parent.parent
BELOW = {
    "liveact_kernels": set(),
    "liveact_model": {"liveact_kernels"},
    "liveact_train": {"liveact_kernels", "liveact_model"},
    "liveact_app": {"liveact_kernels", "liveact_model"},
}
KERNELS_NEED = {"torch"}  # to be imported, on a CPU; a backend's own files may need the backend
KERNELS_MAY_NEED = KERNELS_NEED | {"nvtx"}  # once somebody asks for it
BACKEND_LIBRARIES = {"triton", "flash_attn", "flash_attn_interface", "sageattention", "deep_gemm", "cudnn", "vllm"}
BACKENDS = {b for op in REGISTRY.values() for b in op.backends} | {b for row in PREFERRED.values() for b in row}
BACKENDS |= BACKEND_LIBRARIES | set(VENDORS)
BACKENDS -= {"sdpa"}  # also the word by which transformers' encoders are asked for plain torch
DEVICE = re.compile(r"(cuda|hip|mps|xpu|npu)(:[0-9]+)?")
VARIABLE = re.compile(r"LIVEACT_\w+|CUDA_\w+|TRITON_\w+|NCCL_\w+|(LOCAL_)?RANK|WORLD_SIZE")
CHAINS = ("os.environ", "os.getenv", "os.putenv", "torch.cuda", "torch.mps", "torch.xpu", "torch.backends")
RANKS = {"rank", "local_rank", "world_size"}
OF_MODEL = {"scope"}  # all that the model may take from the dispatcher: it labels calls and chooses nothing
OF_TRAINING = {"scope", "with_gradients"}  # training needs gradients, whatever the backend is that has them
PARALLEL = "liveact_model/parallel/"  # the one home of ranks in the model
SHARDS = "liveact_train/shards.py"  # and in training


def sources(package):
    """[(path from the root, module name, tree)] of a package."""
    out = []
    for path in sorted((ROOT / package).rglob("*.py")):
        name = path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
        out.append((path.relative_to(ROOT).as_posix(), name, ast.parse(path.read_text(encoding="utf-8"))))
    return out


def imports(tree, module, is_package=False, everywhere=True):
    """Every module that may be meant by the imports; `from a import b` means a and a.b. Type-only ones count too."""
    nodes = ast.walk(tree) if everywhere else tree.body
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))


def docstrings(tree):
    """Constants that stand alone: they do nothing."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def wrong_direction(package, module, tree, is_package=False):
    """Imports of our packages that are not on a lower floor."""
    tops = {name.split(".")[0] for name in imports(tree, module, is_package)}
    return sorted(t for t in tops if t.startswith("liveact_") and t != package and t not in BELOW[package])


def named(tree, path="liveact_model/x.py"):
    """What the model and its training must not name, [(line, words)]."""
    out, silent, ranks = [], docstrings(tree), path.startswith((PARALLEL, SHARDS))
    for node in ast.walk(tree):
        found = None
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = list(imports(node, "liveact_model.x", everywhere=True))
            chains = (*CHAINS, *(() if ranks else ("torch.distributed",)), *BACKEND_LIBRARIES)
            found = next((m for m in modules for c in chains if m == c or m.startswith(c + ".")), None)
            if any(m.startswith("liveact_kernels.contract") for m in modules):
                may = OF_TRAINING if path.startswith("liveact_train/") else OF_MODEL
                found = found or next((a.name for a in node.names if a.name not in may), None)
        elif isinstance(node, ast.Attribute):
            chain = ast.unparse(node)
            wanted = (*CHAINS, *(() if ranks else ("torch.distributed",)))
            if chain in wanted or node.attr in ("cuda", "is_cuda") or (node.attr in RANKS and not ranks):
                found = chain
        elif isinstance(node, ast.Name | ast.arg) and not ranks:
            name = node.id if isinstance(node, ast.Name) else node.arg
            found = name if name in RANKS else None
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in silent:
            text = node.value
            found = text if text in BACKENDS or DEVICE.fullmatch(text) or VARIABLE.fullmatch(text) else None
        if found:
            out.append((node.lineno, found))
    return out


def needs_triton(tree):
    """Whether importing the file imports triton."""
    return any(name.split(".")[0] == "triton" for name in imports(tree, "", everywhere=False))


def third_party(names):
    """Top modules that are neither Python's nor ours."""
    tops = {name.split(".")[0] for name in names}
    return {t for t in tops if t and t not in sys.stdlib_module_names and not t.startswith("liveact_")}


@pytest.mark.parametrize("package", BELOW)
def test_imports_point_down(package):
    for path, module, tree in sources(package):
        assert wrong_direction(package, module, tree, path.endswith("__init__.py")) == [], path


@pytest.mark.parametrize("package", ["liveact_model", "liveact_train"])
def test_the_model_names_no_backend_device_environment_or_rank(package):
    files = sources(package)
    assert len(files) > 10
    assert [(path, *what) for path, _, tree in files for what in named(tree, path)] == []


def test_kernels_need_torch_only():
    """Triton is for files that nobody imports until a backend is chosen."""
    files = sources("liveact_kernels")
    of_triton = {module for _, module, tree in files if needs_triton(tree)}
    of_triton |= {module for _, module, _ in files if module.endswith((".triton_kernel", ".aot_cuda"))}  # by a helper
    for path, module, tree in files:
        at_import = set(imports(tree, module, path.endswith("__init__.py"), everywhere=False))
        allowed = KERNELS_NEED | ({"triton"} if module in of_triton else set())
        assert third_party(at_import) <= allowed, path
        assert third_party(imports(tree, module)) <= KERNELS_MAY_NEED | BACKEND_LIBRARIES, path
        if module not in of_triton:
            assert at_import & of_triton == set(), path


@pytest.mark.parametrize(
    "line",
    [
        "import triton", "from triton import language as tl", "import torch.distributed as dist",
        "from torch import distributed", "torch.distributed.barrier()", "import os\nos.environ['X']",
        "from os import environ", "os.getenv('X')", 'x.to("cuda")', 'device = "cuda:1"', "x.cuda()", "x.is_cuda",
        "torch.cuda.synchronize()", "from torch.cuda import Stream", 'use(all="triton")', 'backend = "torch"',
        'chosen = "reference"', 'read("WORLD_SIZE")', 'read("LIVEACT_BACKEND")', "def f(rank): pass",
        "n = world_size", "plan.local_rank", "from liveact_kernels.contract import use",
        "from liveact_kernels.contract.dispatch import STATE", "import sageattention",
        "torch.backends.cudnn.benchmark = True",
    ],
)  # fmt: skip
def test_what_is_forbidden_is_seen(line):
    assert named(ast.parse(line))


def test_what_is_allowed_is_not_seen():
    allowed = (
        '"""cuda"""', "# triton", "from liveact_kernels.contract import scope", "from liveact_kernels import ops",
        'x.to(y.device, "cpu")', 'with torch.device("meta"): pass', "error = 'needs cuda or a rank'",
    )  # fmt: skip
    assert all(named(ast.parse(line)) == [] for line in allowed)
    ranks = ast.parse("import torch.distributed as dist\nrank = dist.get_rank()")
    assert named(ranks, f"{PARALLEL}x.py") == named(ranks, SHARDS) == [] and len(named(ranks)) == 2


@pytest.mark.parametrize(
    "package,line,wrong",
    [
        ("liveact_kernels", "import liveact_model.errors", ["liveact_model"]),
        ("liveact_model", "def f():\n    from liveact_app.cli import main", ["liveact_app"]),
        ("liveact_train", "from liveact_app.generate import job", ["liveact_app"]),
        ("liveact_app", "import liveact_train", ["liveact_train"]),
        ("liveact_app", "from liveact_model import session\nfrom . import job", []),
    ],
)
def test_the_direction_is_seen(package, line, wrong):
    assert wrong_direction(package, f"{package}.x", ast.parse(line)) == wrong


def test_relative_imports_are_resolved():
    tree = ast.parse("from ..common import tiles\nfrom . import x\nfrom .y import z")
    found = set(imports(tree, "liveact_kernels.ops.linear", is_package=True))
    assert {"liveact_kernels.ops.common.tiles"} <= found and {"liveact_kernels.ops.linear.x"} <= found
    found = set(imports(tree, "liveact_kernels.ops.linear.torch_backend"))
    assert {"liveact_kernels.ops.common.tiles", "liveact_kernels.ops.linear.y.z"} <= found
    assert needs_triton(ast.parse("import triton.language as tl"))
    assert not needs_triton(ast.parse("def f():\n    import triton"))
