"""Pretraining as a function and as a command, and what `predict` prints beside it."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kncl_env.world.world import World
from policies.cli.main import main
from policies.cli.walkers import predict_parser, pretrain_parser, walk_parser
from policies.curiosity import CuriosityPolicy
from policies.learn.cloning import Lesson, PretrainConfig, pretrain
from rabbit_holes.demonstrations import GOALS, pair_split
from rabbit_holes.live.cli import add_collection_options
from rabbit_holes.path import Path as RabbitHole
from rabbit_holes.path import Visit, write_paths

ROOT = Path(__file__).parents[1]
PARSERS = {"pretrain": pretrain_parser, "predict": predict_parser, "walk": walk_parser}
QUICK = PretrainConfig(width=8, epochs=1, slots=8, seed=3)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """The command takes all cores; tests that come later must not."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def holes(small_world: World) -> list[RabbitHole]:
    """Walkers who always take the first link, two or three times."""
    titles = list(small_world.titles)
    found = []
    for number in range(120):
        walk = [number % len(titles)]
        for _ in range(2 + number % 2):
            walk.append(int(small_world.graph.out(walk[-1])[number // len(titles) % 2]))
        visits = tuple(Visit(titles[t], i - 1 if i else None) for i, t in enumerate(walk))
        kind = "person" if number % 3 else "model"
        found.append(RabbitHole(f"p{number}", visits, "test", kind, "CC0", goal=titles[walk[-1]]))
    return found


def weights(policy: CuriosityPolicy) -> torch.Tensor:
    return torch.cat([p.flatten() for p in policy.network.parameters()])


def test_pretraining_is_one_call_that_keeps_its_provenance(
    small_world: World, holes: list[RabbitHole]
) -> None:
    told: list[Mapping[str, Lesson]] = []
    shown: list[tuple[str, int, int]] = []
    epochs: list[float] = []
    policy = pretrain(
        small_world,
        holes,
        replace(QUICK, goals=("given", "withheld")),
        lambda *done: shown.append(done),
        told.append,
        lambda _, train, select: epochs.append(select),
    )
    (lessons,) = told
    assert list(lessons) == ["train", "select"]
    for name, lesson in lessons.items():
        assert {pair_split(path) for path in lesson.paths} == {name}
        assert len(set(lesson.clicks.group.tolist())) == 2 * len(lesson.paths)  # in both ways
        assert sum(n for split, _, n in shown if split == name) == 2 * len(lesson.paths)
        assert {total for split, total, _ in shown if split == name} == {2 * len(lesson.paths)}
    kinds = [path.walker for path in lessons["train"].paths]
    assert policy.provenance["walkers"] == {k: kinds.count(k) for k in ("person", "model")}
    assert policy.provenance["world"] == small_world.hash
    assert policy.provenance["clicks"] == len(lessons["train"].clicks)
    assert policy.provenance["select_loss"] == min(epochs)
    assert policy.provenance["goals"] == ["given", "withheld"]
    assert policy.network.config.width == 8


def test_the_seed_decides_a_pretraining_and_paths_are_drawn_evenly(
    small_world: World, holes: list[RabbitHole]
) -> None:
    told: list[Mapping[str, Lesson]] = []
    config = replace(QUICK, paths=30)
    one, same, other = (
        pretrain(small_world, holes, c, on_lessons=told.append)
        for c in (config, config, replace(config, seed=4))
    )
    assert torch.equal(weights(one), weights(same))
    assert not torch.equal(weights(one), weights(other))
    drawn, again, others = ([path.id for path in lessons["train"].paths] for lessons in told)
    assert len(drawn) == len(set(drawn)) == 30
    assert drawn == again != others
    order = [path.id for path in holes]
    assert drawn == sorted(drawn, key=order.index)
    assert order.index(drawn[-1]) > len(order) // 2  # not the first thirty


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"goals": ("perhaps",)}, "expected goals among given, withheld, widened, mixed"),
        ({"goals": ("given", "given")}, "each at most once, got given, given"),
        ({"goals": ()}, "got none"),
        ({"paths": 0}, "expected paths >= 1, got 0"),
        ({"slots": 1}, "expected slots >= 2, got 1"),
        ({"epochs": 0}, "expected epochs >= 1, got 0"),
        ({"width": 0}, "expected width >= 1, got 0"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_path_is_read(
    wrong: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PretrainConfig(**wrong)  # type: ignore[arg-type]


def test_goals_are_named_by_comma_and_malformed_lines_are_counted(
    small_world: World,
    holes: list[RabbitHole],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, broken = tmp_path / "holes.jsonl", tmp_path / "broken.jsonl"
    write_paths(file, holes)
    broken.write_text("{nope\n" * 25)
    argv = ["pretrain", "--world", str(small_world.path), "--holes", str(file), str(broken)]
    argv += ["--width", "8", "--epochs", "1", "--goals", "given, withheld"]
    assert main([*argv, "--out", str(tmp_path / "cloned")]) == 0
    said = capsys.readouterr()
    assert "dropped 25: malformed lines" in said.out
    assert said.err.count(f"left out: {broken}:") == 20
    assert "left out: 5 more malformed lines" in said.err
    assert CuriosityPolicy.load(tmp_path / "cloned").provenance["goals"] == ["given", "withheld"]

    ask = ["predict", "--world", str(small_world.path), "--policy", str(tmp_path / "cloned")]
    assert main([*ask, "--holes", str(file), "--train", str(file)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["split"] == "test"
    given = found["goal given"]
    assert list(given) == ["clicks", "paths", "offered_mean", "dropped", "predictors"]
    assert list(given["predictors"]["Markov"]) == ["top1", "top1_interval", "mrr", "mrr_interval"]


@pytest.mark.parametrize("verb", PARSERS)
def test_the_help_of_every_option_says_what_it_is_by_default(verb: str) -> None:
    verbs = argparse.ArgumentParser().add_subparsers()
    PARSERS[verb](verbs)
    parser = verbs.choices[verb]
    assert str(parser.epilog).startswith(f"Example: kncl-policy {verb} ")
    others = argparse.ArgumentParser()
    add_collection_options(others)  # what `walk` takes over as it is
    taken_over = {action.dest for action in others._actions}
    for action in parser._actions:
        if action.dest in taken_over and (verb == "walk" or action.dest == "help"):
            continue
        told = parser._get_formatter()._expand_help(action)
        if action.required:
            assert told.endswith("; required"), action.option_strings
        elif type(action.default) in (int, float):
            assert told.endswith(f"({action.default})"), action.option_strings
        else:
            assert re.search(r"\([a-z ]+\)$", told), action.option_strings


def test_the_help_of_goals_names_every_way() -> None:
    verbs = argparse.ArgumentParser().add_subparsers()
    pretrain_parser(verbs)
    (goals,) = (a for a in verbs.choices["pretrain"]._actions if a.dest == "goals")
    assert all(name in str(goals.help) for name in GOALS)


@pytest.mark.parametrize("verb", PARSERS)
def test_help_needs_no_heavy_library(verb: str) -> None:
    code = (
        "import sys\n"
        "from policies.cli.main import main\n"
        f"try:\n    main([{verb!r}, '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'scipy', 'torch', 'stable_baselines3'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "Example: kncl-policy" in result.stdout
