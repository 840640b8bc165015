"""Behaviour cloning: a curiosity function that chooses as the walkers of recorded paths did."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from kncl_env.world.world import World
from policies.arms.spaces import learned_in
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from policies.verdict.accounting import SPENT, network_spent
from rabbit_holes.demonstrations import (
    GOALS,
    Demonstrations,
    demonstrate_in_parallel,
    joined,
    pair_split,
)
from rabbit_holes.path import Path


@dataclass(frozen=True)
class CloningConfig:
    """How to clone.

    Attributes:
        epochs: Passes over the demonstrations, at most.
        patience: Epochs without a better `select` loss before stopping.
        batch: Clicks per update.
        learning_rate: Peak of a cosine schedule over all epochs.
        weight_decay: Decoupled weight decay.
        seed: Seed of the order of clicks.
    """

    epochs: int = 9
    patience: int = 3
    batch: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class PretrainConfig:
    """How recorded walks become a policy.

    Attributes:
        paths: Training paths to use, drawn evenly; all, if None.
        goals: How a walker's goal is shown, of `demonstrations.GOALS`; each path is shown once in
            every way that is named.
        frontier: Offer everything next to the visited topics at each click, as the environment
            does, rather than the links of the page that was clicked on.
        slots: Candidates per click at most, the chosen one among them, the others by lot.
        width: Units of the network.
        epochs: Passes over the demonstrations, at most.
        seed: Of every draw.
    """

    paths: int | None = None
    goals: tuple[str, ...] = ("mixed",)
    frontier: bool = False
    slots: int = 32
    width: int = 64
    epochs: int = 9
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "goals", tuple(self.goals))
        if not self.goals or len(set(self.goals) & {*GOALS}) < len(self.goals):
            raise ValueError(
                f"expected goals among {', '.join(GOALS)}, each at most once, got "
                f"{', '.join(self.goals) or 'none'}"
            )
        if self.paths is not None and self.paths < 1:
            raise ValueError(f"expected paths >= 1, got {self.paths}: leave it out to use all")
        for name, least in (("slots", 2), ("epochs", 1), ("width", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} >= {least}, got {getattr(self, name)}")


@dataclass(frozen=True, eq=False)
class Lesson:
    """The paths of one side of the split, and the choices in them."""

    paths: Sequence[Path]
    clicks: Demonstrations


def pretrain(
    world: World,
    paths: Sequence[Path],
    config: PretrainConfig,
    on_paths: Callable[[str, int, int], None] = lambda *_: None,
    on_lessons: Callable[[Mapping[str, Lesson]], None] = lambda _: None,
    on_epoch: Callable[[int, float, float], None] = lambda *_: None,
) -> CuriosityPolicy:
    """A policy that chooses as the walkers of recorded paths did; `test` pairs are never looked at.

    Args:
        on_paths: Called with `(split, paths to show in all, paths shown just now)`.
        on_lessons: Told what there is to learn from before learning begins: `train` and `select`.
        on_epoch: See `clone`.

    Raises:
        ValueError: There is nothing to learn from.
    """
    lessons = _lessons(world, paths, config, on_paths)
    on_lessons(lessons)
    network = CuriosityNetwork(CuriosityConfig(width=config.width, seed=config.seed))
    train, select = lessons["train"], lessons["select"]
    cloning = CloningConfig(epochs=config.epochs, seed=config.seed)
    history = clone(network, train.clicks, select.clicks, cloning, on_epoch)
    size = sum(p.numel() for p in network.parameters())
    spent = network_spent("cloning", size, len(train.clicks.rows), len(history))
    return CuriosityPolicy(
        network,
        {
            "made_by": "cloning",
            "world": world.hash,
            "walkers": dict(Counter(p.walker for p in train.paths).most_common(20)),
            "clicks": len(train.clicks),
            "select_loss": min(of_select for _, of_select in history),
            "goals": [*config.goals],
            **learned_in(world),
            SPENT: [spent.to_json()],
        },
    )


def _lessons(
    world: World,
    paths: Sequence[Path],
    config: PretrainConfig,
    on_paths: Callable[[str, int, int], None],
) -> dict[str, Lesson]:
    split = {name: [p for p in paths if pair_split(p) == name] for name in ("train", "select")}
    if config.paths is not None and config.paths < len(split["train"]):
        rng = np.random.default_rng(config.seed)
        keep = np.sort(rng.choice(len(split["train"]), config.paths, replace=False))
        split["train"] = [split["train"][i] for i in keep]
    split["select"] = split["select"][: max(200, len(split["train"]) // 5)]
    lessons = {}
    for i, (name, part) in enumerate(split.items()):
        total = len(part) * len(config.goals)
        shown = [
            demonstrate_in_parallel(
                part,
                world,
                config.seed + i,
                on_chunk=partial(on_paths, name, total),
                slots=config.slots,
                goals=goals,
                frontier=config.frontier,
            )
            for goals in config.goals
        ]
        lessons[name] = Lesson(part, joined(shown))
    return lessons


def clone(
    network: CuriosityNetwork,
    train: Demonstrations,
    select: Demonstrations,
    config: CloningConfig,
    on_epoch: Callable[[int, float, float], None] = lambda *_: None,
) -> list[tuple[float, float]]:
    """Fit the network to the choices; keeps the weights with the lowest `select` loss.

    The loss is the negative log-likelihood of the chosen slot among the offered ones;
    consolidation, which no walker can choose, is left out of the softmax.

    Args:
        on_epoch: Called with `(epoch, train loss, select loss)` [nats per click].

    Returns:
        `(train loss, select loss)` of each epoch.

    Raises:
        ValueError: There is nothing to learn from.
    """
    if not len(train) or not len(select):
        raise ValueError(
            f"expected clicks to learn from and to select on, got {len(train)} and {len(select)}: "
            f"record more paths in this world (dropped: {dict(train.dropped)})"
        )
    varies = train.rows.std(0) > 1e-6
    context_varies = train.context.std(0) > 1e-6
    varies[0] = True  # `filled` is 1 in every real row and 0 in padding
    network.silence(np.flatnonzero(~varies).tolist(), np.flatnonzero(~context_varies).tolist())
    frozen = torch.from_numpy(~np.concatenate([varies, context_varies, varies]))
    rng = np.random.default_rng(config.seed)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    n_batches = max(1, len(train) // config.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs * n_batches)
    best, best_loss, stale = copy.deepcopy(network.state_dict()), np.inf, 0
    history: list[tuple[float, float]] = []
    for epoch in range(config.epochs):
        network.train()
        losses = []
        for clicks in _batches(train, config.batch, rng):
            loss = _loss(network, train, clicks).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            network.first_weight.data[:, frozen] = 0.0
            if schedule.last_epoch < config.epochs * n_batches:
                schedule.step()
            losses.append(loss.item())
        held_out = float(np.mean(click_losses(network, select)))
        history.append((float(np.mean(losses)), held_out))
        on_epoch(epoch, *history[-1])
        if held_out < best_loss:
            best, best_loss, stale = copy.deepcopy(network.state_dict()), held_out, 0
        else:
            stale += 1
            if stale >= config.patience:
                break
    network.load_state_dict(best)
    network.eval()
    return history


def _batches(
    demonstrations: Demonstrations, size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Shuffled batches of clicks with about as many candidates each, so that padding is small."""
    order = rng.permutation(len(demonstrations))
    counts = np.diff(demonstrations.starts)[order]
    # Sorted within shuffled stretches of 20 batches: cheap padding, and still a random order.
    stretch = np.arange(len(order)) // (20 * size)
    order = order[np.lexsort((counts, stretch))]
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def _loss(
    network: CuriosityNetwork, demonstrations: Demonstrations, clicks: NDArray[np.int64]
) -> torch.Tensor:
    candidates, context, chosen = demonstrations.batch(clicks)
    logits, _ = network(torch.from_numpy(candidates), torch.from_numpy(context))
    return F.cross_entropy(logits[:, :-1], torch.from_numpy(chosen), reduction="none")


