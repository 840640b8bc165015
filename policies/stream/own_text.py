"""Text that the learner writes itself, to be read beside new text: old knowledge without old text.

Self-generated replay needs no store: before a stage the learner writes down what it would say, from
single tokens on, and reads it again while it learns the stage's own text (Sun et al. 2020,
LAMOL, arXiv:1909.03329).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from train_lm.trainer import Trainer

Ints = NDArray[np.int64]


def written(trainer: Trainer, starts: Ints, length: int, seed: int) -> Ints:
    """(n, length) tokens, each drawn from what the learner predicts after those before it.

    Args:
        starts: (n,) first tokens.
        seed: Of the lot.
    """
    import torch

    generator = torch.Generator(trainer.device).manual_seed(seed)
    tokens = torch.from_numpy(starts[:, None]).to(trainer.device)
    model = trainer.model.eval()
    # What was said before is kept as keys and values: a step costs one token's work.
    said, kept = [tokens], None
    with torch.no_grad():
        for _ in range(length - 1):
            found = model(input_ids=said[-1], past_key_values=kept, use_cache=True)
            kept = found.past_key_values
            chances = found.logits[:, -1].float().softmax(-1)
            said.append(torch.multinomial(chances, 1, generator=generator))
    return np.asarray(torch.cat(said, 1).cpu().numpy(), dtype=np.int64)
