"""Several processes make one video: the tokens of every latent frame are shared out, the weights are not.

`SeqParallel` is what the model receives: itself the ordinary case of one process, which has all the tokens. `Ranks`
(in `ranks`) is the same for a group. Nothing else of the model knows ranks or imports torch.distributed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from liveact_kernels import ops

Made = TypeVar("Made")


class SeqParallel:
    """One process that has every token: nothing is shared out, nothing is sent.

    leads     whether this process has the inputs (image, text, audio) and takes the results
    captures  whether calls that meet other processes may be captured in graphs
    whole_memory  whether this process keeps the memory of every head
    """

    size = 1
    leads = True
    captures = True
    whole_memory = True

    def shard(self, x: Tensor, frames: int) -> Tensor:
        """This process's tokens [F*t, ...] of x [F*T, ...], F = `frames` latent frames; a piece of every one."""
        return x

    def unshard(self, x: Tensor, frames: int) -> Tensor:
        """The inverse of `shard`, on every process."""
        return x

    def own_heads(self, x: Tensor) -> Tensor:
        """Of x [S, H, D], the heads whose memory this process keeps."""
        return x

    def attend(
        self, layer: int, frames: int, q: Tensor, k: Tensor, v: Tensor, memory: dict[str, Tensor | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention of this process's queries over the memory and the whole block -> (out, block's k, block's v).

        q, k, v  [F*t, H, D] of this process's tokens, keys roped
        memory   k_mem, v_mem, k_scale, v_scale as in ops.attention; {} in the first block
        returns  out [F*t, H, D]; k and v of all tokens in global order, [F*T, H, D] of the heads of `own_heads`
        """
        return ops.attention(q=q, k_new=k, v_new=v, **memory), k, v

    def share(self, make: Callable[[], Made]) -> Made:
        """What `make` gives on the leading process: a tensor, or anything that pickles. Others do not call it."""
        return make()

    def spread(self, jobs: list[Callable[[], Tensor]]) -> list[Tensor]:
        """The results of all jobs on every process; each job is done by one of them."""
        return [job() for job in jobs]

    def piece(self, count: int) -> range:
        """This process's share of `count` things in a row, rows of a picture say; may be empty."""
        return range(count)

    def collect(self, x: Tensor, dim: int, count: int, each: int) -> Tensor | None:
        """Put the shares of all processes together along `dim` on the leading one; others get None.

        `count` things were shared out by `piece`; x has `each` entries along `dim` for every one of its own.
        """
        return x

    def decoder(self, vae: Any) -> Any:
        """A streaming decoder; its `decode` gives the video on the leading process and None on others."""
        return vae.stream()

    def on_end(self, action: Callable[[], None]) -> None:
        """Have `action` done if this process must be ended by force because another one is gone."""

    def close(self, code: int = 0, reason: str = "") -> None:
        """Leave the group. A code other than 0 ends every other process, too: with this exit code, naming `reason`."""


ALONE = SeqParallel()
"""The default everywhere: one process."""
