"""Audio cross attention: the tokens of a latent frame see that latent frame's audio tokens only."""

import torch

from liveact_kernels.common.softmax import HEAD_CODES, attend, few_channels, per_head, small_integers
from liveact_kernels.contract import ACT, Case, Op, Rel, T, bf16, compute_kind, f32, fp8


def reference(q, k, v):
    """out[j] = softmax(q[j] k[j]^T / sqrt(D)) v[j] for each latent frame j.

    q    [L, H, D] activations: F latent frames of L / F tokens (not normalised, not roped)
    k, v [F, N, H, D]: N audio tokens per latent frame
    out  [L, H, D]
    Source  the released audio cross attention (32 tokens per latent frame, no mask, scale D^-0.5).
    """
    f = k.shape[0]
    scores = torch.einsum("flhd,fnhd->fhln", q.double().unflatten(0, (f, -1)), k.double()) * q.shape[-1] ** -0.5
    return torch.einsum("fhln,fnhd->flhd", scores.softmax(-1), v.double()).flatten(0, 1)


def quantised(q, k, v):
    """audio_attention, then e4m3 with one scale per token and head: out ~ x8 * x_scale, as `quant` with H groups.

    x8 [L, H, D] e4m3; x_scale [L, H] f32 = max|row of a head| / 448, at least 1e-12.
    """
    out = reference(q, k, v)
    scale = (out.abs().amax(-1) / 448).clamp_min(1e-12)
    return out / scale[..., None], scale


def torch_backend(q, k, v):
    """Plain eager torch: any device, differentiable."""
    return attend(q.unflatten(0, (k.shape[0], -1)), k, v).flatten(0, 1)


def torch_quantised(q, k, v):
    """Plain eager torch in float32: any device."""
    return per_head(torch_backend(q.float(), k.float(), v.float()))


_ARGS = {"q": T("L H D", ACT), "k": T("F N H D", ACT), "v": T("F N H D", ACT)}
_CASES = [
    Case("tiny", L=12, F=3, N=4, H=2, D=16, A=f32),
    Case("bf16", L=10, F=2, N=8, H=3, D=20, A=bf16),
    Case("ragged", L=140, F=2, N=21, H=5, D=32, A=bf16),
    Case("many_keys", L=80, F=2, N=100, H=1, D=24, A=bf16),
    Case("live_512x512", rung="device", L=8192, F=8, N=32, H=40, D=128, A=bf16),
    Case("live_416x720", rung="device", L=9360, F=8, N=32, H=40, D=128, A=bf16),
]

audio_attention = Op(
    "audio_attention",
    reference=reference,
    args=_ARGS,
    out={"out": T("L H D", ACT)},
    require=("L % F == 0",),
    flops=lambda d: {compute_kind(d.A): 4 * d.L * d.N * d.H * d.D},
    tol=Rel(5.0, "fp32 softmax; probabilities rounded to the activation dtype before the second product"),
    rows="H",
    cases=_CASES,
    backends={"torch": torch_backend, "triton": f"{__name__}.triton_kernel:launch"},
)

audio_attention_quant = Op(
    "audio_attention_quant",
    reference=quantised,
    args=_ARGS | {"q": T("L H D", ACT, draw=few_channels), "k": T("F N H D", ACT, draw=small_integers)},
    out={"x8": T("L H D", fp8), "x_scale": T("L H", f32)},
    require=("L % F == 0",),
    flops=lambda d: {compute_kind(d.A): 4 * d.L * d.N * d.H * d.D},
    tol=HEAD_CODES,
    rows="H",
    cases=_CASES,
    backends={"torch": torch_quantised, "triton": f"{__name__}.triton_kernel:launch_quant"},
)
