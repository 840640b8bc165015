"""One learner: k steps of AdamW on windows, its held-out loss, and its exact snapshot."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from train_lm.files import replacing


@dataclass(frozen=True)
class TrainerConfig:
    """Optimisation settings; the schedule's length is given when a phase begins.

    Attributes:
        learning_rate: Peak of the schedule.
        batch: Windows B per update.
        warmup: Share of the phase's updates with a rising learning rate.
        final: Learning rate at the end of a decayed phase, as a share of the peak.
        weight_decay: Decoupled decay of matrices; vectors are spared.
        clip: Largest gradient norm.
    """

    learning_rate: float = 2e-3
    batch: int = 16
    warmup: float = 0.02
    final: float = 0.0
    weight_decay: float = 0.01
    clip: float = 1.0

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or self.batch < 1 or not 0 <= self.warmup < 1:
            raise ValueError(
                "expected learning_rate > 0, batch >= 1 and 0 <= warmup < 1, got "
                f"{self.learning_rate}, {self.batch} and {self.warmup}"
            )


Snapshot = Mapping[str, Tensor]


class Trainer:
    """Trains a causal LM on token windows.

    Args:
        model: Maps `input_ids` (B, T) to an output with `.logits` (B, T, V).
        config: Optimisation settings.
        device: Where the model lives; CUDA where there is one, if not stated.
    """

    def __init__(
        self, model: nn.Module, config: TrainerConfig, device: str | torch.device | None = None
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = model.to(self.device)
        self.config = config
        self.n_parameters = sum(p.numel() for p in self.model.parameters())
        self._named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        matrices = [p for _, p in self._named if p.dim() >= 2]
        vectors = [p for _, p in self._named if p.dim() < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": config.weight_decay},
                {"params": vectors, "weight_decay": 0.0},
            ],
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        for _, parameter in self._named:  # moments exist from birth, so a snapshot is always whole
            self.optimizer.state[parameter] = {
                "step": torch.zeros((), dtype=torch.float32, device=self.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        self.updates = 0
        self.phase_updates = 0
        self.decays = False
        self._start_of_phase = 0

    def begin_phase(self, updates: int, *, decay: bool) -> None:
        """Start a learning-rate schedule over the given number of updates from now.

        With decay the rate rises linearly, then falls by a cosine to `final` at the last update;
        without, it stays at the peak, so that a later phase can go on from there.
        """
        if updates < 1:
            raise ValueError(f"expected a phase of at least one update, got {updates}")
        self._start_of_phase = self.updates
        self.phase_updates = updates
        self.decays = decay

    def learning_rate(self) -> float:
        """Learning rate of the next update."""
        done = self.updates - self._start_of_phase
        peak = self.config.learning_rate
        warm = max(1, round(self.config.warmup * self.phase_updates))
        if done < warm:
            return peak * (done + 1) / warm
        if not self.decays:
            return peak
        share = min(1.0, (done - warm) / max(1, self.phase_updates - warm))
        final = self.config.final
        return peak * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share)))

    def update(self, windows: NDArray[np.int64]) -> float:
        """One optimiser step on (B, T + 1) token ids.

        Returns:
            The batch's mean loss [nats per token] before the step.

        Raises:
            FloatingPointError: The loss is not finite; weights are left as they were.
        """
        if self.phase_updates == 0:
            raise RuntimeError("call begin_phase before the first update")
        batch = torch.from_numpy(windows).to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.model.train()
        logits = self.model(input_ids=batch[:, :-1]).logits  # (B, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), batch[:, 1:].flatten())
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"expected a finite loss, got {value} at update {self.updates}: lower the learning "
                f"rate (now {self.learning_rate():g}) and go on from the last checkpoint"
            )
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.updates += 1
        return value

    def train(self, windows: NDArray[np.int64]) -> float:
        """Updates over (n, T + 1) windows in order, B at a time; returns their mean loss [nats]."""
        batch = self.config.batch
        if len(windows) % batch:
            raise ValueError(f"expected a multiple of {batch} windows, got {len(windows)}")
        losses = [self.update(windows[i : i + batch]) for i in range(0, len(windows), batch)]
        return float(np.mean(losses))

    @torch.inference_mode()
    def nll(self, windows: NDArray[np.int64], rows: int = 64) -> NDArray[np.float64]:
        """(n,) negative log-likelihood [nats] summed over each window's T predicted tokens."""
        self.model.eval()
        parts = []
        for i in range(0, len(windows), rows):
            batch = torch.from_numpy(windows[i : i + rows]).to(self.device)
            logits = self.model(input_ids=batch[:, :-1]).logits.float()  # (b, T, V)
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
            parts.append(loss.view(len(batch), -1).sum(1, dtype=torch.float64).cpu().numpy())
        return np.concatenate(parts) if parts else np.zeros(0)

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of weights, moments and the place in the schedule; later training leaves it."""
        taken = {f"model.{n}": p.detach().clone() for n, p in self._named}
        for name, parameter in self._named:
            for key, value in self.optimizer.state[parameter].items():
                taken[f"{key}.{name}"] = value.clone()
        taken["schedule"] = torch.tensor(
            [self.updates, self._start_of_phase, self.phase_updates, int(self.decays)]
        )
        return taken

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot exactly.

        Raises:
            ValueError: The snapshot is of another architecture; nothing is changed.
        """
        for name, parameter in self._named:
            found = snapshot.get(f"model.{name}")
            if found is None or found.shape != parameter.shape:
                got = "nothing" if found is None else tuple(found.shape)
                raise ValueError(
                    f"expected weights {name} of shape {tuple(parameter.shape)}, got {got}: "
                    "the snapshot is of another model"
                )
        for name, parameter in self._named:
            parameter.copy_(snapshot[f"model.{name}"])
            for key, value in self.optimizer.state[parameter].items():
                value.copy_(snapshot[f"{key}.{name}"])
        updates, start, length, decays = snapshot["schedule"].tolist()
        self.updates, self._start_of_phase = updates, start
        self.phase_updates, self.decays = length, bool(decays)

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs per token, 6 N (Kaplan et al. 2020); a forward pass costs a third."""
        return 6.0 * self.n_parameters


def save_snapshot(snapshot: Snapshot, path: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write a snapshot as safetensors; whole or not at all."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        save_file(
            {k: v.cpu().contiguous() for k, v in snapshot.items()},
            temporary,
            metadata={k: str(v) for k, v in (about or {}).items()},
        )


def load_snapshot(path: Path) -> dict[str, Tensor]:
    """Raises: ValueError where the file is truncated or not safetensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"expected a safetensors snapshot in {path}, got {error}") from None
