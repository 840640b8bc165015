"""The curiosity function, its directory, cloning, prediction and PPO's plumbing."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from fakes import RULES, fake_env
from stable_baselines3.common.vec_env import DummyVecEnv

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import ClockedLearner
from kncl_env.observation import CANDIDATE_FEATURES, CONTEXT_FEATURES, FEATURE_SCHEMA
from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.arms.registry import arm_of
from policies.curiosity import CLOSED, CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from policies.learn.cloning import CloningConfig, click_losses, click_places, clone, places
from policies.learn.potentials import Shaped
from policies.learn.ppo import CuriosityActorCritic, PPOConfig, Start, masked_kl, train_ppo
from policies.learn.prediction import figures, predict
from policies.learn.training import TrainingPlan, train_policy
from policies.learn.vec_env import Clocked
from policies.verdict.statistics import permutation_test
from rabbit_holes.demonstrations import Demonstrations
from train_lm.checked.digests import sealed

F, G = len(CANDIDATE_FEATURES), len(CONTEXT_FEATURES)
GOAL = CANDIDATE_FEATURES.index("goal_known")  # the first feature about a goal
LEARNER = CANDIDATE_FEATURES.index("loss_known")  # the first feature about a learner
LAST = CANDIDATE_FEATURES.index("similarity_last")


def clicks_of(n: int, seed: int, column: int = LAST, mean: int = 6) -> Demonstrations:
    """Clicks of a walker who always takes the candidate with the largest value in one column."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(2, 2 * mean, n)
    rows = rng.random((counts.sum(), F)).astype(np.float32)
    rows[:, 0] = 1.0
    rows[:, GOAL:] = 0.0  # no goal and no learner, as in a record
    starts = np.concatenate([[0], np.cumsum(counts)])
    chosen = [rows[a:b, column].argmax() for a, b in itertools.pairwise(starts)]
    context = np.zeros((n, G), dtype=np.float32)
    return Demonstrations(rows, starts, context, np.array(chosen), np.arange(n) // 3)


def test_a_permutation_of_slots_permutes_the_scores() -> None:
    network = CuriosityNetwork(CuriosityConfig())
    candidates, context = torch.rand(2, 7, F), torch.rand(2, G)
    candidates[:, :, 0] = 1.0
    candidates[1, 5:] = 0.0
    order = torch.tensor([3, 1, 6, 0, 2, 5, 4])
    logits, value = network(candidates, context)
    moved, same = network(candidates[:, order], context)
    assert torch.allclose(logits[:, :-1][:, order], moved[:, :-1], atol=1e-5)
    assert torch.allclose(logits[:, -1], moved[:, -1], atol=1e-5)
    assert torch.allclose(value, same, atol=1e-5)


def test_empty_slots_change_nothing_and_are_never_taken() -> None:
    network = CuriosityNetwork(CuriosityConfig())
    candidates, context = torch.rand(1, 4, F), torch.rand(1, G)
    candidates[:, :, 0] = 1.0
    padded = torch.cat([candidates, torch.zeros(1, 5, F)], 1)
    short, value = network(candidates, context)
    long, again = network(padded, context)
    assert torch.allclose(short[:, :4], long[:, :4], atol=1e-5)
    assert torch.allclose(value, again, atol=1e-5)
    assert (long[:, 4:9] == CLOSED).all()


def test_an_empty_frontier_leaves_consolidation_and_finite_numbers() -> None:
    network = CuriosityNetwork(CuriosityConfig())
    logits, value = network(torch.zeros(1, 4, F), torch.rand(1, G))
    assert torch.isfinite(logits).all()
    assert torch.isfinite(value).all()
    assert logits.argmax() == 4


def test_consolidation_starts_as_a_rare_choice_whatever_the_scores() -> None:
    network = CuriosityNetwork(CuriosityConfig())
    candidates, context = torch.rand(1, 30, F), torch.zeros(1, G)
    candidates[:, :, 0] = 1.0
    network.sharpen(50.0)
    share = torch.softmax(network(candidates, context)[0], 1)[0, -1].item()
    assert 0.01 < share < 0.15


def test_a_greedy_policy_expands_while_expansion_is_likelier_than_rehearsal() -> None:
    policy = CuriosityPolicy(CuriosityNetwork(CuriosityConfig()))
    candidates = np.random.default_rng(0).random((64, F)).astype(np.float32)
    candidates[:, 0] = 1.0
    observation = {"candidates": candidates, "context": np.zeros(G, dtype=np.float32)}
    assert policy.logits(observation)[:-1].max() < policy.logits(observation)[-1]
    assert policy.predict(observation)[0] < 64


def test_training_never_plays_the_seeds_of_an_evaluation(tmp_path: Path) -> None:
    seen: list[int | None] = []

    class Watched(DummyVecEnv):
        def seed(self, seed: int | None = None) -> list[int | None]:
            seen.append(seed)
            return list(super().seed(seed))

    train_ppo(Watched([fake_env]), 10, tmp_path / "run", SMALL)
    starts = [s for s in seen if s is not None and s != SMALL.seed]
    assert len(set(starts)) == SMALL.iterations
    assert min(starts) >= 1_000_000


def test_cloning_fits_a_deterministic_walker_and_generalises() -> None:
    network = CuriosityNetwork(CuriosityConfig(width=32))
    train, select, test = (clicks_of(n, s) for n, s in ((3000, 0), (300, 1), (600, 2)))
    before = click_losses(network, test).mean()
    config = CloningConfig(epochs=12, batch=64, learning_rate=4e-3, patience=12)
    history = clone(network, train, select, config)
    top1 = (click_places(network, test)[:, 0] == 0).mean()
    assert history[-1][1] < history[0][1]
    assert click_losses(network, test).mean() < 0.5 * before
    assert top1 > 0.85


def test_a_clone_does_not_react_to_features_it_never_saw() -> None:
    network = CuriosityNetwork(CuriosityConfig(width=32))
    clone(network, clicks_of(300, 0), clicks_of(60, 1), CloningConfig(epochs=1))
    candidates = torch.rand(1, 5, F)
    candidates[:, :, 0], candidates[:, :, GOAL:] = 1.0, 0.0
    known = candidates.clone()
    known[:, :, LEARNER:] = torch.rand(1, 5, F - LEARNER)  # what a learner would tell
    context = torch.zeros(1, G)
    assert torch.equal(network(candidates, context)[0][:, :5], network(known, context)[0][:, :5])


def test_cloning_without_clicks_says_what_was_dropped() -> None:
    empty = Demonstrations(
        np.zeros((0, F), np.float32),
        np.zeros(1, np.int64),
        np.zeros((0, G), np.float32),
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
    )
    with pytest.raises(ValueError, match="record more paths"):
        clone(CuriosityNetwork(CuriosityConfig()), empty, empty, CloningConfig())


def test_places_and_figures_share_ties_evenly() -> None:
    scores = np.array([[0.5, 0.5, 0.1], [0.9, 0.2, 0.2], [0.0, 0.0, 0.0]])
    found = places(scores, np.array([0, 1, 2]))
    assert found.tolist() == [[0, 2], [1, 2], [0, 3]]
    result = figures(found, np.arange(3), np.random.default_rng(0))
    assert result.top1 == pytest.approx((1 / 2 + 0 + 1 / 3) / 3)
    reciprocal = [(1 + 1 / 2) / 2, (1 / 2 + 1 / 3) / 2, (1 + 1 / 2 + 1 / 3) / 3]
    assert result.mrr == pytest.approx(np.mean(reciprocal))


def test_prediction_puts_the_ladder_beside_the_policy() -> None:
    clicks = clicks_of(200, 0)
    found = predict(CuriosityNetwork(CuriosityConfig()), clicks, np.random.default_rng(0))
    uniform = (1 / np.diff(clicks.starts)).mean()
    assert found.predictors["uniform"].top1 == pytest.approx(uniform)
    assert found.predictors["cosine to current"].top1 == 1.0
    policy = found.predictors["policy"]
    assert policy.top1_interval[0] <= policy.top1 <= policy.top1_interval[1]


@pytest.fixture
def policy_dir(tmp_path: Path) -> Path:
    CuriosityPolicy(CuriosityNetwork(CuriosityConfig(width=16)), {"made_by": "test"}).save(
        tmp_path / "policy"
    )
    return tmp_path / "policy"


def test_a_policy_comes_back_from_its_directory(policy_dir: Path) -> None:
    first = CuriosityPolicy(CuriosityNetwork(CuriosityConfig(width=16)))
    again = CuriosityPolicy.load(policy_dir)
    env = fake_env()
    observation, _ = env.reset(seed=0)
    assert np.array_equal(first.logits(observation), again.logits(observation))
    assert again.provenance == {"made_by": "test"}
    assert {p.suffix for p in policy_dir.iterdir()} == {".json", ".safetensors"}


def edit_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "policy.json").read_text())
    (folder / "policy.json").write_text(json.dumps({**card, **changes}))


