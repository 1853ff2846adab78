"""Dims of kv_compress cases that the shim on the CPU and the tests on a GPU share."""

from liveact_kernels.contract import bf16, fp8, int8
from liveact_kernels.ops.kv_compress import STEADY

KINDS = {
    "bf16": {"KN": bf16, "VN": bf16, "KM": bf16, "VM": bf16},
    "eight_bit": {"KN": bf16, "VN": bf16, "KM": int8, "VM": fp8, "has_k_scale": True, "has_v_scale": True},
    "codes": {"KN": int8, "VN": fp8, "KM": int8, "VM": fp8}
    | {f"has_{name}": True for name in ("k_scale", "v_scale", "k_new_scale", "v_new_scale")},
}
"""Memory and block in bf16; memory as codes; both as codes."""


def window(tokens, kind="bf16", **more):
    """A steady update: six memory slots, eight new ones."""
    dims = {"has_k_mem": True, "has_v_mem": True, "P": 6 * tokens, "R": 8 * tokens, "tokens": tokens, "S": 5}
    dims |= KINDS[kind] | {"schedule": STEADY}
    return dims | {"k_dtype": dims["KM"], "v_dtype": dims["VM"]} | more


CHUNKS = {
    f"{kind}_{grouping}_{heads}": dict(H=heads, E=128, **window(67, kind, grouping=grouping))
    for kind in KINDS
    for grouping in ("raster", "temporal")
    for heads in (1, 4)
}
"""Every kernel that may run in place, in both orders, with more tokens than a block or a cluster takes at once: at
D = 256 a block takes 8 of them (16 where an entry reads no memory) and a cluster 64."""
