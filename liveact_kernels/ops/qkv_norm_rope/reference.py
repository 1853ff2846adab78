"""RMS norm of q and k over all channels, 3-D rope, split into heads, in float64."""

import torch

from liveact_kernels.common.quantise import next_power_of_two


def qkv_norm_rope(qkv, norm_q, norm_k, rope, eps: float = 1e-6):
    """q = rotate(rms(q) * norm_q), k = rotate(rms(k) * norm_k), v as it is.

    qkv             [L, 3*C] activations: q, k and v side by side
    norm_q, norm_k  [C] f32; the mean of squares runs over all C channels, before heads are split
    rope            [L, D/2, 2] f32: cos and sin per token and channel pair; pair i is channels (2i, 2i+1) of a head
    q, k, v         [L, H, D] in qkv's dtype; fp32 inside, one rounding
    Source          Wan2.1 self attention; keys are cached as they come out here, roped at their slot's position.
    """
    q, k, v = qkv.double().chunk(3, -1)
    heads = (-1, 2 * rope.shape[1])

    def norm(x, w):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * w.double()

    def rotate(x):
        pairs = torch.view_as_complex(x.unflatten(-1, heads).unflatten(-1, (-1, 2)).contiguous())
        turn = torch.view_as_complex(rope.double().contiguous())[:, None]
        return torch.view_as_real(pairs * turn).flatten(-2)

    return rotate(norm(q, norm_q)), rotate(norm(k, norm_k)), v.unflatten(-1, heads)


def qkv_norm_rope_8bit(qkv, norm_q, norm_k, rope, eps: float = 1e-6):
    """qkv_norm_rope, then q and k as int8 and v as e4m3, with one scale per token and head: value = code * scale.

    qkv, norm_q, norm_k, rope  as in qkv_norm_rope
    q, k     [L, H, D] int8, to nearest even, of the values before any rounding; q_scale, k_scale [L, H] f32 =
             max|row of a head| / 127, at least 1e-12
    v        [L, H, D] e4m3; v_scale [L, H] f32 = max|row of a head| / 448, at least 1e-12, rounded up to a power of
             two, so that `head_major` can bring neighbouring tokens to one scale without rounding again
    returns  q, k, v, q_scale, k_scale, v_scale
    Source   int8 keys err less than e4m3 ones in the recorded runs: ops/kv_compress/NOTES.md.
    """
    codes, scales = [], []
    for x, most in zip(qkv_norm_rope(qkv, norm_q, norm_k, rope, eps), (127, 127, 448)):
        scale = (x.abs().amax(-1) / most).clamp_min(1e-12)
        scales.append(scale if most == 127 else next_power_of_two(scale))
        codes.append(x / scales[-1][..., None])
    return (*codes, *scales)
