"""N learners of one architecture, trained in lockstep.

One tiny model cannot keep a machine busy: its matrix products are small and its operations many.
A bank keeps the weights of N learners as rows of one array and runs one compiled program over
them: over all rows at once on a GPU, over several rows side by side on the cores of a CPU. Each
learner keeps its own text, schedule, learning rate, gradient norm and moments, and its snapshot is
a trainer's: it moves from a `Trainer` to a bank and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from itertools import product
from threading import Barrier
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train_lm.adapters import CYCLE, Adapter, AdapterConfig, adapted_twin
from train_lm.bank.bases import FrozenBases, check_one_base
from train_lm.bank.programs import compiled, fisher, plain
from train_lm.bank.row_updates import RowUpdates
from train_lm.bank.stacks import adapted_stack, stack_of, trainable
from train_lm.steps.anchors import Anchor, check_labels
from train_lm.steps.costs import Cost, cost_of
from train_lm.steps.optimizers import BETAS
from train_lm.steps.schedule import AVERAGES, Schedule
from train_lm.trainer import (
    AVERAGE,
    AVERAGING,
    MEASURED_AT_ONCE,
    Snapshot,
    TrainerConfig,
    averaging_of,
    check_averaging,
    check_length,
    check_snapshot,
    cycle_of,
    not_finite,
    place_of,
    take_over,
    training_flops,
)

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

Item = TypeVar("Item")
Result = TypeVar("Result")


class LearnerBank:
    """Trains N causal LMs on N streams of token windows.

    Args:
        models: N modules of one architecture, whose weights are copied; the same module may
            stand several times.
        config: Optimisation settings, of all learners or one each. The batch is the same for all.
        device: Where the learners live; CUDA where there is one, if not stated.
        compile: Whether the programs are compiled, at the first update and first measurement.
        chunk: Learners per program; all of them on CUDA, one on a CPU, where a learner's
            activations then stay in the cache.
        threads: Programs run side by side on a CPU, each on one core; PyTorch's number of
            threads, if not stated.
        adapter: Shape of the adapters that train in the place of the models, which are then one
            base for all of them, kept once.

    Raises:
        ValueError: The models differ in architecture or the settings in their batch, there is
            nothing to compile with, or the models have no layers for an adapter.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        config: TrainerConfig | Sequence[TrainerConfig],
        device: str | torch.device | None = None,
        *,
        compile: bool = False,
        chunk: int | None = None,
        threads: int | None = None,
        adapter: AdapterConfig | None = None,
    ) -> None:
        if not models:
            raise ValueError("expected at least one model, got none")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        on_cpu = self.device.type == "cpu"
        self.n = len(models)
        self.configs = _checked_configs(config, self.n)
        self.model = models[0]  # says what the learners are; its weights are not theirs
        self._compiled = compile
        self._bases: FrozenBases | None = None
        if adapter is None:
            self._shapes = {n: tuple(p.shape) for n, p in trainable(self.model)}
            self._stack = stack_of(self.model)
            rows = [self._row(m) for m in models]
        else:
            rows = self._adapt(models, adapter)
        self._weights = torch.stack(rows)  # (N, P)
        self.n_trained = self._weights.shape[1]
        frozen = 0 if self._bases is None else self._bases.rows.shape[1]
        every = sum(p.numel() for p in self.model.parameters())
        self.n_parameters = every if adapter is None else frozen + self.n_trained
        self._uncompiled = plain(self._stack)  # for windows of any number
        self._programs = compiled(self._stack, self.device) if compile else self._uncompiled
        self._rule = RowUpdates(self._shapes, self.configs[0].updates, self.n, self.device)
        self._mean = self._weights.new_zeros(self.n, self._rule.low)
        self._square = torch.zeros_like(self._mean)
        self._decays = self._rule.decays().to(self.device)
        self._anchors: dict[int, tuple[Tensor, Tensor]] = {}
        self._averages: dict[int, Tensor] = {}  # (P,) of each learner that keeps one
        self._steps = np.zeros(self.n, dtype=np.int64)
        self.updates = np.zeros(self.n, dtype=np.int64)
        self.schedules = [Schedule(c.learning_rate, c.warmup, c.final) for c in self.configs]

        chunk = min(self.n, chunk or (1 if on_cpu else self.n))
        self._blocks = [slice(i, min(i + chunk, self.n)) for i in range(0, self.n, chunk)]
        self._pool = _cores(threads or torch.get_num_threads()) if on_cpu else None

    def _adapt(self, models: Sequence[nn.Module], adapter: AdapterConfig) -> list[Tensor]:
        """Freeze the models as one base; the rows of fresh adapters on it."""
        if adapter.dropout:
            raise ValueError(
                f"expected adapters without dropout in a bank, got {adapter.dropout}: use trainers"
            )
        check_one_base(models)
        adapted = adapted_twin(self.model, adapter)
        numbers = {n: p for n, p in adapted.model.named_parameters() if "lora_" in n}
        self._shapes = {n: tuple(p.shape) for n, p in numbers.items()}
        self._stack = adapted_stack(self.model, adapted)
        self._bases = FrozenBases(adapted, self.n, self.device)
        row = torch.cat([p.detach().flatten() for p in numbers.values()])
        return [row.to(self.device, torch.float32)] * self.n

    def close(self) -> None:
        """Free the threads; it can train and measure no more."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    # --- training ----------------------------------------------------------------------------

    @property
    def batch(self) -> int:
        """Windows B per learner and update."""
        return self.configs[0].batch

    def begin_phase(
        self,
        updates: int,
        *,
        decay: bool,
        averaging: str = "none",
        learners: Iterable[int] | None = None,
    ) -> None:
        """Start a learning-rate schedule, as `Trainer.begin_phase`, of all or of some learners."""
        if updates < 1:
            raise ValueError(f"expected a phase of at least one update, got {updates}")
        check_averaging(averaging, self._bases is not None)
        for i in self._chosen(learners):
            self.schedules[i] = replace(
                self.schedules[i],
                start=int(self.updates[i]),
                length=updates,
                decays=decay,
                restart=0,
                rewarm=0,
                averaging=averaging,
            )
            self._begin_average(i)

    def train(self, windows: Ints, learners: Iterable[int] | None = None) -> Floats:
        """Updates of every learner over windows of its own, in order, B at a time.

        Args:
            windows: (n, m, T + 1) token ids, m windows for each of the n learners.
            learners: Which learners, ascending; all N, if not stated. The others stay as they are.

        Returns:
            (n,) mean losses [nats per token], each before its step.

        Raises:
            FloatingPointError: A learner's loss or gradient is not finite. It, and what shares its
                program, stands where it stood before that update; the others have gone on.
            ValueError: Windows of another shape, or longer than the models.
        """
        chosen = self._chosen(learners)
        batches = self._for_all(windows, chosen).split(self.batch, 1)
        if not windows.shape[1] or windows.shape[1] % self.batch:
            raise ValueError(f"expected a multiple of {self.batch} windows, got {windows.shape[1]}")
        idle = [i for i in chosen if self.schedules[i].length == 0]
        if idle:
            raise RuntimeError(f"call begin_phase before the first update of learner {idle[0]}")
        losses = np.zeros((self.n, len(batches)))

        def train(block: slice) -> FloatingPointError | None:
            # No learner waits for another one before its last update is done.
            inside = [i for i in chosen if block.start <= i < block.stop]
            for k, batch in enumerate(batches):
                try:
                    losses[block, k] = self._update(block, _packed(batch[block]), inside)
                except FloatingPointError as error:
                    return error
            return None

        for error in self._each(train, self._holding(chosen)):
            if error is not None:
                raise error
        return np.asarray(losses[chosen].mean(1))

    def _update(self, block: slice, batch: Tensor, inside: list[int]) -> Floats:
        """One step of the learners `inside` a block; (c,) losses of all of the block."""
        base = self._base_of(block)
        loss, gradient, norm = self._programs.gradient(self._weights[block], batch, *base)
        self._pull(block, gradient, norm)
        values = torch.cat([loss[:, None], norm], 1).double().cpu().numpy()  # (c, 2)
        rates = np.array([self.schedules[i].rate(int(self.updates[i])) for i in inside])
        for i, rate in zip(inside, rates, strict=True):
            value, size = values[i - block.start].tolist()
            if not math.isfinite(value) or not math.isfinite(size):
                message = not_finite(value, size, int(self.updates[i]), rate)
                raise FloatingPointError(f"learner {i}: {message}")
        scalars = self._scalars(inside, rates)
        if len(inside) == block.stop - block.start:
            parts = [(block, slice(None), slice(None))]
        else:
            parts = [
                (slice(i, i + 1), slice(i - block.start, i - block.start + 1), slice(k, k + 1))
                for k, i in enumerate(inside)
            ]
        for rows, own, k in parts:
            self._step(rows, gradient[own], norm[own], scalars[k])
        self._steps[inside] += 1
        self.updates[inside] += 1
        for i in self._averages.keys() & set(inside):
            share = self.schedules[i].newest_share(int(self.updates[i]))
            self._averages[i].lerp_(self._weights[i], share)
        return np.asarray(values[:, 0])

    def _begin_average(self, learner: int) -> None:
        self._averages.pop(learner, None)
        if self.schedules[learner].averages:
            self._averages[learner] = self._weights[learner].clone()

    def _measured(self, block: slice) -> Tensor:
        """(c, P) weights of a block that are measured: averages, where they are kept."""
        weights = self._weights[block]
        kept = self._averages.keys() & range(block.start, block.stop)
        if not kept:
            return weights
        weights = weights.clone()
        for i in kept:
            weights[i - block.start] = self._averages[i]
        return weights

    def _base_of(self, block: slice) -> tuple[Tensor, ...]:
        """The frozen weights of a block's learners, where there are any."""
        return () if self._bases is None else (self._bases.of(block),)

    def _pull(self, block: slice, gradient: Tensor, norm: Tensor) -> None:
        """Add the anchors' gradients to those of a block, and tell the norms of the sums."""
        for i in self._anchors.keys() & range(block.start, block.stop):
            at, force = self._anchors[i]
            own = gradient[i - block.start].add_(force * (self._weights[i] - at))
            norm[i - block.start] = torch.linalg.vector_norm(own)

    def _step(self, rows: slice, gradient: Tensor, norm: Tensor, scalars: Tensor) -> None:
        """One step of the rows by their (c, P) gradients, as the update rule has it."""
        weights, moments = self._weights[rows], (self._mean[rows], self._square[rows])
        rule = self._rule.updates.rule
        if rule == "full":
            self._programs.step(weights, gradient, *moments, self._decays, norm, scalars)
            return
        # Clipped before it is reduced: what is left out is remembered as it would have counted.
        gradient = gradient * (scalars[:, 3:] / (norm + 1e-6)).clamp(max=1.0)
        scalars = scalars.clone()
        scalars[:, 3] = math.inf
        if rule == "topk":
            gradient, keep = self._rule.truncated(rows, gradient)
            moved = (weights, *moments)
            before = [value.clone() for value in moved]
            self._programs.step(weights, gradient, *moments, self._decays, norm, scalars)
            for value, was in zip(moved, before, strict=True):
                value.copy_(torch.where(keep, value, was))
            return
        fresh = self._steps[rows] % self._rule.updates.refresh == 0
        small, gradient = self._rule.lowered(rows, fresh, weights, gradient)
        self._programs.step(small, gradient, *moments, self._decays, norm, scalars)
        self._rule.raise_(rows, small, weights, scalars[:, 0])

    def nll(self, windows: Ints, learners: Iterable[int] | None = None) -> Floats:
        """(n, m) negative log-likelihood [nats] summed over each of (n, m, T + 1) windows."""
        chosen = self._chosen(learners)
        m = windows.shape[1]
        # A compiled program has one shape: the last piece is filled up, and the rest dropped.
        padding = -m % self.batch if self._compiled else 0
        batch = self._for_all(np.pad(windows, ((0, 0), (0, padding), (0, 0))), chosen)
        found = np.zeros((self.n, batch.shape[1]))

        def measure(task: tuple[slice, int]) -> None:
            block, i = task
            part = _packed(batch[block, i : i + self.batch])
            sums = self._programs.measure(self._measured(block), part, *self._base_of(block))
            found[block, i : i + self.batch] = sums.cpu().numpy()

        # Unlike updates, the pieces of one learner can be measured side by side.
        pieces = range(0, batch.shape[1], self.batch)
        self._each(measure, list(product(self._holding(chosen), pieces)))
        return found[chosen, :m]

    # --- what is to be kept, and what it costs -----------------------------------------------

    def anchor(self, learner: int, anchor: Anchor | None) -> None:
        """Hold one learner near to an anchor from now on, or no more; as `Trainer.anchor`."""
        self._anchors.pop(learner, None)
        if anchor is None or anchor.strength == 0:
            return
        anchor.fitted(self._shapes)
        at, importance = (
            torch.cat([parts[n].flatten().to(self.device, torch.float32) for n in self._shapes])
            for parts in (anchor.weights, anchor.importance)
        )
        self._anchors[learner] = at, anchor.strength * importance

    @torch.no_grad()
    def importance(
        self, learner: int, windows: Ints, labels: str = "model", seed: int = 0
    ) -> dict[str, Tensor]:
        """Fisher information of one learner on (n, T + 1) windows; as `Trainer.importance`."""
        check_labels(labels)
        check_length(self.model, windows)
        if not len(windows):
            raise ValueError("expected at least one window to measure importance on, got none")
        generator = torch.Generator(self.device).manual_seed(seed)
        tokens = torch.from_numpy(windows).to(self.device)
        row = self._weights[learner][None]
        with self._autocast():
            base = next(iter(self._base_of(slice(learner, learner + 1))), None)
            found = fisher(self._stack, row, base, tokens, labels, generator)
        return self._split(found, self._shapes)

    @torch.no_grad()
    def gradient(self, learner: int, windows: Ints) -> dict[str, Tensor]:
        """Gradient of one learner's mean loss on (n, T + 1) windows; as `Trainer.gradient`."""
        check_length(self.model, windows)
        row = self._weights[learner][None]
        base = self._base_of(slice(learner, learner + 1))
        total = torch.zeros_like(row[0])
        with self._autocast():
            for i in range(0, len(windows), MEASURED_AT_ONCE):
                piece = torch.from_numpy(windows[i : i + MEASURED_AT_ONCE]).to(self.device)
                _, found, _ = self._uncompiled.gradient(row, piece[None], *base)
                total += found[0] * (len(piece) / len(windows))
        return self._split(total, self._shapes)

    def weights(self, learner: int) -> dict[str, Tensor]:
        """Copies of one learner's trained weights, by the parameter's name."""
        return self._split(self._weights[learner].clone(), self._shapes)

    def measured_weights(self, learner: int) -> dict[str, Tensor]:
        """Copies of one learner's weights that `nll` measures; as `Trainer.measured_weights`."""
        row = self._averages.get(learner, self._weights[learner])
        return self._split(row.clone(), self._shapes)

    def merged(self, learner: int) -> dict[str, Tensor]:
        """Copies of all weights of one learner, under a snapshot's names; as `Trainer.merged`."""
        found = self.weights(learner)
        if self._bases is not None:
            found = self._bases.merged(learner, found)
        return {f"model.{name}": value for name, value in found.items()}

    def cost(self, learner: int, since: Snapshot | None = None) -> Cost:
        """What one learner's way of updating costs; as `Trainer.cost`."""
        kept = [v for n, v in self._state_of(learner).items() if not n.startswith("model.")]
        n_bytes = sum(v.numel() * v.element_size() for v in kept) + self._steps.itemsize
        return cost_of(self.n_trained, n_bytes, self.merged(learner), since)

    # --- adapters ----------------------------------------------------------------------------

    def take_adapter(self, learner: int) -> Adapter:
        """A copy of one learner's adapter; as `Trainer.take_adapter`."""
        return self._frozen().take(learner, self.weights(learner))

    def put_adapter(self, learner: int, adapter: Adapter) -> None:
        """One learner goes on with the numbers of another adapter; as `Trainer.put_adapter`."""
        self._frozen().put_(learner, self._numbers(learner), adapter)

    def merge_and_reset(self, learner: int, rewarm: int | None = None) -> None:
        """Merge one learner's adapter into a base of its own; as `Trainer.merge_and_reset`."""
        self._frozen().merge_(learner, self._numbers(learner))
        for name, value in self._state_of(learner).items():
            if not name.startswith("model."):
                value.zero_()
        self._steps[learner] = 0
        updates = int(self.updates[learner])
        self.schedules[learner] = self.schedules[learner].rewarmed(updates, rewarm)

    def _frozen(self) -> FrozenBases:
        if self._bases is None:
            raise RuntimeError("a bank without adapters has none to take, put or merge")
        return self._bases

    def _numbers(self, learner: int) -> dict[str, Tensor]:
        """Views of one learner's trained weights, by the parameter's name."""
        return self._split(self._weights[learner], self._shapes)

    # --- exact copies ------------------------------------------------------------------------

    def snapshot(self, learner: int) -> dict[str, Tensor]:
        """Copies of one learner's weights, moments and place in its schedule, as a trainer's."""
        taken = {name: value.clone() for name, value in self._state_of(learner).items()}
        for name in self._shapes:
            taken[f"step.{name}"] = torch.tensor(float(self._steps[learner]), device=self.device)
        plan = self.schedules[learner]
        place = [int(self.updates[learner]), plan.start, plan.length, int(plan.decays)]
        taken["schedule"] = torch.tensor(place)
        if self._bases is not None:
            taken |= self._bases.state_of(learner)
            cycles = int(self._bases.cycles[learner])
            taken[CYCLE] = torch.tensor([cycles, plan.restart, plan.rewarm])
        if plan.averages:
            taken[AVERAGING] = torch.tensor([AVERAGES.index(plan.averaging)])
            measured = self.measured_weights(learner)
            taken |= {f"{AVERAGE}{name}": value for name, value in measured.items()}
        return taken

    @torch.no_grad()
    def restore(self, learner: int, snapshot: Snapshot) -> None:
        """Return one learner to a snapshot exactly, one of a bank or of a trainer.

        Raises:
            ValueError: The snapshot is of another architecture or optimiser; nothing is changed.
        """
        check_snapshot(snapshot, self._shapes)
        state = self._state_of(learner)
        for name, value in [*state.items(), *((f"step.{n}", None) for n in self._shapes)]:
            found = snapshot.get(name)
            if found is None or (value is not None and found.shape != value.shape):
                got = "nothing" if found is None else tuple(found.shape)
                raise ValueError(
                    f"expected optimiser state {name}, got {got}: the snapshot is of another "
                    "optimiser"
                )
        place = place_of(snapshot)
        averaging = averaging_of(snapshot, self._shapes)
        check_averaging(averaging, self._bases is not None)
        cycles, restart, rewarm = (0, 0, 0) if self._bases is None else cycle_of(snapshot)
        if self._bases is not None:
            self._bases.check(learner, snapshot, cycles)
            self._bases.restore_(learner, snapshot, cycles)
        for name, value in state.items():
            value.copy_(snapshot[name])
        self._steps[learner] = int(snapshot[f"step.{next(iter(self._shapes))}"])
        self._go_to(learner, place, restart, rewarm, averaging)
        if learner in self._averages:
            for name, value in self._split(self._averages[learner], self._shapes).items():
                value.copy_(snapshot[f"{AVERAGE}{name}"])

    @torch.no_grad()
    def adopt(self, learner: int, snapshot: Snapshot) -> None:
        """One learner begins where a trainer of the whole model stood; as `Trainer.adopt`."""
        shapes = self._shapes if self._bases is None else self._bases.shapes
        check_snapshot(snapshot, shapes)
        place = place_of(snapshot) if "schedule" in snapshot else None
        state = self._state_of(learner)
        if self._bases is not None:
            weights = {name: snapshot[f"model.{name}"] for name in shapes}
            self._bases.rebase_(learner, weights, self._numbers(learner))
        else:
            for name in self._shapes:
                state[f"model.{name}"].copy_(snapshot[f"model.{name}"])
        steps = {f"step.{name}": torch.zeros(()) for name in self._shapes}
        take_over(steps | {n: v for n, v in state.items() if not n.startswith("model.")}, snapshot)
        self._steps[learner] = int(next(iter(steps.values())))
        if place is not None:
            self._go_to(learner, place)

    def _go_to(
        self,
        learner: int,
        place: tuple[int, int, int, bool],
        restart: int = 0,
        rewarm: int = 0,
        averaging: str = "none",
    ) -> None:
        updates, start, length, decays = place
        self.updates[learner] = updates
        self.schedules[learner] = replace(
            self.schedules[learner],
            start=start,
            length=length,
            decays=decays,
            restart=restart,
            rewarm=rewarm,
            averaging=averaging,
        )
        self._begin_average(learner)

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs per token of one learner; see `training_flops`."""
        return training_flops(self.n_parameters, self.n_trained)

    # --- what it is made of ------------------------------------------------------------------

    def _row(self, model: nn.Module) -> Tensor:
        named = trainable(model)
        if {n: tuple(p.shape) for n, p in named} != self._shapes:
            raise ValueError("expected models of one architecture, got several")
        return torch.cat([p.detach().flatten().to(self.device, torch.float32) for _, p in named])

    def _state_of(self, learner: int) -> dict[str, Tensor]:
        """Views of one learner's numbers, by the names that a trainer's snapshot gives them."""
        rows = {"model": self._weights, "exp_avg": self._mean, "exp_avg_sq": self._square}
        found: dict[str, Tensor] = {}
        for kind, row in rows.items():
            shapes = self._shapes if kind == "model" else self._rule.moments
            found |= {f"{kind}.{n}": v for n, v in self._split(row[learner], shapes).items()}
        return found | self._rule.state_of(learner)

    @staticmethod
    def _split(row: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
        """Views of a learner's numbers, by name."""
        parts = zip(shapes.items(), row.split([math.prod(s) for s in shapes.values()]), strict=True)
        return {name: part.view(shape) for (name, shape), part in parts}

    def _scalars(self, learners: list[int], rates: Floats) -> Tensor:
        """(n, 4) of the given learners; see `adamw_`."""
        steps = self._steps[learners] + 1.0
        decay = np.array([self.configs[i].weight_decay for i in learners])
        clip = np.array([self.configs[i].clip for i in learners])
        root = np.sqrt(1 - BETAS[1] ** steps)
        columns = np.stack([rates * decay, rates / (1 - BETAS[0] ** steps), root, clip], 1)
        return torch.from_numpy(columns).float().to(self.device)

    def _autocast(self) -> torch.autocast:
        enabled = self.configs[0].precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)

    def _chosen(self, learners: Iterable[int] | None) -> list[int]:
        chosen = list(range(self.n)) if learners is None else [int(i) for i in learners]
        if not chosen or chosen != sorted(set(chosen)) or chosen[0] < 0 or chosen[-1] >= self.n:
            raise ValueError(f"expected ascending learners among 0..{self.n - 1}, got {chosen}")
        return chosen

    def _holding(self, chosen: list[int]) -> list[slice]:
        """The blocks that hold a chosen learner."""
        return [b for b in self._blocks if any(b.start <= i < b.stop for i in chosen)]

    def _for_all(self, windows: Ints, chosen: list[int]) -> Tensor:
        """(N, m, T + 1) windows on the device; zeros for learners that are not chosen."""
        if windows.ndim != 3 or len(windows) != len(chosen):
            raise ValueError(
                f"expected windows of shape ({len(chosen)}, m, T + 1), got {windows.shape}"
            )
        check_length(self.model, windows)
        if len(chosen) < self.n:
            every = np.zeros((self.n, *windows.shape[1:]), dtype=np.int64)
            every[chosen] = windows
            windows = every
        return torch.from_numpy(np.ascontiguousarray(windows)).to(self.device)

    def _each(self, task: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        def quietly(item: Item) -> Result:
            with torch.no_grad(), self._autocast():  # both are kept per thread
                return task(item)

        if self._pool is None:
            return [quietly(item) for item in items]
        futures = [self._pool.submit(quietly, item) for item in items]
        wait(futures)  # an error is told when nothing computes any more
        return [future.result() for future in futures]


def _checked_configs(
    config: TrainerConfig | Sequence[TrainerConfig], n: int
) -> tuple[TrainerConfig, ...]:
    configs = (config,) * n if isinstance(config, TrainerConfig) else tuple(config)
    if len(configs) != n:
        raise ValueError(f"expected {n} settings, one per model, got {len(configs)}")
    shared = {(c.batch, c.precision) for c in configs}
    if len(shared) > 1:
        raise ValueError(f"expected one batch and precision for all learners, got {shared}")
    if len({c.updates for c in configs}) > 1:
        raise ValueError("expected one update rule for all learners of a bank, got several")
    if any(c.accumulate > 1 or c.optimizer != "adamw" for c in configs):
        raise ValueError(
            "expected AdamW and batches in one piece, got other settings: use a trainer for them"
        )
    return configs


def _packed(windows: Tensor) -> Tensor:
    """A copy whose strides its shape alone decides, also that of a dimension of one.

    A compiled program is for strides, too; each number of windows that it was cut out of would have
    one of its own, and after eight the rest is not compiled.
    """
    return windows.clone(memory_format=torch.contiguous_format)


def _cores(threads: int) -> ThreadPoolExecutor:
    """Threads of which each computes on one core.

    Even one learner has such a thread: several threads for one tiny operation mostly wait for each
    other.
    """
    # PyTorch keeps the number per thread, with one default for threads to come.
    default = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "bank", initializer=_one_core)
    all_here = Barrier(threads)
    list(pool.map(lambda _: all_here.wait(), range(threads)))
    torch.set_num_threads(default)
    return pool


def _one_core() -> None:
    # Asked first: a thread that never was takes the default at its first operation instead, also
    # after it was told another number (ATen's ParallelOpenMP.cpp, lazy_init_num_threads).
    torch.get_num_threads()
    torch.set_num_threads(1)
