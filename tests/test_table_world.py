"""The table world: what it says of an action is what the action does, and its optimum is exact."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from kncl_env.env import TopicExpansionEnv
from kncl_env.stage import open_stage
from kncl_env.table_world.game import TableEnv, open_table_world, stage_of
from kncl_env.table_world.learner import MeasuringLearner, in_bits, in_units
from kncl_env.table_world.measuring import measure, measured_again, spread
from kncl_env.table_world.recipe import TableRecipe
from kncl_env.table_world.table import SHIPPED, UNIT, Table, key_after, load_table
from policies.arms.registry import arm_of
from policies.benchmark.regret import regret_of
from policies.cli.main import main
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from train_lm.files import hash_file
from train_lm.inputs import forget_inputs, inputs


@pytest.fixture(scope="module")
def table() -> Table:
    """The table that comes with the package."""
    return load_table()


@pytest.fixture(scope="module")
def env(table: Table) -> TableEnv:
    return open_table_world(table)


def small_tree(losses: dict[tuple[int, ...], int]) -> Table:
    """One draw whose states are sequences of actions 0 and 1, with losses made up."""
    rows = sorted(losses, key=lambda row: (len(row), row))
    number = {row: i for i, row in enumerate(rows)}
    m = len(rows)
    return Table(
        recipe="made up",
        reducible=1.0,
        times_read=np.zeros(1, dtype=np.int32),
        key=np.arange(m, dtype=np.uint64),
        parent=np.array([-1 if not r else number[r[:-1]] for r in rows], dtype=np.int32),
        action=np.array([-1 if not r else r[-1] for r in rows], dtype=np.int8),
        topic=np.full(m, -1, dtype=np.int16),
        draw=np.array([0 if r else -1 for r in rows], dtype=np.int8),
        loss=np.array([losses[r] for r in rows], dtype=np.uint16),
        probe=np.zeros((m, 1), dtype=np.uint16),
    )


def test_the_optimum_of_a_tree_is_that_of_all_its_sequences() -> None:
    rng = np.random.default_rng(0)
    rows = [row for n in range(4) for row in product((0, 1), repeat=n)]
    made = small_tree({row: int(rng.integers(1000, 20_000)) for row in rows})
    leaves = np.flatnonzero(made.is_leaf)
    assert len(leaves) == 8
    brute = max((int(made.loss[0]) - int(made.loss[leaf])) * UNIT for leaf in leaves)
    assert made.optimum(0) == pytest.approx(brute)


def test_regrets_of_actions_add_up_to_what_the_episode_missed() -> None:
    losses = {(): 10_000, (0,): 4_000, (1,): 9_000, (0, 0): 3_500, (0, 1): 4_500, (1, 0): 9_100}
    made = small_tree({**losses, (1, 1): 1_000})
    row = {tuple(r): i for i, r in enumerate(sorted([*losses, (1, 1)], key=lambda r: (len(r), r)))}
    # The greedy first action earns 0.6 at once, and leaves 0.25 of the best 0.9 behind.
    assert made.gain(row[0,]) == pytest.approx(0.6)
    assert made.optimum(0) == pytest.approx(0.9)
    assert made.regret(row[0,]) == pytest.approx(0.25)
    assert made.regret(row[0, 0]) == pytest.approx(0.0)
    assert made.regret(row[0, 1]) == pytest.approx(0.1)
    assert made.regret(row[1,]) == pytest.approx(0.0)
    assert made.regret(row[1, 0]) == pytest.approx(0.81)


def test_arrays_that_are_no_tree_are_refused(table: Table) -> None:
    parts = {name: getattr(table, name) for name in Table.__dataclass_fields__}
    parent = table.parent.copy()
    parent[3] = 4
    with pytest.raises(ValueError, match="every state after the one that it came from"):
        Table(**{**parts, "parent": parent})
    draw = table.draw.copy()
    draw[-1] = 0
    with pytest.raises(ValueError, match="in the draw of the one before"):
        Table(**{**parts, "draw": draw})
    key = table.key.copy()
    key[3] = key[4]
    with pytest.raises(ValueError, match="a key twice"):
        Table(**{**parts, "key": key})


def test_losses_survive_being_written_in_units() -> None:
    losses = np.array([3.14159, np.nan, 0.0])
    back = in_bits(in_units(losses))
    assert back[0] == pytest.approx(3.1416)
    assert np.isnan(back[1])
    assert back[2] == 0


def test_the_shipped_table_holds_every_action_of_every_state(table: Table) -> None:
    recipe = TableRecipe()
    assert table.recipe == recipe.digest
    assert table.draws == recipe.draws
    assert table.depth.max() == recipe.settings.rules.steps
    assert SHIPPED.stat().st_size < 500_000
    inner = np.flatnonzero(~table.is_leaf)
    for row in inner[1 :: max(1, len(inner) // 50)]:
        actions = table.action[table.children(int(row), int(table.draw[row]))]
        slots = len(actions) - 1  # the last one rehearses
        assert sorted(actions) == [*range(slots), recipe.settings.rules.slots]


def test_states_measured_again_come_out_as_they_are_in_the_table(table: Table) -> None:
    rows = spread(table, 6).tolist()
    assert table.is_leaf[rows].any()
    for row, found in zip(rows, measured_again(TableRecipe(), table, rows), strict=True):
        assert found.key == int(table.key[row])
        # Another processor may round the last digit the other way.
        assert abs(found.loss - int(table.loss[row])) <= 1
        assert np.abs(found.probe - table.probe[row].astype(int)).max() <= 1


def test_the_table_plays_as_the_real_learner_does(table: Table, env: TableEnv) -> None:
    recipe = TableRecipe()
    stage = open_stage(recipe.world(), recipe.settings, progress=False)
    real = TopicExpansionEnv(stage, MeasuringLearner(stage.learner(), len(stage.table)))
    ours, _ = env.reset(seed=1)
    theirs, _ = real.reset(seed=1)
    rng = np.random.default_rng(0)
    over = False
    while not over:
        for name in ours:
            assert np.array_equal(ours[name], theirs[name])
        action = int(rng.choice(np.flatnonzero(env.action_masks())))
        ours, reward, terminated, truncated, _ = env.step(action)
        theirs, real_reward, *_ = real.step(action)
        assert float(reward) == pytest.approx(float(real_reward), abs=2 * UNIT)
        over = terminated or truncated


def test_a_small_table_is_measured_twice_to_the_same_bytes(tmp_path: Path) -> None:
    whole = TableRecipe()
    short = replace(whole.settings, rules=replace(whole.settings.rules, steps=1))
    recipe = replace(whole, settings=short, draws=1)
    files = [tmp_path / "first.npz", tmp_path / "second.npz"]
    for file in files:
        measure(recipe).write(file)
    assert files[0].read_bytes() == files[1].read_bytes()
    forget_inputs()
    found = load_table(files[0])
    assert inputs() == {"first.npz": hash_file(files[0])}  # nothing else vouches for it
    assert len(found) == 1 + short.rules.slots + 1
    assert open_table_world(found, recipe).table.recipe == recipe.digest


def test_a_table_of_another_recipe_is_refused(table: Table) -> None:
    with pytest.raises(ValueError, match="make it again with `kncl-env tabulate`"):
        open_table_world(table, replace(TableRecipe(), draws=2))


def test_a_snapshot_in_the_table_is_exact(env: TableEnv) -> None:
    env.reset(seed=0)
    env.step(0)
    here, row = env.snapshot(), env.row
    first = env.step(1)[1]
    env.restore(here)
    assert env.row == row
    assert env.step(1)[1] == first


def test_greedy_by_what_the_table_knows_has_less_regret_than_chance(env: TableEnv) -> None:
    by_chance = regret_of(env, arm_of("random"), 3)
    table, greedy = env.table, []
    for draw in range(table.draws):
        row, total = 0, 0.0
        while not table.is_leaf[row]:
            row = int(max(table.children(row, draw), key=lambda child: table.gain(int(child))))
            total += table.regret(row)
        greedy.append(total)
    assert 0 <= np.mean(greedy) < by_chance.regrets.mean()
    # What an episode earned and what it missed are the best return together.
    best = [table.optimum(seed % table.draws) for seed in range(3 * table.draws)]
    assert by_chance.returns + by_chance.regrets == pytest.approx(np.array(best))


def test_chance_earns_what_its_expectation_over_the_tree_is(env: TableEnv) -> None:
    table = env.table

    def expected(row: int, draw: int) -> float:
        """Return of drawing evenly among candidates; rehearsal is no candidate."""
        children = [int(c) for c in table.children(row, draw) if table.topic[c] >= 0]
        if not children:
            return 0.0
        return float(np.mean([table.gain(c) + expected(c, draw) for c in children]))

    found = regret_of(env, arm_of("random"), 12).returns.reshape(12, table.draws)
    for draw in range(table.draws):
        error = found[:, draw].std(ddof=1) / np.sqrt(12)
        assert abs(found[:, draw].mean() - expected(0, draw)) < 4 * error


def test_a_bandit_of_the_frontier_learns_in_the_table_from_its_topics_losses(env: TableEnv) -> None:
    env.reset(seed=0)
    windows = np.array([0, len(env.stage.store) - 1])
    topics = env.stage.world.passage_topic[env.stage.store.document[windows]]
    assert np.array_equal(env.learner.losses(windows), env.learner.probe(topics))
    found = regret_of(env, arm_of("ucb1-frontier"), 1)
    assert found.problem == ""
    assert (found.steps >= -1e-9).all()


def test_a_policy_is_at_home_in_the_table(env: TableEnv, tmp_path: Path) -> None:
    network = CuriosityNetwork(CuriosityConfig(width=16, seed=0))
    CuriosityPolicy(network, {"made_by": "nobody"}).save(tmp_path / "fresh")
    found = regret_of(env, arm_of(str(tmp_path / "fresh")), 1)
    assert found.problem == ""
    assert (found.regrets >= 0).all()


def test_an_arm_that_reads_other_text_is_told_so(env: TableEnv) -> None:
    found = regret_of(env, arm_of("uniform"), 1)
    assert "the table holds no draws from the corpus" in found.problem


def test_the_verb_prints_arms_by_regret_and_names_those_it_cannot_play(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["regret", "--policies", "random,coverage,uniform", "--rounds", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    arms = [line.split()[0] for line in lines[2:-1]]
    assert sorted(arms) == ["coverage", "random"]
    regrets = [float(line.split()[1]) for line in lines[2:-1]]
    assert regrets == sorted(regrets)
    coverage = next(line for line in lines if line.startswith("coverage"))
    exact = coverage.split()[1]  # it draws no lots, so that nothing is left open
    assert f"{exact} [{exact}, {exact}]" in coverage
    assert lines[-1].endswith("uniform")


def test_what_is_read_decides_the_key_and_so_does_what_was_read_before() -> None:
    windows = np.array([3, 1, 2])
    assert key_after(0, windows) == key_after(0, windows.astype(np.int32))
    assert len({key_after(0, windows), key_after(1, windows), key_after(0, windows[::-1])}) == 3


def test_a_world_that_came_out_otherwise_is_not_taken_for_the_tables(table: Table) -> None:
    parts = {name: getattr(table, name) for name in Table.__dataclass_fields__}
    other = Table(**{**parts, "times_read": table.times_read[:-1]})
    with pytest.raises(ValueError, match="other versions of libraries"):
        stage_of(TableRecipe(), other)
