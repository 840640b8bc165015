"""One learner: k steps of an optimiser on windows, its held-out loss, and its exact snapshot."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from train_lm.adapters import CYCLE, Adapted, Adapter, AdapterConfig
from train_lm.checked.tensors import load_tensors
from train_lm.files import write_tensors
from train_lm.machine.compiling import compile_for
from train_lm.machine.parallel import Alone, Parallel, put, whole
from train_lm.steps.anchors import Anchor, check_labels, score
from train_lm.steps.costs import Cost, cost_of
from train_lm.steps.optimizers import OPTIMIZERS
from train_lm.steps.schedule import AVERAGES, Schedule
from train_lm.updates import FULL, Updates, build_steps, n_bytes

PRECISIONS = ("fp32", "bf16")
OF_A_RULE = ("residual.", "projection.")  # state that other rules lack
AVERAGING, AVERAGE = "averaging", "average."  # of a snapshot whose phase measures averaged weights
MEASURED_AT_ONCE = 64  # [windows] of a forward pass without gradients


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
        accumulate: Pieces that a batch is cut into where it does not fit into memory at once.
        precision: `fp32`, or `bf16` for matrix products in bfloat16 under autocast.
        optimizer: `adamw` or `muon`.
        updates: Which part of a gradient becomes a step; with `adamw` alone.
    """

    learning_rate: float = 2e-3
    batch: int = 16
    warmup: float = 0.02
    final: float = 0.0
    weight_decay: float = 0.01
    clip: float = 1.0
    accumulate: int = 1
    precision: str = "fp32"
    optimizer: str = "adamw"
    updates: Updates = FULL

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or self.batch < 1 or not 0 <= self.warmup < 1:
            raise ValueError(
                "expected learning_rate > 0, batch >= 1 and 0 <= warmup < 1, got "
                f"{self.learning_rate}, {self.batch} and {self.warmup}"
            )
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise ValueError(
                f"expected a batch that {self.accumulate} pieces share evenly, got {self.batch}"
            )
        if self.precision not in PRECISIONS or self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"expected a precision among {PRECISIONS} and an optimizer among {OPTIMIZERS}, "
                f"got {self.precision!r} and {self.optimizer!r}"
            )
        if self.updates.rule != "full" and self.optimizer != "adamw":
            raise ValueError(
                f"expected the optimizer adamw where updates are {self.updates.rule}, got "
                f"{self.optimizer!r}: take one of the two"
            )


Snapshot = Mapping[str, Tensor]


