"""A convolution that is computed in float32 whatever the dtype of the network around it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class WideConv1d(nn.Conv1d):
    """nn.Conv1d with parameters, products and sums in float32 at least; x [B, C, T] -> the dtype of x.

    For grouped convolutions: torch's narrow ones are wrong on some processors (oneDNN 3.12 with AMX, bf16, up to four
    channels a group) and slow on the others. A cast of the module to a narrower dtype leaves its parameters as they
    are; weights that come narrow want `widen`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """See nn.Conv1d."""
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)

    def widen(self) -> None:
        """Parameters that are narrower than float32 become float32, once."""
        for name, p in self.named_parameters():
            if p.element_size() < 4:
                setattr(self, name, nn.Parameter(p.float(), requires_grad=p.requires_grad))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> WideConv1d:
        def move(t: Tensor) -> Tensor:
            moved = fn(t)
            return moved if moved.element_size() >= 4 else t.to(moved.device)

        return super()._apply(move, recurse)
