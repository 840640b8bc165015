"""One process or several: what a trainer has to do differently when others train beside it.

The one door to accelerate. A trainer sees the protocol; a single process needs neither accelerate
nor torch.distributed.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Parallel(Protocol):
    """How a model is spread over processes.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
    """

    rank: int
    size: int

    def wrap(self, model: nn.Module) -> nn.Module:
        """The module to call in training; the parameters of `model` may be replaced in place."""

    def accumulating(self, model: nn.Module) -> AbstractContextManager[Any]:
        """In it a backward pass adds to the gradients without exchanging them."""

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a scalar over all processes; every process must ask."""

    def every(self, value: Tensor) -> Tensor:
        """The tensors of all processes, stacked by rank; every process must ask."""

    def wait(self) -> None:
        """Return when every process has come here."""


class Alone:
    """One process."""

    rank = 0
    size = 1

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def accumulating(self, model: nn.Module) -> AbstractContextManager[Any]:
        return nullcontext()

    def mean(self, value: Tensor) -> Tensor:
        return value

    def every(self, value: Tensor) -> Tensor:
        return value[None]

    def wait(self) -> None:
        pass


class Accelerated:
    """Every process that `torchrun` (or a scheduler) started, by accelerate.

    Args:
        shard: Shard weights, gradients and moments over the processes (FSDP2) instead of copying
            them (DDP).
        cpu: Whether to stay on the CPU where there is a GPU.
    """

    def __init__(self, shard: bool = False, cpu: bool = False) -> None:
        from accelerate import Accelerator

        self.shard = shard
        self.accelerator = Accelerator(cpu=cpu or not torch.cuda.is_available())
        self.rank = int(self.accelerator.process_index)
        self.size = int(self.accelerator.num_processes)

    @property
    def device(self) -> torch.device:
        return torch.device(self.accelerator.device)

    def wrap(self, model: nn.Module) -> nn.Module:
        if self.shard:
            return self._sharded(model)
        wrapped: nn.Module = self.accelerator.prepare(model)
        return wrapped

    def _sharded(self, model: nn.Module) -> nn.Module:
        # torch's own call: accelerate shards on no CPU, and wants to own the optimiser.
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh(self.device.type, (self.size,))
        blocks = set(getattr(model, "_no_split_modules", None) or ())
        for module in list(model.modules()):
            if type(module).__name__ in blocks:
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model

    def accumulating(self, model: nn.Module) -> AbstractContextManager[Any]:
        context: AbstractContextManager[Any] = self.accelerator.no_sync(model)
        return context

    def mean(self, value: Tensor) -> Tensor:
        reduced: Tensor = self.accelerator.reduce(value, "mean")
        return reduced

    def every(self, value: Tensor) -> Tensor:
        gathered: Tensor = self.accelerator.gather(value[None].to(self.device))
        return gathered.to(value.device)

    def wait(self) -> None:
        if self.size > 1 and self.device.type == "cpu":
            # Accelerate's own names a GPU by the process' number, if the machine has any.
            torch.distributed.barrier()
        else:
            self.accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the process group; without it a process warns at its exit."""
        self.accelerator.end_training()


def whole(value: Tensor) -> Tensor:
    """A copy of a tensor, gathered where it is sharded; every process must ask."""
    value = value.detach()
    if hasattr(value, "full_tensor"):
        gathered: Tensor = value.full_tensor()
        return gathered.clone()
    return value.clone()


def put(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded."""
    if hasattr(target, "device_mesh"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)
        value = value.to(target.device, target.dtype)
        value = distribute_tensor(value, target.device_mesh, target.placements)
    target.copy_(value)
