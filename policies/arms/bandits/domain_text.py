"""The text of each domain of a world, and the few windows that its loss is measured on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kncl_env.env import TopicExpansionEnv
from kncl_env.stage import Stage
from kncl_env.world.splits import SPLITS
from policies.arms.arm import Ints, Rng
from policies.arms.bandits.probe import Probe
from policies.arms.domains import domains_of, of_domains, pools_of
from policies.arms.shared import Shared

Floats = NDArray[np.float64]

# Domains to choose among, at most: an episode has some dozens of steps, and a bandit tries each.
DOMAINS = 16

# Windows of each domain, the same in all episodes, that its loss is measured on.
MEASURED = 4


class DomainText:
    """Windows by domain, whatever an episode's taste.

    Attributes:
        topics: Topics of each domain.
        k: Domains K.
    """

    def __init__(self, stage: Stage) -> None:
        self.topics = domains_of(stage, DOMAINS)
        self.k = len(self.topics)
        world, documents = stage.world, stage.store.document
        of_topic = np.zeros(len(stage.table), dtype=np.int64)
        for k, topics in enumerate(self.topics):
            of_topic[topics] = k
        self.of_topic = of_topic  # (N,)
        split, domain = world.passage_split[documents], of_topic[world.passage_topic[documents]]
        self._windows = {
            name: _by_group(np.flatnonzero(split == SPLITS.index(name)), domain, self.k)
            for name in ("train", "reward")
        }

    def windows(self, split: str) -> list[Ints]:
        """All windows of each domain.

        Args:
            split: `train` or `reward`; a domain without `reward` text has its training text there.
        """
        train = self._windows["train"]
        return [own if len(own) else train[k] for k, own in enumerate(self._windows[split])]

    def pools(self, env: TopicExpansionEnv) -> list[Ints]:
        """Training windows of each domain, to the episode's taste, perhaps none."""
        assert env.episode is not None
        if env.episode.taste is None:
            return list(self._windows["train"])
        return pools_of(env, self.topics)

    def measured(self, split: str) -> list[Ints]:
        """Up to `MEASURED` windows that stand for each domain, at even distances."""
        return [spread(own, MEASURED) for own in self.windows(split)]


_shared = Shared(DomainText, of_domains)


def text_of(stage: Stage) -> DomainText:
    """Windows by domain of a stage, made once."""
    return _shared(stage)


def _by_group(windows: Ints, group: Ints, k: int) -> list[Ints]:
    """(k,) windows of each group, ascending.

    Args:
        windows: Ascending.
        group: Of every window of the store.
    """
    own = group[windows]
    ends = np.cumsum(np.bincount(own, minlength=k))[:-1]
    return np.split(windows[np.argsort(own, kind="stable")], ends)


def spread(pool: Ints, n: int) -> Ints:
    """At most n of a pool's windows, at even distances."""
    places = np.linspace(0, len(pool) - 1, min(n, len(pool)))
    return pool[places.round().astype(np.int64)]


def mean_losses(probe: Probe, groups: Sequence[Ints], chosen: Ints | None = None) -> Floats:
    """(K,) mean loss of each group of windows; NaN of those not chosen, and of empty ones.

    Args:
        chosen: Numbers of groups; all, if None.
    """
    every = range(len(groups)) if chosen is None else chosen.tolist()
    wanted = [k for k in every if len(groups[k])]
    found = np.full(len(groups), np.nan)
    if wanted:
        losses = probe.losses(np.concatenate([groups[k] for k in wanted]))
        ends = np.cumsum([len(groups[k]) for k in wanted])[:-1]
        found[wanted] = [part.mean() for part in np.split(losses, ends)]
    return found


def drawn(pools: Sequence[Ints], shares: Floats, n: int, rng: Rng) -> Ints:
    """n windows, none of which counts as read: each from a pool by its share, there by lot.

    Args:
        shares: (K,) that add up to 1; 0 for an empty pool.
    """
    which = rng.choice(len(pools), size=n, p=shares)
    found = np.empty(n, dtype=np.int64)
    for k in np.unique(which):
        own = which == k
        found[own] = pools[k][rng.integers(len(pools[k]), size=own.sum())]
    return found
