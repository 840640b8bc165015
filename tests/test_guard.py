"""Planted cheaters are refused by an evaluation, each by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import env_of

from kncl_env.env import TopicExpansionEnv
from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.arms.arm import Arm, Player, Rng, Stateless, Turn
from policies.arms.registry import arm_of
from policies.play import evaluation
from policies.play.curves import Curve, CurveMeter
from policies.play.episodes import EpisodeRecord, play
from policies.play.evaluation import check_fair, evaluate
from policies.play.guard import Guarded
from policies.play.plan import Plan

SETTINGS = {
    "nucleus_topics": 6,
    "nucleus_updates": 30,
    "steps": 3,
    "updates_per_step": 2,
    "batch": 4,
    "breadth": 16,
    "slots": 6,
    "model": "xxs",
}


@pytest.fixture(scope="module")
def env(small_world: World) -> TopicExpansionEnv:
    plain = env_of(small_world, **SETTINGS)
    return TopicExpansionEnv(plain.stage, Guarded(plain.stage.learner(), plain.stage))


def arm(act: Callable[[TopicExpansionEnv, dict[str, object]], object]) -> Arm:
    """One that does something forbidden before each of its steps."""

    class Cheat(Stateless):
        def __init__(self, env: TopicExpansionEnv) -> None:
            self.env, self.own = env, {"begun": False}

        def act(self, seen):  # type: ignore[no-untyped-def]
            act(self.env, self.own)
            seen, reward, ended, cut, info = self.env.step(0)
            return Turn(float(reward), ended or cut, info, seen)

    def begin(env: TopicExpansionEnv, rng: Rng) -> Player:
        return Cheat(env)

    return Arm("the cheat", begin)


def split_windows(env: TopicExpansionEnv, split: str) -> np.ndarray:
    world, store = env.stage.world, env.stage.store
    own = np.concatenate([world.passages_of(int(t), split) for t in env.stage.target])
    return store.windows_of(own)


def trains_on_test(env: TopicExpansionEnv, own: dict[str, object]) -> None:
    env.learner.train(np.resize(split_windows(env, "test"), 4))


def somebody_elses(env: TopicExpansionEnv, own: dict[str, object]) -> None:
    env.learner.restore(env.stage.nucleated)


def from_the_episode_before(env: TopicExpansionEnv, own: dict[str, object]) -> None:
    env.learner.restore(KEPT[0])


KEPT: list[object] = []


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda env, _: env.learner.held_out_loss("test"), "look at the split reward alone, got t"),
        (lambda env, _: env.learner.held_out_loss("select"), "reward alone, got select"),
        (
            lambda env, _: env.learner.losses(split_windows(env, "test")[:2]),
            "to measure what it may see, got window .* of the split test",
        ),
        (trains_on_test, "to train on training text, got window .* of the split test"),
        (lambda env, _: env.reset(seed=0), "the episode that it was given, got another beginning"),
        (somebody_elses, "from its own learner, got a snapshot of another one"),
        (from_the_episode_before, "or of another episode"),
    ],
)
def test_what_an_arm_may_not_do_is_refused_by_its_name(
    env: TopicExpansionEnv, act: Callable[..., object], message: str
) -> None:
    env.reset(seed=9)
    KEPT[:] = [env.learner.snapshot()]
    with pytest.raises(ValueError, match=f"expected the cheat .*{message}"):
        play(env, arm(act), 0, 7, CurveMeter(2, 6))
    # Whoever judges may look, and nobody is blamed for it.
    assert env.learner.held_out_loss("test") > 0


def test_what_an_arm_may_do_it_does(env: TopicExpansionEnv) -> None:
    """It may look at `reward`, at training text and at its own copies."""

    def looks_ahead(env: TopicExpansionEnv, own: dict[str, object]) -> None:
        before = env.snapshot()
        env.step(0)
        env.learner.held_out_loss("reward")
        env.learner.losses(split_windows(env, "reward")[:2])
        env.restore(before)

    found = play(env, arm(looks_ahead), 0, 7, CurveMeter(2, 6)).measured
    plain = play(env, arm(lambda env, own: None), 0, 7, CurveMeter(2, 6)).measured
    assert found.loss == plain.loss
    assert found.topics == plain.topics
    # The copies count as work, and the budget is what it is.
    assert found.trained == plain.trained == env.settings.tokens_per_episode
    assert found.worked == 2 * plain.worked == 2 * found.trained
    assert found.looked > plain.looked > 0
    check_fair([EpisodeRecord("a", "x", 0, 0, found)], env.settings)


def test_a_guard_changes_no_figure(env: TopicExpansionEnv, small_world: World) -> None:
    free = env_of(small_world, **SETTINGS)
    one, two = (play(e, arm_of("random"), 1, 7, CurveMeter(3, 6)).measured for e in (free, env))
    assert (one.loss, one.test_after, one.passages) == (two.loss, two.test_after, two.passages)
    assert one.start == two.start != ""
    assert (one.trained, two.trained) == (0, env.settings.tokens_per_episode)


def trains_a_batch_more(env: TopicExpansionEnv, rng: Rng) -> Player:
    """More tokens than its record says, beside `step`: they are counted, so one batch is enough."""

    class More(Stateless):
        begun = False

        def act(self, seen):  # type: ignore[no-untyped-def]
            if not self.begun:
                self.begun = True
                extra = split_windows(env, "train")
                env.learner.train(np.resize(extra, env.settings.learner.batch))
            seen, reward, ended, cut, info = env.step(0)
            return Turn(float(reward), ended or cut, info, seen)

    return More()


def begins_elsewhere(env: TopicExpansionEnv, rng: Rng) -> Player:
    """Another initialisation: other weights than the others of its seed begin with."""
    import torch

    with torch.no_grad():
        for parameter in env.learner.trainer.model.parameters():  # type: ignore[attr-defined]
            parameter.add_(0.01)
    return arm_of("random").begin(env, rng)


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        (trains_a_batch_more, r"expected cheat, seed 0 to train the 768 tokens .* got 896"),
        (begins_elsewhere, "expected cheat, seed 0 to begin with the weights that uniform began"),
    ],
)
def test_an_evaluation_refuses_more_tokens_and_other_weights_by_name(
    small_world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[TopicExpansionEnv, Rng], Player],
    message: str,
) -> None:
    """A single learner, so that the arm can reach its weights at all."""
    found: dict[str, EpisodeRecord[Curve]] = {}
    plain = env_of(small_world, **SETTINGS)
    learner = Guarded(plain.stage.learner(), plain.stage)
    env = TopicExpansionEnv(plain.stage, learner)
    for one in (arm_of("uniform"), Arm("cheat", begin)):
        found[one.name] = play(env, one, 0, 7, CurveMeter(2, 6))
    # What an evaluation does with its records.
    with pytest.raises(ValueError, match=message):
        check_fair([*found.values()], env.settings)
    monkeypatch.setattr(evaluation, "play_all", lambda *_, **__: [*found.values()])
    with pytest.raises(ValueError, match=message):
        evaluate(small_world, Settings.of(**SETTINGS), Plan(["uniform"], 1), tmp_path / "run")
    assert not (tmp_path / "run" / "scores.json").exists()


def test_an_arm_that_reads_test_stops_an_evaluation_with_one_line(
    small_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "peeking.py").write_text(
        "class Peek:\n    def begin(self, env, rng):\n        env.learner.held_out_loss('test')\n"
    )
    monkeypatch.chdir(tmp_path)
    plan = Plan(["uniform", "peeking:Peek"], 1)
    with pytest.raises(ValueError, match="expected Peek to look at the split reward alone"):
        evaluate(small_world, Settings.of(**SETTINGS), plan, tmp_path / "run")


def test_records_of_before_there_was_a_guard_are_judged_by_what_they_know(
    env: TopicExpansionEnv,
) -> None:
    curve = play(env, arm_of("random"), 0, 7, CurveMeter(2, 6)).measured
    line = json.loads(json.dumps(curve.to_json()))
    for name in ("start", "trained", "worked", "looked", "unrewarded"):
        del line[name]
    old = CurveMeter(2, 6).from_json(line)
    assert (old.start, old.trained) == ("", 0)
    check_fair(
        [EpisodeRecord("a", "x", 0, 0, old), EpisodeRecord("b", "x", 0, 0, curve)], env.settings
    )
    longer = replace(old, tokens=[0, 9 * env.settings.tokens_per_episode])
    with pytest.raises(ValueError, match="expected a, seed 0 to train"):
        check_fair([EpisodeRecord("a", "x", 0, 0, longer)], env.settings)
