"""Several processes train one model: each keeps a share of all weights, and takes a share of every batch.

The only file of training that knows ranks and imports torch.distributed. Parameters become DTensors cut along their
first dim, and with them gradients, optimiser and average. A pass gathers them once, as plain tensors, and its gradients
come back summed and cut: the pass of training runs under torch.vmap, where the hooks of FSDP, which gather a layer
when it is called, cannot run.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

from liveact_model.errors import InputError


class Shards:
    """The processes of a run: `size` of them, this one the `index`-th; `leads` whether it reports and writes."""

    size, index, leads = 1, 0, True

    def cut(self, module: nn.Module) -> None:
        """Make this process's shares of a module's parameters, which are the same everywhere."""

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
    """As torchrun started them, on CPUs over gloo."""

    def __init__(self) -> None:
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        self.size, self.index = dist.get_world_size(), dist.get_rank()
        self.leads = self.index == 0
        self._mesh = init_device_mesh("cpu", (self.size,))

    def cut(self, module: nn.Module) -> None:
        """See Shards."""
        for part in module.modules():
            for name, p in part.named_parameters(recurse=False):
                cut = distribute_tensor(p.detach(), self._mesh, [Shard(0)])
                setattr(part, name, nn.Parameter(cut, p.requires_grad))

    def mean(self, value: float) -> float:
        """See Shards."""
        total = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(total)
        return total.item() / self.size

    def agree(self, flag: bool) -> bool:
        """See Shards."""
        said = torch.tensor(flag)
        dist.broadcast(said, 0)
        return bool(said)


def join() -> Shards:
    """The group that torchrun started, or this process alone."""
    return Group() if dist.is_torchelastic_launched() else Shards()


def alone(stage: str) -> None:
    """InputError where torchrun has started a stage that trains in one process."""
    if dist.is_torchelastic_launched():
        raise InputError(f"torchrun: expected the stage dit, got {stage}, which runs in one process")


def whole(t: Tensor) -> Tensor:
    """All of a tensor of which processes keep shares; the gradients of all of them add up in it."""
    return t.full_tensor(grad_placements=[Partial()]) if isinstance(t, DTensor) else t


def local(t: Tensor) -> Tensor:
    """The share of a tensor that lies here, as the same memory."""
    return t.to_local() if isinstance(t, DTensor) else t


def like(t: Tensor, full: Tensor) -> Tensor:
    """`full` cut as `t` is."""
    if not isinstance(t, DTensor):
        return full
    return distribute_tensor(full, t.device_mesh, t.placements)


def gathered(state: dict[str, Any]) -> dict[str, Any]:
    """A state with every share gathered; all processes must call it."""
    return {key: whole(t.detach()) if isinstance(t, Tensor) else t for key, t in state.items()}
