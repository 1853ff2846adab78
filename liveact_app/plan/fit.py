"""Whether a run fits: the same prediction and the same sentence for `liveact plan` and for `liveact generate`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from liveact_model.checkpoint.footprint import gib
from liveact_model.config import BLOCK_LATENT_FRAMES
from liveact_model.errors import InputError

if TYPE_CHECKING:
    import torch

    from liveact_model.avatar import Avatar
    from liveact_model.dit import Precision
    from liveact_model.loading import Blueprint
    from liveact_model.needs import Needs

LABEL = "predicted, not measured"
CONTEXT_BYTES = 1 << 29
"""Of a GPU for its driver's context and what a card holds back: assumed."""
ROUNDING = 1 / 32
"""Of the rest for torch's allocator, which makes blocks above 10 MiB whole multiples of 2 MiB: 2.4 % of the weights of
the 18.9 B model in fp8."""
NAMED_FIRST = 3
SWITCHES = ("eight_bit_memory", "eight_bit_attention", "block_offload", "offload_cache", "text_on_cpu", "eager")
"""Of generate, in the order in which a command line has them; `plan` takes each as "only settings with it"."""


@dataclass(frozen=True)
class Setting:
    """The options of `generate` that decide how many bytes it takes."""

    dtype: str | Precision = "auto"
    eight_bit_memory: bool = False
    eight_bit_attention: bool = False
    block_offload: bool = False
    offload_cache: bool = False
    text_on_cpu: bool = False
    decode_latent_frames: int = BLOCK_LATENT_FRAMES
    audio_cfg: float = 1.0
    eager: bool = False
    parallel: str = "auto"

    def flags(self) -> str:
        """As `generate` takes them; empty for its defaults."""
        name = "--dtype" if isinstance(self.dtype, str) else "--precision"
        named = [f"{name} {self.dtype}"] if self.dtype != "auto" else []
        for name in SWITCHES:
            named += [f"--{name.replace('_', '-')}"] * getattr(self, name)
        few = self.decode_latent_frames
        named += [f"--decode-latent-frames {few}"] if few < BLOCK_LATENT_FRAMES else []
        named += [f"--audio-cfg {self.audio_cfg:g}"] if self.audio_cfg > 1 else []
        return " ".join([*named, *([f"--parallel {self.parallel}"] if self.parallel != "auto" else [])])


def needs_of(
    blueprint: Blueprint, setting: Setting, size: tuple[int, int], device: str, ranks: int = 1,
    place: torch.device | None = None, avatar: Avatar | None = None, text_freed: bool = True,
) -> Needs:  # fmt: skip
    """Bytes of one process of a run at (width, height) on a `device` like "cpu" or "cuda:0".

    place   where the ops run, if they may run on plain torch; None: kernels, which allocate nothing
    avatar  what the blueprint gives for the setting's block_offload, where that is at hand
    text_freed  the text encoder goes once all prompts are encoded, as it does unless there are very many
    Raises InputError for more processes than tokens, or what a Session refuses.
    """
    from liveact_model.needs import predict
    from liveact_model.parallel import ALONE

    group = ALONE
    if ranks > 1:
        from liveact_model.parallel.dry import DryRanks

        tokens = size[0] * size[1] // 256
        if tokens < ranks:
            raise InputError(f"--ranks: expected at most one per token of a latent frame ({tokens}), got {ranks}")
        group = DryRanks(ranks, tokens, "gather" if setting.parallel == "auto" else setting.parallel)
    here = device == "cpu"
    blocks, memory = setting.block_offload and not here, setting.offload_cache and not here
    return predict(
        avatar or blueprint.avatar(blocks), size, place=place, text_freed=text_freed,
        captured=not (here or setting.eager or ranks > 1 or blocks or memory), memory_offload=memory,
        text_on_host=setting.text_on_cpu and not here, mapped=blueprint.mapped if here else (), parallel=group,
        eight_bit_memory=setting.eight_bit_memory, eight_bit_attention=setting.eight_bit_attention,
        audio_cfg=setting.audio_cfg, decode_latent_frames=setting.decode_latent_frames,
    )  # fmt: skip


def of_card(whole: int) -> int:
    """Bytes that tensors can have of a card's memory."""
    return max(0, int((whole - CONTEXT_BYTES) * (1 - ROUNDING)))


def lacking(
    needs: Needs, what: str, device: str, left: int | None, host_left: int | None = None, ranks: int = 1
) -> str | None:
    """One sentence saying what a run takes too much of; None where it fits, or where nobody knows what is left.

    left       bytes for tensors where the denoiser lives;  host_left  bytes of host memory
    ranks      processes that share the host's memory; each has a device of its own, unless that is the host
    """
    here = device == "cpu"
    sums = [(needs.model, needs.model_bytes * (ranks if here else 1), left, "of memory" if here else f"on {device}")]
    if not here:
        sums.append((needs.host, needs.host_bytes * ranks, host_left, "of host memory"))
    for parts, total, free, where in sums:
        if free is not None and total > free:
            largest = sorted(parts.items(), key=lambda item: -item[1])[:NAMED_FIRST]
            named = ", ".join(f"{name} {gib(count)}" for name, count in largest)
            return f"{what} needs {gib(total)} {where} ({named}; {LABEL}), and {gib(free)} are available"
    return None


def described(model: str, size: tuple[int, int], setting: Setting) -> str:
    """The run that a sentence speaks of."""
    return " ".join(filter(None, (f"{model} at {size[0]}x{size[1]}", setting.flags() and f"with {setting.flags()}")))
