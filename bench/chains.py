"""The unfused chains of the ops as the released path runs them: kernel by kernel, with its roundings and layouts.

`x_prepare` brings an op's arguments to the form that chain x takes. Shapes and names are those of the op's reference.
"""

from __future__ import annotations

import root  # noqa: F401
import torch
import torch.nn.functional as F

from liveact_kernels.common.quantise import dequantise, per_group
from liveact_kernels.common.rope import rotate
from liveact_kernels.ops.attention_8bit.torch_backend import plain_keys, plain_values

bf16, e4m3 = torch.bfloat16, torch.float8_e4m3fn

# ---- norms and rotation ------------------------------------------------------------------------------------------


def modulate(x, mul, add, eps=1e-6):
    y = F.layer_norm(x.float(), (x.shape[-1],), eps=eps).to(x.dtype)
    return (y.float() * mul + add).to(x.dtype)


def modulate_quant(x, mul, add, eps=1e-6):
    return per_group(modulate(x, mul, add, eps), 1)


def _rms(x, weight, eps):
    x32 = x.float()
    return (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + eps)).to(x.dtype) * weight.to(x.dtype)


def _complex_rope(x, turn):
    """Rotation in complex128: x [.., H, D], turn [.., D/2]."""
    pairs = torch.view_as_complex(x.double().contiguous().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn[..., None, :]).flatten(-2).to(x.dtype)


def _turn(rope):
    return torch.view_as_complex(rope.double().contiguous())


def qkv(qkv, norm_q, norm_k, turn, eps):
    q, k, v = qkv.chunk(3, -1)
    heads = (-1, 2 * turn.shape[-1])
    q, k = (_rms(x, w, eps).unflatten(-1, heads) for x, w in ((q, norm_q), (k, norm_k)))
    return _complex_rope(q, turn), _complex_rope(k, turn), v.unflatten(-1, heads).contiguous()


def qkv_prepare(qkv, norm_q, norm_k, rope, eps=1e-6):
    return {"qkv": qkv, "norm_q": norm_q, "norm_k": norm_k, "turn": _turn(rope), "eps": eps}


def qkv_codes(**made):
    q, k, v = qkv(**made)
    coded = [per_group(x, 1, d, power_of_two=d == e4m3) for x, d in ((q, torch.int8), (k, torch.int8), (v, e4m3))]
    return *(codes for codes, _ in coded), *(scale.squeeze(-1) for _, scale in coded)


# ---- e4m3 linears: one scale per token, quantised in front of every layer ----------------------------------------


def scaled_mm(x, w8, w_scale, b):
    x8, scale = per_group(x, 1)
    if any(n % 16 for n in w8.shape):  # the library refuses such sizes
        y = F.linear(dequantise(x8, scale), w8.float() * w_scale[:, None]).to(bf16)
    else:
        y = torch._scaled_mm(x8, w8.t(), scale_a=scale, scale_b=w_scale[None, :], out_dtype=bf16)
    return y if b is None else y + b.to(bf16)


def fp8_prepare(a8, a_scale, w8, w_scale, b, **more):
    x = more.get("x")
    kept = {k: v.to(bf16) if v is x and v is not None else v for k, v in more.items() if k != "out_dtype"}
    kept = {("residual" if k == "x" else k): v for k, v in kept.items()}
    return {"x": dequantise(a8, a_scale).to(bf16), "w8": w8, "w_scale": w_scale, "b": b, **kept}