def test_a_damaged_or_foreign_policy_is_refused_with_the_reason(policy_dir: Path) -> None:
    weights = policy_dir / "policy.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="truncated or edited"):
        CuriosityPolicy.load(policy_dir)
    weights.write_bytes(whole)
    edit_card(policy_dir, feature_schema=FEATURE_SCHEMA + 1)
    with pytest.raises(
        ValueError, match=f"schema {FEATURE_SCHEMA}, got one for schema {FEATURE_SCHEMA + 1}"
    ):
        CuriosityPolicy.load(policy_dir)
    edit_card(
        policy_dir, feature_schema=FEATURE_SCHEMA, context_features=["other", *CONTEXT_FEATURES[1:]]
    )
    with pytest.raises(ValueError, match="differs in other, progress_known"):
        CuriosityPolicy.load(policy_dir)
    edit_card(policy_dir, context_features=CONTEXT_FEATURES, provenance={"made_by": "nobody"})
    with pytest.raises(ValueError, match="as it was written"):
        CuriosityPolicy.load(policy_dir)
    # Whoever edits a card can seal it again, or take the seal off.
    for network, reason in (
        ({"width": 32, "heads": 4, "seed": 0}, "size mismatch"),
        ({"width": 10**9, "heads": 4, "seed": 0}, "expected a whole number"),
        ({"width": 16, "heads": 3, "seed": 0}, "divide evenly"),
        ({"width": 16, "heads": True, "seed": 0}, "expected a whole number"),
        ([16], "expected an object as network"),
    ):
        card = json.loads((policy_dir / "policy.json").read_text())
        (policy_dir / "policy.json").write_text(json.dumps(sealed({**card, "network": network})))
        with pytest.raises(ValueError, match=reason):
            CuriosityPolicy.load(policy_dir)
    edit_card(policy_dir, format="other")
    with pytest.raises(ValueError, match="another kind"):
        CuriosityPolicy.load(policy_dir)
    with pytest.raises(FileNotFoundError, match="kncl-policy pretrain"):
        CuriosityPolicy.load(policy_dir / "nowhere")


