"""Rewards cost what they cost where somebody looks at them, and nothing where nobody does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import env_of
from test_accounting import curve
from test_guard import SETTINGS as SHORT
from test_taste import taste

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import MEASURED_WINDOWS, ClockedLearner
from kncl_env.observation import CANDIDATE_FEATURES, CONTEXT_FEATURES
from kncl_env.retrieval import nearest_passages
from kncl_env.settings import Settings
from kncl_env.snapshot import packed
from kncl_env.taste import TASTE_FORMAT
from kncl_env.world.index import PassageIndex
from kncl_env.world.world import World
from policies.arms.arm import Arm, expands
from policies.arms.registry import ARMS, arm_of
from policies.play.controls_made import Again, Mixture, Refed, Retraced
from policies.play.curves import CurveMeter
from policies.play.episodes import EpisodeRecord, play
from policies.play.guard import Guarded
from policies.verdict.accounting import cost_of
from train_lm.checked.digests import sealed
from train_lm.files import write_json

SETTINGS = {**SHORT, "steps": 8}  # so many that who goes by rewards is seen to


@pytest.fixture(scope="module")
def env(small_world: World) -> TopicExpansionEnv:
    plain = env_of(small_world, **SETTINGS)
    return TopicExpansionEnv(plain.stage, Guarded(plain.stage.learner(), plain.stage))


def both(env: TopicExpansionEnv, arm: Arm) -> list[EpisodeRecord]:
    meter = CurveMeter(2, 6, keep_read=True)
    return [play(env, replace(arm, rewarded=told), 5, 7, meter) for told in (True, False)]


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_goes_without_rewards_if_it_does_the_same_without_them(
    env: TopicExpansionEnv, name: str
) -> None:
    rewarded, without = (record.measured for record in both(env, arm_of(name)))
    assert (rewarded.unrewarded, without.unrewarded) == (False, True)
    told = replace(without, looked=rewarded.looked, unrewarded=False)
    assert (told != rewarded) == arm_of(name).rewarded
    if not arm_of(name).rewarded:
        # The one before the first step is nobody's: the episode begins with it.
        spared = MEASURED_WINDOWS["reward"] * SETTINGS["steps"] * env.settings.learner.context
        assert rewarded.looked - without.looked == spared


def test_an_arm_of_ones_own_has_rewards_unless_it_says_that_it_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_arms.py").write_text(
        "class Asks:\n    def begin(self, env, rng): ...\n\n\n"
        "class Goes(Asks):\n    rewarded = False\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert arm_of("own_arms:Asks").rewarded
    assert not arm_of("own_arms:Goes").rewarded


def test_a_control_goes_without_rewards_where_its_subject_does() -> None:
    assert not Again("rewired", "rule").arm().rewarded
    assert Again("rewired", "graves").arm().rewarded
    fed = Refed("shuffle", ((1, 2),), True), Mixture("static-final", ((1, 1.0),)), Retraced("y", ())
    assert not any(made.arm().rewarded for made in fed)


def test_a_taste_that_is_lent_changes_nothing_of_it(tmp_path: Path) -> None:
    file = tmp_path / "taste.json"
    write_json(file, sealed({"format": TASTE_FORMAT, "taste": taste("unigram_loss").to_json()}))
    assert not arm_of(f"random+{file}").rewarded
    assert arm_of(f"graves+{file}").rewarded


def test_without_rewards_an_episode_says_that_none_is_known(env: TopicExpansionEnv) -> None:
    told, info = env.reset(seed=3)
    silent, without = env.reset(seed=3, options={"rewarded": False})
    assert np.isfinite(info["held_out_loss"])
    assert np.isnan(without["held_out_loss"])
    of_loss = [CANDIDATE_FEATURES.index(name) for name in ("loss_known", "loss")]
    assert told["candidates"][:, of_loss[0]].any()
    assert not silent["candidates"][:, of_loss].any()
    same = [i for i in range(len(CANDIDATE_FEATURES)) if i not in of_loss]
    assert (told["candidates"][:, same] == silent["candidates"][:, same]).all()
    for _ in range(2):
        seen, reward, _, _, info = env.step(0)
    assert np.isnan([reward, info["held_out_loss"], info["reward"]["total"]]).all()
    assert np.isfinite(seen["candidates"]).all()
    assert np.isfinite(seen["context"]).all()
    known = [CONTEXT_FEATURES.index(name) for name in ("loss_known", "loss", "last_reward")]
    assert not seen["context"][known].any()


def test_the_reward_is_not_measured_in_secret(small_world: World) -> None:
    plain = env_of(small_world, **SETTINGS)
    env = TopicExpansionEnv(plain.stage, ClockedLearner(plain.stage.learner()))
    play(env, Arm("chooses", expands(lambda env, seen, rng: 0), rewarded=False), 0, 7, Silent())
    assert "held_out_loss" not in env.learner.seconds
    play(env, Arm("chooses", expands(lambda env, seen, rng: 0)), 0, 7, Silent())
    assert "held_out_loss" in env.learner.seconds


class Silent:
    """Measures nothing, and asks for no reward."""

    rewarded = False

    def begin(self, env):  # type: ignore[no-untyped-def]
        return self

    def after(self, turn):  # type: ignore[no-untyped-def]
        pass

    def finish(self):  # type: ignore[no-untyped-def]
        return self


def test_a_snapshot_of_an_episode_without_rewards_is_not_kept(env: TopicExpansionEnv) -> None:
    env.reset(seed=0, options={"rewarded": False})
    with pytest.raises(ValueError, match="expected the snapshot of an episode with rewards"):
        packed(env.snapshot(), {})
    before = env.snapshot()
    env.episode.rewarded = True
    env.restore(before)
    assert not env.episode.rewarded
    with pytest.raises(ValueError, match="expected True or False as the option rewarded, got 1"):
        env.reset(options={"rewarded": 1})


def test_what_was_not_measured_for_a_reward_is_not_charged() -> None:
    settings = Settings.of(**SETTINGS)
    looks = MEASURED_WINDOWS["reward"] * settings.learner.context
    own = {"trained": 1000, "worked": 1000, "looked": looks // 2}
    # All that was looked at were candidates, though it is less than rewards would have taken.
    without = cost_of([curve(unrewarded=True, **own, extra_flops=50_000.0)], (), settings)
    assert without.rewarded == 0
    assert without.per_run == 6.0 * 1000 + 50_000
    told = cost_of([curve(**own, extra_flops=50_000.0)], (), settings)
    assert told.per_run == 6.0 * (1000 + looks / 2 / 3) + 50_000


def test_what_lies_nearest_to_topics_is_looked_for_once_in_a_world(
    small_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    search = PassageIndex.search

    def counted(self, vectors, n):  # type: ignore[no-untyped-def]
        asked.append(n)
        return search(self, vectors, n)

    monkeypatch.setattr(PassageIndex, "search", counted)
    world, store = World.open(small_world.path), small_world.windows(32)
    first = nearest_passages(world, np.arange(3), 10, store)
    n = len(asked)
    assert n
    assert nearest_passages(world, np.arange(3), 10, store) is first
    assert len(asked) == n
    for topics, windows, length in ((4, 10, 32), (3, 11, 32), (3, 10, 16)):
        nearest_passages(world, np.arange(topics), windows, small_world.windows(length))
        assert len(asked) > n
        n = len(asked)
