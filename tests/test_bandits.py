"""Arms that choose among domains, or search: what they read, what they pay, and that they repeat.

Their updates are in `test_bandit_rules.py`; that each goes on from its state, beside all other arms
in `test_selection.py`.
"""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import ClockedLearner, Learner
from kncl_env.passage_traits import LEVELS, TRAITS
from kncl_env.settings import Settings
from kncl_env.stage import Stage, open_stage
from kncl_env.taste import Taste
from kncl_env.vector import SideBySide, side_by_side
from kncl_env.world.splits import SPLITS
from kncl_env.world.world import World
from policies.arms.arm import Arm, Ints, Turn
from policies.arms.bandits.arena import Arena
from policies.arms.bandits.best_of import best_of
from policies.arms.bandits.domain_text import MEASURED, DomainText
from policies.arms.bandits.greedy import greedy
from policies.arms.bandits.listed import BANDITS
from policies.arms.bandits.mixtures import Bools, Floats
from policies.arms.bandits.player import grows, mixes
from policies.arms.bandits.probe import Probe
from policies.arms.bandits.rho import Rho, holdout
from policies.arms.bandits.rule import Rule
from policies.arms.bandits.trials import Trials
from policies.arms.registry import arm_of
from policies.play.episodes import Playing

SETTINGS: dict[str, Any] = {
    "model": "xxs",
    "nucleus_topics": 6,
    "nucleus_updates": 30,
    "steps": 2,
    "updates_per_step": 2,
    "batch": 4,
    "breadth": 16,
    "slots": 4,
    "probes": 2,
}
STEP = 8  # windows


class Watching(ClockedLearner):
    """Notes what is asked of a learner."""

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)
        self.asked: Counter[str] = Counter()  # windows trained and measured, by what for
        self.seen: list[Ints] = []

    def train(self, windows: Ints) -> None:
        self.asked["train"] += len(windows)
        self.seen.append(windows)
        super().train(windows)

    def held_out_loss(self, split: str = "reward", windows: int | None = None) -> float:
        self.asked[split] += len(self.text.sample(split, windows or 48))
        return super().held_out_loss(split, windows)

    def probe(self, topics: Ints) -> Floats:
        self.asked["probe"] += len(topics)
        return super().probe(topics)

    def losses(self, windows: Ints) -> Floats:
        self.asked["losses"] += len(windows)
        self.seen.append(windows)
        return super().losses(windows)

    @property
    def text(self) -> Any:
        return self.learner.text  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def stage(small_world: World) -> Stage:
    return open_stage(small_world, Settings.of(**SETTINGS), progress=False)


@pytest.fixture(scope="module")
def alone(stage: Stage):  # type: ignore[no-untyped-def]
    with closing(side_by_side(stage, 1, watch=Watching)) as found:
        yield found


@pytest.fixture(scope="module")
def two(stage: Stage):  # type: ignore[no-untyped-def]
    with closing(side_by_side(stage, 2)) as found:
        yield found


@pytest.fixture
def env(alone: SideBySide) -> TopicExpansionEnv:
    return alone.envs[0]


def listed(name: str) -> Arm:
    return Arm(name, BANDITS[name].begin)


def lines_of(turns: list[Turn]) -> list[tuple[object, ...]]:
    return [(t.reward, t.over, t.extra_flops, t.info["windows"].tolist()) for t in turns]


def played(env: TopicExpansionEnv, arm: Arm, seed: int = 3) -> list[tuple[object, ...]]:
    episode = Playing(env, arm, seed, 7)
    turns = []
    while not episode.over:
        turns.append(episode.step())
    return lines_of(turns)


