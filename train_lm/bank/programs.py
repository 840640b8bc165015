"""What a bank runs: three pure functions of stacked rows, as they are or compiled.

A row holds all numbers of one learner, weights or moments. The functions know nothing of which
learner a row belongs to, so one compiled program serves every learner of an architecture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from train_lm.bank.stacks import Stack, frozen_of, leaves_of
from train_lm.machine.compiling import compile_for
from train_lm.steps.anchors import score
from train_lm.steps.optimizers import BETAS, EPSILON

Gradient = Callable[..., tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Programs:
    """The functions of one architecture.

    Attributes:
        gradient: (c, P) weights and (c, B, T + 1) windows to (c,) mean losses [nats per token],
            (c, P) gradients and their (c, 1) norms. Frozen weights, where there are any, come
            third: (c, Q), or (1, Q) where all learners share them.
        measure: (c, P) weights and (c, m, T + 1) windows, and frozen weights, to (c, m) summed
            losses [nats].
        step: AdamW in place on rows; see `adamw_`.
    """

    gradient: Gradient
    measure: Callable[..., Tensor]
    step: Callable[..., None]


def plain(stack: Stack) -> Programs:
    """Run operation by operation."""

    def gradient(
        rows: Tensor, windows: Tensor, base: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        with torch.enable_grad():
            # Rows are views of one array. With a version counter of its own, a learner's backward
            # pass does not object to another thread's step on another row.
            leaves = [leaf.requires_grad_() for leaf in leaves_of(rows.data, stack)]
            losses = token_losses(stack, leaves, windows, base).mean((1, 2))
            found = torch.autograd.grad(losses.sum(), leaves)
        return losses.detach(), *_joined(found, len(rows))

    return Programs(gradient, _measure(stack), adamw_)


def compiled(stack: Stack, device: torch.device) -> Programs:
    """Forward and backward pass as one program each learner's update enters and leaves once.

    Raises:
        ValueError: There is no compiler for the device.
    """
    compile = compile_for(device)

    def summed(
        leaves: tuple[Tensor, ...], windows: Tensor, base: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        losses = token_losses(stack, leaves, windows, base).mean((1, 2))
        return losses.sum(), losses

    def gradient(
        rows: Tensor, windows: Tensor, base: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        leaves = tuple(leaves_of(rows, stack))
        found, losses = torch.func.grad(summed, has_aux=True)(leaves, windows, base)
        return losses, *_joined(found, len(rows))

    return Programs(compile(gradient), compile(_measure(stack)), compile(adamw_))


def token_losses(stack: Stack, leaves: Any, windows: Tensor, base: Tensor | None = None) -> Tensor:
    """(c, B, T) losses [nats] of the predicted tokens of (c, B, T + 1) windows."""
    logits = stack(leaves, windows[:, :, :-1], frozen_of(base, stack)).float()  # (c, B, T, V)
    following = windows[:, :, 1:]
    losses = F.cross_entropy(logits.flatten(0, 2), following.reshape(-1), reduction="none")
    return losses.view(following.shape)


def fisher(
    stack: Stack,
    row: Tensor,
    base: Tensor | None,
    windows: Tensor,
    labels: str,
    generator: torch.Generator,
) -> Tensor:
    """(P,) Fisher information per token of one learner's (1, P) row; see `Trainer.importance`."""
    frozen = frozen_of(base, stack)
    found = torch.zeros_like(row[0])
    for window in windows:
        with torch.enable_grad():
            leaves = [leaf.requires_grad_() for leaf in leaves_of(row.data, stack)]
            logits = stack(leaves, window[None, None, :-1], frozen)[0, 0]  # (T, V)
            loss = score(logits, window[1:], labels, generator)
            gradients = torch.autograd.grad(loss, leaves)
        found += torch.cat([g.flatten() for g in gradients]).square()
    return found * ((windows.shape[1] - 1) / len(windows))


def _measure(stack: Stack) -> Callable[[Tensor, Tensor], Tensor]:
    def measure(rows: Tensor, windows: Tensor, base: Tensor | None = None) -> Tensor:
        losses = token_losses(stack, leaves_of(rows, stack), windows, base)
        return losses.sum(2, dtype=torch.float64)

    return measure


def _joined(gradients: tuple[Tensor, ...], c: int) -> tuple[Tensor, Tensor]:
    rows = torch.cat([g.reshape(c, -1) for g in gradients], 1)
    return rows, torch.linalg.vector_norm(rows, dim=1, keepdim=True)


def adamw_(
    weights: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    decays: Tensor,
    norm: Tensor,
    scalars: Tensor,
) -> None:
    """AdamW (Loshchilov & Hutter 2019) with a clipped gradient, in place on (c, P) rows.

    Args:
        decays: (1, P) whether a number decays.
        norm: (c, 1) gradient norms.
        scalars: (c, 4) of each learner: learning rate times weight decay, learning rate over the
            first moment's bias correction, root of the second moment's, largest gradient norm.
    """
    decay, rate, correction, clip = scalars.unsqueeze(2).unbind(1)  # (c, 1) each
    gradient = gradient * (clip / (norm + 1e-6)).clamp(max=1.0)
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    weights.mul_(1 - decay * decays)
    weights.sub_(rate * mean / (square.sqrt() / correction + EPSILON))
