"""Exported trajectories: another learner reads what the environment would have shown."""

import json
import os
import sys
import types
from collections import Counter
from pathlib import Path as FilePath

import numpy as np
import pytest
from rabbit_hole_fakes import build_animals, walk_of

from kncl_env.observation import CANDIDATE_FEATURES
from kncl_env.topic_table import TopicTable
from kncl_env.world.world import World
from rabbit_holes.cli import main
from rabbit_holes.demonstrations import Showing, demonstrate, pair_split
from rabbit_holes.export import SPLITS, Trajectory, trajectories
from rabbit_holes.path import Path, write_paths

WALKS = [
    walk_of("Ant", "Bee", "Cat", "Dog", id="chain", goal="Dog"),
    walk_of("Ant", "Bee", "Fox", "Gnu", parents=[0, 0, 2], id="branch", goal="Jay"),
    walk_of("Ant", "Hen", id="off the graph"),
    walk_of("Ant", id="one page"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_animals(tmp_path_factory.mktemp("export") / "world")


def table_of(world: World) -> TopicTable:
    return TopicTable.of(world)


def made(world: World, slots: int = 8, frontier: bool = False) -> list[Trajectory]:
    rng = np.random.default_rng(0)
    return list(
        trajectories(
            WALKS, world, table_of(world), rng, Showing(slots, frontier=frontier), Counter()
        )
    )


@pytest.mark.parametrize("frontier", [False, True])
def test_a_trajectory_shows_what_a_demonstration_shows(world: World, frontier: bool) -> None:
    for trajectory in made(world, frontier=frontier):
        path = next(walk for walk in WALKS if walk.id == trajectory.id)
        rng = np.random.default_rng(0)
        how = Showing(slots=8, frontier=frontier)
        shown = demonstrate([path], world, table_of(world), rng, how)
        padded, context, chosen = shown.batch(np.arange(len(shown)))
        np.testing.assert_array_equal(trajectory.actions, chosen)
        np.testing.assert_array_equal(trajectory.context[:-1], context)
        width = padded.shape[1]
        np.testing.assert_array_equal(trajectory.candidates[:-1, :width], padded)
        assert not trajectory.candidates[:-1, width:].any()


def test_masks_open_filled_slots_alone_and_never_consolidation(world: World) -> None:
    filled = CANDIDATE_FEATURES.index("filled")
    for trajectory in made(world):
        np.testing.assert_array_equal(trajectory.mask[:, :-1], trajectory.candidates[:, :, filled])
        assert not trajectory.mask[:, -1].any()


def test_walks_without_a_choice_give_no_trajectory_and_reaching_the_goal_terminates(
    world: World,
) -> None:
    found = {trajectory.id: trajectory for trajectory in made(world)}
    assert found.keys() == {"chain", "branch"}
    assert found["chain"].reached
    assert not found["branch"].reached
    assert len(found["chain"].actions) == 3


def test_fewer_slots_than_links_keep_the_choice(world: World) -> None:
    for trajectory in made(world, slots=2):
        assert trajectory.candidates.shape[1] == 2
        assert (trajectory.actions < 2).all()


def test_a_trajectory_that_lacks_its_last_observation_is_refused(world: World) -> None:
    good = made(world)[0]
    with pytest.raises(ValueError, match="4 observations for 3 actions"):
        Trajectory("x", good.candidates[:-1], good.context, good.mask, good.actions, False)
    with pytest.raises(ValueError, match="open in its mask"):
        Trajectory("x", good.candidates, good.context, good.mask * 0, good.actions, False)


@pytest.fixture
def walks(tmp_path) -> tuple[object, list[Path]]:
    names = ("Ant", "Bee", "Cat", "Dog", "Elk", "Fox", "Gnu", "Hen", "Ibis", "Jay")
    paths = [
        walk_of(names[i % 10], names[(i + 1) % 10], names[(i + 3) % 10], id=f"w{i}", goal=goal)
        for i, goal in enumerate(names * 3)
    ]
    write_paths(tmp_path / "walks.jsonl", paths)
    return tmp_path / "walks.jsonl", paths


def test_arrays_are_read_by_numpy_alone_and_split_by_pair(world, walks, tmp_path, capsys) -> None:
    file, paths = walks
    out = tmp_path / "arrays"
    assert main(["export", str(file), "--world", str(world.path), "--out", str(out)]) == 0
    card = json.loads((out / "card.json").read_text())
    assert card["world"] == world.hash
    assert card["candidate_features"] == list(CANDIDATE_FEATURES)
    ids: list[str] = []
    for split in SPLITS:
        with np.load(out / f"{split}.npz", allow_pickle=False) as arrays:
            own = arrays["ids"].tolist()
            n = len(arrays["chosen"])
            assert len(arrays["starts"]) == n + 1
            assert arrays["starts"][-1] == len(arrays["candidates"])
            assert (arrays["chosen"] < np.diff(arrays["starts"])).all()
            assert len(arrays["context"]) == len(arrays["episode"]) == n
            assert sorted(set(arrays["episode"].tolist())) == list(range(len(own)))
            assert card["splits"][split]["choices"] == n
        ids += own
        assert all(pair_split(path) == split for path in paths if path.id in own)
    assert sorted(ids) == sorted(path.id for path in paths)
    assert str(out) in capsys.readouterr().out
    assert main(["export", str(file), "--world", str(world.path), "--out", str(out)]) == 2


def test_a_minari_data_set_gives_the_trajectories_back(world, walks, tmp_path, monkeypatch) -> None:
    minari = pytest.importorskip("minari", reason="the minari library is not installed")
    file, paths = walks
    out = tmp_path / "sets"
    monkeypatch.chdir(tmp_path)
    command = ["export", str(file), "--world", str(world.path), "--out", "sets", "--slots", "8"]
    assert main([*command, "--minari", "me/walks-v0"]) == 0
    assert main([*command, "--minari", "me/walks-v0", "--force"]) == 0
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(out))
    part = [path for path in paths if pair_split(path) == "train"]
    rng = np.random.default_rng(0)
    expected = list(trajectories(part, world, table_of(world), rng, Showing(8), Counter()))
    episodes = list(minari.load_dataset("me/walks-train-v0"))
    assert len(episodes) == len(expected) > 0
    for episode, trajectory in zip(episodes, expected, strict=True):
        np.testing.assert_array_equal(episode.observations["candidates"], trajectory.candidates)
        np.testing.assert_array_equal(episode.observations["mask"], trajectory.mask)
        np.testing.assert_array_equal(episode.actions, trajectory.actions)
        assert episode.terminations[-1] == trajectory.reached
        assert episode.terminations[-1] != episode.truncations[-1]


class FakeMinari:
    """Writes below `MINARI_DATASETS_PATH` as Minari does, which joins a relative one twice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, data_sets: int = 9) -> None:
        self.data_sets = data_sets  # after which the disk is full
        package, collector = types.ModuleType("minari"), types.ModuleType("minari.data_collector")
        package.create_dataset_from_buffers = self.create
        collector.EpisodeBuffer = types.SimpleNamespace
        monkeypatch.setitem(sys.modules, "minari", package)
        monkeypatch.setitem(sys.modules, "minari.data_collector", collector)

    def create(self, name: str, buffers: list, **_: object) -> None:
        if not self.data_sets:
            raise OSError("no space left on device")
        self.data_sets -= 1
        root = os.environ["MINARI_DATASETS_PATH"]
        place = FilePath(os.path.join(root, os.path.join(root, name)))
        (place / "data").mkdir(parents=True)
        (place / "data" / "metadata.json").write_text(json.dumps({"episodes": len(buffers)}))
        (place.parent / "namespace_metadata.json").write_text("{}")


def files_below(folder) -> list[str]:
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


# None of those walks is for selection.
SETS = ["sets/.kncl.json", "sets/me/namespace_metadata.json"] + [
    f"sets/me/walks-{split}-v0/data/metadata.json" for split in ("test", "train")
]


def test_data_sets_stand_below_a_relative_out(world, walks, tmp_path, monkeypatch, capsys) -> None:
    FakeMinari(monkeypatch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "walks.jsonl").rename(tmp_path / "w.jsonl")
    words = ["export", "w.jsonl", "--world", str(world.path), "--out", "sets"]
    words += ["--minari", "me/walks-v0"]
    assert main(words) == 0
    assert files_below(tmp_path) == [*SETS, "w.jsonl"]
    assert f"MINARI_DATASETS_PATH={tmp_path / 'sets'}" in capsys.readouterr().out
    assert "MINARI_DATASETS_PATH" not in os.environ

    # Again: own data sets are replaced; a neighbour and a namespace's card stay.
    (tmp_path / "sets/me/namespace_metadata.json").write_text("mine")
    (tmp_path / "sets/me/other-v0/data").mkdir(parents=True)
    (tmp_path / "sets/me/other-v0/data/metadata.json").write_text("other")
    assert main([*words, "--force", "--limit", "2"]) == 0
    kept = files_below(tmp_path / "sets")
    assert "me/other-v0/data/metadata.json" in kept
    assert (tmp_path / "sets/me/namespace_metadata.json").read_text() == "mine"
    episodes = [
        json.loads((tmp_path / "sets" / name).read_text())["episodes"]
        for name in kept
        if "walks-" in name
    ]
    assert sum(episodes) == 2, "a split that is empty now has lost its old data set"


@pytest.mark.parametrize("older", [False, True])
def test_an_export_that_fails_half_way_leaves_things_as_they_were(
    world, walks, tmp_path, monkeypatch, capsys, older: bool
) -> None:
    out = tmp_path / "sets"
    words = ["export", str(walks[0]), "--world", str(world.path), "--out", str(out), "--force"]
    words += ["--minari", "me/walks-v0"]
    if older:
        FakeMinari(monkeypatch)
        assert main([*words, "--limit", "12"]) == 0
    before = {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)}
    FakeMinari(monkeypatch, data_sets=1)
    assert main(words) == 2
    assert "no space left" in capsys.readouterr().err
    assert {name: (tmp_path / name).read_bytes() for name in files_below(tmp_path)} == before
    assert out.exists() == older


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--slots", "1"], "2 slots"),
        (["--minari", "people"], "Minari name with a version"),
        (["--minari", "/-v0"], "Minari name with a version"),
        (["--world", "nowhere"], "world"),
        (["--slots", "0"], "2 slots"),
        (["--limit", "0"], "expected --limit 1 or more"),
    ],
)
def test_bad_input_gives_one_clear_line(
    world, walks, tmp_path, capsys, more, complaint: str
) -> None:
    command = ["export", str(walks[0]), "--world", str(world.path), "--out", str(tmp_path / "x")]
    assert main([*command, *more]) == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("minari", [[], ["--minari", "me/walks-v0"]])
def test_where_no_click_is_a_choice_the_reasons_are_told_and_nothing_is_written(
    world, tmp_path, capsys, monkeypatch, minari: list[str]
) -> None:
    FakeMinari(monkeypatch)
    write_paths(tmp_path / "w.jsonl", [walk_of("Zebu", "Okapi", "Ant"), walk_of("Ant", id="b")])
    out = tmp_path / "out"
    words = ["export", str(tmp_path / "w.jsonl"), "--world", str(world.path), "--out", str(out)]
    assert main([*words, *minari]) == 2
    told = capsys.readouterr().err
    assert "got none; dropped were 2 clicks: a page is no topic of the world" in told
    assert not out.exists()


def test_without_the_library_minari_is_refused_in_one_line(
    world, walks, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "minari", None)
    command = ["export", str(walks[0]), "--world", str(world.path), "--out", str(tmp_path / "x")]
    assert main([*command, "--minari", "me/people-v0"]) == 2
    assert "pip install 'minari[arrow]'" in capsys.readouterr().err
