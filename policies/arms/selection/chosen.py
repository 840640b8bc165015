"""What selection methods share: the passages that they choose from, and how a choice is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import WorldLearner
from kncl_env.observation import Observation
from kncl_env.stage import Stage
from kncl_env.world.world import World
from policies.arms.arm import Begin, Ints, Player, Rng, Turn, written_with
from policies.arms.mixing import fed, least_read
from policies.arms.shared import windows_by_topic
from train_lm.files import Json
from train_lm.windows import TokenStore

Floats = NDArray[np.float64]

BLOCK = 2048  # [texts] that stand in memory at a time

# Chooses passages for a whole episode: together they should hold its budget of windows, or more.
Choose = Callable[[TopicExpansionEnv, Rng], Ints]


def budget_of(env: TopicExpansionEnv) -> int:
    """Windows that an episode reads."""
    return env.rules.steps * env.settings.windows_per_step


def n_windows(store: TokenStore, passages: Ints) -> Ints:
    """(n,) windows that begin in each of the passages."""
    return np.asarray(store.first_window[passages + 1] - store.first_window[passages])


def candidates_of(env: TopicExpansionEnv) -> NDArray[np.bool_]:
    """(P,) training passages in which a window begins; with a taste, those that it likes.

    Raises:
        ValueError: There is none.
    """
    store, found = env.stage.store, np.zeros(len(env.stage.store.first_window) - 1, dtype=bool)
    found[store.document[np.concatenate(windows_by_topic(env))]] = True
    if not found.any():
        raise ValueError(
            "expected training passages that hold a window, got none: give the arm a taste with a "
            "larger share, or none"
        )
    return found


def filling(store: TokenStore, passages: Ints, n: int) -> Ints:
    """The first passages that together hold n windows; all of them, if they hold fewer."""
    ends = np.cumsum(n_windows(store, passages))
    return passages[: int(np.searchsorted(ends, n)) + 1]


def selects(choose: Choose) -> Begin:
    """An arm that chooses its text when an episode begins, and reads it in random order.

    Windows read least often come first: nothing is read twice before all that was chosen is read.
    """

    def begin(env: TopicExpansionEnv, rng: Rng) -> Player:
        return Reader(env, np.sort(choose(env, rng)), rng)

    return written_with(begin, choose)


class Reader:
    """Reads passages that were chosen once.

    Args:
        passages: To read.
        spent: What choosing them cost beside the budget [FLOPs].
    """

    def __init__(
        self, env: TopicExpansionEnv, passages: Ints, rng: Rng, spent: float = 0.0
    ) -> None:
        self.env, self.rng, self.spent = env, rng, spent
        self.pool = env.stage.store.windows_of(passages)

    def act(self, seen: Observation) -> Turn:
        assert self.env.episode is not None
        times_read = self.env.episode.reading_list.times_read
        n = self.env.settings.windows_per_step
        windows = least_read(self.pool, times_read, n, self.rng)
        spent, self.spent = self.spent, 0.0
        return fed(self.env, windows, seen, spent)

    def state(self) -> Json:
        return {"spent": self.spent}

    def restore(self, state: Json) -> None:
        self.spent = float(state["spent"])


def texts_of(world: World, passages: Ints) -> Iterator[tuple[Ints, list[str]]]:
    """Blocks of passages, ascending, with their texts; few are in memory at a time."""
    rows = world.passage_rows(passages)
    for first in range(0, len(passages), BLOCK):
        block = passages[first : first + BLOCK]
        yield block, [next(rows).text for _ in block]


def learner_of_its_own(stage: Stage) -> WorldLearner:
    """A nucleated learner that is no episode's, to run trials with.

    Raises:
        ValueError: The stage was made for a formula.
    """
    if stage.text is None:
        raise ValueError(
            "expected a learner that reads text, got a formula: play this arm with real learners"
        )
    return stage.learner()


def sample_vectors(stage: Stage, most: int) -> NDArray[np.float32]:
    """(n, D) unit rows of the target's visible sample; of more than `most` passages, an even part.

    Raises:
        ValueError: The world knows no word of the sample.
    """
    sample = stage.sample
    if len(sample) > most:
        sample = sample[np.linspace(0, len(sample) - 1, most).round().astype(np.int64)]
    texts = [text for _, block in texts_of(stage.world, sample) for text in block]
    vectors = stage.world.embed(texts) if texts else np.zeros((0, 1), dtype=np.float32)
    known = vectors[np.linalg.norm(vectors, axis=1) > 0]
    if not len(known):
        raise ValueError(
            f"expected words that the world knows in the target's sample of {len(sample)} "
            "passages, got none: is it in another language?"
        )
    return known