SMALL = PPOConfig(iterations=4, episodes=2, learners=1, epochs=2, batch=10, leash=0.1, seed=3)


def train(
    out: Path, config: PPOConfig = SMALL, make: object = fake_env, **kwargs: object
) -> CuriosityPolicy:
    env = DummyVecEnv([make])
    return train_ppo(env, 10, out, config, **kwargs)  # type: ignore[arg-type]


def goal_env() -> TopicExpansionEnv:
    """Five topics of thirty earn anything; the goal features name them."""
    return fake_env(seeds=(0, 10, 20), target=(8, 9, 11, 12, 13))


def test_training_that_was_stopped_goes_on_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    train(tmp_path / "whole", make=goal_env)

    class StoppedError(Exception):
        pass

    def stop_after_two(figures: dict[str, float]) -> None:
        if figures["iteration"] == 2:
            raise StoppedError

    threads = threading.active_count()
    with pytest.raises(StoppedError):
        train(tmp_path / "stopped", make=goal_env, on_iteration=stop_after_two)
    assert threading.active_count() == threads  # what writes events is one
    train(tmp_path / "stopped", make=goal_env)
    a, b = ((tmp_path / d / "policy.safetensors").read_bytes() for d in ("whole", "stopped"))
    assert a == b
    lines = (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2, 3, 4]
    assert list((tmp_path / "whole" / "tensorboard").glob("events*"))


def test_a_run_with_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    train(tmp_path / "run", PPOConfig(iterations=1, episodes=1, learners=1, epochs=1, batch=10))
    other = PPOConfig(iterations=2, episodes=1, learners=1, epochs=1, batch=10)
    with pytest.raises(ValueError, match=r"others \(ppo.iterations is 1 there, 2 here\)"):
        train(tmp_path / "run", other)


