"""Models that are asked what they know: a learner's, a preset's, others'; and their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.knowledge.links import Encode
from kncl_env.learner import Learner, WorldLearner
from kncl_env.stage import Stage
from kncl_env.world.world import World
from train_lm.tokenizer import encode

if TYPE_CHECKING:
    import torch
    from torch import nn

    from train_lm.training_text import TextTokenizer

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Asked:
    """A model and how it reads.

    Attributes:
        model: A causal model of transformers.
        encode: Token ids of texts, without an end.
        longest: Tokens that it reads at most.
        device: Where it lives.
    """

    model: nn.Module
    encode: Encode
    longest: int
    device: torch.device


def in_world_tokens(world: World) -> Encode:
    """Token ids by the world's tokenizer."""

    def ids_of(texts: Sequence[str]) -> list[Ints]:
        # Without the end that closes every passage.
        return [ids[:-1].astype(np.int64) for ids in encode(world.tokenizer, texts)]

    return ids_of


def in_tokens_of(tokenizer: TextTokenizer) -> Encode:
    """Token ids by a model's own tokenizer; a text that spells out a special token is text."""

    def ids_of(texts: Sequence[str]) -> list[Ints]:
        found = tokenizer([*texts], add_special_tokens=False, split_special_tokens=True)
        return [np.array(ids, dtype=np.int64) for ids in found["input_ids"]]

    return ids_of


def named_model(name: str, world: World, seed: int) -> Asked:
    """A fresh model of a preset, or one of a directory or the hub, in its own tokens if it has any.

    Raises:
        ValueError: There is no such model, or it has other tokens than the world and no tokenizer.
    """
    import torch

    from train_lm.model import open_model

    opened = open_model(name, world.tokenizer, seed)
    own: Any = opened.model.config
    if opened.tokenizer is None and own.vocab_size != world.tokenizer.get_vocab_size():
        raise ValueError(
            f"expected a model of {world.tokenizer.get_vocab_size()} token ids in {name}, as the "
            f"world has, got one of {own.vocab_size} without a tokenizer: add its tokenizer"
        )
    ids = in_world_tokens(world) if opened.tokenizer is None else in_tokens_of(opened.tokenizer)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    longest = getattr(own, "max_position_embeddings", None) or 2**20
    return Asked(opened.model.to(device), ids, int(longest), device)


def learner_model(stage: Stage, learner: Learner) -> Asked:
    """The model of a learner as it is now; of a bank's learner, a copy.

    Raises:
        ValueError: The learner is a formula.
    """
    from train_lm.trainer import Trainer

    own: Any = learner
    while not isinstance(own, WorldLearner) and hasattr(own, "learner"):
        own = own.learner  # a clock or a guard around it
    if not isinstance(own, WorldLearner):
        raise ValueError(
            f"expected a language model to ask what it knows, got a {type(own).__name__}: measure "
            "knowledge with real learners"
        )
    read = own.trainer
    if not isinstance(read, Trainer) or read.schedule.averages:
        read = stage.copied(own)
    return Asked(read.model, in_world_tokens(stage.world), stage.store.context, read.device)
