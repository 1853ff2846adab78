"""Error of the denoiser with weights and activations of 4 bits, on recorded runs of the released model.

    python bench/fp4.py --out bench/results/cpu/fp4.jsonl

Every call of the recorded runs of tests/golden (dit_tiny, variant conv: 6 blocks, 3 steps) is replayed, teacher-forced;
a row is the relative L2 error of the velocities against the float32 recording, block by block. Formats of ours run as
`--dtype` runs them. Recipes are emulated in the float32 model: both operands of each linear layer are rounded and the
product is exact, so those rows have no rounding of activations to bf16.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import root  # noqa: F401
import torch
from torch import Tensor

from liveact_app.verify import golden
from liveact_app.verify.dit import Replay
from liveact_kernels.common import fp4
from liveact_kernels.contract import fp8, to_fp8, u8
from liveact_model.dit import Linear
from liveact_model.dit.formats import Wide

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "dit_tiny.json"
OURS = ("bfloat16", "fp8", "nvfp4", "mxfp4")
Round = Callable[[Tensor], Tensor]


def grid(q: Tensor) -> Tensor:
    """Every value as its nearest e2m1."""
    return fp4.values(fp4.pack(fp4.e2m1(q)))


def released(t: Tensor, dims: tuple[int, ...] = (0, 1)) -> Tensor:
    """NVFP4 as released: one float32 scale, absmax / 2688, over `dims`, e4m3 scales of 16 values below it."""
    whole = t.abs().amax(dims, keepdim=True).clamp_min(1e-5) / (448 * 6)
    blocks = (t / whole).unflatten(-1, (-1, 16))
    scale = to_fp8(blocks.abs().amax(-1, keepdim=True) / 6).float()
    codes = grid((blocks / torch.where(scale == 0, 1, scale)).flatten(-2)).unflatten(-1, (-1, 16))
    return (codes * scale).flatten(-2) * whole


def ours(scale_dtype: torch.dtype) -> Round:
    """As `quant_fp4` rounds."""
    return lambda t: fp4.dequantise_fp4(*fp4.quantise_fp4(t, scale_dtype))


def best_of(*largest: float) -> Round:
    """nvfp4 whose blocks map their maximum to whichever of these has the least squared error."""

    def rounded(t: Tensor) -> Tensor:
        blocks = t.unflatten(-1, (-1, 16))
        top, made = blocks.abs().amax(-1, keepdim=True).clamp_min(fp4.SMALLEST), []
        for most in largest:
            scale = fp4.four_bits(top / most)
            made.append(grid((blocks / scale).flatten(-2)).unflatten(-1, (-1, 16)) * scale)
        errors = torch.stack([(m - blocks).square().sum(-1) for m in made])
        return torch.stack(made).gather(0, errors.argmin(0)[None, ..., None].expand(1, *blocks.shape))[0].flatten(-2)

    return rounded


def raised(t: Tensor) -> Tensor:
    """mxfp4 with scales rounded up, so that nothing is above 6: the other rule."""
    blocks = t.unflatten(-1, (-1, 32))
    scale = fp4.next_power_of_two(blocks.abs().amax(-1, keepdim=True).clamp_min(fp4.SMALLEST) / 6)
    return (grid((blocks / scale).flatten(-2)).unflatten(-1, (-1, 32)) * scale).flatten(-2)


def plain(t: Tensor) -> Tensor:
    """Not rounded."""
    return t


NV, MX = ours(fp8), ours(u8)
RECIPES: dict[str, tuple[Round, Round, bool]] = {
    "nvfp4, released: a scale per tensor on both sides": (released, released, False),
    "nvfp4, a scale per tensor of weights, per token": (released, lambda t: released(t, (1,)), False),
    "nvfp4, ours": (NV, NV, False),
    "nvfp4, ours, every layer": (NV, NV, True),
    "nvfp4, ours, weights alone": (NV, plain, False),
    "nvfp4, ours, activations alone": (plain, NV, False),
    "nvfp4, weights by the better of 6 and 4": (best_of(6, 4), NV, False),
    "nvfp4, both by the better of 6 and 4": (best_of(6, 4), best_of(6, 4), False),
    "mxfp4, ours: scales as the OCP rule has them": (MX, MX, False),
    "mxfp4, scales rounded up": (raised, raised, False),
    "mxfp4, ours, every layer": (MX, MX, True),
}
"""Name -> (weights, activations, whether layers outside the blocks are rounded too, where their width allows it)."""


@contextlib.contextmanager
def rounding(run: Replay, weights: Round, activations: Round, every: bool) -> Iterator[None]:
    """Both operands of the linear layers rounded; the float32 products stay."""
    on = {m for n, m in run.dit.named_modules() if isinstance(m, Linear) and (every or n.startswith("blocks."))}
    on = {m for m in on if m.K % 32 == 0}
    for layer in on:
        assert layer.weight is not None, "the replay is in float32"
        layer.weight.data = weights(layer.weight.data)
    exact = Wide._args
    Wide._args = lambda self, layer, a: exact(self, layer, activations(a) if layer in on else a)  # type: ignore
    try:
        yield
    finally:
        Wide._args = exact  # type: ignore


def emulated(name: str) -> list[float]:
    """Errors by block of a recipe."""
    g = golden.load(GOLDEN)
    run = Replay(g, g, "conv", "conv")
    with rounding(run, *RECIPES[name]):
        return run.run().by_iteration("conv")


def real(dtype: str, eight_bit: bool = False) -> list[float]:
    """Errors by block of a format as it runs, with 8-bit memory and attention if asked."""
    g = golden.load(GOLDEN)
    return Replay(g, g, "conv", "conv", dtype, eight_bit=eight_bit, eight_bit_attention=eight_bit).run().by_iteration(
        "conv"
    )  # fmt: skip


def rows() -> Iterator[dict]:
    """Every row, as it is measured."""
    base = {"kind": "fp4", "case": "dit_tiny conv", "torch": torch.__version__}
    made = [(f"--dtype {d}", d, False) for d in OURS]
    made += [(f"--dtype {d} --eight-bit-attention", d, True) for d in OURS[1:]]
    for name, dtype, eight_bit in made:
        yield base | {"recipe": name, "emulated": False, **_numbers(real(dtype, eight_bit))}
    for name in RECIPES:
        yield base | {"recipe": name, "emulated": True, **_numbers(emulated(name))}


def _numbers(errors: list[float]) -> dict:
    return {"rel_l2": round(sum(errors) / len(errors), 4), "rel_l2_by_block": [round(e, 4) for e in errors]}


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="file of rows to write")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    found = []
    for row in rows():
        found.append(row)
        print(f"{row['rel_l2']:.4f}  {row['recipe']}", flush=True)
    if args.out:
        args.out.write_text("".join(f"{json.dumps(row)}\n" for row in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