def test_the_first_iterations_after_cloning_fit_only_the_value(tmp_path: Path) -> None:
    init = CuriosityPolicy(CuriosityNetwork(CuriosityConfig(width=16, seed=5)))
    config = PPOConfig(
        iterations=1, episodes=1, learners=1, epochs=2, batch=10, critic_iterations=1, sharpen=1.0
    )
    trained = train(tmp_path / "run", config, start=Start(init=init))
    before, after = init.network.state_dict(), trained.network.state_dict()
    changed = {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"value"}


def test_ppo_learns_to_go_for_the_goal_on_a_task_whose_optimum_is_known(tmp_path: Path) -> None:
    config = PPOConfig(
        iterations=15, episodes=8, learners=1, epochs=8, batch=40, learning_rate=3e-3, seed=0
    )
    policy = train(tmp_path / "run", config, goal_env)

    def total(choose: object, seed: int) -> float:
        env = goal_env()
        observation, _ = env.reset(seed=seed)
        over, rewards = False, 0.0
        while not over:
            action = choose(env, observation)  # type: ignore[operator]
            observation, reward, terminated, truncated, _ = env.step(action)
            rewards, over = rewards + float(reward), terminated or truncated
        return rewards

    rng = np.random.default_rng(0)
    learned = [
        total(lambda e, o: policy.predict(o, action_masks=e.action_masks())[0], s)
        for s in range(100, 110)
    ]
    random = [total(lambda e, o: rng.integers(len(e.episode.slots)), s) for s in range(100, 110)]
    assert permutation_test(random, learned, True, rng) < 0.05


def test_the_environment_passes_masks_to_sb3() -> None:
    from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported

    env = DummyVecEnv([fake_env])
    env.reset()
    assert is_masking_supported(env)
    assert get_action_masks(env).shape == (1, 5)
    assert isinstance(fake_env(), gym.Env)


def test_the_leash_pulls_by_the_divergence_over_the_allowed_actions() -> None:
    """Against a sum written out by hand; rows with one, some and all actions allowed."""
    rng = np.random.default_rng(0)
    logits, other = rng.normal(size=(2, 3, 5)) * 3
    mask = np.array([[0, 0, 0, 0, 1], [1, 0, 1, 1, 0], [1, 1, 1, 1, 1]], dtype=bool)
    other[1, 1] = 1e9  # what is masked may say anything
    expected = []
    for a, b, m in zip(logits, other, mask, strict=True):
        p, q = (np.exp(x[m] - x[m].max()) / np.exp(x[m] - x[m].max()).sum() for x in (a, b))
        expected.append(sum(p * np.log(p / q)))
    mine = torch.tensor(logits, requires_grad=True)
    found = masked_kl(mine, torch.tensor(other), mask)
    assert found.detach().numpy() == pytest.approx(expected)
    found.sum().backward()
    assert torch.isfinite(mine.grad).all()
    assert (mine.grad[torch.tensor(~mask)] == 0).all()


def actor_critic(seed: int, entropy: float) -> CuriosityActorCritic:
    env = fake_env()
    return CuriosityActorCritic(
        env.observation_space,
        env.action_space,
        lambda _: 1e-3,
        network=CuriosityConfig(width=16, seed=seed),
        entropy=entropy,
    )


def test_the_bonus_is_the_entropy_minus_the_leash() -> None:
    policy, start = actor_critic(1, entropy=0.5), actor_critic(2, entropy=0.5).network
    for network in (policy.network, start):
        network.sharpen(50.0)
    observation, _ = fake_env().reset(seed=0)
    obs = {k: torch.from_numpy(v)[None] for k, v in observation.items()}
    mask = np.array([[True, True, False, False, True]])
    action = torch.tensor([0])
    _, _, entropy = policy.evaluate_actions(obs, action, mask)
    policy.hold(start, 2.0)
    _, log_prob, bonus = policy.evaluate_actions(obs, action, mask)
    p, q = (
        torch.softmax(network(obs["candidates"], obs["context"])[0][0, mask[0]], 0)
        for network in (policy.network, start)
    )
    kl = (p * (p / q).log()).sum()
    assert kl > 1e-4
    assert entropy.item() == pytest.approx(-0.5 * (p * p.log()).sum().item(), rel=1e-4)
    assert bonus.item() == pytest.approx(entropy.item() - 2.0 * kl.item(), rel=1e-4)
    assert log_prob.item() == pytest.approx(p[0].log().item(), rel=1e-4)
    bonus.backward()
    assert all(parameter.grad is None for parameter in start.parameters())
    assert not set(start.parameters()) & set(policy.parameters())


