"""The CUDA extension on a device: updates in place, which only races can spoil, and callers other than torch."""

import pytest
import torch
from kv_cases import CHUNKS

from liveact_kernels import ops  # noqa: F401 - fills the registry
from liveact_kernels.contract import REGISTRY, Case, missing, use

MISSING = missing("cuda", "cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))
KV = REGISTRY["kv_compress"]
CASES = [*KV.cases, *(Case(name, **dims) for name, dims in CHUNKS.items())]
IN_PLACE = [c for c in CASES if KV.dims_of(c).has_k_mem and KV.refused("cuda", KV.dims_of(c)) is None]


@pytest.mark.parametrize("case", IN_PLACE, ids=str)
def test_in_place_gives_the_same_bytes(case, device):
    args = KV.make(case, device)
    tokens, first = args["tokens"], min(slot for slot, _ in args["schedule"])
    rows = slice(first * tokens, (first + len(args["schedule"])) * tokens)
    memory = (args["k_mem"], args["v_mem"], args["k_scale"], args["v_scale"])
    kept = [None if m is None else m.clone() for m in memory]
    with use(kv_compress="cuda"):
        want = KV(**args)
        for _ in range(10):
            for m, k in zip(memory, kept):
                if m is not None:
                    m.copy_(k)
            got = KV(**args, out=[None if m is None else m[rows] for m in memory])
            for g, w in zip(got, want):
                assert w is None or torch.equal(g.view(torch.uint8), w.view(torch.uint8))


def test_cupy_calls_the_same_function(device):
    cupy = pytest.importorskip("cupy")
    from liveact_kernels import _C

    op = REGISTRY["qkv_norm_rope"]
    case = next(c for c in op.cases if c.id == "tiny")
    args = op.make(case)
    put = [cupy.asarray(args[name].view(torch.uint8).numpy()) for name in op.args]
    shape = tuple(op.out["q"].shape(op.dims(args)))
    q, k, v = (cupy.zeros(shape, "uint16") for _ in op.out)
    stream = cupy.cuda.Stream()
    with stream:
        addresses = [x.data.ptr for x in (q, k, v)] + [0, 0] + [x.data.ptr for x in put]
        _C.qkv_norm_rope(*addresses, *shape, args["eps"], stream.ptr)
    stream.synchronize()
    got = tuple(torch.from_numpy(cupy.asnumpy(x)).view(torch.bfloat16) for x in (q, k, v))
    assert all(ok for _, ok, _ in op.check(got, op.reference(**args)))
