"""Audio cross attention: the tokens of a latent frame see that latent frame's audio tokens only."""

import torch

from liveact_kernels.common.softmax import attend
from liveact_kernels.contract import ACT, Case, Op, Rel, T, bf16, compute_kind, f32


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


def torch_backend(q, k, v):
    """Plain eager torch: any device, differentiable."""
    return attend(q.unflatten(0, (k.shape[0], -1)), k, v).flatten(0, 1)


audio_attention = Op(
    "audio_attention",
    reference=reference,
    args={"q": T("L H D", ACT), "k": T("F N H D", ACT), "v": T("F N H D", ACT)},
    out={"out": T("L H D", ACT)},
    require=("L % F == 0",),
    flops=lambda d: {compute_kind(d.A): 4 * d.L * d.N * d.H * d.D},
    tol=Rel(5.0, "fp32 softmax; probabilities rounded to the activation dtype before the second product"),
    rows="H",
    cases=[
        Case("tiny", L=12, F=3, N=4, H=2, D=16, A=f32),
        Case("bf16", L=10, F=2, N=8, H=3, D=20, A=bf16),
        Case("ragged", L=140, F=2, N=21, H=5, D=32, A=bf16),
        Case("many_keys", L=80, F=2, N=100, H=1, D=24, A=bf16),
        Case("live_512x512", rung="device", L=8192, F=8, N=32, H=40, D=128, A=bf16),
        Case("live_416x720", rung="device", L=9360, F=8, N=32, H=40, D=128, A=bf16),
    ],
    backends={"torch": torch_backend, "triton": f"{__name__}.triton_kernel:launch"},
)
