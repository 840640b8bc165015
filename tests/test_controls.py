"""Controls are made of what the subject did, with its budget and its seeds, and one difference."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fakes import env_of

from kncl_env.env import TopicExpansionEnv
from kncl_env.passage_traits import LEVELS, TRAITS
from kncl_env.settings import Settings
from kncl_env.taste import Taste
from kncl_env.world.world import World
from policies.cli.main import main
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from policies.play import episodes
from policies.play.controls import Subject, made_of, possible, topic_shares
from policies.play.controls_made import Again, Mixture, Refed, Retraced
from policies.play.curves import Curve, CurveMeter
from policies.play.episodes import EpisodeRecord, Made, play
from policies.play.evaluation import evaluate
from policies.play.plan import Plan, command_of
from policies.verdict.accounting import episodes_spent
from policies.verdict.controls_section import CONTROLS
from train_lm.files import Json

SETTINGS = {
    "nucleus_topics": 6,
    "nucleus_updates": 30,
    "steps": 4,
    "updates_per_step": 2,
    "batch": 4,
    "breadth": 16,
    "slots": 6,
    "model": "xxs",
}
METER = CurveMeter(2, 6, keep_read=True)


@pytest.fixture(scope="module")
def env(small_world: World) -> TopicExpansionEnv:
    return env_of(small_world, **SETTINGS)


def policy_in(folder: Path, seed: int, tasteful: bool = True, episodes: int = 3) -> str:
    """A policy whose provenance says what its training took."""
    worth = np.random.default_rng(seed).normal(size=(len(TRAITS), LEVELS))
    spent = episodes_spent("episodes of PPO", episodes, Settings.of(**SETTINGS))
    network = CuriosityNetwork(CuriosityConfig(width=8, seed=seed))
    taste = Taste.of(worth, 0.5) if tasteful else None
    provenance = {"made_by": "ppo", "spent": [spent.to_json()]}
    CuriosityPolicy(network, provenance, taste=taste).save(folder)
    return str(folder)


def recorded(env: TopicExpansionEnv, arm: str, seed: int) -> EpisodeRecord[Curve]:
    return play(env, episodes.arm_of(arm), seed, 7, METER)


def played(env: TopicExpansionEnv, made: Made, seed: int) -> Curve:
    return play(env, made.arm(), seed, 7, METER).measured


def topics_of(env: TopicExpansionEnv) -> np.ndarray:
    return env.stage.world.passage_topic[env.stage.store.document]


def test_a_shuffle_reads_the_exact_windows_of_its_subject_in_another_order(
    env: TopicExpansionEnv,
) -> None:
    record = recorded(env, "rule", 0)
    subject = Subject("rule", ("rule",))
    (made,) = made_of("shuffle", subject, [record], topics_of(env))
    found, own = played(env, made, 0), record.measured
    assert sum(map(Counter, found.windows), Counter()) == sum(map(Counter, own.windows), Counter())
    assert found.windows != own.windows
    assert [len(step) for step in found.windows] == [len(step) for step in own.windows]
    assert found.tokens[-1] == own.tokens[-1]
    # In the subject's own order it is the subject's own run: the order is all that differs.
    same = played(env, Refed("same", tuple(map(tuple, own.windows)), False), 0)
    assert (same.loss, same.test_after) == (own.loss, own.test_after)


def test_static_weights_are_shares_of_all_that_the_subject_read(env: TopicExpansionEnv) -> None:
    records = [recorded(env, "random", seed) for seed in range(2)]
    topics = topics_of(env)
    weights = dict(topic_shares([r.measured for r in records], topics))
    read = np.concatenate([step for r in records for step in r.measured.windows])
    count = Counter(topics[np.array(read, dtype=int)].tolist())
    assert weights == pytest.approx({t: n / len(read) for t, n in count.items()})
    made, _ = made_of("static-final", Subject("random", ("random",)), records, topics)
    assert isinstance(made, Mixture)
    found = played(env, made, 0)
    drawn = topics[np.array(found.windows).ravel()]
    assert set(drawn.tolist()) <= set(weights)
    assert found.tokens[-1] == records[0].measured.tokens[-1]
    # From the first step on: it has no frontier.
    one_topic = played(env, Mixture("m", ((11, 1.0),)), 0)
    assert set(topics[np.array(one_topic.windows).ravel()].tolist()) == {11}


def test_yoked_takes_the_topics_of_another_seed_in_their_order(env: TopicExpansionEnv) -> None:
    records = [recorded(env, "random", seed) for seed in range(3)]
    made = made_of("yoked", Subject("random", ("random",)), records, topics_of(env))
    for i, one in enumerate(made):
        assert isinstance(one, Retraced)
        found = played(env, one, i)
        assert found.topics == records[i - 1].measured.topics != records[i].measured.topics
        # Text and slots are those of its own seed.
        assert found.windows != records[i - 1].measured.windows
    # On its own seed a list is the subject's own run again.
    own = played(env, Retraced("own", tuple(records[0].measured.topics)), 0)
    assert (own.windows, own.test_after) == (
        records[0].measured.windows,
        records[0].measured.test_after,
    )


def test_an_arm_without_topics_is_yoked_by_its_windows(env: TopicExpansionEnv) -> None:
    records = [recorded(env, "uniform", seed) for seed in range(2)]
    made = made_of("yoked", Subject("uniform", ("uniform",)), records, topics_of(env))
    assert played(env, made[0], 0).windows == records[1].measured.windows


def test_rewired_plays_the_same_start_and_text_on_other_links(env: TopicExpansionEnv) -> None:
    made = Again("rewired", "coverage", rewired=0)
    stage = made.stage(env.stage)
    assert stage.nucleated is env.stage.nucleated
    assert (stage.seeds == env.stage.seeds).all()
    assert (stage.world.graph.out_degree == env.stage.world.graph.out_degree).all()
    assert (stage.world.graph.indices != env.stage.world.graph.indices).any()
    assert stage.table.graph is stage.world.graph
    assert stage.goal is not env.stage.goal
    # The world that others play in is as it was.
    assert env.stage.world.graph is env.stage.table.graph
    assert Again("x", "coverage").stage(env.stage) is env.stage
    assert made.place != Again("x", "coverage").place == ""


def test_taste_off_is_the_same_policy_without_its_taste(tmp_path: Path) -> None:
    place = policy_in(tmp_path / "p", 0)
    assert episodes.arm_of(place).taste is not None
    off = Again("taste-off", place, tasteless=True).arm()
    assert (off.taste, off.name, off.origin) == (None, "taste-off", episodes.arm_of(place).origin)


def test_controls_that_a_subject_cannot_have_are_said(tmp_path: Path) -> None:
    settings = Settings.of(**SETTINGS)
    plain = Subject("rule", ("rule",))
    kept, notes = possible([*CONTROLS], plain, settings, 1)
    assert kept == ["shuffle", "static-final", "rewired"]
    assert [note.split(":")[0] for note in notes] == [
        "no control yoked",
        "no control equal-search",
        "no control taste-off",
    ]
    tasteful = Subject("p", (policy_in(tmp_path / "p", 0),), searched=3)
    assert possible([*CONTROLS], tasteful, settings, 2) == ([*CONTROLS], [])
    with pytest.raises(ValueError, match="what the learner wrote cannot be read again"):
        possible(["shuffle"], plain, Settings.of(**SETTINGS, memory="self"), 2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    place = tmp_path_factory.mktemp("trained")
    return {"learned": [policy_in(place / f"l{k}", k) for k in range(2)]}


def plan_of(trained: dict[str, list[str]], controls: list[str], **more: object) -> Plan:
    plan = {"inits": 2, "learners": 3, "subject": "learned", "trainings": trained} | more
    return Plan(["uniform", "random"], 2, controls=controls, **plan)  # type: ignore[arg-type]


def scores_of(out: Path) -> Json:
    found: Json = json.loads((out / "scores.json").read_text())
    return found


def test_an_evaluation_plays_all_controls_after_their_subject_and_goes_on_where_it_was(
    small_world: World,
    tmp_path: Path,
    trained: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, out = Settings.of(**SETTINGS), tmp_path / "run"
    plan = plan_of(trained, [*CONTROLS])
    summary = evaluate(small_world, settings, plan, out)
    assert [*summary.arms] == ["uniform", "random", "learned", *CONTROLS]
    assert [contest.rival for contest in summary.controls] == [*CONTROLS]
    assert {arm: own.family for arm, own in summary.arms.items()} == {
        "uniform": "independent",
        "random": "frontier rule",
        "learned": "learned",
        **dict.fromkeys(CONTROLS, "control"),
    }
    assert summary.arms["learned"].trainings == 2
    assert summary.standing.learner_seeds == 2
    # Trainings take turns over the seeds, and so do their doubles.
    lines = [json.loads(x) for x in (out / "episodes.jsonl").read_text().splitlines()[1:]]
    digests = {(x["arm"], x["seed"]): x["digest"] for x in lines}
    assert digests["learned", 0] != digests["learned", 1]
    assert digests["rewired", 1] == digests["learned", 1]
    assert {x["trained"] for x in lines} == {settings.tokens_per_episode}
    starts = {(x["learner_seed"], x["start"]) for x in lines}
    assert len(starts) == 2
    # As many random curricula as the policy's training took episodes, and they are charged.
    searched = (out / "search.jsonl").read_text().splitlines()
    assert len(searched) == 1 + 3
    cost = scores_of(out)["cost"]
    assert cost["equal-search"]["search"][0]["episodes"] == 3
    assert cost["learned"]["flops_once"] == pytest.approx(cost["equal-search"]["flops_once"])
    # The command says all of it, and nothing is played again.
    words = shlex.split(scores_of(out)["command"])
    assert words.count("--trainings") == words.count("--controls") == 1
    real, again = episodes.play, []
    monkeypatch.setattr(episodes, "play", lambda *a: again.append(a[1].name) or real(*a))
    assert main(words[1:]) == 0
    assert again == []
    assert scores_of(out)["command"] == shlex.join(words)


def test_controls_can_be_added_to_an_evaluation_that_knows_its_subject(
    small_world: World,
    tmp_path: Path,
    trained: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, out = Settings.of(**SETTINGS), tmp_path / "run"
    evaluate(small_world, settings, plan_of(trained, []), out)
    before = scores_of(out)
    real, again = episodes.play, []
    monkeypatch.setattr(episodes, "play", lambda *a: again.append(a[1].name) or real(*a))
    evaluate(small_world, settings, plan_of(trained, ["shuffle"]), out)
    # What the subject read was not kept: it is played again, to the same figures.
    assert sorted(again) == ["learned", "learned", "shuffle", "shuffle"]
    assert scores_of(out)["arms"]["learned"] == before["arms"]["learned"]
    with pytest.raises(ValueError, match="uniform, random, learned, shuffle, got"):
        evaluate(small_world, settings, plan_of(trained, []), out)
    with pytest.raises(ValueError, match=r"the subject that .* names, learned, got random"):
        evaluate(small_world, settings, plan_of(trained, ["shuffle"], subject="random"), out)


def test_a_subject_that_is_named_later_is_said_to_be(small_world: World, tmp_path: Path) -> None:
    settings, out = Settings.of(**SETTINGS), tmp_path / "run"
    evaluate(small_world, settings, Plan(["uniform", "random"], 1), out)
    summary = evaluate(small_world, settings, Plan(["uniform", "random"], 1, subject="random"), out)
    assert summary.notes[-1] == (
        "random was named as the subject after the first episodes were played"
    )
    config = json.loads((out / "config.json").read_text())
    assert config["subject"] is None
    assert "the best hand-made rule and the best selection method" in config["comparisons"]
    assert config["headline"].startswith("8 learner seeds, 3 trainings")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"controls": ["shuffle"]}, "expected a subject that the controls are of"),
        ({"controls": ["coffee"], "subject": "uniform"}, "expected controls among shuffle, static"),
        ({"controls": ["yoked"] * 2, "subject": "uniform"}, "each once"),
        ({"trainings": {"l": ["a"]}}, "expected two trainings or more for 'l'"),
        ({"trainings": {"l": ["a", "a"]}}, "each once, got a, a"),
        ({"trainings": {"random": ["a", "b"]}}, "under a name of their own, got 'random'"),
        ({"searched": 0}, "expected searched >= 1"),
    ],
)
def test_an_impossible_plan_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(["uniform"], 2, **arguments)  # type: ignore[arg-type]


def test_a_subject_that_nobody_plays_and_doubled_names_are_refused(
    trained: dict[str, list[str]],
) -> None:
    with pytest.raises(ValueError, match=r"expected a subject among the arms \(uniform\), got 'x'"):
        Plan(["uniform"], 2, subject="x").cast()
    place = trained["learned"][0]
    doubled = Plan(["uniform", place], 2, trainings={Path(place).name: [*trained["learned"]]})
    with pytest.raises(ValueError, match="expected arms with different names"):
        doubled.cast()


def test_the_command_names_what_is_not_usual(
    small_world: World, trained: dict[str, list[str]]
) -> None:
    settings = Settings.of(**SETTINGS, schedule="constant", averaging="ema")
    plan = plan_of(trained, ["yoked", "shuffle"], subject="random", searched=5)
    words = shlex.split(command_of(small_world, settings, plan, Path("run")))
    pairs = dict(pairwise(words))
    assert pairs["--trainings"] == "learned=" + ",".join(trained["learned"])
    assert pairs["--subject"] == "random"
    assert pairs["--controls"] == "yoked,shuffle"
    assert pairs["--search-cap"] == "5"
    assert (pairs["--schedule"], pairs["--averaging"]) == ("constant", "ema")