def test_a_leash_keeps_the_policy_near_to_its_start(tmp_path: Path) -> None:
    moved = {}
    for leash in (0.0, 3.0):
        config = PPOConfig(
            iterations=6, episodes=4, learners=1, epochs=4, batch=20, learning_rate=3e-3,
            target_kl=1.0, leash=leash,
        )  # fmt: skip
        trained = train(tmp_path / str(leash), config, goal_env)
        observation, _ = goal_env().reset(seed=0)
        obs = [torch.from_numpy(observation[k])[None] for k in ("candidates", "context")]
        start = CuriosityNetwork(trained.network.config)
        moved[leash] = masked_kl(trained.network(*obs)[0], start(*obs)[0]).item()
    assert moved[3.0] < 0.5 * moved[0.0]


def test_the_figures_of_training_tell_what_was_paid_and_what_was_read(tmp_path: Path) -> None:
    def make() -> gym.Env:
        env = fake_env()
        env.learner = ClockedLearner(env.learner)
        return Shaped(Clocked(env), {"novelty": 0.5}, 0.95)

    def watching() -> gym.Env:
        env = fake_env(rules=replace(RULES, watched=4))
        env.learner = ClockedLearner(env.learner)
        return Clocked(env)

    noise = np.arange(len(fake_env().stage.store)) % 2 == 0
    told: list[dict[str, float]] = []
    config = PPOConfig(iterations=1, episodes=2, learners=1, epochs=1, batch=10, leash=0.1)
    train(tmp_path / "run", config, make, noise=noise, on_iteration=told.append)
    (found,) = told
    assert 0 < found["learner_share"] < 1
    assert 0.2 < found["noise_share"] < 0.8
    assert 0 < found["entropy"] <= np.log(5)
    assert found["shaping/novelty"] != 0
    assert found["kl_to_start"] >= -1e-6  # rounding
    written = next((tmp_path / "run" / "tensorboard").glob("events*")).read_bytes()
    assert b"kncl/learner_share" in written
    assert b"Topic " in written
    assert not any(name.startswith("memory/") for name in found)
    train(tmp_path / "watched", config, watching, on_iteration=told.append)
    assert told[1]["memory/forgetting"] <= 0  # a fake learner forgets nothing
    assert told[1]["memory/backward_transfer"] >= 0


def test_a_training_pays_the_potentials_that_its_config_names(
    small_world: World, tmp_path: Path
) -> None:
    settings = Settings.of(
        model="xxs", nucleus_topics=6, nucleus_updates=30, steps=4, updates_per_step=2, batch=4,
        breadth=16, slots=6,
    )  # fmt: skip
    told: list[tuple[str, int]] = []
    shaped: dict[str, dict[str, float]] = {}
    for name, potentials in (("plain", ()), ("shaped", (("novelty", 0.5),))):
        config = PPOConfig(iterations=1, episodes=2, learners=1, potentials=potentials)

        def tell(
            part: str, iterations: int, figures: Mapping[str, float], name: str = name
        ) -> None:
            told.append((part, iterations))
            shaped[name] = dict(figures)

        train_policy(small_world, settings, TrainingPlan(config), tmp_path / name, tell)
    assert told == [("iteration", 1)] * 2
    assert "shaping/novelty" not in shaped["plain"]
    assert shaped["shaped"]["shaping/novelty"] != 0


def test_a_policy_that_dots_stand_for_is_called_as_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    CuriosityPolicy(CuriosityNetwork(CuriosityConfig(width=16))).save(folder)
    (folder / "notes").mkdir()
    for here, spec in ((folder, "."), (folder / "notes", ".."), (tmp_path, "./mine/")):
        monkeypatch.chdir(here)
        assert arm_of(spec).name == "mine"
