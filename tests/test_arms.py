"""Arms: by name, by directory, by import path; a player may keep what it learns in an episode."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
from fakes import env_of, fake_env
from test_evaluation import OPTIONS, SETTINGS, evaluated

from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.arms import registry
from policies.arms.arm import Arm
from policies.arms.registry import arm_of
from policies.arms.spaces import learned_in, space_of
from policies.cli.main import main
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from policies.play.closed_loop import run_closed_loop
from policies.play.episodes import Playing
from train_lm.token_files import TRAIN

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def own_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The README's example of an arm, in a file of a folder outside of the project."""
    (code,) = re.findall(r"```python\n(# my_arms.py\n.*?)```", README.read_text(), re.DOTALL)
    name = re.sub(r"\W", "_", request.node.name)  # modules are remembered by name
    (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return f"{name}:Bandit"


def test_an_arm_of_ones_own_is_evaluated_by_its_import_path(
    own_arm: str, small_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["evaluate", "--world", str(small_world.path), "--seeds", "2", *OPTIONS]
    argv += ["--policies", f"uniform,{own_arm}", "--out", str(tmp_path / "run")]
    assert main(argv) == 0
    assert "Bandit" in capsys.readouterr().out
    scores = json.loads((tmp_path / "run" / "scores.json").read_text())
    assert set(scores["arms"]) == {"uniform", "Bandit"}
    _, *steps = (tmp_path / "run" / "curricula" / "Bandit-1.jsonl").read_text().splitlines()
    assert len(steps) == SETTINGS["steps"]


def test_what_an_arm_learns_in_an_episode_survives_an_interruption(
    own_arm: str, small_world: World, tmp_path: Path
) -> None:
    settings = Settings.of(**{**SETTINGS, "steps": 8})
    run_closed_loop(small_world, own_arm, settings, tmp_path / "whole", save_every=2)

    def stop(line: dict[str, object]) -> None:
        if line["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_closed_loop(
            small_world, own_arm, settings, tmp_path / "cut", save_every=2, on_step=stop
        )
    run_closed_loop(small_world, own_arm, settings, tmp_path / "cut", save_every=2)
    for name in ("metrics.jsonl", "curriculum.jsonl", "model/model.safetensors"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_arm_whose_source_changed_does_not_get_the_old_ones_episodes(
    own_arm: str, small_world: World, tmp_path: Path
) -> None:
    before = arm_of(own_arm)
    evaluated(small_world, ["uniform", own_arm], 1, tmp_path / "run")
    source = tmp_path / f"{own_arm.partition(':')[0]}.py"
    source.write_text(source.read_text() + "\n# another version\n")
    assert arm_of(own_arm).digest != before.digest
    evaluated(small_world, ["uniform", own_arm], 1, tmp_path / "run")
    lines = [json.loads(x) for x in (tmp_path / "run" / "episodes.jsonl").read_text().splitlines()]
    assert [line["arm"] for line in lines[1:]] == ["uniform", "Bandit", "Bandit"]


def test_an_installed_package_can_announce_an_arm_by_name(
    own_arm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    announced = [EntryPoint("my-arm", own_arm, registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: announced)
    assert arm_of("my-arm").name == "my-arm"
    with pytest.raises(ValueError, match=r"one of uniform, .*, my-arm, alone"):
        arm_of("my-arms")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("no_such_module:Arm", "expected an arm at no_such_module:Arm, got: No module"),
        ("json:Nothing", "expected an arm at json:Nothing, got: .*no attribute"),
        ("json:loads", "something without begin"),
        ("wisdom", "expected a policy directory, an import path .* or one of uniform"),
        ("wisdom", "got 'wisdom': see `kncl-policy arms`"),
        ("randm+runs/l1", "did you mean random"),
    ],
)
def test_what_is_no_arm_is_said_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arm_of(spec)


def test_every_episode_begins_a_player_of_its_own() -> None:
    began: list[object] = []
    uniform = arm_of("uniform")

    def begin(env, rng):  # type: ignore[no-untyped-def]
        began.append(uniform.begin(env, rng))
        return began[-1]

    env = fake_env()
    for _ in range(2):
        episode = Playing(env, Arm("counted", begin), 3, 7)
        while not episode.over:
            episode.step()
    assert len(began) == 2
    assert began[0] is not began[1]


def test_arms_with_the_same_seed_meet_the_same_slots(small_world: World) -> None:
    env = env_of(small_world, **SETTINGS)
    first = [Playing(env, arm_of(arm), 4, 7).observation for arm in ("uniform", "random")]
    assert (first[0]["candidates"] == first[1]["candidates"]).all()


def test_a_baselines_digest_is_that_of_its_source() -> None:
    digests = {arm_of(name).digest for name in ("uniform", "random", "rule")}
    assert len(digests) == 1
    assert re.fullmatch(r"[0-9a-f]{8}", digests.pop())
    assert np.unique([arm_of("random").digest, "base"]).size == 2


def test_a_policy_that_learned_in_another_space_is_told_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = CuriosityNetwork(CuriosityConfig(width=8))
    CuriosityPolicy(network).save(tmp_path / "usual")
    CuriosityPolicy(network, {"space": "minilm"}).save(tmp_path / "other")
    assert [space_of(tmp_path / name) for name in ("usual", "other")] == ["tfidf", "minilm"]
    env, rng = fake_env(), np.random.default_rng(0)
    for name in ("usual", "other", "random"):
        arm = arm_of(name if name == "random" else str(tmp_path / name))
        for _ in range(2):
            env.reset(seed=0, options=arm.options)
            arm.begin(env, rng)
    assert [record.getMessage()[:46] for record in caplog.records] == [
        "other learned with vectors of minilm, this wor"
    ]
    assert learned_in(env.stage.world) == {}
    by_model = replace(env.stage.world, space="minilm")  # type: ignore[type-var]
    assert learned_in(by_model) == {"space": "minilm"}


def test_proportional_draws_from_all_training_text_and_what_nobody_read_first(
    small_world: World,
) -> None:
    env = env_of(small_world, **SETTINGS)
    observation, _ = env.reset(seed=0)
    assert env.episode is not None
    player = arm_of("proportional").begin(env, np.random.default_rng(0))
    times, store = env.episode.reading_list.times_read, env.stage.store
    train = np.flatnonzero(small_world.passage_split[store.document] == TRAIN)
    read: set[int] = set()
    for _ in range(SETTINGS["steps"]):
        fresh = set(train[times[train] == times[train].min()].tolist())
        windows = player.act(observation).info["windows"]
        assert set(windows.tolist()) <= fresh
        read |= set(windows.tolist())
    assert len(read) == SETTINGS["steps"] * env.settings.windows_per_step
    topics = small_world.passage_topic[store.document[sorted(read)]]
    assert len(set(topics.tolist())) > SETTINGS["steps"]  # no neighbourhood of one topic
