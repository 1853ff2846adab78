"""Text and image cross attention: one query, two key sets, two softmaxes, their sum, as it is or as e4m3 codes."""

import math

import torch

from liveact_kernels.common.softmax import HEAD_CODES, attend, few_channels, per_head, small_integers
from liveact_kernels.contract import ACT, Case, Op, Rel, T, bf16, compute_kind, f32, fp8


def reference(q, k_text, v_text, k_image, v_image, pad: int = 1):
    """out = softmax(q k_text^T / sqrt(D) + bias) v_text + softmax(q k_image^T / sqrt(D)) v_image.

    q                [L, H, D] activations (normalised, not roped)
    k_text, v_text   [N, H, D]: the prompt's rows; the last one stands for `pad` identical padding rows, so its
                     score gets log(pad): the same result as all 512 released rows
    k_image, v_image [I, H, D]
    out              [L, H, D]
    Source           Wan2.1 image-to-video cross attention; padding rows are equal after the text MLP (zero input).
    """
    bias = torch.zeros(k_text.shape[0], dtype=torch.float64, device=q.device)
    bias[-1] = math.log(pad)

    def one(k, v, b):
        scores = torch.einsum("lhd,rhd->hlr", q.double(), k.double()) * q.shape[-1] ** -0.5
        return torch.einsum("hlr,rhd->lhd", (scores + b).softmax(-1), v.double())

    return one(k_text, v_text, bias) + one(k_image, v_image, 0.0)


def quantised(q, k_text, v_text, k_image, v_image, pad: int = 1):
    """cross_attention, then e4m3 with one scale per token and head: out ~ x8 * x_scale, as `quant` with H groups.

    x8 [L, H, D] e4m3; x_scale [L, H] f32 = max|row of a head| / 448, at least 1e-12.
    """
    out = reference(q, k_text, v_text, k_image, v_image, pad)
    scale = (out.abs().amax(-1) / 448).clamp_min(1e-12)
    return out / scale[..., None], scale


def torch_backend(q, k_text, v_text, k_image, v_image, pad=1):
    """Plain eager torch: any device, differentiable."""
    bias = None
    if pad != 1:
        bias = torch.nn.functional.pad(q.new_full((1,), math.log(pad)), (k_text.shape[-3] - 1, 0))
    return attend(q, k_text, v_text, bias) + attend(q, k_image, v_image)


def torch_quantised(q, k_text, v_text, k_image, v_image, pad=1):
    """Plain eager torch in float32: any device."""
    return per_head(torch_backend(*(x.float() for x in (q, k_text, v_text, k_image, v_image)), pad=pad))


_ARGS = {
    "q": T("L H D", ACT),
    "k_text": T("N H D", ACT),
    "v_text": T("N H D", ACT),
    "k_image": T("I H D", ACT),
    "v_image": T("I H D", ACT),
}
_EXACT = _ARGS | {
    "q": T("L H D", ACT, draw=few_channels),
    "k_text": T("N H D", ACT, draw=small_integers),
    "k_image": T("I H D", ACT, draw=small_integers),
}


def _cases(*pads: int) -> list[Case]:
    tiny, bf16_, ragged, odd, live = pads
    return [
        Case("tiny", L=6, N=5, I=7, H=2, D=16, A=f32, pad=tiny),
        Case("no_padding", L=5, N=4, I=3, H=3, D=20, A=f32),
        Case("bf16", L=8, N=9, I=17, H=2, D=32, A=bf16, pad=bf16_),
        Case("ragged", L=130, N=70, I=129, H=2, D=32, A=bf16, pad=ragged),
        Case("ragged_odd", L=140, N=64, I=20, H=3, D=20, A=bf16, pad=odd),
        Case("live_512x512", rung="device", L=8192, N=512, I=257, H=40, D=128, A=bf16),
        Case("live_416x720", rung="device", L=9360, N=100, I=257, H=40, D=128, A=bf16, pad=live),
        Case("live_416x720_long", rung="device", L=9360, N=512, I=257, H=40, D=128, A=bf16),
    ]



cross_attention = Op(
    "cross_attention",
    reference=reference,
    args=_ARGS,
    out={"out": T("L H D", ACT)},
    require=("pad >= 1",),
    flops=lambda d: {compute_kind(d.A): 4 * d.L * (d.N + d.I) * d.H * d.D},
    tol=Rel(5.0, "two fp32 softmaxes, probabilities and both halves rounded to the activation dtype"),
    rows="L",
    cases=_cases(11, 500, 9, 3, 413),
    backends={"torch": torch_backend, "triton": f"{__name__}.triton_kernel:launch"},
)

cross_attention_quant = Op(
    "cross_attention_quant",
    reference=quantised,
    args=_EXACT,
    out={"x8": T("L H D", fp8), "x_scale": T("L H", f32)},
    require=("pad >= 1",),
    flops=lambda d: {compute_kind(d.A): 4 * d.L * (d.N + d.I) * d.H * d.D},
    tol=HEAD_CODES,
    rows="L",
    cases=_cases(16, 512, 8, 4, 256),  # powers of two: see _EXACT
    backends={"torch": torch_quantised, "triton": f"{__name__}.triton_kernel:launch_quant"},
)
