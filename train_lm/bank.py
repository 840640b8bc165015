"""N learners of one architecture, trained in lockstep as one program.

One tiny model cannot keep a machine busy: its matrix products are too small. A bank stacks the
weights of N learners, so that every operation works on all of them at once. Each learner keeps its
own text, schedule, learning rate, gradient norm and moments, and its snapshot is a trainer's: it
moves from a `Trainer` to a bank and back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from train_lm.optimizers import BETAS, EPSILON
from train_lm.schedule import Schedule
from train_lm.stacks import Stack, stack_of, trainable
from train_lm.trainer import Snapshot, TrainerConfig, check_length, check_snapshot, not_finite

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class LearnerBank:
    """Trains N causal LMs on N streams of token windows.

    Args:
        models: N modules of one architecture, whose weights are copied; the same module may
            stand several times.
        config: Optimisation settings, of all learners or one each. The batch is the same for all.
        device: Where the learners live; CUDA where there is one, if not stated.
        compile: Whether forward and backward pass are compiled, at the first update.
        chunk: Learners per program; all of them on CUDA, one per program on a CPU, where a
            learner's activations then stay in the cache. The last program may be smaller.
        threads: Programs run side by side on a CPU, each on one core; PyTorch's number of
            threads, if not stated.
        stack: How the forward pass is computed; the fastest that fits, if not stated.

    Raises:
        ValueError: The models differ in architecture, or the settings in their batch.
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
        stack: Stack | None = None,
    ) -> None:
        if not models:
            raise ValueError("expected at least one model, got none")
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.n = len(models)
        configs = [config] * self.n if isinstance(config, TrainerConfig) else list(config)
        _check_configs(configs, self.n)
        self.configs = tuple(configs)
        on_cpu = self.device.type == "cpu"
        self.chunk = min(self.n, chunk or (1 if on_cpu else self.n))
        self.model = models[0].to(self.device)
        self.names = {n: tuple(p.shape) for n, p in trainable(self.model)}
        self.stack = stack or stack_of(self.model)
        self.n_parameters = sum(p.numel() for p in self.model.parameters())

        self._weights = torch.stack([self._row(m) for m in models])  # (N, P)
        self._mean = torch.zeros_like(self._weights)
        self._square = torch.zeros_like(self._weights)
        self._gradient = torch.zeros_like(self._weights)
        self._decays = torch.cat(
            [torch.full((int(np.prod(s)),), float(len(s) >= 2)) for s in self.names.values()]
        ).to(self.device)[None]  # (1, P)
        self._steps = np.zeros(self.n, dtype=np.int64)
        self.updates = np.zeros(self.n, dtype=np.int64)
        self.schedules = [Schedule(c.learning_rate, c.warmup, c.final) for c in configs]

        self._blocks = [slice(i, min(i + self.chunk, self.n)) for i in range(0, self.n, self.chunk)]
        self._leaves = [self._leaves_of(block) for block in self._blocks]
        wrap: Callable[[Any], Any] = _compiled if compile else _as_it_is
        self.compiled = compile
        self._losses = wrap(self._window_losses)
        self._measured = wrap(self._window_losses)
        self._adamw = wrap(_adamw_)
        self._workers = _Workers(min(threads or torch.get_num_threads(), len(self._blocks)), on_cpu)

    # --- training ----------------------------------------------------------------------------

    @property
    def batch(self) -> int:
        return self.configs[0].batch

    def begin_phase(
        self, updates: int, *, decay: bool, learners: Iterable[int] | None = None
    ) -> None:
        """Start a learning-rate schedule, as `Trainer.begin_phase`, of all or of some learners."""
        if updates < 1:
            raise ValueError(f"expected a phase of at least one update, got {updates}")
        for i in self._rows(learners):
            self.schedules[i] = replace(
                self.schedules[i], start=int(self.updates[i]), length=updates, decays=decay
            )

    def learning_rates(self) -> Floats:
        """(N,) learning rate of each learner's next update."""
        return np.array(
            [s.rate(int(u)) for s, u in zip(self.schedules, self.updates, strict=True)]
        )

    def update(self, windows: Ints, learners: Iterable[int] | None = None) -> Floats:
        """One optimiser step of every learner on windows of its own.

        Args:
            windows: (n, B, T + 1) token ids, a batch for each of the n learners.
            learners: Which learners, ascending; all N, if not stated. The others stay as they are.

        Returns:
            (n,) mean losses [nats per token] before the step.

        Raises:
            FloatingPointError: A loss is not finite; every learner's weights are left as they were.
            ValueError: Windows of another shape, or longer than the models.
        """
        rows = self._rows(learners)
        batch = self._on_device(windows, rows)
        idle = [i for i in rows if self.schedules[i].length == 0]
        if idle:
            raise RuntimeError(f"call begin_phase before the first update of learner {idle[0]}")
        losses = torch.full((self.n,), torch.nan, device=self.device)

        def differentiate(block: int) -> None:
            place = self._blocks[block]
            leaves = self._leaves[block]
            with self._autocast():
                loss = self._losses(leaves, batch[place]).mean(1)  # (c,)
            gradients = torch.autograd.grad(loss.sum(), leaves)
            torch.cat([g.reshape(len(loss), -1) for g in gradients], 1, out=self._gradient[place])
            losses[place] = loss.detach()

        touched = self._touched(rows)
        self._workers.run(differentiate, touched)
        values = losses[rows].double().cpu().numpy()
        rates = self.learning_rates()
        for i, value in zip(rows, values.tolist(), strict=True):
            if not np.isfinite(value):
                message = not_finite(value, int(self.updates[i]), float(rates[i]))
                raise FloatingPointError(f"learner {i}: {message}")
        scalars = self._scalars(rows, rates)
        self._workers.run(lambda place: self._step(place, scalars), self._places(rows))
        self._steps[rows] += 1
        self.updates[rows] += 1
        return np.asarray(values)

    def train(self, windows: Ints, learners: Iterable[int] | None = None) -> Floats:
        """Updates over (n, m, T + 1) windows in order, B at a time; (n,) mean losses [nats]."""
        if windows.shape[1] % self.batch:
            raise ValueError(
                f"expected a multiple of {self.batch} windows, got {windows.shape[1]}"
            )
        rows = self._rows(learners)
        parts = range(0, windows.shape[1], self.batch)
        losses = [self.update(windows[:, i : i + self.batch], rows) for i in parts]
        return np.asarray(np.mean(losses, axis=0))

    def nll(self, windows: Ints, learners: Iterable[int] | None = None) -> Floats:
        """(n, m) negative log-likelihood [nats] summed over each of (n, m, T + 1) windows."""
        rows = self._rows(learners)
        n, m = windows.shape[:2]
        # A compiled program has one shape: the last piece is filled up, and the rest dropped.
        piece = self.batch if self.compiled else max(m, 1)
        padded = np.pad(windows, ((0, 0), (0, -m % piece), (0, 0)))
        found = torch.zeros((self.n, padded.shape[1]), dtype=torch.float64, device=self.device)
        batch = self._on_device(padded, rows)

        def measure(block: int) -> None:
            place = self._blocks[block]
            with torch.no_grad(), self._autocast():
                for i in range(0, padded.shape[1], piece):
                    part = batch[place, i : i + piece]
                    losses = self._measured(self._leaves[block], part)  # (c, piece T)
                    losses = losses.view(len(part), piece, -1)
                    found[place, i : i + piece] = losses.sum(2, dtype=torch.float64)

        self._workers.run(measure, self._touched(rows))
        return np.asarray(found[rows, :m].cpu().numpy())

    # --- exact copies ------------------------------------------------------------------------

    def snapshot(self, learner: int) -> dict[str, Tensor]:
        """Copies of one learner's weights, moments and place in its schedule, as a trainer's."""
        taken: dict[str, Tensor] = {}
        for kind, buffer in self._buffers().items():
            row = buffer[learner].clone()
            taken.update({f"{kind}.{n}": v for n, v in self._named(row).items()})
        step = float(self._steps[learner])
        taken.update({f"step.{n}": torch.tensor(step, device=self.device) for n in self.names})
        schedule = self.schedules[learner]
        taken["schedule"] = torch.tensor(
            [
                int(self.updates[learner]),
                schedule.start,
                schedule.length,
                int(schedule.decays),
            ]
        )
        return taken

    @torch.no_grad()
    def restore(self, learner: int, snapshot: Snapshot) -> None:
        """Return one learner to a snapshot exactly, one of a bank or of a trainer.

        Raises:
            ValueError: The snapshot is of another architecture or optimiser; nothing is changed.
        """
        check_snapshot(snapshot, self.names)
        kinds = ("step", *self._buffers())
        missing = [f"{k}.{n}" for n in self.names for k in kinds if f"{k}.{n}" not in snapshot]
        if missing:
            raise ValueError(f"expected AdamW's {missing[0]} in the snapshot, got nothing")
        for kind, buffer in self._buffers().items():
            for name, place in self._named(buffer[learner]).items():
                place.copy_(snapshot[f"{kind}.{name}"])
        self._steps[learner] = int(snapshot[f"step.{next(iter(self.names))}"])
        updates, start, length, decays = snapshot["schedule"].tolist()
        self.updates[learner] = updates
        self.schedules[learner] = replace(
            self.schedules[learner], start=start, length=length, decays=bool(decays)
        )

    @property
    def flops_per_token(self) -> float:
        """Training FLOPs per token of one learner, 6 N (Kaplan et al. 2020)."""
        return 6.0 * self.n_parameters

    # --- what it is made of ------------------------------------------------------------------

    def _row(self, model: nn.Module) -> Tensor:
        named = trainable(model)
        if {n: tuple(p.shape) for n, p in named} != self.names:
            raise ValueError("expected models of one architecture, got several")
        return torch.cat([p.detach().flatten().to(self.device, torch.float32) for _, p in named])

    def _leaves_of(self, block: slice) -> list[Tensor]:
        """The stack's inputs of one block: views of its rows that gradients are taken for."""
        rows = self._weights[block]
        sizes = [int(np.prod(s)) for s in self.stack.shapes]
        parts = rows.split(sizes, 1)
        return [
            p.view(len(rows), *s).requires_grad_()
            for p, s in zip(parts, self.stack.shapes, strict=True)
        ]

    def _named(self, row: Tensor) -> dict[str, Tensor]:
        parts = row.split([int(np.prod(s)) for s in self.names.values()])
        return {n: p.view(s) for (n, s), p in zip(self.names.items(), parts, strict=True)}

    def _buffers(self) -> dict[str, Tensor]:
        """By the names that a trainer's snapshot gives them."""
        return {"model": self._weights, "exp_avg": self._mean, "exp_avg_sq": self._square}

    def _window_losses(self, leaves: list[Tensor], windows: Tensor) -> Tensor:
        """(c, B T) losses [nats] of (c, B, T + 1) windows."""
        logits = self.stack(leaves, windows[:, :, :-1]).float()  # (c, B, T, V)
        following = windows[:, :, 1:].reshape(-1)
        losses = F.cross_entropy(logits.flatten(0, 2), following, reduction="none")
        return losses.view(len(windows), -1)

    def _autocast(self) -> torch.autocast:
        precision = self.configs[0].precision
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")

    def _rows(self, learners: Iterable[int] | None) -> list[int]:
        rows = list(range(self.n)) if learners is None else [int(i) for i in learners]
        if rows != sorted(set(rows)) or not rows or not 0 <= rows[0] <= rows[-1] < self.n:
            raise ValueError(f"expected ascending learners among 0..{self.n - 1}, got {rows}")
        return rows

    def _on_device(self, windows: Ints, rows: list[int]) -> Tensor:
        """(N, m, T + 1) windows; zeros for learners that have none."""
        if windows.ndim != 3 or len(windows) != len(rows):
            raise ValueError(
                f"expected windows of shape ({len(rows)}, m, T + 1), got {windows.shape}"
            )
        check_length(self.model, windows)
        if len(rows) < self.n:
            every = np.zeros((self.n, *windows.shape[1:]), dtype=np.int64)
            every[rows] = windows
            windows = every
        return torch.from_numpy(np.ascontiguousarray(windows)).to(self.device)

    def _touched(self, rows: list[int]) -> list[int]:
        return sorted({i // self.chunk for i in rows})

    def _places(self, rows: list[int]) -> list[slice]:
        """Whole blocks where all of a block's learners are meant, else single rows."""
        wanted = set(rows)
        places = []
        for block in self._touched(rows):
            place = self._blocks[block]
            inside = range(place.start, place.stop)
            whole = wanted.issuperset(inside)
            places += [place] if whole else [slice(i, i + 1) for i in inside if i in wanted]
        return places

    def _scalars(self, rows: list[int], rates: Floats) -> Tensor:
        """(N, 4, 1): per learner what an update multiplies with; see `_adamw_`."""
        steps = self._steps + 1.0
        decay = np.array([c.weight_decay for c in self.configs])
        clip = np.array([c.clip for c in self.configs])
        correction = np.sqrt(1 - BETAS[1] ** steps)
        columns = [rates * decay, rates / (1 - BETAS[0] ** steps), correction, clip]
        values = torch.from_numpy(np.stack(columns, 1)).float()
        return values.to(self.device)[..., None]

    @torch.no_grad()
    def _step(self, place: slice, scalars: Tensor) -> None:
        gradient = self._gradient[place]
        norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)  # (c, 1)
        decay, rate, correction, clip = scalars[place].unbind(1)
        shrink = (clip / (norm + 1e-6)).clamp(max=1.0)
        self._adamw(
            self._weights[place],
            gradient,
            self._mean[place],
            self._square[place],
            self._decays,
            shrink,
            decay,
            rate,
            correction,
        )


def _adamw_(
    weights: Tensor,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    decays: Tensor,
    shrink: Tensor,
    decay: Tensor,
    rate: Tensor,
    correction: Tensor,
) -> None:
    """AdamW (Loshchilov & Hutter 2019) in place on (c, P) rows, with (c, 1) scalars each."""
    gradient = gradient * shrink
    mean.lerp_(gradient, 1 - BETAS[0])
    square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
    weights.mul_(1 - decay * decays)
    weights.sub_(rate * mean / (square.sqrt() / correction + EPSILON))


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # One shape per program: a bank never changes its own.
    return torch.compile(function, dynamic=False)


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _check_configs(configs: Sequence[TrainerConfig], n: int) -> None:
    if len(configs) != n:
        raise ValueError(f"expected {n} settings for {n} models, got {len(configs)}")
    shared = {(c.batch, c.precision) for c in configs}
    if len(shared) > 1:
        raise ValueError(f"expected one batch and precision for all learners, got {shared}")
    if any(c.accumulate > 1 or c.optimizer != "adamw" for c in configs):
        raise ValueError("expected AdamW and no accumulation in a bank: its learners are small")


class _Workers:
    """Runs independent tasks one after another, or on threads of one core each."""

    def __init__(self, threads: int, on_cpu: bool) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._warm = False
        if on_cpu and threads > 1:
            # The number of threads is kept per thread, with one default for those to come.
            here = torch.get_num_threads()
            self._pool = ThreadPoolExecutor(
                threads, "bank", initializer=lambda: torch.set_num_threads(1)
            )
            list(self._pool.map(lambda _: None, range(threads)))
            torch.set_num_threads(here)

    def run(self, task: Callable[[Any], None], items: Sequence[Any]) -> None:
        if self._pool is None or len(items) == 1 and not self._warm:
            for item in items:
                task(item)
            return
        list(self._pool.map(task, items))
