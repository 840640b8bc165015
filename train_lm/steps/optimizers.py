"""The optimisers of one model, with state that exists from birth, so that a snapshot is whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.optim import Optimizer

BETAS = (0.9, 0.95)
EPSILON = 1e-8

OPTIMIZERS = ("adamw", "muon")


class OptimizerConfig(Protocol):
    """What the optimisers need to know of a trainer's settings."""

    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def optimizer(self) -> str: ...


def build_optimizers(
    named: Sequence[tuple[str, nn.Parameter]], config: OptimizerConfig
) -> list[Optimizer]:
    """Fused AdamW (Loshchilov & Hutter 2019) for all parameters; vectors do not decay.

    With `muon`, hidden matrices go to Muon (Jordan et al. 2024), scaled so that AdamW's learning
    rate suits them (Moonshot 2025); embeddings, the head and vectors stay with AdamW.

    Raises:
        ValueError: Muon is asked for, and this torch has none.
    """
    hidden: list[tuple[str, nn.Parameter]] = []
    if config.optimizer == "muon":
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(
                f"expected a torch with Muon, got {torch.__version__}: use the optimizer adamw"
            )
        hidden = [(n, p) for n, p in named if p.dim() == 2 and is_hidden(n)]
    of_muon = {n for n, _ in hidden}
    rest = [(n, p) for n, p in named if n not in of_muon]
    adamw = torch.optim.AdamW(
        [
            {
                "params": [p for _, p in rest if p.dim() >= 2],
                "weight_decay": config.weight_decay,
            },
            {"params": [p for _, p in rest if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=BETAS,
        eps=EPSILON,
        fused=True,
    )
    for _, parameter in rest:
        adamw.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
        }
    if not hidden:
        return [adamw]
    muon = torch.optim.Muon(
        [p for _, p in hidden],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    for _, parameter in hidden:
        muon.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}
    return [adamw, muon]


def is_hidden(name: str) -> bool:
    """Whether a parameter lies between the embedding and the head."""
    return "embed" not in name and "lm_head" not in name


def state_of(optimizers: Sequence[Optimizer], parameter: nn.Parameter) -> dict[str, Tensor]:
    """The state tensors that belong to a parameter, by their name."""
    for optimizer in optimizers:
        if parameter in optimizer.state:
            return optimizer.state[parameter]
    raise KeyError("no optimizer holds this parameter")