@pytest.mark.parametrize("name", BANDITS)
def test_an_arm_plays_in_a_bank_as_it_does_alone_and_reads_no_split_that_it_may_not(
    name: str, env: TopicExpansionEnv, two: SideBySide
) -> None:
    watching = env.learner
    assert isinstance(watching, Watching)
    watching.asked.clear()
    watching.seen.clear()
    wanted, other = played(env, listed(name)), played(env, arm_of("random"), seed=4)
    # Whatever went through the learner was training text or the visible split.
    world, document = env.stage.world, env.stage.store.document
    split = world.passage_split[document[np.concatenate(watching.seen)]]
    assert {SPLITS[i] for i in np.unique(split)} <= {"train", "reward"}
    assert not watching.asked["select"]
    assert not watching.asked["test"]
    # Beside it plays one that asks its learner for other things at other times.
    found = two.run(
        [
            lambda: played(two.envs[0], listed(name)),
            lambda: played(two.envs[1], arm_of("random"), seed=4),
        ]
    )
    if torch.cuda.is_available():  # where the last digits depend on the size of a bank
        found, wanted, other = [[line[1:] for line in x] for x in found], wanted, other
        wanted, other = [line[1:] for line in wanted], [line[1:] for line in other]
    assert found == [wanted, other]


def test_each_method_has_a_form_on_the_frontier_and_says_what_it_is() -> None:
    names = [name for name in BANDITS if not name.endswith("-frontier")]
    assert len(names) == 14
    assert set(BANDITS) == {form for n in names for form in (n, f"{n}-frontier")}
    for name in names:
        assert arm_of(name).digest == arm_of(f"{name}-frontier").digest != "base"
    assert len({arm_of(name).digest for name in names}) == len(names)


# --- what they read -----------------------------------------------------------------------------


class Always(Rule):
    """Nothing but domain 1, where it is open."""

    def mixture(self, open: Bools) -> Floats:
        return np.eye(self.arena.k)[1]


def test_the_unrestricted_form_reads_domains_by_their_shares(env: TopicExpansionEnv) -> None:
    text = DomainText(env.stage)
    of_domain = set(text.windows("train")[1].tolist())
    for _, _, _, windows in played(env, Arm("always", mixes(Always))):
        assert isinstance(windows, list)
        assert set(windows) <= of_domain


def test_the_form_on_the_frontier_expands_candidates_of_the_domain(env: TopicExpansionEnv) -> None:
    text = DomainText(env.stage)
    episode = Playing(env, Arm("always", grows(Always)), 3, 7)
    wanted = False
    while not episode.over:
        slots = env.state().slots
        turn = episode.step()
        assert turn.info["topic"] in slots
        if (text.of_topic[slots] == 1).any():
            wanted = True
            assert text.of_topic[turn.info["topic"]] == 1
    assert wanted


def test_a_taste_leaves_what_it_likes_of_each_domain(env: TopicExpansionEnv) -> None:
    worth = np.random.default_rng(0).normal(size=(len(TRAITS), LEVELS))
    taste = Taste.of(worth, 0.3)
    likes = env.stage.retriever.likes(taste)  # type: ignore[attr-defined]
    for _, _, _, windows in played(env, Arm("odm", BANDITS["odm"].begin, taste)):
        assert likes[env.stage.store.document[np.array(windows)]].all()


def test_a_topic_that_came_later_is_of_the_closest_domain(env: TopicExpansionEnv) -> None:
    env.reset(seed=0)
    arena = Arena(env, np.random.default_rng(0))
    known = arena.text.of_topic
    arena.text = copy(arena.text)
    arena.text.topics = [topics[topics < 38] for topics in arena.text.topics]
    arena.text.of_topic = known[:38]
    # Each region has words of its own, and the last topics are of the last one.
    assert arena.domain_of(np.array([0, 37, 38, 39])).tolist() == known[[0, 37, 38, 39]].tolist()
    assert (known[37:] == known[37]).all()


def test_domains_are_measured_on_the_same_few_windows_of_their_own(stage: Stage) -> None:
    text = DomainText(stage)
    assert sorted(t for topics in text.topics for t in topics.tolist()) == list(range(40))
    for split in ("train", "reward"):
        for k, windows in enumerate(text.measured(split)):
            passages = stage.store.document[windows]
            assert len(windows) == MEASURED
            assert (text.of_topic[stage.world.passage_topic[passages]] == k).all()
            assert (stage.world.passage_split[passages] == SPLITS.index(split)).all()


def test_the_holdout_of_rho_is_read_by_nobody_else(env: TopicExpansionEnv) -> None:
    env.reset(seed=0)
    arena = Arena(env, np.random.default_rng(0))
    held, before = holdout(arena.text), [len(pool) for pool in arena.pools]
    Rho(arena)
    for pool, own, n, measured in zip(
        arena.pools, held, before, arena.text.measured("train"), strict=True
    ):
        assert len(own) >= 1
        assert len(pool) == n - len(own)
        assert not np.isin(own, pool).any()
        assert not np.isin(own, measured).any()


