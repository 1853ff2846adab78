"""When the CUDA extension is built and when it is left out, without building it."""

import sys

import pytest
from conftest import ROOT

pytest.importorskip("setuptools")
sys.path.insert(0, str(ROOT / "csrc"))
import cmake_build
import python_build


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine on which everything is found; a test takes something away."""
    for name in ("LIVEACT_NO_CUDA", "LIVEACT_FORCE_CUDA", "CUDACXX", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    lacks = set()
    have = lambda tool: None if any(word in str(tool) for word in lacks) else f"/bin/{tool}"  # noqa: E731
    monkeypatch.setattr(cmake_build.shutil, "which", have)
    monkeypatch.setattr(cmake_build.importlib.util, "find_spec", lambda name: None if name in lacks else name)
    return lacks


def test_everything_there_builds_one_extension():
    (extension,) = python_build.extensions()
    assert extension.name == "liveact_kernels._C" and extension.optional
    assert python_build.get_requires_for_build_wheel() == ["pybind11>=2.13"]


@pytest.mark.parametrize("lack", ["nvcc", "cmake", "ninja", "pybind11"])
def test_something_missing_leaves_it_out_in_one_line(machine, capsys, lack):
    machine.add(lack)
    assert python_build.extensions() == []
    said = capsys.readouterr().err
    assert said.startswith("liveact: CUDA extension left out: ") and lack in said and said.count("\n") == 1


def test_pip_fetches_nothing_without_nvcc_and_the_missing_tools_with_it(machine):
    machine.add("ninja")
    assert python_build.get_requires_for_build_editable() == ["pybind11>=2.13", "ninja"]
    machine.add("nvcc")
    assert python_build.get_requires_for_build_wheel() == []


def test_force_fails_when_it_cannot_be_built_and_is_not_optional_when_it_can(machine, monkeypatch):
    monkeypatch.setenv("LIVEACT_FORCE_CUDA", "1")
    assert not python_build.extensions()[0].optional
    machine.add("nvcc")
    with pytest.raises(SystemExit, match="LIVEACT_FORCE_CUDA is set, but the CUDA extension cannot be built: no nvcc"):
        python_build.extensions()


def test_no_cuda_leaves_it_out_whatever_else_is_set(monkeypatch, capsys):
    monkeypatch.setenv("LIVEACT_NO_CUDA", "1")
    monkeypatch.setenv("LIVEACT_FORCE_CUDA", "1")
    assert python_build.extensions() == [] and python_build.get_requires_for_build_wheel() == []
    assert capsys.readouterr().err == "liveact: CUDA extension left out: LIVEACT_NO_CUDA is set\n"


def test_nvcc_is_looked_for_in_this_order(machine, monkeypatch):
    assert cmake_build.find_nvcc() == "/bin/nvcc"
    monkeypatch.setenv("CUDACXX", "/opt/own/compiler")
    assert cmake_build.find_nvcc() == "/opt/own/compiler"
    monkeypatch.delenv("CUDACXX")
    monkeypatch.setattr(cmake_build.shutil, "which", lambda tool: None if tool == "nvcc" else f"/bin/{tool}")
    monkeypatch.setenv("CUDA_HOME", "/opt/cuda")
    assert cmake_build.find_nvcc() == "/opt/cuda/bin/nvcc"
    monkeypatch.delenv("CUDA_HOME")
    assert cmake_build.find_nvcc() == "/usr/local/cuda/bin/nvcc"
