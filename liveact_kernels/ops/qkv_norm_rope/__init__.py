"""The joint qkv row -> attention-ready queries, keys and values, in the activations' dtype or as 8-bit codes."""

from liveact_kernels.common.rope import draw_rope
from liveact_kernels.contract import ACT, Case, Op, Rel, T, Ulp, bf16, f32, fp8, int8

from . import reference as ref

_TOL = Rel(3.0, "fp32 inside, one rounding; in float32 the norm and the rotation add their own")
_CODES = Ulp(1, 0.01, "fp32 inside, one rounding; an fp32 scale moves codes across rounding boundaries")
_SCALE = Ulp(64, 1.0, "fp32 norm and rotation before the maximum")


def _op(name, out, flops, tol, **backends):
    return Op(
        name,
        reference=getattr(ref, name),
        args={
            "qkv": T("L 3*C", ACT),
            "norm_q": T("C", f32),
            "norm_k": T("C", f32),
            "rope": T("L E 2", f32, draw=draw_rope),
        },
        where={"D": "2 * E", "H": "C // (2 * E)"},
        require=("C % (2 * E) == 0",),
        out=out,
        flops=lambda d: {"f32": flops * d.L * d.C},
        tol=tol,
        rows="L",
        cases=[
            Case("tiny", L=6, C=64, E=16, A=bf16),
            Case("odd_heads", L=5, C=120, E=20, A=f32),
            Case("live_512x512", rung="device", L=8192, C=5120, E=64, A=bf16),
            Case("live_416x720", rung="device", L=9360, C=5120, E=64, A=bf16),
        ],
        backends={"torch": f"{__name__}.torch_backend:{name}", "triton": f"{__name__}.triton_kernel:{name}"}
        | backends,
    )


_PLAIN = dict.fromkeys("qkv", T("L H D", ACT))

qkv_norm_rope = _op("qkv_norm_rope", _PLAIN, 20, _TOL, cuda=f"{__name__}.cuda_kernel:launch")

qkv_norm_rope_8bit = _op(
    "qkv_norm_rope_8bit",
    {"q": T("L H D", int8), "k": T("L H D", int8), "v": T("L H D", fp8)}
    | dict.fromkeys(("q_scale", "k_scale", "v_scale"), T("L H", f32)),
    30,
    dict.fromkeys("qkv", _CODES) | dict.fromkeys(("q_scale", "k_scale", "v_scale"), _SCALE),
    cuda=f"{__name__}.cuda_kernel:launch_8bit",
)
