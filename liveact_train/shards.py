"""Several processes train one model: each keeps a share of all weights, and takes a share of every batch.

The only file of training that knows ranks and imports torch.distributed. Parameters are cut along their first dim by
FSDP (`fully_shard`), and with them gradients, optimiser and average. A layer's weights are whole while it is called
and while its gradients are made, and those of the one that follows come meanwhile; gradients come back averaged and
cut. Linear layers travel in the type of the activations. What ops read in float32 (norms, modulations, taps: a few
thousandths of all) is one group of its own, whole during a pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from liveact_model.dit import Linear
from liveact_model.errors import InputError
from liveact_train.layers import Parts


class Shards:
    """The processes of a run: `size` of them, this one the `index`-th; `leads` whether it reports and writes."""

    size, index, leads = 1, 0, True

    def __init__(self, device: str = "cpu"):
        self.device = torch.device(device)

    def cut(self, parts: Parts, dtype: torch.dtype) -> None:
        """Keep this process's shares of a denoiser's parameters, which all have; linear layers compute in dtype."""

    def mean(self, value: float) -> float:
        """The mean of a number over the processes."""
        return value

    def agree(self, flag: bool) -> bool:
        """What the leading process thinks."""
        return flag

    def share(self, flag: str, count: int) -> slice:
        """This process's part of `count` clips; InputError naming the option if they cannot be shared out evenly."""
        if count % self.size:
            raise InputError(f"{flag}: expected a multiple of the {self.size} processes, got {count}")
        each = count // self.size
        return slice(self.index * each, (self.index + 1) * each)


class Group(Shards):
    """As torchrun started them: on CPUs over gloo, on GPUs, one for each process, over what torch has for them."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(device)
        own = self.device.type != "cpu"
        if own:
            self.device = torch.device(device, dist.get_node_local_rank())
            torch.accelerator.set_device_index(self.device.index)
        if not dist.is_initialized():
            dist.init_process_group(None if own else "gloo")
        self.size, self.index = dist.get_world_size(), dist.get_rank()
        self.leads = self.index == 0
        self._mesh = init_device_mesh(device, (self.size,))

    def cut(self, parts: Parts, dtype: torch.dtype) -> None:
        """See Shards."""
        held = [*parts.layers, parts.ends]
        wide = {p for module in parts.modules() if isinstance(module, Linear) for p in module.parameters()}
        small = {p for p in parts.parameters() if p not in wide}
        alike = {"mesh": self._mesh, "reshard_after_forward": True}
        cast = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
        for part in held:
            fully_shard(part, mp_policy=cast, ignored_params=small, **alike)
        parts.beside = nn.ModuleList(module for part in held for module in part.held)  # a way round the parts
        wide = {p for module in parts.modules() if isinstance(module, Linear) for p in module.parameters()}
        fully_shard(parts, ignored_params=wide, **alike)
        parts.sharded = True

    def mean(self, value: float) -> float:
        """See Shards."""
        total = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return total.item() / self.size

    def agree(self, flag: bool) -> bool:
        """See Shards."""
        said = torch.tensor(flag, device=self.device)
        dist.broadcast(said, 0)
        return bool(said)


def join(device: str = "cpu") -> Shards:
    """The group that torchrun started, or this process alone; InputError for a device that is not there."""
    here = torch.accelerator.current_accelerator(check_available=True)
    if device not in (known := ["cpu"] if here is None else ["cpu", here.type]):
        raise InputError(f"--device: expected what torch has here, {' or '.join(known)}, got {device!r}")
    return Group(device) if dist.is_torchelastic_launched() else Shards(device)


@contextlib.contextmanager
def pretended(size: int) -> Iterator[Shards]:
    """A group of `size` processes of which this one alone is there: what it sends arrives nowhere, nothing comes back.

    For tensors without values. Of processes that torchrun started each plays itself; InputError if they are others.
    """
    started = join()
    if started.size > 1:
        dist.destroy_process_group()
        if started.size != size:
            raise InputError(f"--dry-run: expected the {started.size} processes that torchrun started, got {size}")
    if size == 1:
        yield Shards()
        return
    dist.init_process_group("fake", rank=started.index, world_size=size)
    try:
        yield Group()
    finally:
        dist.destroy_process_group()


def alone(stage: str) -> None:
    """InputError where torchrun has started a stage that trains in one process."""
    if dist.is_torchelastic_launched():
        raise InputError(f"torchrun: expected the stage dit, got {stage}, which runs in one process")


def whole(t: Tensor) -> Tensor:
    """All of a tensor of which processes keep shares; all of them must ask."""
    return t.full_tensor() if isinstance(t, DTensor) else t


def local(t: Tensor) -> Tensor:
    """The share of a tensor that lies here, as the same memory."""
    return t.to_local() if isinstance(t, DTensor) else t


def like(t: Tensor, full: Tensor) -> Tensor:
    """`full`, which every process has, cut as `t` is."""
    if not isinstance(t, DTensor):
        return full
    return distribute_tensor(full, t.device_mesh, t.placements, src_data_rank=None)
