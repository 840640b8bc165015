"""Text that a causal LM writes itself, token by token; the same seed writes the same text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

WRITTEN_AT_ONCE = 64  # [texts]


@torch.inference_mode()
def write_text(
    model: nn.Module, n: int, length: int, first: int, seed: int, temperature: float = 1.0
) -> NDArray[np.int64]:
    """n texts of `length` tokens, each drawn from what the model holds likely after the one before.

    Args:
        model: As `Trainer` takes it. If it can keep keys and values, it does, so that a token
            costs one forward pass over one token; if not, each costs one over the whole text.
        first: Token that every text begins with, such as that which closes a text.
        seed: Of the draws.
        temperature: Of the draws; 1 draws as the model has it.

    Returns:
        (n, length) token ids, the first one included.

    Raises:
        ValueError: Longer than the model's context, or nothing to draw from.
    """
    longest = getattr(getattr(model, "config", None), "max_position_embeddings", length)
    if not 2 <= length <= longest + 1 or n < 1 or not temperature > 0:
        raise ValueError(
            f"expected one text or more of 2 to {longest + 1} tokens and a temperature above 0, "
            f"got {n} of {length} tokens and {temperature}"
        )
    # On the processor, wherever the model lives: a seed draws the same from the same odds.
    rng = torch.Generator().manual_seed(seed)
    device = next(model.parameters()).device
    with _measuring(model):
        parts = [
            _written(model, min(WRITTEN_AT_ONCE, n - i), length, first, temperature, rng, device)
            for i in range(0, n, WRITTEN_AT_ONCE)
        ]
    return np.concatenate(parts)


def _written(
    model: nn.Module,
    n: int,
    length: int,
    first: int,
    temperature: float,
    rng: torch.Generator,
    device: torch.device,
) -> NDArray[np.int64]:
    text = torch.full((n, length), first, dtype=torch.int64)
    keeps = hasattr(model, "config")
    kept: Any = None  # keys and values of what was written so far
    for i in range(1, length):
        ids = (text[:, i - 1 : i] if keeps else text[:, :i]).to(device)
        if keeps:
            found = model(input_ids=ids, past_key_values=kept, use_cache=True)
            kept = found.past_key_values
        else:
            found = model(input_ids=ids)
        text[:, i] = _drawn(found.logits[:, -1], temperature, rng)
    return text.numpy()


def _drawn(logits: Tensor, temperature: float, rng: torch.Generator) -> Tensor:
    """(n,) tokens drawn from (n, V) logits."""
    odds = (logits.float().cpu() / temperature).softmax(-1)
    return torch.multinomial(odds, 1, generator=rng)[:, 0]


@contextmanager
def _measuring(model: nn.Module) -> Iterator[None]:
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)
