"""The joint qkv row -> attention-ready queries, keys and values."""

from liveact_kernels.common.rope import draw_rope
from liveact_kernels.contract import ACT, Case, Op, Rel, T, bf16, f32

from .reference import qkv_norm_rope as _reference

_TOL = Rel(3.0, "fp32 inside, one rounding; in float32 the norm and the rotation add their own")

qkv_norm_rope = Op(
    "qkv_norm_rope",
    reference=_reference,
    args={
        "qkv": T("L 3*C", ACT),
        "norm_q": T("C", f32),
        "norm_k": T("C", f32),
        "rope": T("L E 2", f32, draw=draw_rope),
    },
    where={"D": "2 * E", "H": "C // (2 * E)"},
    require=("C % (2 * E) == 0",),
    out={"q": T("L H D", ACT), "k": T("L H D", ACT), "v": T("L H D", ACT)},
    flops=lambda d: {"f32": 20 * d.L * d.C},
    tol={"q": _TOL, "k": _TOL, "v": _TOL},
    rows="L",
    cases=[
        Case("tiny", L=6, C=64, E=16, A=bf16),
        Case("odd_heads", L=5, C=120, E=20, A=f32),
        Case("live_512x512", rung="device", L=8192, C=5120, E=64, A=bf16),
        Case("live_416x720", rung="device", L=9360, C=5120, E=64, A=bf16),
    ],
    backends={"torch": f"{__name__}.torch_backend:qkv_norm_rope", "triton": f"{__name__}.triton_kernel:launch"},
)