def fp8_gelu(x, w8, w_scale, b):
    y = F.gelu(scaled_mm(x, w8, w_scale, b), approximate="tanh")
    return per_group(y, y.shape[-1] // 128 if y.shape[-1] % 128 == 0 else 1)


def fp8_gate(x, w8, w_scale, b, residual, gate):
    return residual + (scaled_mm(x, w8, w_scale, b).float() * gate).to(bf16)


def fp8_residual(x, w8, w_scale, b, residual):
    return residual + scaled_mm(x, w8, w_scale, b)


FP8_NOTE = "bf16 in: quantises per token, scaled_mm row-wise, then the epilogue as kernels of its own"

# ---- memory ------------------------------------------------------------------------------------------------------


def _slots(new, new_scale, mem, mem_scale, rope):
    def plain(x, scale):
        return x.float() if scale is None else x.float() * scale[..., None]

    new = plain(new, new_scale) if mem is None else torch.cat((plain(mem, mem_scale), plain(new, new_scale)))
    return (new if rope is None else rotate(new, rope, inverse=True)).to(bf16)


def compress_prepare(
    k_new, v_new, k_mem, v_mem, k_scale, v_scale, k_new_scale, v_new_scale, taps, taps_v, rope, schedule, tokens,
    k_dtype, v_dtype, grouping="raster",
):  # fmt: skip
    def conv_weight(t):
        return t.flatten(1).t().unsqueeze(1).to(bf16).contiguous()  # [C, 1, S]

    return {
        "k": _slots(k_new, k_new_scale, k_mem, k_scale, rope),
        "v": _slots(v_new, v_new_scale, v_mem, v_scale, None),
        "wk": conv_weight(taps), "wv": conv_weight(taps if taps_v is None else taps_v), "turn": _turn(rope),
        "schedule": schedule, "tokens": tokens, "k_dtype": k_dtype, "v_dtype": v_dtype, "grouping": grouping,
    }  # fmt: skip


def _conv(slots, weight, grouping):
    """slots [S, tokens, H, D] -> [tokens, H, D] with a depthwise strided Conv1d over the flattened tokens."""
    if slots.shape[0] == 1:
        return slots[0]
    if grouping == "temporal":
        slots = slots.transpose(0, 1)
    flat = slots.flatten(0, 1).flatten(1).t()[None]  # [1, C, S * tokens]
    if flat.device.type == "cpu":  # whose narrow depthwise convolutions are wrong on some processors: WideConv1d
        flat, weight = flat.float(), weight.float()
    out = F.conv1d(flat, weight, stride=weight.shape[-1], groups=weight.shape[0]).to(slots.dtype)
    return out[0].t().unflatten(-1, slots.shape[2:])


def compress(k, v, wk, wv, turn, schedule, tokens, k_dtype, v_dtype, grouping):
    k, v, turn = (x.unflatten(0, (-1, tokens)) for x in (k, v, turn))
    def taken(x, s):  # x[[...]] would copy the indices from the host, which no graph can hold
        return torch.stack([x[i] for i in s])

    keys = torch.cat([_complex_rope(_conv(taken(k, s), wk, grouping), turn[slot]) for slot, s in schedule])
    values = torch.cat([_conv(taken(v, s), wv, grouping) for _, s in schedule])
    (keys, k_scale), (values, v_scale) = _stored(keys, k_dtype), _stored(values, v_dtype)
    return keys, values, k_scale, v_scale


def _stored(x, dtype):
    if dtype.itemsize > 1:
        return x.to(dtype), None
    codes, scale = per_group(x, 1, dtype, power_of_two=dtype == torch.float8_e4m3fn)
    return codes, scale.squeeze(-1)


# ---- attention ---------------------------------------------------------------------------------------------------


def cross_prepare(q, k_text, v_text, k_image, v_image, pad=1):
    k_text, v_text = (torch.cat((x, x[-1:].expand(pad - 1, -1, -1))) for x in (k_text, v_text))
    return {"q": q, "k_text": k_text, "v_text": v_text, "k_image": k_image, "v_image": v_image}


def cross(q, k_text, v_text, k_image, v_image):
    def attend(k, v):
        heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
        return F.scaled_dot_product_attention(*heads_first)[0].transpose(0, 1)

    return attend(k_text, v_text) + attend(k_image, v_image)


def _heads_first(*tensors):
    return [x.transpose(0, 1)[None].contiguous() for x in tensors]


def codes_prepare(q, q_scale, k_new, k_new_scale, v_new, v_new_scale, k_mem=None, k_mem_scale=None, v_mem=None,
                  v_mem_scale=None, out_dtype=bf16):  # fmt: skip
    """What the codes of attention_8bit stand for, in bf16: the product that they replace."""
    k, v = plain_keys(k_new, k_new_scale), plain_values(v_new, v_new_scale, k_new.shape[0])
    if k_mem is not None:
        k = torch.cat((plain_keys(k_mem, k_mem_scale), k))
        v = torch.cat((plain_values(v_mem, v_mem_scale, k_mem.shape[0]), v))
    q, k, v = _heads_first(*(x.to(bf16) for x in (q.float() * q_scale[..., None], k, v)))
    return {"q": q, "k": k, "v": v, "out_dtype": out_dtype}


def bf16_attention(q, k, v, out_dtype):
    out = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)
    if out_dtype != torch.float8_e4m3fn:
        return out.to(out_dtype), None
    codes, scale = per_group(out, 1)
    return codes, scale.squeeze(-1)


# ---- VAE, channels first as released ------------------------------------------------------------------------------


def _first(x):
    return None if x is None else x.permute(3, 0, 1, 2)[None].contiguous()


def last(x):
    return x[0].permute(1, 2, 3, 0)


def norm_prepare(x, gamma, silu=True):
    return {"x": _first(x), "gamma": gamma.view(-1, 1, 1, 1), "silu": silu}


def norm_silu(x, gamma, silu):
    y = F.normalize(x.float(), dim=1) * x.shape[1] ** 0.5 * gamma.float()
    return (F.silu(y) if silu else y).to(x.dtype)


def conv3d_prepare(x, w, bias, prev=None, residual=None, stride_t=1, stride=1, interleave=1):
    return {
        "x": _first(x), "w": w.permute(0, 4, 3, 1, 2).contiguous(), "bias": bias, "prev": _first(prev),
        "residual": _first(residual), "stride_t": stride_t, "stride": stride, "interleave": interleave,
    }  # fmt: skip


def conv3d(x, w, bias, prev, residual, stride_t, stride, interleave):
    kt, kh, kw = w.shape[2:]
    history = kt - stride_t
    if history:
        x = torch.cat((x.new_zeros(*x.shape[:2], history, *x.shape[3:]) if prev is None else prev, x), 2)
    high, wide = kh - stride, kw - stride
    x = F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2))
    out = F.conv3d(x, w, bias, (stride_t, stride, stride))
    if interleave > 1:
        out = torch.stack(out.chunk(interleave, 1), 3).flatten(2, 3)
    return out if residual is None else out + residual