@torch.inference_mode()
def click_losses(
    network: CuriosityNetwork, demonstrations: Demonstrations, batch: int = 512
) -> NDArray[np.float64]:
    """(n,) negative log-likelihood [nats] of each click, in order."""
    network.eval()
    losses = np.zeros(len(demonstrations))
    by_size = np.argsort(np.diff(demonstrations.starts), kind="stable")
    for i in range(0, len(by_size), batch):
        clicks = by_size[i : i + batch]
        losses[clicks] = _loss(network, demonstrations, clicks).numpy()
    return losses


@torch.inference_mode()
def click_places(
    network: CuriosityNetwork, demonstrations: Demonstrations, batch: int = 512
) -> NDArray[np.int64]:
    """(n, 2) see `places`, of the network's scores of each click's candidates."""
    network.eval()
    found = np.zeros((len(demonstrations), 2), dtype=np.int64)
    by_size = np.argsort(np.diff(demonstrations.starts), kind="stable")
    for i in range(0, len(by_size), batch):
        clicks = by_size[i : i + batch]
        candidates, context, chosen = demonstrations.batch(clicks)
        logits = network(torch.from_numpy(candidates), torch.from_numpy(context))[0][:, :-1]
        found[clicks] = places(logits.numpy(), chosen)
    return found


def places(scores: NDArray[np.floating], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n, 2) how many columns score higher than the chosen one, and how many as high (itself too).

    Columns of empty slots must score lowest.
    """
    own = scores[np.arange(len(chosen)), chosen][:, None]
    return np.stack([(scores > own).sum(1), (scores == own).sum(1)], axis=1)