# --- what they pay ------------------------------------------------------------------------------


def flops(env: TopicExpansionEnv, trained: float, measured: float) -> float:
    """Training on a token takes 6 FLOPs a parameter, a forward pass a third of that."""
    parameters = env.learner.flops_per_token / 6
    return env.settings.learner.context * parameters * (6 * trained + 2 * measured)


def bills(env: TopicExpansionEnv) -> dict[str, list[tuple[float, float]]]:
    """(windows trained, windows measured) of each step, by hand."""
    k, m, steps = DomainText(env.stage).k, MEASURED, 2
    assert env.stage.text is not None
    target = len(env.stage.text.sample("reward", 48))
    n = 4  # candidates of `greedy`, episodes of `best-of`
    assert k >= n
    return {
        "odm-frontier": [(0, m)] * steps,
        "ucb1": [(0, 2 * m)] * steps,
        "tscl": [(0, k * m + m), (0, m)],
        "learning-progress": [(0, 2 * k * m), (0, k * m)],
        "graves": [(0, 0)] * steps,
        "plr-frontier": [(0, k * m + m), (0, m)],
        # Reference of one step; it is measured, then the learner before and after the step.
        "rho": [(STEP, 3 * k * m), (0, k * m)],
        "doremi": [(steps * STEP, 3 * k * m), (0, k * m)],
        "skill-it": [(k * STEP, (k + 1) * target), (0, 0)],
        "aioli": [(0, 0), (k * 8, k * target)],
        "greedy": [(n * STEP, n * target)] * steps,
        "best-of": [(n * steps * STEP, n * steps * target), (0, 0)],
    }


@pytest.mark.parametrize(
    "name",
    [
        *("odm-frontier", "ucb1", "tscl", "learning-progress", "graves", "plr-frontier"),
        *("rho", "doremi", "skill-it", "aioli", "greedy", "best-of"),
    ],
)
def test_an_arm_is_charged_for_all_that_it_looks_at(name: str, env: TopicExpansionEnv) -> None:
    wanted = [flops(env, *bill) for bill in bills(env)[name]]
    # A second episode pays as much: a reference that is trained already is not free.
    for _ in range(2):
        found = [line[2] for line in played(env, listed(name))]
        assert found == pytest.approx(wanted, rel=1e-12)


def test_adapters_are_charged_by_what_they_train(env: TopicExpansionEnv, stage: Stage) -> None:
    from train_lm.adapters import AdapterConfig
    from train_lm.trainer import Trainer, TrainerConfig

    shape = AdapterConfig(8, 16.0)
    trainer = Trainer(stage.plain_trainer().model, TrainerConfig(), adapter=shape)
    assert trainer.flops_per_token == 4 * trainer.n_parameters + 2 * trainer.n_trained
    assert stage.text is not None
    k, target = DomainText(stage).k, len(stage.text.sample("reward", 48))
    probes = k * STEP * stage.settings.learner.context * trainer.flops_per_token
    found = [line[2] for line in played(env, listed("op-mix"))]
    assert found == pytest.approx([0, probes + flops(env, 0, 20 * target)], rel=1e-12)


def test_a_trial_on_the_frontier_is_charged_with_every_window_that_it_needs(
    env: TopicExpansionEnv,
) -> None:
    env.reset(seed=0)
    watching = env.learner
    assert isinstance(watching, Watching)
    probe = Probe(lambda: env.stage, env.learner)
    trials = Trials(env, probe)
    for action in range(4):  # some of them were probed before, some not
        watching.asked.clear()
        with trials.undone():
            trials.step(action)
        asked = watching.asked
        measured = asked["reward"] + asked["probe"] + asked["losses"]
        assert asked["train"] == STEP
        assert probe.take() == pytest.approx(flops(env, STEP, measured), rel=1e-12)
        assert probe.take() == 0


# --- what they may look at ----------------------------------------------------------------------


