"""What keeps earlier text alive: which old text is read, and what becomes of watched topics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import RULES, FakeLearner, env_of, fake_env, through_a_file

from kncl_env.env import TopicExpansionEnv
from kncl_env.forgetting import backward_transfer
from kncl_env.memory import (
    CANDIDATES,
    OWN,
    Hardest,
    Past,
    Reservoir,
    Solid,
    lots_of,
    memory_of,
    stored,
)
from kncl_env.passage_traits import LEVELS, TRAITS
from kncl_env.settings import MemorySettings, Settings
from kncl_env.stage import open_stage
from kncl_env.taste import Taste
from kncl_env.vector import side_by_side
from kncl_env.world.world import World
from train_lm.model import ModelConfig, build_model
from train_lm.writing import write_text

SETTINGS: dict[str, Any] = {
    "model": "xxs",
    "nucleus_topics": 6,
    "nucleus_updates": 30,
    "steps": 5,
    "updates_per_step": 2,
    "batch": 4,
    "breadth": 16,
    "slots": 6,
    "learning_rate": 1e-3,
}
MEMORIES: list[dict[str, Any]] = [
    {"memory": "none"},
    {},
    {"replay_choice": "solid"},
    {"replay_choice": "reservoir", "replay_buffer": 12},
    {"replay_choice": "loss"},
    {"memory": "self"},
]
NAMES = ["none", "expansions", "solid", "reservoir", "loss", "self"]


def past(pools: int = 3, read: int = 60, losses: Any = None, lot: int = 5) -> Past:
    """`pools` solid topics of 20 windows each, of which the first `read` windows were read."""
    windows = [np.arange(20) + 20 * i for i in range(pools)]
    was_read = np.zeros(200, dtype=bool)
    was_read[:read] = True
    return Past(windows, lambda: windows, was_read, losses or (lambda w: w / 1000), lot)


def bytes_of(env: TopicExpansionEnv, actions: tuple[int, ...]) -> list[bytes]:
    """Observations, rewards and weights of steps from here on."""
    seen: list[bytes] = []
    for action in actions:
        observation, reward, _, _, info = env.step(action)
        seen += [observation["candidates"].tobytes(), observation["context"].tobytes()]
        seen += [np.float64(reward).tobytes(), info["windows"].tobytes()]
        seen.append(repr(info["memory"]).encode())
    weights: Any = env.learner.snapshot()
    return [*seen, *(weights[k].cpu().numpy().tobytes() for k in sorted(weights))]


# --- which old text -----------------------------------------------------------------------------


def test_a_reservoir_is_a_bounded_even_sample_of_what_was_read() -> None:
    buffer = Reservoir(10)
    count = np.zeros(200)
    for lot in range(400):
        kept = buffer.kept(past(read=100, lot=lot))
        assert len(np.unique(kept)) == 10
        count[kept] += 1
    assert count[100:].sum() == 0
    # Each of 100 windows is kept in a tenth of 400 episodes: 40, give or take 6.
    assert count[:100].min() > 12
    assert count[:100].max() < 68
    assert buffer.kept(past(read=4)).tolist() == [0, 1, 2, 3]


def test_what_a_reservoir_dropped_never_comes_back() -> None:
    buffer = Reservoir(10)
    dropped: set[int] = set()
    before: set[int] = set()
    for read in range(10, 200, 5):
        kept = set(buffer.kept(past(read=read)).tolist())
        assert not kept & dropped
        dropped |= before - kept
        before = kept
    assert dropped


def test_lots_are_far_apart_however_near_the_windows_are() -> None:
    lots = lots_of(np.arange(4096), salt=3)
    assert len(np.unique(lots)) == 4096
    # The lowest bit and the highest one are as often 1 as 0.
    for bit in (0, 63):
        assert 1850 < int((lots >> np.uint64(bit) & np.uint64(1)).sum()) < 2250


def test_the_hardest_of_four_times_as_many_windows_are_replayed() -> None:
    rng, again = np.random.default_rng(0), np.random.default_rng(0)
    drawn = Solid().recall(past(), 80, again)
    found = Hardest().recall(past(), 20, rng)
    assert sorted(found.tolist()) == sorted(drawn.tolist())[-20:]


def test_solid_topics_are_replayed_and_those_still_improving_are_not() -> None:
    env = fake_env(seeds=(0, 15), memory=MemorySettings(choice="solid"))
    env.reset(seed=0)
    first = env.step(0)[4]["topic"]
    assert not env.episode.nucleus.solid[first]
    topics = env.learner.topic_of_window[env.step(0)[4]["windows"]]
    assert first not in topics
    assert np.isin(topics, (0, 15)).sum() == len(topics) // 2


@pytest.mark.parametrize("old", [{"memory": "none"}, {"memory": "ewc"}])
def test_without_replay_an_expansion_reads_new_windows_alone(old: dict[str, Any]) -> None:
    settings = Settings.of(**old)
    assert settings.replay_share == 0
    assert not memory_of(settings.memory).begun(past())
    env = fake_env(memory=settings.memory)
    env.reset(seed=0)
    env.step(0)
    info = env.step(1)[4]
    assert set(env.learner.topic_of_window[info["windows"]]) == {info["topic"]}


def test_replay_of_no_share_is_no_memory_bit_for_bit(small_world: World) -> None:
    def played(**settings: Any) -> list[bytes]:
        env = env_of(small_world, **SETTINGS, **settings)
        env.reset(seed=3)
        return bytes_of(env, (0, 1, 0, 2))

    none = played(memory="none")
    for settings in MEMORIES[1:]:
        assert played(**settings, replay=0.0) == none
    assert played() != none


def test_no_memory_trains_no_other_nucleus(small_world: World) -> None:
    stages = [open_stage(small_world, Settings.of(**SETTINGS, **m)) for m in MEMORIES]
    first = stages[0]
    for stage in stages[1:]:
        assert stage.reducible == first.reducible
        assert all((stage.nucleated[k] == first.nucleated[k]).all() for k in first.nucleated)


# --- exact copies -------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", MEMORIES, ids=NAMES)
def test_an_episode_with_a_memory_goes_on_from_a_file_bit_for_bit(
    small_world: World, tmp_path: Path, memory: dict[str, Any]
) -> None:
    env, fresh = (env_of(small_world, **SETTINGS, watched=6, **memory) for _ in range(2))
    env.reset(seed=5)
    for action in (0, 1):
        env.step(action)
    fresh.reset(seed=6)
    snapshot, _ = through_a_file(env.snapshot(), tmp_path, fresh)
    fresh.restore(snapshot)
    rest = (1, env.rules.slots, 0)
    assert bytes_of(fresh, rest) == bytes_of(env, rest)


@pytest.mark.parametrize("memory", MEMORIES, ids=NAMES)
def test_members_with_a_memory_play_as_a_single_environment_does(
    small_world: World, memory: dict[str, Any]
) -> None:
    settings = {**SETTINGS, "watched": 4, **memory}
    together = side_by_side(open_stage(small_world, Settings.of(**settings)), 2)
    alone = env_of(small_world, **settings)

    def play(env: TopicExpansionEnv, seed: int) -> list[float]:
        env.reset(seed=seed)
        infos = [env.step(action)[4] for action in (0, 1, 0)]
        return [i["held_out_loss"] for i in infos] + [i["memory"]["forgetting"] for i in infos]

    found = together.each(lambda i: play(together.envs[i], 4 + i))
    for i in range(2):
        assert found[i] == pytest.approx(play(alone, 4 + i), rel=1e-4, abs=1e-5)
    together.close()


# --- text that the learner writes itself --------------------------------------------------------


def test_a_model_writes_what_it_holds_likely_and_the_same_for_one_seed() -> None:
    import torch

    model = build_model(ModelConfig(width=16, layers=1, context=8), vocab_size=12)
    for seed in (0, 1):
        text = write_text(model, 3, 9, first=2, seed=seed)
        assert text.shape == (3, 9)
        assert (text[:, 0] == 2).all()
        assert (text == write_text(model, 3, 9, first=2, seed=seed)).all()
    assert (text != write_text(model, 3, 9, first=2, seed=0)).any()
    # As good as certain: the likeliest token follows, as one pass over the whole text has it.
    cold = write_text(model, 2, 9, first=2, seed=0, temperature=1e-4)
    logits = model(input_ids=torch.from_numpy(cold[:, :-1])).logits
    assert (logits.argmax(-1).numpy() == cold[:, 1:]).all()
    with pytest.raises(ValueError, match="of 2 to 9 tokens"):
        write_text(model, 1, 10, first=2, seed=0)


def test_a_learner_writes_its_old_text_itself_and_the_cost_is_told(small_world: World) -> None:
    env = env_of(small_world, **SETTINGS, memory="self")
    env.reset(seed=0)
    info = env.step(0)[4]
    n = env.settings.windows_per_step
    assert (info["windows"] == OWN).sum() == n // 2
    assert len(stored(info["windows"])) == n // 2
    assert info["memory"]["own_tokens"] == n // 2 * 32
    forward = env.learner.flops_per_token / 3
    assert info["memory"]["extra_flops"] == n // 2 * 32 * forward
    assert env.episode.reading_list.times_read[-1] <= 1  # no window was taken for text of its own
    rehearsed = env.step(env.rules.slots)[4]
    assert rehearsed["memory"]["own_tokens"] == rehearsed["memory"]["extra_flops"] == 0


def test_what_measuring_old_text_costs_is_told(small_world: World) -> None:
    env = env_of(small_world, **SETTINGS, replay_choice="loss")
    env.reset(seed=0)
    n, forward = env.settings.windows_per_step, env.learner.flops_per_token / 3
    found = [env.step(action)[4]["memory"]["extra_flops"] for action in (0, env.rules.slots)]
    assert found == [CANDIDATES * (n // 2) * 32 * forward, 0]


# --- watched topics -----------------------------------------------------------------------------


def test_watched_topics_tell_what_later_steps_did_to_them(small_world: World) -> None:
    env = env_of(small_world, **SETTINGS, watched=4)
    _, info = env.reset(seed=2)
    assert info["memory"]["watched"] == 2
    assert info["memory"]["forgetting"] == 0
    text = env.stage.text

    def measured() -> np.ndarray:
        topics = env.episode.watched.topics
        return np.array([env.learner.losses(text.neighbourhood(t)).mean() for t in topics])

    start = measured()
    for action in (0, 1, 0, 2):
        _, _, _, _, info = env.step(action)
    matrix = env.episode.watched.matrix(env.stage.world.titles)
    assert matrix.after.shape[0] == 4
    assert matrix.names[0] in env.stage.world.titles
    np.testing.assert_allclose(matrix.before[:2], start, rtol=1e-6)
    np.testing.assert_allclose(matrix.after[-1], measured(), rtol=1e-6)
    assert info["memory"]["backward_transfer"] == backward_transfer(matrix)


def test_solid_topics_join_the_watched_ones_until_the_places_are_taken() -> None:
    env = fake_env(seeds=(0, 8, 16, 24), rules=replace(RULES, watched=5))
    env.reset(seed=0)
    watched = env.episode.watched
    assert watched.topics == [0, 16, 24]  # three of five places, spread over the seeds
    solid: list[int] = []
    for step in range(env.rules.steps):
        env.step(0 if step < 4 else env.rules.slots)
        solid += [t for t in env.episode.nucleus.expanded if env.episode.nucleus.solid[t]]
    joined = list(dict.fromkeys(solid))
    assert len(joined) > 2
    assert watched.topics[3:] == joined[:2]
    assert watched.since[:3] == [-1] * 3
    assert all(0 < step < env.rules.steps for step in watched.since[3:])
    lengths = [len(row) for row in watched.rows]
    assert lengths[0] == 3
    assert lengths == sorted(lengths)
    # A topic is in the row of the step that made it solid, and in no earlier one.
    for k, since in list(enumerate(watched.since))[3:]:
        assert lengths[since] <= k < lengths[since + 1]


def test_with_a_taste_old_text_is_to_the_taste_too() -> None:
    env = fake_env(seeds=(0, 15), memory=MemorySettings(choice="solid"))
    env.reset(seed=0, options={"taste": Taste.of(np.ones((len(TRAITS), LEVELS)), 0.5)})
    env.step(0)
    windows = env.step(0)[4]["windows"]
    # A fake retriever likes the first of a topic's four passages alone.
    assert (env.stage.store.document[windows] % 4 == 0).all()
    assert np.isin(env.learner.topic_of_window[windows], (0, 15)).any()


def test_watching_changes_nothing_that_is_played(small_world: World) -> None:
    def rewards(watched: int) -> list[float]:
        env = env_of(small_world, **SETTINGS, watched=watched)
        env.reset(seed=1)
        return [float(env.step(action)[1]) for action in (0, 3, 1, 2)]

    assert rewards(0) == rewards(8)


def test_the_matrix_computes_anew_from_saved_checkpoints(
    small_world: World, tmp_path: Path
) -> None:
    env, fresh = (env_of(small_world, **SETTINGS, watched=12) for _ in range(2))
    env.reset(seed=4)
    kept = []
    for i, action in enumerate((0, 1, 2, 0)):
        env.step(action)
        fresh.reset(seed=0)
        kept.append(through_a_file(env.snapshot(), tmp_path / str(i), fresh)[0])
    watched = env.episode.watched
    matrix = watched.matrix()
    for row, snapshot in zip(matrix.after, kept, strict=True):
        fresh.restore(snapshot)
        text, n = fresh.stage.text, int(np.isfinite(row).sum())
        again = [fresh.learner.losses(text.neighbourhood(t)).mean() for t in watched.topics[:n]]
        np.testing.assert_allclose(row[:n], again, rtol=1e-6)


class Forgetful(FakeLearner):
    """Loses a tenth of a bit per byte of topic 0 at each step."""

    def train(self, windows: np.ndarray) -> None:
        super().train(windows)
        self.loss[0] += 0.1


def test_the_backward_term_pays_for_what_is_kept_as_a_component_of_its_own() -> None:
    def played(weight: float) -> dict[str, Any]:
        env = fake_env()
        rules = replace(env.rules, watched=1, backward_weight=weight)
        env.rules = rules
        env.learner = Forgetful(env.learner.topic_of_window, env.stage.target, env.learner.floor)
        env.reset(seed=0)
        _, reward, _, _, info = env.step(0)
        assert reward == info["reward"]["total"]
        return info["reward"]

    unpaid, paid = played(0.0), played(2.0)
    assert unpaid["backward"] == paid["backward"] == pytest.approx(-0.1)
    assert unpaid["backward_term"] == 0
    assert paid["backward_term"] == pytest.approx(2.0 * -0.1 / 1.0)
    assert paid["total"] == pytest.approx(unpaid["total"] + paid["backward_term"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"memory": "all"}, "expected memory among none, replay, ewc, self, got 'all'"),
        ({"replay_choice": "new"}, "expected replay_choice among expansions, solid"),
        ({"memory": "none", "replay_choice": "loss"}, "expected memory replay for a replay_choice"),
        ({"replay_buffer": 0}, "expected replay_buffer >= 1, got 0"),
        ({"ewc_strength": -1.0}, "expected ewc_strength >= 0, got -1.0"),
        ({"backward_weight": 1.0}, "expected watched >= 1 for a backward_weight of 1.0, got 0"),
        ({"adapter": "vera"}, "expected adapter among none, lora, relora, got 'vera'"),
        ({"updates": "some"}, "expected updates among full, topk, lowrank, got 'some'"),
        ({"updates_share": 0.0}, "expected updates_share above 0, at most 1, got 0"),
        ({"adapter": "lora", "updates": "topk"}, "expected full updates of an adapter, got topk"),
        ({"adapter": "lora", "memory": "ewc"}, "expected no adapter with memory ewc, got lora"),
    ],
)
def test_a_wrong_combination_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        Settings.of(**given)
    assert "\n" not in str(refusal.value)
