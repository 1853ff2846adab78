"""Unpatchify and sampler update in one launch: tokens are read where they lie, the latent is written in its order."""

from __future__ import annotations

import triton
import triton.language as tl

from liveact_kernels import tuned
from liveact_kernels.common.tiles import OPTIONS
from liveact_kernels.contract import mark


@triton.jit
def denoise_update_kernel(
    out, tokens, latent, noise, c_latent, c_velocity, c_noise, F,
    Z: tl.constexpr, Y: tl.constexpr, X: tl.constexpr, BLOCK_Z: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK positions of the flattened [F, Y, X], all Z channels."""
    z = tl.arange(0, BLOCK_Z)[None, :]
    p = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK))[:, None]
    mask = (p < F * Y * X) & (z < Z)
    line, x = p // X, p % X
    frame, y = line // Y, line % Y
    token = (frame * (Y // 2) + y // 2) * (X // 2) + x // 2
    velocity = tl.load(tokens + (token * 4 + (y % 2) * 2 + x % 2) * Z + z, mask=mask, other=0.0).to(tl.float32)
    at = z * (F * Y * X) + p
    value = c_latent * tl.load(latent + at, mask=mask, other=0.0).to(tl.float32) + c_velocity * velocity
    if noise is not None:
        value += c_noise * tl.load(noise + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


def _heuristic(at: tuned.Limits, F: int, Y: int, X: int) -> dict[str, int]:
    return {"block": 64, "warps": 4}


def launch(out, tokens, latent, noise, c_latent, c_velocity, c_noise=0.0):
    """See reference."""
    Z, F, Y, X = latent.shape
    c = tuned.config("denoise_update", _heuristic, tuned.limits(latent.device), F=F, Y=Y, X=X)
    grid = (triton.cdiv(F * Y * X, c["block"]),)
    denoise_update_kernel[grid](
        out, tokens, latent, noise, float(c_latent), float(c_velocity), float(c_noise), F,
        Z, Y, X, triton.next_power_of_2(Z), c["block"], num_warps=c["warps"], **OPTIONS,
    )  # fmt: skip


mark(launch, candidates=tuned.grid(block=(32, 64, 128, 256), warps=(1, 2, 4, 8)))
