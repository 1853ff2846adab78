"""What a backend needs: found or refused in one sentence, never replaced in silence, and nothing else at import."""

import os
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from liveact_app.cli import main
from liveact_kernels import ops
from liveact_kernels.contract import VENDORS, available, backend_of, dispatch, missing, trust, unusable, use
from liveact_model.errors import InputError

GPU = torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def _fresh():
    missing.cache_clear()
    yield
    missing.cache_clear()


@pytest.fixture
def chip(monkeypatch):
    """Pretend that GPU has a compute capability."""

    def set_to(*version):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: version)
        missing.cache_clear()

    set_to(9, 0)
    return set_to


def install(monkeypatch, name, **attributes):
    """A module of this name, empty but for the attributes."""
    module = types.ModuleType(name)
    module.__spec__ = object()
    vars(module).update(attributes)
    monkeypatch.setitem(sys.modules, name, module)
    missing.cache_clear()
    return module


def op_with(*backends):
    return types.SimpleNamespace(name="some_op", backends=dict.fromkeys(backends))


def test_plain_and_unknown_backends_are_never_missing():
    assert all(missing(b, "cpu") is None for b in ("torch", "reference", "sdpa", "scaled_mm", "one_of_a_test"))


@pytest.mark.parametrize("backend", ["cuda", "triton", "cudnn", "flash", "sage", "deepgemm"])
def test_what_needs_a_gpu_says_so_on_a_cpu(backend, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert "GPU, the tensors are on cpu" in missing(backend, "cpu")


def test_the_interpreter_is_a_device_of_triton(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    install(monkeypatch, "triton.language")
    assert missing("triton", "cpu") is None


def test_the_extension_must_be_built_load_and_be_built_for_the_chip(monkeypatch, chip):
    monkeypatch.setattr(available, "found", lambda module: False)
    missing.cache_clear()
    assert "was not built: pip install . with nvcc" in missing("cuda", GPU)
    monkeypatch.undo()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    install(monkeypatch, "liveact_kernels._C", ARCHS=("sm_90a",), CUDART=13000)
    monkeypatch.setattr(available, "driver_version", lambda: 13000)
    assert missing("cuda", GPU) is None
    chip(10, 0)
    assert "was built for sm_90a, this GPU is sm_100" in missing("cuda", GPU)
    chip(8, 9)
    assert "compute capability 9.0 or later, this GPU has 8.9" in missing("cuda", GPU)


@pytest.mark.parametrize(
    "runtime,driver,why",
    [
        (13000, 12080, "the CUDA extension has the runtime of CUDA 13.0, this driver is of CUDA 12.8: update"),
        (13010, 13000, None),  # the same major version
        (13000, 13020, None),
        (13000, 0, None),  # torch cannot tell
    ],
)
def test_a_driver_older_than_the_extension_runs_triton(monkeypatch, chip, runtime, driver, why):
    install(monkeypatch, "liveact_kernels._C", ARCHS=("sm_90a",), CUDART=runtime)
    monkeypatch.setattr(available, "driver_version", lambda: driver)
    said = missing("cuda", GPU)
    assert said is None if why is None else said.startswith(why) and said.endswith("or choose triton")
    monkeypatch.setattr(dispatch, "missing", lambda b, device: missing(b, device) if b == "cuda" else None)
    assert backend_of(op_with("torch", "triton", "cuda"), GPU) == ("triton" if why else "cuda")


def test_a_library_that_cannot_be_imported_is_missing(monkeypatch, chip, tmp_path):
    (tmp_path / "sageattention.py").write_text("raise OSError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(tmp_path)
    why = missing("sage", GPU)
    assert "fails to import (OSError: undefined symbol: _ZN3c10)" in why and "github.com" in why


def test_a_gpu_without_triton_is_told_how_to_get_it(monkeypatch, chip):
    monkeypatch.setattr(available, "found", lambda module: False)
    missing.cache_clear()
    assert missing("triton", GPU) == "triton is not installed: pip install 'liveact[triton]', or choose torch"


def test_vendors_are_found_and_told_how_to_get(monkeypatch, chip):
    for module in ("flash_attn_interface", "flash_attn", "sageattention", "deep_gemm"):
        monkeypatch.setitem(sys.modules, module, None)
    for vendor in ("flash", "sage", "deepgemm"):
        assert "not installed: " in missing(vendor, GPU)
    install(monkeypatch, "flash_attn")
    assert missing("flash", GPU) is None
    chip(7, 5)
    assert "8.9 or later, this GPU has 7.5" in missing("scaled_mm", GPU)



def test_a_torch_without_row_scales_on_a_cpu_is_told_by_a_product(monkeypatch):
    def per_tensor_only(*args, **scales):
        raise RuntimeError("INTERNAL ASSERT FAILED")

    monkeypatch.setattr(torch, "_scaled_mm", per_tensor_only)
    assert "has no scaled_mm with a scale per row on a CPU: install a later one" in missing("scaled_mm", "cpu")


def test_only_the_extension_may_be_skipped(monkeypatch, chip):
    every = op_with("reference", "torch", "triton", "cuda", *VENDORS)
    monkeypatch.setattr(dispatch, "missing", lambda backend, device: None)
    assert backend_of(every, GPU) == "cuda" and backend_of(every, "cpu") == "torch"
    monkeypatch.setattr(dispatch, "missing", lambda b, device: "not built" if b == "cuda" else None)
    assert backend_of(every, GPU) == "triton"
    monkeypatch.setattr(dispatch, "missing", lambda b, device: "get it" if b in ("cuda", "triton") else None)
    with pytest.raises(ValueError, match="some_op: backend 'triton' cannot run here: get it"):
        backend_of(every, GPU)
    assert backend_of(op_with("reference", "torch", "cuda"), GPU) == "torch"
    assert backend_of(op_with("reference", *VENDORS), GPU) == "reference"  # a vendor is never a default


def test_a_chosen_backend_that_is_missing_raises_with_the_reason(monkeypatch, capsys):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    args = {"x": torch.ones(4, 8), "y": torch.ones(4, 8), "gate": torch.ones(8)}
    for chosen in ({"gate_residual": "triton"}, {"all": "triton"}):
        with use(**chosen):
            with pytest.raises(ValueError, match=r"gate_residual: backend 'triton' cannot run here: triton .*"):
                ops.gate_residual(**args)
            assert "triton" in unusable("cpu") and not trust.check(ops.gate_residual).ok
    assert unusable("cpu") is None
    assert main(["doctor", "--backend", "triton"]) == 2
    assert "--backend: 'triton' cannot run here: triton" in capsys.readouterr().err


def test_the_self_test_says_why_the_faster_backend_is_not_used(monkeypatch):
    monkeypatch.setattr(trust, "missing", lambda backend, device: "not built: build it")
    op = op_with("torch", "cuda")
    assert trust.reason(op, GPU) == "best it has on cuda; not built: build it"
    assert trust.reason(op, "cpu") == "best it has on cpu"


BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])
sys.meta_path.insert(0, Blocked())
"""
ABSENT = ("nvtx", "rich", "safetensors", "transformers", "av", "soundfile", "soxr", "PIL")


def python(source: str, blocked=ABSENT, **env: str) -> subprocess.CompletedProcess:
    """Run code where these packages cannot be imported."""
    env = {**os.environ, "LIVEACT_NVTX": "", **env}
    code = BLOCK.format(blocked=blocked) + source
    root = Path(__file__).parent.parent
    return subprocess.run([sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True)


IMPORTS = """
import importlib, pkgutil, liveact_kernels, liveact_model
for package in (liveact_kernels, liveact_model):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        print(module.name)
"""


def test_kernels_and_model_import_with_torch_alone():
    pytest.importorskip("triton.language", reason="triton is not installed: pip install 'liveact[triton]'")
    done = python(IMPORTS)
    assert done.returncode == 0, done.stderr
    for name in ("contract.dispatch", "proof.selftest", "tuned", "ops.attention.torch_backend"):
        assert f"liveact_kernels.{name}\n" in done.stdout
    of_model = ("dit.model", "session", "dit.cache", "loading.weights", "vae.wan", "audio.wav2vec2", "text.umt5")
    for name in (*of_model, "image.clip"):
        assert f"liveact_model.{name}\n" in done.stdout


def test_nvtx_is_asked_for_by_name_only():
    done = python("import liveact_kernels.contract.dispatch", LIVEACT_NVTX="1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError: LIVEACT_NVTX is set, but the nvtx package")
    done = python("from liveact_app.cli import main; sys.exit(main(['doctor']))", blocked=("nvtx",), LIVEACT_NVTX="1")
    assert done.returncode == 2 and done.stderr.startswith("liveact: error: LIVEACT_NVTX is set"), done.stderr


def test_generation_refuses_a_backend_that_is_missing(monkeypatch):
    from liveact_app.backend import must_run_on

    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with use(all="triton"), pytest.raises(InputError, match="--backend: 'triton' cannot run here"):
        must_run_on("cpu")
    must_run_on("cpu")
