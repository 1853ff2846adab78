"""Results spoiled in ways that kernels get wrong: every tolerance must reject each."""

from collections.abc import Iterator

import torch

from liveact_kernels.contract import Op, cast


def truncate(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Stored without rounding to nearest."""
    if dtype == torch.int8:
        return x.trunc().to(dtype)
    keep = {2: ~0xFFFF, 1: ~0xFFFFF, 4: ~0x3FFF}[dtype.itemsize]
    return cast((x.float().contiguous().view(torch.int32) & keep).view(torch.float32), dtype)


SPOIL = {
    "truncating cast": truncate,
    "one row zero": lambda x, dtype: cast(torch.cat([x[:-1], x[-1:] * 0]), dtype),
    "shifted row": lambda x, dtype: cast(x, dtype).view(torch.uint8).roll(1, 0).view(dtype),
    "unwritten row": lambda x, dtype: torch.cat(
        [cast(x[:-1], dtype).view(torch.uint8), torch.full_like(cast(x[-1:], dtype).view(torch.uint8), 255)]
    ).view(dtype),
}
"""Name -> (float64 result, dtype) -> the spoiled result in that dtype."""


def spoiled(op: Op, got: tuple, want: tuple, spoil: str) -> Iterator[tuple[str, tuple]]:
    """(output, results with that one spoiled): what the op's tolerances must not accept.

    Outputs that a spoiler leaves as they are (one row, or a pure copy) have nothing to show and are left out.
    """
    for i, (name, good) in enumerate(zip(op.out, got)):
        if good is None:
            continue
        bad, right = SPOIL[spoil](want[i], good.dtype), cast(want[i], good.dtype).contiguous()
        if not torch.equal(bad.contiguous().view(torch.uint8), right.view(torch.uint8)):
            yield name, tuple(bad if i == j else g for j, g in enumerate(got))
