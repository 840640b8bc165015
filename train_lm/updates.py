"""From gradient to step: all numbers, the few largest, or a rank-reduced gradient.

One set of functions of flat rows serves a trainer, which has one row, and a bank, which has many.

Kept numbers (`topk`): of each gradient only a share stays, the largest by magnitude (Stich et al.
2018, arXiv 1809.07599). A number that is left out keeps its weight and its moments as they are, as
torch's SparseAdam has it, so that an update touches this share of the weights and no other. With
feedback, what was left out is remembered and added to the next gradient.

Rank-reduced gradients (`lowrank`): GaLore (Zhao et al. 2024, arXiv 2403.03507, algorithm 2). The
gradient G (m, n) of a matrix is projected on its own leading singular vectors, P' G where m < n and
G Q where not; the moments live there, and the step is projected back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from train_lm.steps.optimizers import OptimizerConfig, build_optimizers, is_hidden, state_of

if TYPE_CHECKING:
    from torch.optim import Optimizer

RULES = ("full", "topk", "lowrank")
SCOPES = ("global", "tensor")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Updates:
    """Which part of a gradient becomes a step.

    Attributes:
        rule: `full`, `topk` or `lowrank`.
        share: Of the numbers that `topk` keeps, above 0, at most 1.
        scope: Whether that share is of all numbers together (`global`), or of each `tensor`.
        feedback: Whether `topk` adds what it left out to the next gradient.
        rank: Of the projected gradients of `lowrank`. Embeddings, the head, vectors, and matrices
            whose smaller side is no larger are not projected and take the plain step.
        refresh: Updates between two projections of `lowrank`.
        scale: Factor of the steps that `lowrank` projects back (GaLore's alpha).
    """

    rule: str = "full"
    share: float = 0.05
    scope: str = "global"
    feedback: bool = False
    rank: int = 8
    refresh: int = 200
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in RULES or self.scope not in SCOPES:
            raise ValueError(
                f"expected a rule among {RULES} and a scope among {SCOPES}, got {self.rule!r} and "
                f"{self.scope!r}"
            )
        if not 0 < self.share <= 1 or not 0 < self.scale < math.inf:
            raise ValueError(
                f"expected 0 < share <= 1 and a finite scale > 0, got {self.share} and {self.scale}"
            )
        if self.rank < 1 or self.refresh < 1:
            raise ValueError(
                f"expected rank >= 1 and refresh >= 1, got {self.rank} and {self.refresh}"
            )


FULL = Updates()

# --- on rows --------------------------------------------------------------------------------------


def kept(rows: Tensor, sizes: Sequence[int], updates: Updates) -> Tensor:
    """(c, P) whether a number is among the largest of its row, or of its tensor in the row.

    Args:
        rows: (c, P) gradients.
        sizes: Numbers of each tensor of a row, in order.
    """
    found = torch.zeros_like(rows, dtype=torch.bool)
    first = 0
    for size in (rows.shape[1],) if updates.scope == "global" else sizes:
        part = slice(first, first + size)
        most = max(1, round(updates.share * size))
        places = rows[:, part].abs().topk(most, dim=1, sorted=False).indices
        found[:, part] = found[:, part].scatter(1, places, True)
        first += size
    return found


def truncate(
    rows: Tensor, residual: Tensor | None, sizes: Sequence[int], updates: Updates
) -> tuple[Tensor, Tensor]:
    """The kept numbers of (c, P) gradients, zeros elsewhere, and (c, P) which they are.

    Args:
        residual: (c, P) what was left out so far; changed in place. None without feedback.
    """
    if residual is not None:
        rows = rows + residual
    keep = kept(rows, sizes, updates)
    if residual is not None:
        residual.copy_(rows.masked_fill(keep, 0.0))
    return rows.masked_fill(~keep, 0.0), keep


def projects(name: str, shape: Shape, updates: Updates) -> bool:
    """Whether the gradient of a parameter is projected."""
    return (
        updates.rule == "lowrank"
        and len(shape) == 2
        and updates.rank < min(shape)
        and is_hidden(name)
    )


def low_shape(name: str, shape: Shape, updates: Updates) -> Shape:
    """Shape of the moments of a parameter."""
    if not projects(name, shape, updates):
        return shape
    m, n = shape
    return (m, updates.rank) if m >= n else (updates.rank, n)


def basis_shape(shape: Shape, updates: Updates) -> Shape:
    """Shape of the projection of a tensor for which `projects` holds."""
    m, n = shape
    return (updates.rank, n) if m >= n else (m, updates.rank)


def basis_of(gradient: Tensor, updates: Updates) -> Tensor:
    """Leading singular vectors of (m, n): right ones in rows if m >= n, else left in columns."""
    u, _, v = torch.linalg.svd(gradient.float(), full_matrices=False)
    right = gradient.shape[-2] >= gradient.shape[-1]
    found = v[..., : updates.rank, :] if right else u[..., : updates.rank]
    return found.to(gradient.dtype).contiguous()


def lowered(gradient: Tensor, basis: Tensor) -> Tensor:
    """A gradient (m, n) in the projected space."""
    right = gradient.shape[-2] >= gradient.shape[-1]
    return gradient @ basis.mT if right else basis.mT @ gradient


def raised(low: Tensor, basis: Tensor, shape: Shape) -> Tensor:
    """A step of the projected space as one of the matrix."""
    return low @ basis if shape[0] >= shape[1] else basis @ low


# --- of a trainer ---------------------------------------------------------------------------------


class Steps(Protocol):
    """Steps of named parameters, and all the state that they depend on.

    Attributes:
        optimizers: They hold the moments.
    """

    optimizers: list[Optimizer]

    def step(self, rate: float) -> None:
        """Change the parameters by their gradients at this learning rate."""

    def state_of(self, name: str) -> dict[str, Tensor]:
        """The state that belongs to a parameter, itself and no copy, by its kind."""


class StepConfig(OptimizerConfig, Protocol):
    """What steps need to know of a trainer's settings."""

    @property
    def updates(self) -> Updates: ...


def build_steps(named: Sequence[tuple[str, nn.Parameter]], config: StepConfig) -> Steps:
    """The steps of parameters under an update rule.

    Raises:
        ValueError: The rule is not `full` and the parameters are sharded, or there is no Muon.
    """
    updates = config.updates
    if updates.rule == "full":
        return _Full(named, config)
    if any(hasattr(p, "device_mesh") for _, p in named):
        raise ValueError(
            f"expected whole tensors where updates are {updates.rule}, got sharded ones: copy the "
            "model over the processes instead of sharding it"
        )
    return (_TopK if updates.rule == "topk" else _LowRank)(named, config)


class _Full:
    """Every number of the gradient becomes a step."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], config: StepConfig) -> None:
        self.parameters = dict(named)
        self.optimizers = build_optimizers(named, config)

    def step(self, rate: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()

    def state_of(self, name: str) -> dict[str, Tensor]:
        return state_of(self.optimizers, self.parameters[name])


class _TopK:
    """The largest numbers of the gradient become a step; the others, and their moments, stay."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], config: StepConfig) -> None:
        self.updates = updates = config.updates
        self.plain = _Full(named, config)
        self.optimizers = self.plain.optimizers
        self.parameters = self.plain.parameters
        self.sizes = [p.numel() for p in self.parameters.values()]
        self.residual: dict[str, Tensor] = {}
        self._left: Tensor | None = None
        if updates.feedback:
            device = next(iter(self.parameters.values())).device
            self._left = torch.zeros(1, sum(self.sizes), device=device)
            self.residual = self._split(self._left)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        gradients = [
            torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters.values()
        ]
        row = torch.cat([g.flatten() for g in gradients])[None]
        row, keep = truncate(row, self._left, self.sizes, self.updates)
        masks = self._split(keep)
        before = []
        for name, gradient in self._split(row).items():
            parameter = self.parameters[name]
            parameter.grad = gradient.to(parameter.dtype).contiguous()
            state = self.plain.state_of(name)
            moved = [parameter, *(v for k, v in state.items() if k != "step")]
            before.append((masks[name], moved, [value.clone() for value in moved]))
        self.plain.step(rate)
        for mask, moved, old in before:
            for value, was in zip(moved, old, strict=True):
                value.copy_(torch.where(mask, value, was))

    def state_of(self, name: str) -> dict[str, Tensor]:
        own = {"residual": self.residual[name]} if self.residual else {}
        return {**self.plain.state_of(name), **own}

    def _split(self, row: Tensor) -> dict[str, Tensor]:
        parts = zip(self.parameters.items(), row[0].split(self.sizes), strict=True)
        return {name: part.view(p.shape) for (name, p), part in parts}


class _LowRank:
    """Projected matrices take AdamW's step in a small matrix that stands for theirs."""

    def __init__(self, named: Sequence[tuple[str, nn.Parameter]], config: StepConfig) -> None:
        self.updates = updates = config.updates
        self.parameters = dict(named)
        self.decay = config.weight_decay
        self.bases: dict[str, Tensor] = {}
        self.small: dict[str, nn.Parameter] = {}
        for name, p in named:
            shape = tuple(p.shape)
            if projects(name, shape, updates):
                self.bases[name] = p.detach().new_zeros(basis_shape(shape, updates))
                self.small[name] = nn.Parameter(
                    p.detach().new_zeros(low_shape(name, shape, updates))
                )
        self.stepped: dict[str, nn.Parameter] = {n: self.small.get(n, p) for n, p in named}
        self.optimizers = build_optimizers(list(self.stepped.items()), config)

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for name, small in self.small.items():
            parameter = self.parameters[name]
            gradient = parameter.grad
            assert gradient is not None
            if not int(self.state_of(name)["step"]) % self.updates.refresh:
                self.bases[name].copy_(basis_of(gradient, self.updates))
            small.grad = lowered(gradient, self.bases[name])
            parameter.grad = None
        for group in self.optimizers[0].param_groups:
            group["lr"] = rate
        self.optimizers[0].step()
        for name, small in self.small.items():
            parameter = self.parameters[name]
            # The small matrix began at zero, so it holds the step alone; decay is the whole's.
            moved = raised(small, self.bases[name], tuple(parameter.shape))
            parameter.mul_(1 - rate * self.decay).add_(moved, alpha=self.updates.scale)
            small.zero_()

    def state_of(self, name: str) -> dict[str, Tensor]:
        own = {"projection": self.bases[name]} if name in self.bases else {}
        return {**state_of(self.optimizers, self.stepped[name]), **own}


def n_bytes(steps: Steps, names: Sequence[str]) -> int:
    """Bytes of all the state that steps keep, measured tensor by tensor."""
    return sum(v.numel() * v.element_size() for n in names for v in steps.state_of(n).values())
