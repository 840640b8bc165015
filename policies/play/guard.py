"""What is lent to an arm is a learner with a guard: it is fed and measured by the rules alone.

An arm that reads `select` or `test`, that trains on held-out text, that trains beside its budget or
goes on from somebody else's weights is refused, by its name. The guard is there for mistakes and
for plain cheating; it is no prison: whoever wants to can walk around it in Python, and its source
is what has to be read then.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import MEASURED_WINDOWS, Learner
from kncl_env.stage import Stage
from kncl_env.world.splits import SPLITS
from train_lm.token_files import TRAIN

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# What an arm is judged by; only who judges may look.
SEALED = ("select", "test")


@dataclass(frozen=True, eq=False)
class _Kept:
    """A snapshot of a lent learner: only it takes it back, and only in the same episode."""

    of: tuple[int, int]  # the guard and its episode
    inner: Any
    trained: int


class Guarded:
    """A learner that knows what it was asked for, and by whom.

    Args:
        learner: What does the work.
        stage: Says of what split each window is.

    Attributes:
        trained: Windows that it was trained on in this episode; a restored copy counts as it stood.
        worked: Windows of training in all, those of copies that were thrown away as well.
        measured: Windows that it was measured on while an arm acted.
    """

    def __init__(self, learner: Learner, stage: Stage) -> None:
        self.learner = learner
        self._split = stage.world.passage_split[stage.store.document]  # (W,)
        self._arm: str | None = None
        self._episode = 0
        self.trained = self.worked = self.measured = 0

    @contextmanager
    def lent(self, arm: str) -> Iterator[None]:
        """Inside, whatever is asked for is asked for by this arm."""
        self._arm = arm
        try:
            yield
        finally:
            self._arm = None

    @property
    def flops_per_token(self) -> float:
        return self.learner.flops_per_token

    def begin(self, tokens: int) -> None:
        if self._arm is not None:
            raise ValueError(
                f"expected {self._arm} to play the episode that it was given, got another "
                "beginning: an arm takes `step`, `feed`, `snapshot` and `restore`, no `reset`"
            )
        self._episode += 1
        self.trained = self.worked = self.measured = 0
        self.learner.begin(tokens)

    def train(self, windows: Ints) -> None:
        self._check(windows, (TRAIN,), "to train on training text")
        self.learner.train(windows)
        self.trained += len(windows)
        self.worked += len(windows)

    def held_out_loss(self, split: str = "reward", windows: int | None = None) -> float:
        if self._arm is not None:
            if split in SEALED:
                raise ValueError(
                    f"expected {self._arm} to look at the split reward alone, got {split}: it is "
                    "what arms are judged by"
                )
            self.measured += windows or MEASURED_WINDOWS[split]
        return self.learner.held_out_loss(split, windows)

    def probe(self, topics: Ints) -> Floats:
        self.measured += len(topics) * (self._arm is not None)
        return self.learner.probe(topics)

    def losses(self, windows: Ints) -> Floats:
        if self._arm is not None:
            self._check(windows, (TRAIN, SPLITS.index("reward")), "to measure what it may see")
            self.measured += len(windows)
        return self.learner.losses(windows)

    def snapshot(self) -> Any:
        return _Kept((id(self), self._episode), self.learner.snapshot(), self.trained)

    def restore(self, snapshot: Any) -> None:
        own = isinstance(snapshot, _Kept) and snapshot.of == (id(self), self._episode)
        if not own:
            raise ValueError(
                f"expected {self._arm or 'an arm'} to go on from its own learner, got a snapshot "
                "of another one, or of another episode"
            )
        self.learner.restore(snapshot.inner)
        self.trained = snapshot.trained

    def __getattr__(self, name: str) -> Any:
        # What only some learners have, such as a trainer: an arm may take a gradient of it.
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.learner, name)

    def _check(self, windows: Ints, allowed: tuple[int, ...], what: str) -> None:
        known = np.asarray(windows)[np.asarray(windows) >= 0]  # below 0 is text of its own
        wrong = known[~np.isin(self._split[known], allowed)]
        if len(wrong):
            split = SPLITS[int(self._split[wrong[0]])]
            raise ValueError(
                f"expected {self._arm or 'an arm'} {what}, got window {int(wrong[0]):,} of the "
                f"split {split}"
            )


@contextmanager
def lent(env: TopicExpansionEnv, arm: str) -> Iterator[None]:
    """Inside, an environment's learner knows who asks, if it has a guard."""
    if not isinstance(env.learner, Guarded):
        yield
        return
    with env.learner.lent(arm):
        yield


def fingerprint(env: TopicExpansionEnv) -> str:
    """Tells the weights of a learner from others; empty where it has none, as a formula."""
    trainer = getattr(env.learner, "trainer", None)
    if trainer is None:
        return ""
    from train_lm.checked.tensors import digest_of

    return digest_of(trainer.weights(), {})[:16]
