"""Single-head attention over the pixels of each latent frame."""

import torch.nn.functional as F

from liveact_kernels.contract import ACT, Case, Op, Rel, T, bf16, compute_kind, f32


def reference(qkv):
    """out[f] = softmax(q k^T / sqrt(C)) v over the H*W pixels of frame f.

    qkv [F, H, W, 3C]: queries, keys, values in this order; out [F, H, W, C] in qkv's dtype, fp32 softmax.
    Source: Wan2.1 VAE, the attention in the middle of the encoder and of the decoder (one head, no mask).
    """
    q, k, v = qkv.double().flatten(1, 2).chunk(3, -1)
    p = (q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1)
    return (p @ v).unflatten(1, qkv.shape[1:3])


def torch_backend(qkv):
    """Plain eager torch: any device, differentiable."""
    q, k, v = qkv.flatten(1, 2).unsqueeze(1).chunk(3, -1)
    return F.scaled_dot_product_attention(q, k, v).squeeze(1).unflatten(1, qkv.shape[1:3])


def _flops(d):
    return {compute_kind(d.A): 4 * d.F * (d.H * d.W) ** 2 * d.C}


frame_attention = Op(
    "frame_attention",
    reference=reference,
    args={"qkv": T("F H W Q", ACT)},
    out={"out": T("F H W C", ACT)},
    where={"C": "Q // 3"},
    require=("Q % 3 == 0",),
    flops=_flops,
    tol=Rel(3.0, "fp32 softmax; probabilities may be rounded to the activation dtype before the second product"),
    rows="F",
    cases=[
        Case("tiny", F=2, H=3, W=5, Q=96, A=bf16),
        Case("tiny_f32", F=3, H=2, W=2, Q=24, A=f32),
        Case("live_512x512", rung="device", F=8, H=64, W=64, Q=1152, A=bf16),
        Case("live_720x416", rung="device", F=8, H=90, W=52, Q=1152, A=bf16),
    ],
    backends={"torch": torch_backend},
)