def test_a_probe_refuses_text_that_is_held_out_from_arms(env: TopicExpansionEnv) -> None:
    env.reset(seed=0)
    probe, stage = Probe(lambda: env.stage, env.learner), env.stage
    first = {
        split: stage.store.windows_of(np.flatnonzero(stage.world.passage_split == i))[:1]
        for i, split in enumerate(SPLITS)
    }
    assert np.isfinite(probe.losses(np.concatenate([first["train"], first["reward"]]))).all()
    assert probe.take() == pytest.approx(flops(env, 0, 2))
    for split in ("select", "test"):
        with pytest.raises(ValueError, match=f"expected windows of train or reward.* of {split}"):
            probe.losses(first[split])
    with probe.copy() as trial, pytest.raises(ValueError, match="windows of train text, got one"):
        trial.train(np.repeat(first["reward"], 4))
    assert probe.take() == 0


def test_what_is_tried_on_a_copy_leaves_the_learner_as_it_was(env: TopicExpansionEnv) -> None:
    env.reset(seed=0)
    env.step(0)
    before = {name: value.clone() for name, value in env.learner.snapshot().items()}
    arena = Arena(env, np.random.default_rng(0))
    with arena.probe.copy() as trial:
        trial.train(arena.drawn(np.eye(arena.k)[0], 2))
        assert arena.objective() != arena.latest_objective()
        trial.begin(16)
        with pytest.raises(RuntimeError, match="a trial within a trial"), arena.probe.copy():
            pass
    after = env.learner.snapshot()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert arena.objective() == pytest.approx(arena.latest_objective(), abs=1e-12)


def test_where_every_topic_counts_the_losses_of_all_domains_do(small_world: World) -> None:
    # Another setting, so that nothing is taken from the stage that has a goal.
    settings = Settings.of(**SETTINGS, noise_floor=0.03)
    stage = replace(open_stage(small_world, settings, progress=False), goal=None)
    env = TopicExpansionEnv(stage, stage.learner())
    env.reset(seed=0)
    arena = Arena(env, np.random.default_rng(0))
    assert arena.objective().shape == (arena.k,)
    for name in ("skill-it", "aioli", "op-mix"):
        (first, *_), again = played(env, listed(name)), played(env, listed(name))
        assert first == again[0]


# --- search -------------------------------------------------------------------------------------


def test_greedy_takes_the_best_of_all_that_it_tries(env: TopicExpansionEnv) -> None:
    rewards = []
    env.reset(seed=3, options={"taste": None})
    for action in range(4):
        kept = env.snapshot()
        rewards.append(float(env.step(action)[1]))
        env.restore(kept)
    episode = Playing(env, Arm("greedy", greedy(4)), 3, 7)
    assert episode.step().reward == max(rewards)


@pytest.mark.parametrize("frontier", [True, False])
def test_the_best_of_some_curricula_is_the_one_with_the_lowest_loss(
    frontier: bool, env: TopicExpansionEnv
) -> None:
    def ends(arm: Arm, rng: np.random.Generator) -> float:
        seen, _ = env.reset(seed=3)
        player, over = arm.begin(env, rng), False
        while not over:
            turn = player.act(seen)
            seen, over = turn.observation, turn.over
        return float(turn.info["held_out_loss"])

    rng = np.random.default_rng(5)
    one = Arm("one", best_of(1, frontier=frontier))
    singles = [ends(one, rng) for _ in range(3)]
    assert len(set(singles)) == 3
    three = Arm("three", best_of(3, frontier=frontier))
    assert ends(three, np.random.default_rng(5)) == min(singles)


def test_a_search_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one candidate to try, got 0"):
        greedy(0)
    with pytest.raises(ValueError, match="at least one curriculum to try, got 0"):
        best_of(0)


def test_an_arm_that_trains_models_of_its_own_plays_no_formula(env: TopicExpansionEnv) -> None:
    class Formula(Watching):
        @property
        def flops_per_token(self) -> float:
            return 0.0

    practice = TopicExpansionEnv(env.stage, Formula(env.learner))
    for name in ("doremi", "rho", "skill-it", "op-mix"):
        with pytest.raises(ValueError, match=r"expected a language model .*, got a formula"):
            played(practice, listed(name))
    assert all(line[2] == 0 for line in played(practice, listed("ucb1")))
