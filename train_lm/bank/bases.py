"""The frozen weights under a bank's adapters: one row for all learners, as long as they agree.

Merging an adapter, or beginning from another model, gives a learner a base of its own; from then on
there is a row for each, until all agree again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from threading import RLock

import numpy as np
import torch
from torch import Tensor, nn

from train_lm.adapters import (
    BASE,
    DIGEST,
    Adapted,
    Adapter,
    as_adapter,
    check_base,
    fitted,
    fresh,
    packed_digest,
)
from train_lm.checked.tensors import digest_of

Numbers = Mapping[str, Tensor]  # of one learner's adapter, by the names of a model with one


class FrozenBases:
    """Bases of n learners.

    Args:
        adapted: A model of the architecture with its adapter; its frozen weights are copied, once.

    Attributes:
        rows: (1, P) the base that all share, or (n, P) one each.
        cycles: (n,) adapters that each has merged.
    """

    def __init__(self, adapted: Adapted, n: int, device: torch.device) -> None:
        self.n, self.config, self.sites = n, adapted.config, adapted.sites
        self.shapes = {name: tuple(p.shape) for name, p in adapted.frozen.items()}
        parts = [p.detach().flatten().to(device, torch.float32) for p in adapted.frozen.values()]
        self.rows = torch.cat(parts)[None]
        self.cycles = np.zeros(n, dtype=np.int64)
        self._digests = [adapted.digest] * n
        self._born: dict[int, Tensor] = {}  # rows before the first merge
        self._lock = RLock()  # members of a lockstep change theirs side by side

    def of(self, learners: slice) -> Tensor:
        """(1, P), or (c, P) of c learners where they differ."""
        return self.rows if len(self.rows) == 1 else self.rows[learners]

    def weights(self, learner: int) -> dict[str, Tensor]:
        """Views of a learner's base, by the plain model's names."""
        return self._split(self.rows[learner if len(self.rows) > 1 else 0])

    def merged(self, learner: int, numbers: Numbers) -> dict[str, Tensor]:
        """Copies of all weights with the adapter merged in, by their plain names."""
        found = {name: value.clone() for name, value in self.weights(learner).items()}
        for site in self.sites:
            found[site.weight] += site.delta(numbers, self.config.scale)
        return found

    def merge_(self, learner: int, numbers: Numbers) -> None:
        """Add the adapter to a learner's base, and make the adapter a fresh one, in place."""
        with self._lock:
            own = self._own_row(learner)
            self._born.setdefault(learner, own.clone())
            base = self._split(own)
            for site in self.sites:
                base[site.weight] += site.delta(numbers, self.config.scale)
            self.cycles[learner] += 1
        self.redraw_(learner, numbers)

    def redraw_(self, learner: int, numbers: Numbers) -> None:
        """Make the adapter a fresh one, in place."""
        drawn = fresh(self.sites, numbers, self.config.seed, int(self.cycles[learner]))
        for name, value in drawn.items():
            numbers[name].copy_(value)

    def rebase_(self, learner: int, weights: Mapping[str, Tensor], numbers: Numbers) -> None:
        """Take other weights as a learner's base, and a fresh adapter."""
        given = [weights[name].flatten() for name in self.shapes]
        row = torch.cat([part.to(self.rows.device, torch.float32) for part in given])
        with self._lock:
            if not torch.equal(row, self.rows[learner if len(self.rows) > 1 else 0]):
                self._own_row(learner).copy_(row)
            self._born.pop(learner, None)
            self._digests[learner] = digest_of(self.weights(learner), {})
            self.cycles[learner] = 0
            self._share()
        self.redraw_(learner, numbers)

    def state_of(self, learner: int) -> dict[str, Tensor]:
        """What a snapshot has to know of the base; as `Adapted.state`."""
        found = {DIGEST: packed_digest(self._digests[learner])}
        if self.cycles[learner]:
            weights = self.weights(learner)
            found |= {f"{BASE}{s.weight}": weights[s.weight].clone() for s in self.sites}
        return found

    def check(self, learner: int, snapshot: Mapping[str, Tensor], cycles: int) -> None:
        """Raises: ValueError where a snapshot's base is another one."""
        shapes = {s.weight: self.shapes[s.weight] for s in self.sites}
        check_base(snapshot, cycles, self._digests[learner], shapes)

    def restore_(self, learner: int, snapshot: Mapping[str, Tensor], cycles: int) -> None:
        """Return to a base that `check` found to fit."""
        with self._lock:
            if learner in self._born:
                self._own_row(learner).copy_(self._born[learner])
            if cycles:
                own = self._own_row(learner)
                self._born.setdefault(learner, own.clone())
                base = self._split(own)
                for site in self.sites:
                    base[site.weight].copy_(snapshot[f"{BASE}{site.weight}"])
            self.cycles[learner] = cycles

    def take(self, learner: int, numbers: Numbers) -> Adapter:
        """A copy of a learner's adapter, for its base as it is now."""
        copied = {name: value.clone().cpu() for name, value in numbers.items()}
        return as_adapter(copied, self.sites, self.config, self._digest(learner))

    def put_(self, learner: int, numbers: Numbers, adapter: Adapter) -> None:
        """Copy an adapter's numbers into a learner's; as `Adapted.put`."""
        for name, value in fitted(adapter, numbers, self.config, self._digest(learner)).items():
            numbers[name].copy_(value)

    def _digest(self, learner: int) -> str:
        if not self.cycles[learner]:
            return self._digests[learner]
        return digest_of(self.weights(learner), {})

    def _own_row(self, learner: int) -> Tensor:
        if len(self.rows) == 1 and self.n > 1:
            self.rows = self.rows.expand(self.n, -1).clone()
        return self.rows[learner]

    def _share(self) -> None:
        """Keep one row where all are the same."""
        if len(self.rows) > 1 and not self.cycles.any() and (self.rows == self.rows[:1]).all():
            self.rows = self.rows[:1].clone()
            self._born.clear()

    def _split(self, row: Tensor) -> dict[str, Tensor]:
        parts = row.split([math.prod(s) for s in self.shapes.values()])
        named = zip(self.shapes.items(), parts, strict=True)
        return {name: part.view(shape) for (name, shape), part in named}


def check_one_base(models: Sequence[nn.Module]) -> None:
    """Raises: ValueError where models that are to share a base have other weights."""
    first = dict(models[0].named_parameters())
    for model in {id(m): m for m in models[1:] if m is not models[0]}.values():
        other = dict(model.named_parameters())
        if other.keys() != first.keys() or not all(torch.equal(first[n], other[n]) for n in first):
            raise ValueError("expected models of one base for a bank of adapters, got several")
