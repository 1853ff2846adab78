"""Block offload: weights of the blocks, quantised, live on the host and visit the device one block ahead."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from liveact_kernels.copies import beside

from ..offload import Belt, alternate, cut, span
from .block import Block

STEP, TEXT, IMAGE, AUDIO = "step", "text", "image", "audio"
"""What a block's weights are for: a denoise step, or keys and values of a prompt, of a picture, of a block's sound."""
STAYS = "modulation"
"""Read once, before the first block; 120 kB."""
ONCE = {
    "cross_attn.k": TEXT, "cross_attn.v": TEXT, "cross_attn.norm_k": TEXT, "cross_attn.k_img": IMAGE,
    "cross_attn.v_img": IMAGE, "cross_attn.norm_k_img": IMAGE, "audio_attn.kv": AUDIO,
}  # fmt: skip
"""Layers that no denoise step reads, a quarter of the bytes: they would travel with every step for nothing."""


def part_of(name: str) -> str:
    """What a block's tensor is for, by its name."""
    return ONCE.get(name, ONCE.get(name.rpartition(".")[0], STEP))


class Streamed:
    """The blocks of a denoiser whose weights are on the host.

    blocks  of the denoiser; `admit` takes each one's values, its tensors are then views of a slot on the device
    device  where the blocks compute
    like    blocks whose tensors have the sizes that these will have: the slots are made for the largest

    Two belts: the steps', which wraps round from the last block to the first one, so that this is there when the next
    step begins; and a small one of what is read once per prompt, picture or block of video frames.
    """

    def __init__(self, blocks: Sequence[Block], device: torch.device, like: Sequence[Block]):
        self._blocks, self._device, count = blocks, device, len(blocks)
        slots = alternate(count)
        following = [(i + 1) % count for i in range(count)]
        kinds = range(0, 3 * count, count)
        # after the last block comes sound, which is what every block of video frames asks for
        once = [kind + i if i else kinds[-1] for kind in kinds for i in following]
        self._first = dict(zip((TEXT, IMAGE, AUDIO), kinds)) | {STEP: 0}
        self._belts = dict.fromkeys((TEXT, IMAGE, AUDIO), Belt(slots * 3, once, beside(device)))
        self._belts[STEP] = Belt(slots, following, beside(device))
        most = dict.fromkeys(self.belts, 0)
        for block in like:  # formats may differ from block to block
            for part, named in _parts(block).items():
                most[self._belts[part]] = max(most[self._belts[part]], span(named.values()))
        self._rooms = {b: [b.copies.room(size) for _ in range(max(b.slots) + 1)] for b, size in most.items()}

    @classmethod
    def of(cls, blocks: Sequence[Block], device: torch.device) -> Streamed:
        """Blocks that have their values already."""
        made = cls(blocks, device, blocks)
        for number in range(len(blocks)):
            made.admit(number)
        return made

    @property
    def belts(self) -> list[Belt]:
        """The steps' first."""
        return [self._belts[STEP], self._belts[AUDIO]]

    @property
    def host_bytes(self) -> int:
        """Bytes of the weights on the host."""
        return sum(belt.host_bytes for belt in self.belts)

    def admit(self, number: int) -> None:
        """Bring the values of a block, wherever they are, to the host, and put its tensors into its slots."""
        block = self._blocks[number]
        _put(block, STAYS, block.get_parameter(STAYS).detach().to(self._device))
        for part, named in _parts(block).items():
            belt, like = self._belts[part], list(named.values())
            host = belt.copies.host(span(like))
            for place, value in zip(cut(host, like), like):
                belt.copies.fill(place, value)
            group = self._first[part] + number
            room = self._rooms[belt][belt.slots[group]][: len(host)]
            for name, view in zip(named, cut(room, like)):
                _put(block, name, view)
            belt.admit(group, [(room, host)])

    def walk(self, part: str) -> Iterator[Block]:
        """The blocks in order, each with the weights of a part on the device while it is at hand."""
        belt, first = self._belts[part], self._first[part]
        for number, block in enumerate(self._blocks):
            belt.take(first + number)
            yield block
            belt.leave(first + number)


def _parts(block: Block) -> dict[str, dict[str, Tensor]]:
    """A block's tensors that travel, by what they are for and by name."""
    parts: dict[str, dict[str, Tensor]] = {STEP: {}, TEXT: {}, IMAGE: {}, AUDIO: {}}
    for name, value in [*block.named_parameters(), *block.named_buffers()]:
        if name != STAYS:
            parts[part_of(name)][name] = value.detach()
    return parts


def _put(block: nn.Module, path: str, value: Tensor) -> None:
    parent, _, name = path.rpartition(".")
    owner = block.get_submodule(parent)
    if isinstance(owner, nn.ParameterDict):
        owner[name] = nn.Parameter(value, requires_grad=False)
    elif name in owner._buffers:
        setattr(owner, name, value)
    else:
        setattr(owner, name, nn.Parameter(value, requires_grad=False))