class Trainer:
    """Trains a causal LM on token windows.

    Args:
        model: Maps `input_ids` (B, T) to an output with `.logits` (B, T, V).
        config: Optimisation settings.
        device: Where the model lives; CUDA where there is one, if not stated.
        parallel: The processes that train the model; this one alone, if not stated.
        compile: Whether forward and backward pass are compiled, at the first update.
        adapter: Shape of an adapter that trains in the place of the model, whose layers are then
            wrapped in place and whose weights stand still.

    Raises:
        ValueError: There is nothing to compile with, torch has no such optimiser, or the model
            has no layers for an adapter.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainerConfig,
        device: str | torch.device | None = None,
        parallel: Parallel | None = None,
        compile: bool = False,
        adapter: AdapterConfig | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.parallel = parallel or Alone()
        if adapter is not None and getattr(self.parallel, "shard", False):
            raise ValueError(
                "expected whole tensors for an adapter, got sharded ones: copy the model over the "
                "processes instead of sharding it"
            )
        model = model.to(self.device)
        self.adapted = None if adapter is None else Adapted(model, adapter)
        self.model = model if self.adapted is None else self.adapted.model
        self.config = config
        self.n_parameters = sum(p.numel() for p in self.model.parameters())
        self.n_trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        self._called = self.parallel.wrap(self.model)
        self._named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self._steps = build_steps(self._named, config)
        self.optimizers = self._steps.optimizers
        self._mean_loss = compile_for(self.device)(self._loss_of) if compile else self._loss_of
        self._pulls: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        self._average: list[Tensor] = []  # beside `_named`; empty where none is kept
        self.updates = 0
        self.schedule = Schedule(config.learning_rate, config.warmup, config.final)

    def begin_phase(self, updates: int, *, decay: bool, averaging: str = "none") -> None:
        """Start a learning-rate schedule over the given number of updates from now.

        With decay the rate rises linearly, then falls by a cosine to `final` at the last update;
        without, it stays at the peak, so that a later phase can go on from there.

        Args:
            averaging: Which average of the weights `nll` measures in their place; see `Schedule`.

        Raises:
            ValueError: No update, an unknown averaging, or one with an adapter.
        """
        if updates < 1:
            raise ValueError(f"expected a phase of at least one update, got {updates}")
        check_averaging(averaging, self.adapted is not None)
        self.schedule = replace(
            self.schedule,
            start=self.updates,
            length=updates,
            decays=decay,
            restart=0,
            rewarm=0,
            averaging=averaging,
        )
        self._begin_average()

    def learning_rate(self) -> float:
        """Learning rate of the next update."""
        return self.schedule.rate(self.updates)

    def update(self, windows: NDArray[np.int64]) -> float:
        """One optimiser step on (B, T + 1) token ids; on this process' share of them, if several.

        Returns:
            The batch's mean loss [nats per token] before the step, over all processes.

        Raises:
            FloatingPointError: Loss or gradient is not finite; weights are left as they were.
            MemoryError: The batch does not fit into memory; weights are left as they were.
            ValueError: A window is longer than the model.
        """
        if self.schedule.length == 0:
            raise RuntimeError("call begin_phase before the first update")
        check_length(self.model, windows)
        self.model.train()
        try:
            value = self._backward(windows)
        except RuntimeError as error:
            self._drop_gradients()
            if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
                raise MemoryError(
                    f"expected a batch that fits into the memory of {self.device}, got "
                    f"{len(windows)} windows of {windows.shape[1] - 1} tokens in "
                    f"{self.config.accumulate} pieces: accumulate more pieces, or lower the batch"
                ) from None
            raise
        self._pull()
        norm = float(whole(nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)))
        # A finite loss with an infinite gradient would end in weights that are not finite.
        if not math.isfinite(value) or not math.isfinite(norm):
            self._drop_gradients()
            raise FloatingPointError(not_finite(value, norm, self.updates, self.learning_rate()))
        self._steps.step(self.learning_rate())
        self._drop_gradients()
        self.updates += 1
        self._count_in()
        return value

    def _begin_average(self) -> None:
        kept = self._named if self.schedule.averages else []
        self._average = [p.detach().clone() for _, p in kept]

    @torch.no_grad()
    def _count_in(self) -> None:
        """The newest weights count in the average."""
        share = self.schedule.newest_share(self.updates)
        for average, (_, parameter) in zip(self._average, self._named, strict=False):
            average.lerp_(parameter, share)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the average stands in the place of the weights, where one is kept."""
        with torch.no_grad():
            raw = [p.detach().clone() for _, p in self._named] if self._average else []
            self._put(self._average)
        try:
            yield
        finally:
            with torch.no_grad():
                self._put(raw)

    def _put(self, weights: Sequence[Tensor]) -> None:
        for (_, parameter), value in zip(self._named, weights, strict=False):
            parameter.copy_(value)

    def _backward(self, windows: NDArray[np.int64]) -> float:
        batch = torch.from_numpy(windows).to(self.device)
        pieces = batch.chunk(self.config.accumulate)
        total = torch.zeros((), device=self.device)
        for i, piece in enumerate(pieces):
            last = i == len(pieces) - 1
            with nullcontext() if last else self.parallel.accumulating(self._called):
                loss = self._mean_loss(piece[:, :-1], piece[:, 1:]) / len(pieces)
                loss.backward()
            total += loss.detach()
        return float(self.parallel.mean(total))

    def anchor(self, anchor: Anchor | None) -> None:
        """Hold the weights near to an anchor from now on, or no more; no part of a snapshot.

        Raises:
            ValueError: The anchor is of another model.
        """
        self._pulls = []
        if anchor is None or anchor.strength == 0:
            return
        anchor.fitted({n: tuple(p.shape) for n, p in self._named})
        for name, parameter in self._named:
            at, force = torch.zeros_like(parameter.detach()), torch.zeros_like(parameter.detach())
            put(at, anchor.weights[name])
            put(force, anchor.strength * anchor.importance[name])
            self._pulls.append((parameter, at, force))

    @torch.no_grad()
    def _pull(self) -> None:
        """Add the anchor's gradient, strength F (w - w0), before the whole is clipped."""
        for parameter, at, force in self._pulls:
            pull = force * (parameter - at)
            parameter.grad = pull if parameter.grad is None else parameter.grad.add_(pull)

    def importance(
        self, windows: NDArray[np.int64], labels: str = "model", seed: int = 0
    ) -> dict[str, Tensor]:
        """Diagonal of the Fisher information per token, of each weight, by the parameter's name.

        Args:
            windows: (n, T + 1) token ids; one backward pass each.
            labels: `model`: tokens are drawn from what the model predicts, as the definition has
                it; `data`: the text's own, the empirical Fisher.
            seed: Of the tokens that are drawn.

        Raises:
            ValueError: No window, one longer than the model, or labels of another name.
        """
        check_labels(labels)
        check_length(self.model, windows)
        if not len(windows):
            raise ValueError("expected at least one window to measure importance on, got none")
        self.model.eval()
        generator = torch.Generator(self.device).manual_seed(seed)
        found = {n: torch.zeros_like(p.detach()) for n, p in self._named}
        for window in torch.from_numpy(windows).to(self.device):
            with self._autocast():
                logits = self.model(input_ids=window[None, :-1]).logits[0]  # (T, V)
            score(logits, window[1:], labels, generator).backward()
            for name, parameter in self._named:
                if parameter.grad is not None:
                    found[name] += parameter.grad.square()
                    parameter.grad = None
        tokens = windows.shape[1] - 1
        return {name: whole(value) * (tokens / len(windows)) for name, value in found.items()}

    def weights(self) -> dict[str, Tensor]:
        """Copies of the weights that are trained, by the parameter's name."""
        return {n: whole(p) for n, p in self._named}

    def measured_weights(self) -> dict[str, Tensor]:
        """Copies of the weights that `nll` measures: the average, where one is kept."""
        if not self._average:
            return self.weights()
        pairs = zip(self._named, self._average, strict=True)
        return {n: whole(value).clone() for (n, _), value in pairs}

    def merged(self) -> dict[str, Tensor]:
        """Copies of all weights of the model, under a snapshot's names; an adapter is merged in."""
        if self.adapted is not None:
            return {f"model.{n}": value for n, value in self.adapted.merged().items()}
        return {f"model.{n}": whole(p) for n, p in self.model.named_parameters()}

    def cost(self, since: Snapshot | None = None) -> Cost:
        """What this way of updating costs; see `Cost`.

        Args:
            since: Snapshot, or `merged` weights, to count changed parameters from.

        Raises:
            ValueError: It is of another model.
        """
        names = [n for n, _ in self._named]
        return cost_of(self.n_trained, n_bytes(self._steps, names), self.merged(), since)

    # --- an adapter --------------------------------------------------------------------------

    def take_adapter(self) -> Adapter:
        """A copy of the adapter that trains."""
        return self._adapted().take()

    def put_adapter(self, adapter: Adapter) -> None:
        """Go on with the numbers of another adapter of this base; moments stay as they are.

        Raises:
            ValueError: It is of another base, rank or shape; nothing is changed.
        """
        self._adapted().put(adapter)

    @torch.no_grad()
    def merge_and_reset(self, rewarm: int | None = None) -> None:
        """Merge the adapter into the base and begin a fresh one, with moments of zero (ReLoRA).

        Args:
            rewarm: Updates until the learning rate is back where the schedule has it; as many as
                the phase began with, if not stated.
        """
        self._adapted().merge_and_redraw()
        for value in self._states().values():
            value.zero_()
        self.schedule = self.schedule.rewarmed(self.updates, rewarm)

    def _adapted(self) -> Adapted:
        if self.adapted is None:
            raise RuntimeError("a trainer without an adapter has none to take, put or merge")
        return self.adapted

    def _loss_of(self, ids: Tensor, following: Tensor) -> Tensor:
        with self._autocast():
            logits = self._called(input_ids=ids).logits  # (B, T, V)
        return F.cross_entropy(logits.flatten(0, 1).float(), following.flatten())

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        )

    def _drop_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def train(self, windows: NDArray[np.int64]) -> float:
        """Updates over (n, T + 1) windows in order, B at a time; returns their mean loss [nats]."""
        batch = self.config.batch
        if len(windows) % batch:
            raise ValueError(f"expected a multiple of {batch} windows, got {len(windows)}")
        losses = [self.update(windows[i : i + batch]) for i in range(0, len(windows), batch)]
        return float(np.mean(losses))

    def nll(self, windows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(n,) negative log-likelihood [nats] summed over each window's T predicted tokens."""
        with self._averaged(), self._autocast():
            return nll_of(self.model, windows, self.device)

    def gradient(self, windows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Gradient of the mean loss on (n, T + 1) windows, by the parameter's name; no step.

        Whether two neighbourhoods can be merged shows in how their early gradients agree.
        """
        check_length(self.model, windows)
        self.model.eval()
        for i in range(0, len(windows), MEASURED_AT_ONCE):
            piece = torch.from_numpy(windows[i : i + MEASURED_AT_ONCE]).to(self.device)
            loss = self._loss_of(piece[:, :-1], piece[:, 1:]) * (len(piece) / len(windows))
            loss.backward()
        found = {
            n: torch.zeros_like(p) if p.grad is None else whole(p.grad) for n, p in self._named
        }
        self._drop_gradients()
        for _, parameter in self._named:  # those that no optimiser holds, as a reduced one's
            parameter.grad = None
        return found

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of weights, moments and the place in the schedule; later training leaves it."""
        taken = {f"model.{n}": whole(p) for n, p in self._named}
        taken |= {name: whole(value) for name, value in self._states().items()}
        schedule = self.schedule
        taken["schedule"] = torch.tensor(
            [self.updates, schedule.start, schedule.length, int(schedule.decays)]
        )
        if self.adapted is not None:
            taken |= self.adapted.state()
            taken[CYCLE] = torch.tensor([self.adapted.cycles, schedule.restart, schedule.rewarm])
        if schedule.averages:
            taken[AVERAGING] = torch.tensor([AVERAGES.index(schedule.averaging)])
            taken |= {f"{AVERAGE}{n}": value for n, value in self.measured_weights().items()}
        return taken

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Return to a snapshot exactly.

        Raises:
            ValueError: The snapshot is of another architecture or optimiser; nothing is changed.
        """
        check_snapshot(snapshot, {n: tuple(p.shape) for n, p in self._named})
        states = self._states()
        for name, value in states.items():
            found = snapshot.get(name)
            if found is None or found.shape != value.shape:
                got = "nothing" if found is None else tuple(found.shape)
                raise ValueError(
                    f"expected optimiser state {name} of shape {tuple(value.shape)}, got {got}: "
                    "the snapshot is of another optimiser"
                )
        place = place_of(snapshot)
        averaging = averaging_of(snapshot, {n: tuple(p.shape) for n, p in self._named})
        check_averaging(averaging, self.adapted is not None)
        cycles, restart, rewarm = cycle_of(snapshot) if self.adapted is not None else (0, 0, 0)
        if self.adapted is not None:
            self.adapted.check_base(snapshot, cycles)
            self.adapted.restore(snapshot, cycles)
        for name, parameter in self._named:
            put(parameter, snapshot[f"model.{name}"])
        for name, value in states.items():
            put(value, snapshot[name])
        self._go_to(place, restart, rewarm, averaging)
        for value, (name, _) in zip(self._average, self._named, strict=False):
            put(value, snapshot[f"{AVERAGE}{name}"])

    @torch.no_grad()
    def adopt(self, snapshot: Snapshot) -> None:
        """Begin where a trainer of the whole model stood, whatever its update rule was.

        Weights and the place in the schedule are taken over, and the moments where they have the
        same shapes; else those begin at zero. For a trainer with that one's settings this is
        `restore`. Weights alone, as `merged` gives them, leave the place as it is.

        With an adapter the weights become the base's, and the adapter a fresh one.

        Raises:
            ValueError: The snapshot is of another architecture; nothing is changed.
        """
        own = dict(self._named) if self.adapted is None else self.adapted.frozen
        check_snapshot(snapshot, {n: tuple(p.shape) for n, p in own.items()})
        place = place_of(snapshot) if "schedule" in snapshot else None
        if self.adapted is not None:
            self.adapted.rebase({n: snapshot[f"model.{n}"] for n in own})
        else:
            for name, parameter in self._named:
                put(parameter, snapshot[f"model.{name}"])
        take_over(self._states(), snapshot)
        if place is not None:
            self._go_to(place)

    def _states(self) -> dict[str, Tensor]:
        """What the optimiser depends on, itself and no copies, under a snapshot's names."""
        return {f"{k}.{n}": v for n, _ in self._named for k, v in self._steps.state_of(n).items()}

    def _go_to(
        self,
        place: tuple[int, int, int, bool],
        restart: int = 0,
        rewarm: int = 0,
        averaging: str = "none",
    ) -> None:
        self.updates, start, length, decays = place
        self.schedule = replace(
            self.schedule,
            start=start,
            length=length,
            decays=decays,
            restart=restart,
            rewarm=rewarm,
            averaging=averaging,
        )
        self._begin_average()

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs per token; see `training_flops`."""
        return training_flops(self.n_parameters, self.n_trained)


@torch.inference_mode()
def nll_of(
    model: nn.Module, windows: NDArray[np.int64], device: torch.device
) -> NDArray[np.float64]:
    """(n,) negative log-likelihood [nats] of any model, summed over each window's tokens."""
    check_length(model, windows)
    model.eval()
    parts = []
    for i in range(0, len(windows), MEASURED_AT_ONCE):
        batch = torch.from_numpy(windows[i : i + MEASURED_AT_ONCE]).to(device)
        logits = model(input_ids=batch[:, :-1]).logits.float()  # (b, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
        parts.append(loss.view(len(batch), -1).sum(1, dtype=torch.float64).cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros(0)


def training_flops(parameters: int, trained: int) -> float:
    """Training FLOPs per token, after Kaplan et al. 2020 (arXiv 2001.08361, section 2.1).

    A multiplication and an addition for each of N parameters in the forward pass, 2 N. The
    backward pass has as many for the gradient of activations, and as many again for the gradient
    of weights, which only trained ones have: 4 N + 2 n. All trained make 6 N; an adapter of n
    numbers on a frozen base of N - n makes 4 (N - n) + 6 n.
    """
    return 4.0 * parameters + 2.0 * trained


def check_length(model: nn.Module, windows: NDArray[np.int64]) -> None:
    """Raises: ValueError where the windows' T tokens are more than the model has positions."""
    config = getattr(model, "config", None)
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and windows.shape[-1] - 1 > longest:
        raise ValueError(
            f"expected windows of at most {longest} tokens, the model's context, got "
            f"{windows.shape[-1] - 1}: lower the context, or take a model with a longer one"
        )


def check_snapshot(snapshot: Snapshot, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises: ValueError where the snapshot lacks a parameter of this name and shape."""
    for name, shape in shapes.items():
        found = snapshot.get(f"model.{name}")
        if found is None or tuple(found.shape) != shape:
            got = "nothing" if found is None else tuple(found.shape)
            raise ValueError(
                f"expected weights {name} of shape {shape}, got {got}: "
                "the snapshot is of another model"
            )


def place_of(snapshot: Snapshot) -> tuple[int, int, int, bool]:
    """Updates done, and the schedule's start, length and whether it decays.

    Raises:
        ValueError: The snapshot has no such place.
    """
    place = snapshot.get("schedule")
    if place is None or place.shape != (4,) or place.is_floating_point() or place.min() < 0:
        raise ValueError("expected a place in the schedule of four whole numbers, got none")
    updates, start, length, decays = place.tolist()
    return updates, start, length, bool(decays)


def averaging_of(snapshot: Snapshot, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Which average of its weights a snapshot holds beside them; `none` of most.

    Raises:
        ValueError: It names one that is not known, or lacks a part of it.
    """
    found = snapshot.get(AVERAGING)
    if found is None:
        return "none"
    if found.shape != (1,) or found.is_floating_point() or not 0 < int(found) < len(AVERAGES):
        raise ValueError(f"expected an averaging of 1 to {len(AVERAGES) - 1} in the snapshot")
    for name, shape in shapes.items():
        value = snapshot.get(f"{AVERAGE}{name}")
        if value is None or tuple(value.shape) != shape:
            got = "nothing" if value is None else tuple(value.shape)
            raise ValueError(f"expected averaged weights {name} of shape {shape}, got {got}")
    return AVERAGES[int(found)]


def check_averaging(averaging: str, adapted: bool) -> None:
    """Raises: ValueError where an adapter's numbers were averaged: a mean of factors is no mean."""
    if adapted and averaging != "none":
        raise ValueError(
            f"expected no averaging with an adapter, got {averaging}: the mean of its two factors "
            "is not the mean of their products"
        )


def cycle_of(snapshot: Snapshot) -> tuple[int, int, int]:
    """Adapters merged so far, the update of the last merge, and updates of the warm-up after it.

    Raises:
        ValueError: The snapshot has no adapter.
    """
    found = snapshot.get(CYCLE)
    if found is None or found.shape != (3,) or found.is_floating_point() or found.min() < 0:
        raise ValueError("expected a snapshot of an adapter, got none: `adopt` begins from others")
    cycles, restart, rewarm = found.tolist()
    return cycles, restart, rewarm


def take_over(states: Mapping[str, Tensor], snapshot: Snapshot) -> None:
    """Fill the state of an optimiser: all moments if all of them fit, and else zeros.

    Args:
        states: Under a snapshot's names; what only an update rule keeps may be missing there.
    """
    fits = {
        name: name in snapshot and snapshot[name].shape == v.shape for name, v in states.items()
    }
    all_fit = all(fit or name.startswith(OF_A_RULE) for name, fit in fits.items())
    for name, value in states.items():
        if all_fit and fits[name]:
            put(value, snapshot[name])
        else:
            value.zero_()


def not_finite(loss: float, norm: float, updates: int, learning_rate: float) -> str:
    return (
        f"expected a finite loss and gradient, got a loss of {loss:g} and a norm of {norm:g} at "
        f"update {updates}: lower the learning rate (now {learning_rate:g})"
    )


def save_snapshot(snapshot: Snapshot, path: Path, about: Mapping[str, Any] | None = None) -> None:
    """Write a snapshot as safetensors; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A run writes one every few updates, and waits for no disk: a power cut costs the newest.
    write_tensors(path, snapshot, about or {}, durable=False)


def load_snapshot(path: Path) -> dict[str, Tensor]:
    """Raises: FileNotFoundError, or ValueError where the file is not whole safetensors."""
    return load_tensors(path, "the snapshot is damaged")[0]
