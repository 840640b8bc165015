"""A taste for passages: its traits by plain counting, what it filters, how it is learned."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from fakes import corpus_of, curve_of, env_of, fake_env, through_a_file

import kncl_env  # noqa: F401
from kncl_env import passage_traits
from kncl_env.passage_traits import (
    BACKOFF,
    GOAL_TRAITS,
    LEVELS,
    TEXT_TRAITS,
    TRAITS,
    PassageTraits,
    text_traits,
)
from kncl_env.retrieval import NeighbourhoodRetriever
from kncl_env.settings import Settings
from kncl_env.stage import open_stage
from kncl_env.taste import Taste
from kncl_env.topic_table import Goal, TopicTable
from kncl_env.world.world import World
from policies.arms.registry import arm_of
from policies.cli.main import main
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from policies.learn.tasting import SHARES, TastingPlan, fit_worth, held_out_r2, learn_taste
from policies.learn.vec_env import View, make_vec_env
from train_lm.checked.digests import sealed
from train_lm.tokenizer import bytes_per_token

SETTINGS = {
    "nucleus_topics": 6,
    "nucleus_updates": 30,
    "steps": 4,
    "updates_per_step": 1,
    "batch": 4,
    "breadth": 16,
    "slots": 6,
    "model": "xxs",
    "learning_rate": 1e-3,
}
OPTIONS = [part for k, v in SETTINGS.items() for part in (f"--{k.replace('_', '-')}", str(v))]


@pytest.fixture(scope="module")
def noisy_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    from kncl_env.world.build import BuildConfig, build_world

    config = BuildConfig(scenario="noisy", noise_share=0.3, vocab_size=300, passage_bytes=200)
    return build_world(corpus_of(), tmp_path_factory.mktemp("taste") / "noisy", config)


def taste(trait: str, share: float = 0.2, least: bool = False) -> Taste:
    """Likes passages with the most of one trait, or with the least, and knows nothing else."""
    worth = np.zeros((len(TRAITS), LEVELS))
    worth[TRAITS.index(trait)] = np.arange(LEVELS) * (-1 if least else 1)
    return Taste.of(worth, share)


# -- traits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dense", [2**26, 10])
def test_traits_of_tokens_are_those_of_plain_counting(
    noisy_world: World, dense: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passage_traits, "DENSE", dense)
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path))
    world = noisy_world
    ids, starts = world.tokens()
    texts = [ids[a:b].tolist() for a, b in pairwise(starts)]
    training = world.passage_split == 0
    found = text_traits(world)
    vocabulary, size_of = world.tokenizer.get_vocab_size(), bytes_per_token(world.tokenizer)
    rng = np.random.default_rng(0)
    for passage in rng.choice(len(texts), 12, replace=False).tolist():
        others = [t for i, t in enumerate(texts) if training[i] and i != passage]
        single = Counter(token for text in others for token in text)
        pairs = Counter(p for text in others for p in pairwise(text))
        before = Counter(token for text in others for token in text[:-1])
        text = texts[passage]
        likely = [(single[t] + 1) / (single.total() + vocabulary) for t in text]
        gain = 0.0
        for i in range(1, len(text)):
            first = text[i - 1]
            chained = (pairs[first, text[i]] + BACKOFF * likely[i]) / (before[first] + BACKOFF)
            gain += np.log2(chained / likely[i])
        n_bytes = size_of[text].sum()
        expected = [-np.log2(likely).sum() / n_bytes, gain / n_bytes, len(set(text)) / len(text)]
        assert found[passage, :3] == pytest.approx(expected, rel=1e-9)


def test_similarities_are_plain_products(small_world: World) -> None:
    world = small_world
    table = TopicTable.of(world)
    goal = Goal(table, world.target_topics())
    vectors = world.index.vectors()
    found = text_traits(world)[world.index.passages]
    own = world.topic_vectors[world.passage_topic[world.index.passages]]
    assert found[:, 3] == pytest.approx((vectors * own).sum(1), abs=1e-5)
    among = vectors @ vectors.T
    np.fill_diagonal(among, -np.inf)
    assert found[:, 4] == pytest.approx(among.max(1), abs=1e-5)
    levels = PassageTraits(world, goal).levels[world.index.passages]
    closest = (vectors @ goal.vectors.T).max(1)
    place = TRAITS.index("goal_closest")
    assert closest[levels[:, place] == LEVELS - 1].min() >= closest[levels[:, place] < 8].max()


def test_each_kind_of_junk_stands_out_by_some_trait(noisy_world: World) -> None:
    kinds = np.array([p.noise for p in noisy_world.passages()])
    training = noisy_world.passage_split == 0
    traits = dict(zip(TEXT_TRAITS, text_traits(noisy_world).T, strict=True))

    def auc(trait: str, kind: str) -> float:
        """How often a passage of this kind has more of the trait than one that is no junk."""
        junk, real = (traits[trait][training & (kinds == k)] for k in (kind, ""))
        return float((junk[:, None] > real[None, :]).mean())

    assert auc("unigram_loss", "foreign") > 0.9
    # The original of a copy is as close to it as the copy is to the original.
    assert auc("nearest_similarity", "duplicate") > 0.8
    assert auc("nearest_similarity", "shuffled") > 0.7
    assert auc("topic_similarity", "boilerplate") < 0.2


def test_traits_are_kept_and_a_damaged_file_of_them_is_made_again(
    noisy_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path))
    first = text_traits(noisy_world)
    (file,) = tmp_path.glob("traits-*.npz")
    file.write_bytes(file.read_bytes()[:200])
    assert np.array_equal(text_traits(noisy_world), first)
    assert np.array_equal(np.load(file)["array"], first)


# -- what a taste filters --------------------------------------------------------------------------


def test_a_taste_likes_its_share_of_the_training_text_and_nothing_held_out(
    small_world: World,
) -> None:
    traits = PassageTraits(small_world, None)
    training = small_world.passage_split == 0
    worth = np.random.default_rng(0).normal(size=(len(TRAITS), LEVELS))
    for share in (0.1, 0.5, 1.0):
        likes = traits.best(worth, share)
        assert likes[training].mean() == pytest.approx(share, abs=0.02)
        assert share < 1 or likes[training].all()
        assert not likes[~training].any()
        value = traits.worth(worth)
        assert value[likes].min() >= value[training & ~likes].max(initial=-np.inf)
    # Without a goal its traits tell nobody from anybody.
    places = [TRAITS.index(name) for name in GOAL_TRAITS]
    assert (traits.levels[:, places] == traits.levels[0, places]).all()


def test_a_neighbourhood_is_filled_with_what_is_liked(small_world: World) -> None:
    retriever = NeighbourhoodRetriever(small_world, breadth=30)
    choosy = taste("distinct_tokens", share=0.3)
    likes = retriever.likes(choosy)
    for topic in range(0, 40, 5):
        found = retriever.neighbourhood(topic, choosy)
        assert len(found) == len(set(found)) == 30
        assert likes[found].all()
        own = retriever.own(topic, choosy)
        assert set(own) == set(retriever.own(topic)[likes[retriever.own(topic)]])
        assert set(own) <= set(found)
        # The others are the nearest of those it likes.
        query = small_world.topic_vectors[topic].astype(np.float64)
        query += retriever.pull * small_world.topic_vectors[small_world.graph.out(topic)].mean(0)
        order = small_world.index.search(query[None].astype(np.float32), 10**6)[0]
        wanted = [p for p in order if likes[p] and p not in own][: 30 - len(own)]
        assert set(wanted) | set(own) == set(found)
    wide = NeighbourhoodRetriever(small_world, breadth=10**6)
    assert len(wide.neighbourhood(0, choosy)) == likes.sum()
    assert retriever.neighbourhood(3) is not retriever.neighbourhood(3, choosy)


def test_an_episode_reads_to_its_taste_and_the_next_one_anything(small_world: World) -> None:
    env = env_of(small_world, **SETTINGS)
    choosy = taste("unigram_loss", least=True)
    likes = env.stage.retriever.likes(choosy)  # type: ignore[attr-defined]
    consolidate = env.rules.slots

    def read(options: dict[str, Any] | None) -> set[int]:
        env.reset(seed=3, options=options)
        windows = [env.step(action)[4]["windows"] for action in (0, 1, consolidate, 2)]
        return set(env.stage.store.document[np.concatenate(windows)].tolist())

    assert likes[sorted(read({"taste": choosy}))].all()
    assert not likes[sorted(read(None))].all()
    assert read({"taste": None}) == read({})


def test_little_to_its_taste_is_no_reason_to_read_it_again_and_again() -> None:
    env = fake_env()  # whose retriever likes one passage of four windows
    env.reset(seed=0, options={"taste": taste("unigram_loss")})
    *_, info = env.step(env.rules.slots)
    assert len(np.unique(info["windows"])) == env.settings.windows_per_step == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flavour": 1}, "no options of reset but taste and rewarded, got flavour"),
        ({"taste": "sweet"}, "a Taste as the option taste, got str"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fake_env().reset(seed=0, options=options)


def test_a_snapshot_keeps_its_taste_in_memory_and_on_file(
    small_world: World, tmp_path: Path
) -> None:
    def rest(env: Any) -> list[bytes]:
        return [env.step(a)[4]["windows"].tobytes() for a in (1, env.rules.slots, 0)]

    env, other = (env_of(small_world, **SETTINGS) for _ in range(2))
    env.reset(seed=5, options={"taste": taste("bigram_gain")})
    env.step(0)
    snapshot = env.snapshot()
    expected = rest(env)
    env.reset(seed=9)
    env.restore(snapshot)
    assert rest(env) == expected
    other.reset(seed=6)
    other.restore(through_a_file(snapshot, tmp_path, other)[0])
    assert rest(other) == expected
    # And a snapshot without a taste is not given one.
    plain = env_of(small_world, **SETTINGS)
    plain.reset(seed=5)
    other.reset(seed=5, options={"taste": taste("bigram_gain")})
    assert through_a_file(plain.snapshot(), tmp_path, other)[0].episode.taste is None


def test_episodes_that_follow_by_themselves_keep_the_taste(small_world: World) -> None:
    choosy = taste("unigram_loss", least=True)
    likes = NeighbourhoodRetriever(small_world, breadth=1).likes(choosy)
    stage = open_stage(small_world, Settings.of(**SETTINGS))
    vec = make_vec_env(stage, 2, View(taste=choosy))
    vec.seed(0)
    vec.reset()
    store = stage.store
    for _ in range(SETTINGS["steps"] + 2):  # type: ignore[operator]
        infos = vec.step(np.array([0, 1]))[3]
        assert all(likes[store.document[info["windows"]]].all() for info in infos)
    vec.close()
    many = gym.make_vec("kncl_env/TopicExpansion-v0", num_envs=2, world=small_world, **SETTINGS)
    many.reset(seed=0, options={"taste": choosy})
    for _ in range(SETTINGS["steps"] + 3):  # type: ignore[operator]
        infos = many.step(np.array([0, 1]))[4]
        assert all(likes[store.document[w[w >= 0]]].all() for w in infos["windows"])


# -- on file ---------------------------------------------------------------------------------------


def test_a_policy_keeps_its_taste_and_lends_it_to_baselines(
    small_world: World, tmp_path: Path
) -> None:
    choosy = taste("goal_similarity", share=0.15)
    network = CuriosityNetwork(CuriosityConfig(width=16))
    CuriosityPolicy(network, taste=choosy).save(tmp_path / "p")
    CuriosityPolicy(network).save(tmp_path / "q")
    assert CuriosityPolicy.load(tmp_path / "p").taste == choosy
    assert arm_of(str(tmp_path / "q")).taste is None
    found = arm_of(f"random+{tmp_path / 'p'}")
    assert (found.name, found.taste) == ("random+p", choosy)
    env = env_of(small_world, **SETTINGS)
    likes = env.stage.retriever.likes(choosy)  # type: ignore[attr-defined]
    for arm in ("p", "random+{}/p", "uniform+{}/p", "target-text+{}/p"):
        name = arm.format(tmp_path) if "+" in arm else str(tmp_path / arm)
        assert all(likes[step].all() for step in curve_of(env, name, 0).passages)
    bare = curve_of(env, "uniform", 0)  # the same environment, not the same draws
    assert not all(likes[step].all() for step in bare.passages)
    with pytest.raises(ValueError, match="a policy with a taste"):
        arm_of(f"random+{tmp_path / 'q'}")
    with pytest.raises(ValueError, match=r"alone or with the taste .* got 'wisdom\+x'"):
        arm_of("wisdom+x")
    with pytest.raises(FileNotFoundError, match="expected a taste at"):
        arm_of(f"random+{tmp_path / 'nowhere.json'}")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="another kind of file"):
        arm_of(f"random+{tmp_path / 'other.json'}")
    (tmp_path / "odd.json").write_text('{"format": "kncl-taste", "taste": {"share": 1}}')
    with pytest.raises(ValueError, match=r"worth and share, got something else \(in .*odd.json"):
        arm_of(f"random+{tmp_path / 'odd.json'}")


def test_arms_of_one_name_and_another_taste_or_training_are_told_apart(tmp_path: Path) -> None:
    def made(place: str, seed: int, found: Taste | None) -> str:
        network = CuriosityNetwork(CuriosityConfig(width=16, seed=seed))
        CuriosityPolicy(network, taste=found).save(tmp_path / place / "p")
        return str(tmp_path / place / "p")

    places = [
        made("a", 0, None),
        made("b", 1, None),
        made("c", 0, taste("unigram_loss")),
        made("d", 0, taste("bigram_gain")),
    ]
    arms = ["random", *places, f"random+{places[2]}", f"random+{places[3]}"]
    assert len({arm_of(arm).digest for arm in arms}) == len(arms)


def test_force_does_not_take_a_borrowed_taste_with_it(small_world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    CuriosityPolicy(CuriosityNetwork(CuriosityConfig(width=16)), taste=taste("bigram_gain")).save(
        out / "p"
    )
    (out / "config.json").write_text("{}")
    arms = f"uniform,random+{out / 'p'}"
    argv = ["evaluate", "--world", str(small_world.path), "--policies", arms, "--out", str(out)]
    assert main([*argv, "--force", *OPTIONS]) == 2
    assert (out / "p" / "policy.json").is_file()


def test_a_taste_that_likes_none_of_what_an_arm_draws_is_an_error(small_world: World) -> None:
    env = env_of(small_world, **SETTINGS)
    env.stage.retriever.own = lambda topic, taste=None: np.zeros(0, dtype=np.int64)  # type: ignore[attr-defined]
    env.reset(seed=0, options={"taste": taste("bigram_gain")})
    with pytest.raises(ValueError, match="expected passages to the taste"):
        arm_of("target-text").begin(env, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"worth": [[1.0]]}, r"worth of 7 traits at 9 levels, got \(1, 1\)"),
        ({"worth": [[1.0], [1.0, 2.0]]}, "7 rows of 9 numbers.*edited or damaged"),
        ({"worth": "much"}, "7 rows of 9 numbers.*edited or damaged"),
        ({"worth": [[None] * LEVELS] * len(TRAITS)}, "7 rows of 9 numbers"),
        ({"share": 0}, "share of 0 to 1, above 0, got 0"),
        ({"share": True}, "and a share, got something else"),
        ({"share": None}, "and a share, got something else"),
        ({"traits": ["charm"]}, r"traits are \['unigram_loss'.* got \['charm'\]"),
        ({"edges": None}, r"edges are \[0.05.* got None"),
        ({"version": 1}, "version are 2, got 1"),
    ],
)
def test_an_edited_taste_is_refused_with_the_reason(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    policy = CuriosityPolicy(
        CuriosityNetwork(CuriosityConfig(width=16)), taste=taste("unigram_loss")
    )
    policy.save(tmp_path)
    card = json.loads((tmp_path / "policy.json").read_text())
    card["taste"] |= change
    (tmp_path / "policy.json").write_text(json.dumps(sealed(card)))
    with pytest.raises(ValueError, match=message):
        CuriosityPolicy.load(tmp_path)


# -- learning --------------------------------------------------------------------------------------


def test_a_worth_is_found_again_in_rewards_with_noise() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.ones(6), size=(40, 20))  # (E, S, F)
    worth = np.array([0.3, -0.2, 0.0, 0.1, -0.4, 0.2])
    by_step = np.linspace(1, 0, 20)  # what any text earns, early and late
    rewards = shares @ worth + by_step + rng.normal(scale=0.01, size=(40, 20))
    found = fit_worth(shares, rewards)
    assert np.corrcoef(found, worth)[0, 1] > 0.99
    assert held_out_r2(shares, rewards) > 0.8
    nothing = rng.normal(size=(40, 20))
    assert held_out_r2(shares, nothing) < 0.05


@pytest.mark.skipif(
    torch.cuda.is_available(), reason="on a GPU products round by how many there are at once"
)
def test_tasting_goes_on_where_it_was_stopped(noisy_world: World, tmp_path: Path) -> None:
    settings, plan = Settings.of(**SETTINGS), TastingPlan(episodes=4, trials=1, learners=2)
    learn = partial(learn_taste, noisy_world, settings)
    seen: list[int] = []

    def stop() -> None:
        seen.append(1)
        if len(seen) == 6:
            raise KeyboardInterrupt

    whole = learn(plan, tmp_path / "whole.json")
    with pytest.raises(KeyboardInterrupt):
        learn(plan, tmp_path / "t.json", on_episode=stop)
    assert not (tmp_path / "t.json").exists()
    journal = tmp_path / "t.json.episodes.jsonl"
    journal.write_text(journal.read_text() + '{"arm": "random", "rew')
    seen.clear()
    assert learn(plan, tmp_path / "t.json", on_episode=lambda: seen.append(1)) == whole
    assert len(seen) == 4 + len(SHARES)
    assert (tmp_path / "t.json").read_bytes() == (tmp_path / "whole.json").read_bytes()
    with pytest.raises(ValueError, match="seed is 0 there, 1 here"):
        learn(replace(plan, seed=1), tmp_path / "t.json")
    # A run that was stopped before its first whole line has lost nothing.
    (tmp_path / "v.json.episodes.jsonl").write_text('{"format": "kn')
    assert learn(plan, tmp_path / "v.json") == whole
    with pytest.raises(ValueError, match="at least 4 episodes and 1 trial, got 3 and 1"):
        TastingPlan(episodes=3, trials=1)


def test_a_taste_from_the_command_line_is_trained_with_and_told_of(
    small_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, policy = tmp_path / "t.json", tmp_path / "p"
    world = ["--world", str(small_world.path)]
    few = ["--episodes", "4", "--trials", "1", "--learners", "2"]
    assert main(["taste", *world, "--out", str(place), *few, *OPTIONS]) == 0
    printed = capsys.readouterr().out
    card = json.loads(place.read_text())
    assert f"reads the best {card['taste']['share']:.0%}, {card['tokens']:,} tokens" in printed
    assert card["tokens"] == (4 + len(SHARES)) * 4 * 4 * 32
    train = ["train", *world, "--out", str(policy), "--iterations", "1", "--episodes", "2"]
    assert main([*train, "--learners", "2", "--taste", str(place), *OPTIONS]) == 0
    assert CuriosityPolicy.load(policy).taste == Taste.from_json(card["taste"], place)
    # A policy that training starts from hands its taste on.
    again = ["train", *world, "--init", str(policy), "--out", str(tmp_path / "r")]
    assert main([*again, "--iterations", "1", "--episodes", "2", "--learners", "2", *OPTIONS]) == 0
    assert CuriosityPolicy.load(tmp_path / "r").taste == Taste.from_json(card["taste"], place)
    capsys.readouterr()
    assert main(["taste", *world, "--out", str(place), *few, *OPTIONS]) == 2
    assert "add --force" in capsys.readouterr().err
    kept = small_world.card["scenario"]["transfer_regions"][0]
    argv = ["taste", *world, "--out", str(tmp_path / "u.json"), "--region", kept]
    assert main([*argv, *few, *OPTIONS]) == 2
    assert f"a region to train on, got '{kept}'" in capsys.readouterr().err


@pytest.mark.slow
def test_reward_teaches_to_leave_out_junk(noisy_world: World, tmp_path: Path) -> None:
    """The canary: nobody tells what is junk, and less of it is read."""
    flat = SETTINGS | {"nucleus_updates": 150, "steps": 12, "updates_per_step": 3}
    flat |= {"learning_rate": 6e-3, "breadth": 64}
    plan = TastingPlan(episodes=16, trials=2)
    found = learn_taste(noisy_world, Settings.of(**flat), plan, tmp_path / "t.json")
    env = env_of(noisy_world, **flat)
    arms = ("random", f"random+{tmp_path / 't.json'}")
    junk = [np.mean([curve_of(env, arm, seed).noise_share for seed in range(3)]) for arm in arms]
    assert found["reward_r2"] > 0
    assert junk[1] < 0.7 * junk[0], junk
