"""A model that lives on another device than its inputs: everything meets where the model lives, and nothing waits.

The other device is torch's "meta": it has shapes and no values, so reading a value of it on the host raises.
"""

import types

import pytest
import released
import small
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from liveact_model.loading import load_avatar
from liveact_model.session import Session

COPIES = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default}


class OneDevice(TorchDispatchMode):
    """Every operation but a copy must find its tensors on one device; copies from the other device bring zeros.

    Stricter than a GPU, which also takes host indices and waits for them. Single numbers may stay on the host.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if func in COPIES:
            if torch.device(kwargs.get("device") or tensors[0].device).type == "cpu" and tensors[-1].is_meta:
                return torch.zeros(tensors[-1].shape, dtype=kwargs.get("dtype") or tensors[-1].dtype)
        else:
            places = {t.device.type for t in tensors if t.ndim or t.is_meta}
            assert len(places) <= 1, f"{func} got tensors of {sorted(places)}"
        return func(*args, **kwargs)


def tensors_of(*roots, without=()):
    """[(path, tensor)] of everything that can be reached through attributes, containers and closures."""
    out, seen, todo = [], {id(x) for x in without}, [("", root) for root in roots]
    while todo:
        path, x = todo.pop()
        if id(x) in seen or isinstance(x, type | types.ModuleType | str | bytes | int | float | torch.dtype):
            continue
        seen.add(id(x))
        if isinstance(x, torch.Tensor):
            out.append((path, x))
        elif isinstance(x, dict):
            todo += [(f"{path}[{key}]", value) for key, value in x.items()]
        elif isinstance(x, list | tuple | set):
            todo += [(f"{path}[{i}]", value) for i, value in enumerate(x)]
        elif isinstance(x, types.FunctionType):
            todo += [(f"{path}()", cell.cell_contents) for cell in x.__closure__ or ()]
        elif isinstance(x, types.MethodType):
            todo.append((path, x.__self__))
        else:
            todo += [(f"{path}.{key}", value) for key, value in getattr(x, "__dict__", {}).items()]
    return out


def on_host(*roots, without=()):
    return [path for path, t in tensors_of(*roots, without=without) if not t.is_meta]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return released.write_released(tmp_path_factory.mktemp("released") / "model")


@pytest.fixture(params=["tiny", "released", "released in fp8"])
def avatar(request, folder):
    """An avatar whose weights are elsewhere."""
    if request.param == "tiny":
        return small.avatar().to("meta")
    return load_avatar(str(folder), dtype="fp8" if "fp8" in request.param else "auto", device="meta")


def test_load_avatar_moves_every_tensor(folder, avatar):
    words = avatar.text if avatar.name == "small" else None  # its table is made on the host; a Session moves the rows
    assert len(tensors_of(avatar)) > 80
    assert on_host(avatar, without=[words]) == []
    here = load_avatar(str(folder))
    assert len(on_host(here)) == len(tensors_of(here)) > 200


@pytest.mark.parametrize("options", [{}, {"eight_bit_memory": True, "audio_cfg": 1.5, "sampler": "euler", "fps": 25}])
def test_a_session_meets_on_the_device(avatar, options):
    audio, size = small.speech(8), (32, 48) if avatar.name == "model" else (32, 32)
    with OneDevice():
        levels = avatar.measure_audio(audio.split(16000), options.get("fps", 20.0))
        for given, blocks in ((levels, 1), (None, 3)):
            session = Session(avatar, torch.zeros(3, *size), "happy", audio_levels=given, **options)
            session.push_audio(audio)
            for block in range(blocks):
                frames = session.next_block()
                assert frames.is_meta and frames.shape == (32 if block else 21, *size, 3)
                session.set_prompt(f"the man nods {block}")
        assert frames.cpu().numpy().shape == frames.shape
    # what a session keeps of its own is on the device; recorded audio waits on the host
    assert len(tensors_of(session, without=[avatar, session._audio])) > 40
    assert on_host(session, without=[avatar, session._audio]) == []


def test_mixed_devices_are_seen():
    with OneDevice():
        here, there = torch.ones(3), torch.ones(3, device="meta")
        assert there.to(here.device).sum() == 0 and there.cpu().dtype == torch.float32
        assert (there * torch.tensor(2.0)).is_meta and there.copy_(here).is_meta
        for mixed in (lambda: here + there, lambda: there[torch.tensor([0])], lambda: torch.cat((here, there))):
            with pytest.raises(AssertionError, match=r"got tensors of \['cpu', 'meta'\]"):
                mixed()
    model = small.avatar().to("meta")
    model.dit.head.modulation = torch.nn.Parameter(torch.ones(2, 32))
    model.text.table = [{"x": (lambda: model, torch.ones(1))}]
    assert set(on_host(model)) == {".dit._modules[head]._parameters[modulation]", ".text.table[0][x][1]", ".text._rows"}
