"""One sampler update straight from the head's tokens."""

import torch

from liveact_kernels.contract import ACT, ByDtype, Case, Op, Rel, T, Ulp, bf16, f32


def reference(tokens, latent, noise, c_latent: float, c_velocity: float, c_noise: float = 0.0):
    """out = c_latent * latent + c_velocity * unpatchify(tokens) + c_noise * noise.

    tokens         [F*Y*X/4, 4*Z] activations: the head's output, token order (frame, row, column), value order
                   (row in patch, column in patch, channel) with the channel fastest
    latent, noise  [Z, F, Y, X] activations; noise may be None when c_noise is 0
    out            [Z, F, Y, X]
    x0-and-renoise: c = (1 - s', -(1 - s') s, s'); Euler: c = (1, s' - s, 0); the velocity alone: c = (0, 1, 0),
    where s and s' are the sigmas before and after.
    Source: the released loop; v = noise - x0, x0 = latent - s v, latent' = (1 - s') x0 + s' noise.
    """
    z, f, y, x = latent.shape
    v = tokens.double().reshape(f, y // 2, x // 2, 2, 2, z).permute(5, 0, 1, 3, 2, 4).reshape(z, f, y, x)
    out = c_latent * latent.double() + c_velocity * v
    return out if noise is None else out + c_noise * noise.double()


def torch_backend(tokens, latent, noise, c_latent, c_velocity, c_noise=0.0):
    """Plain eager torch: any device, differentiable."""
    z, f, y, x = latent.shape
    v = tokens.reshape(f, y // 2, x // 2, 2, 2, z).permute(5, 0, 1, 3, 2, 4).reshape(z, f, y, x)
    out = torch.add(c_latent * latent.float(), v.float(), alpha=c_velocity)
    if noise is not None:
        out = torch.add(out, noise.float(), alpha=c_noise)
    return out.to(latent.dtype)


_WHY = "three fp32 multiply-adds, one rounding"

denoise_update = Op(
    "denoise_update",
    reference=reference,
    args={
        "tokens": T("F*Y*X//4 4*Z", ACT),
        "latent": T("Z F Y X", ACT),
        "noise": T("Z F Y X", ACT, optional=True),
    },
    out={"out": T("Z F Y X", ACT)},
    require=("Y % 2 == 0", "X % 2 == 0"),
    flops=lambda d: {"f32": 5 * d.Z * d.F * d.Y * d.X},
    tol=ByDtype({bf16: Ulp(1, 0.02, _WHY, floor=1e-6), f32: Rel(2.0, _WHY)}),
    cases=[
        Case("renoise", Z=4, F=3, Y=4, X=6, A=bf16, has_noise=True, c_latent=0.1, c_velocity=-0.09, c_noise=0.9),
        Case("euler", Z=5, F=2, Y=2, X=4, A=f32, c_latent=1.0, c_velocity=-0.1),
        Case("live_512x512", rung="device", Z=16, F=8, Y=64, X=64, A=bf16, has_noise=True,
             c_latent=0.1, c_velocity=-0.09, c_noise=0.9),
    ],
    backends={"torch": torch_backend, "triton": f"{__name__}.triton_kernel:launch"},
)  # fmt: skip
