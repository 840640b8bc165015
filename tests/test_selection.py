"""Data selection, orders and walks: each against a step worked out by hand, and in episodes."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import combinations_with_replacement
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import env_of, fake_env
from test_evaluation import SETTINGS

from kncl_env.settings import Settings
from kncl_env.world.build import BuildConfig, build_world
from kncl_env.world.rewiring import rewired
from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic
from kncl_env.world.world import World
from policies.arms import domains, mixing, walks
from policies.arms.arm import Arm, Listed
from policies.arms.bandits.domain_text import text_of
from policies.arms.bandits.listed import BANDITS
from policies.arms.registry import ARMS, arm_of, source_of
from policies.arms.selection import d_optimal, dsir, moore_lewis, nearest, target_aligned
from policies.arms.selection.chosen import candidates_of, filling, n_windows
from policies.arms.selection.words import buckets, pairs_of, words_of
from policies.arms.shared import Shared
from policies.arms.temperature import tempered
from policies.cli.arms import BEGIN, END, table_of, with_table
from policies.cli.main import main
from policies.play.curves import CurveMeter
from policies.play.episodes import EpisodeTask, Playing, play_all
from policies.play.journal import Journal
from rabbit_holes.path import Path as RabbitHole
from rabbit_holes.path import Visit, write_paths

ROOT = Path(__file__).parents[1]
# What chooses among domains has tests of its own.
PLAYED = [name for name in ARMS if name not in BANDITS and ARMS[name].family != "reference"]


@pytest.fixture(scope="module")
def env(small_world: World):  # type: ignore[no-untyped-def]
    return env_of(small_world, **SETTINGS)


def begun(env, name: str, seed: int = 3):  # type: ignore[no-untyped-def]
    """A player of an arm, and what it sees first."""
    observation, _ = env.reset(seed=seed)
    return arm_of(name).begin(env, np.random.default_rng(seed)), observation


# --- all arms --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLAYED)
def test_every_arm_plays_and_goes_on_where_it_was_stopped(env, name: str) -> None:
    episode = Playing(env, arm_of(name), 3, 7)
    turns = [episode.step(), episode.step()]
    state, at = json.loads(json.dumps(episode.player.state())), env.snapshot()
    rng = episode.rng.bit_generator.state
    turns.append(episode.step())
    again = Playing(env, arm_of(name), 3, 7)
    again.observation = env.restore(at)
    again.rng.bit_generator.state = rng
    again.player.restore(state)
    last = again.step()
    assert last.info["windows"].tolist() == turns[2].info["windows"].tolist()
    assert (last.reward, last.extra_flops) == (turns[2].reward, turns[2].extra_flops)
    assert all(len(turn.info["windows"]) == env.settings.windows_per_step for turn in turns)


def test_arms_side_by_side_share_what_a_stage_pays_once(small_world: World, tmp_path: Path) -> None:
    settings = Settings.of(**SETTINGS)
    tasks = [
        EpisodeTask(str(small_world.path), settings, name, seed, 7, CurveMeter(points=2, windows=6))
        for seed in (0, 1)
        for name in ("target-aligned", "d-optimal", "easy-to-hard", "dsir")
    ]
    records = play_all(small_world, tasks, Journal(tmp_path / "j", {"format": "x"}), learners=4)
    spent = {(r.arm, r.seed): r.measured.extra_flops for r in records}
    assert spent["dsir", 0] == 0
    for name in ("target-aligned", "d-optimal", "easy-to-hard"):
        assert spent[name, 0] == spent[name, 1] > 0  # each episode is charged as if it were alone
    lines = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()[1:]]
    assert ["extra_flops" in line for line in lines] == [line["arm"] != "dsir" for line in lines]
    for line, record in zip(lines, records, strict=True):
        assert CurveMeter().from_json(line) == record.measured


def test_a_stage_is_served_once_whichever_threads_ask(env) -> None:
    made: list[int] = []

    def make(stage) -> int:  # type: ignore[no-untyped-def]
        time.sleep(0.01)
        made.append(len(made))
        return made[-1]

    keys = iter("aaaabca")
    shared = Shared(make, key=lambda stage: next(keys), most=2)
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(shared(env.stage))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [0, 0, 0, 0]
    assert [shared(env.stage) for _ in "bc"] == [1, 2]
    assert shared(env.stage) == 3  # the oldest of three was dropped


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ({"family": "wise", "variant": "It knows."}, "expected a family among .*, got 'wise'"),
        ({"family": "bandit", "variant": " "}, "expected a sentence"),
    ],
)
def test_an_arm_without_a_family_or_a_sentence_is_refused(
    listed: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Listed(ARMS["uniform"].begin, **listed)


def test_every_listed_arm_is_printed_and_an_unknown_family_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["arms"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {line[0] for line in lines} >= set(ARMS)
    assert main(["arms", "--family", "selection"]) == 0
    told = capsys.readouterr().out
    assert "dsir" in told
    assert "breadth-first" not in told
    assert main(["arms", "--family", "learned"]) == 0
    assert "a policy is named by its directory" in capsys.readouterr().out
    assert main(["arms", "--family", "wise"]) == 2
    assert "expected a family among independent" in capsys.readouterr().err


def test_the_page_of_arms_lists_what_there_is(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "ARMS.md").read_text()
    told = "run: kncl-policy arms --page docs/ARMS.md"
    assert with_table(page, table_of(ARMS), "docs/ARMS.md") == page, told
    mine = tmp_path / "mine.md"
    mine.write_text(f"# Mine\n{BEGIN}old\n{END}and more\n")
    assert main(["arms", "--page", str(mine)]) == 0
    assert mine.read_text() == f"# Mine\n{BEGIN}{table_of(ARMS)}{END}and more\n"
    mine.write_text("# Mine\n")
    assert main(["arms", "--page", str(mine)]) == 2
    assert mine.read_text() == "# Mine\n"


def test_an_arm_is_told_apart_by_all_the_source_that_it_plays_by() -> None:
    digests = {name: source_of(arm) for name, arm in ARMS.items()}
    assert digests["dsir"] == digests["dsir-frontier"]
    assert len({digests[name] for name in ("dsir", "moore-lewis", "knn", "markov", "rule")}) == 5
    assert arm_of("dsir").digest == digests["dsir"][:8]


def test_an_arm_that_takes_no_file_says_which_do() -> None:
    with pytest.raises(ValueError, match=r"takes a file \(markov@FILE\), got uniform@x.jsonl"):
        arm_of("uniform@x.jsonl")
    with pytest.raises(FileNotFoundError):
        arm_of("markov@nowhere.jsonl")


# --- what is planted is found ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["dsir", "moore-lewis", "knn", "centroid"])
def test_a_selection_reads_the_region_that_the_sample_is_of(
    env, name: str, small_world: World
) -> None:
    # Each region has words of its own, and the target is the last ten topics.
    player, seen = begun(env, name)
    turns = [player.act(seen) for _ in range(2)]
    read = np.concatenate([env.stage.store.document[turn.info["windows"]] for turn in turns])
    topics = small_world.passage_topic[read]
    assert (topics >= 30).mean() > 0.9
    assert len(np.unique(np.concatenate([t.info["windows"] for t in turns]))) == 16


def test_what_falls_along_the_targets_path_is_the_targets_region(
    env, small_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target_aligned, "WARM_UP", 30.0)  # or this learner learns nothing yet
    found = target_aligned._scored(env.stage).passages
    own = small_world.passage_topic[found] >= 30
    assert own[: own.sum()].mean() > 0.9


@pytest.mark.parametrize("name", ["dsir-frontier", "moore-lewis-frontier", "knn-frontier"])
def test_a_frontier_form_expands_the_candidate_most_like_the_sample(env, name: str) -> None:
    player, seen = begun(env, name)
    slots = env.episode.slots.copy()
    topic = player.act(seen).info["topic"]
    assert topic >= 30 or slots.max() < 30


def test_the_designed_experiment_finds_the_region_that_pays(env) -> None:
    found = d_optimal.experiment(env.stage)
    groups = domains.domains_of(env.stage, d_optimal.DOMAINS)
    assert found.mixture[[bool((topics >= 30).all()) for topics in groups]].tolist() == [0.5]


# --- by hand ---------------------------------------------------------------------------------


def test_temperature_weighs_topics_by_the_root_of_their_size() -> None:
    assert tempered(np.array([4, 9, 0])).tolist() == [2, 3, 0]


def test_what_was_read_least_is_drawn_first_and_nothing_twice_before_all_is_read() -> None:
    times_read = np.array([1, 0, 0, 2, 0, 9], dtype=np.int32)
    pool, rng = np.arange(5), np.random.default_rng(0)
    first = mixing.least_read(pool, times_read, 4, rng)
    assert sorted(first[:3].tolist()) == [1, 2, 4]
    assert first[3] == 0
    assert times_read.tolist() == [2, 1, 1, 2, 1, 9]
    # 1, 2 and 4 were read once; then 0 and 3, twice; then it begins again with the first.
    then = mixing.least_read(pool, times_read, 7, rng)
    assert [sorted(part) for part in np.split(then, [3, 5])] == [
        [1, 2, 4],
        [0, 3],
        sorted(then[5:]),
    ]
    assert set(then[5:].tolist()) < {1, 2, 4}
    assert times_read.sum() == 3 + 9 + 4 + 7
    firsts = [mixing.least_read(pool, np.zeros(6, np.int32), 1, rng)[0] for _ in range(3000)]
    assert np.bincount(firsts) / 3000 == pytest.approx([0.2] * 5, abs=0.03)
    with pytest.raises(ValueError, match="at least one window, got none"):
        mixing.least_read(pool[:0], times_read, 1, rng)


def test_a_mixture_draws_its_pools_by_weight() -> None:
    pools = [np.arange(0, 4000), np.arange(4000, 8000), np.zeros(0, dtype=np.int64)]
    weights, times_read = np.array([3.0, 1.0, 0.0]), np.zeros(8000, dtype=np.int32)
    found = mixing.drawn(pools, weights, 4000, times_read, np.random.default_rng(0))
    assert (found < 4000).mean() == pytest.approx(0.75, abs=0.03)
    assert len(set(found.tolist())) == 4000 == times_read.sum()
    assert (found[:2000] < 4000).mean() == pytest.approx(0.75, abs=0.05)  # shuffled


def test_words_are_runs_of_letters_or_of_marks_and_characters_where_there_are_no_spaces() -> None:
    words, text = words_of(["The cat, the CAT", "", "ab 你好", "cat"])
    assert text.tolist() == [0] * 5 + [2] * 3 + [3]
    assert words[0] == words[3] != words[1] == words[4] == words[8]
    assert len(set(words.tolist())) == 6
    pairs, pair_text = pairs_of(words, text)
    assert pair_text.tolist() == [0] * 4 + [2] * 2
    assert pairs[0] == pairs[3]
    assert len(set(pairs.tolist())) == 5
    backwards = pairs_of(*words_of(["cat the"]))[0]
    assert backwards[0] not in pairs


def test_no_text_has_no_words() -> None:
    for texts in ([], [""], ["", " \n"]):
        words, text = words_of(texts)
        assert len(words) == len(text) == len(pairs_of(words, text)[0]) == 0


def test_importance_weights_are_differences_of_log_shares() -> None:
    # p = (3, 1, 0) / 4, q = (1, 1, 2) / 4
    found = dsir.log_ratio(np.array([3.0, 1, 0]), np.array([1.0, 1, 2]))
    assert found == pytest.approx([np.log(3), 0, np.log(1e-8 / 0.5)], abs=1e-6)


def test_a_passages_weight_is_the_sum_over_its_words_and_pairs(env, small_world: World) -> None:
    def counted(passages) -> Counter[int]:  # type: ignore[no-untyped-def]
        total: Counter[int] = Counter()
        for p in passages:
            words, text = words_of([small_world.passage_text(p)])
            for hashes in (words, pairs_of(words, text)[0]):
                total.update(buckets(hashes, 10_000).tolist())
        return total

    train = np.flatnonzero(small_world.passage_split == 0)
    sample, corpus = counted(env.stage.sample), counted(train)
    weights = dsir.weights(env.stage)
    for p in train[[0, 200, -1]].tolist():
        by_hand = sum(
            n * np.log(sample[b] / sample.total() + 1e-8)
            - n * np.log(corpus[b] / corpus.total() + 1e-8)
            for b, n in counted([p]).items()
        )
        assert weights[p] == pytest.approx(by_hand)
    assert not weights[small_world.passage_split != 0].any()


def test_gumbel_noise_draws_without_replacement_in_proportion() -> None:
    rng = np.random.default_rng(0)
    log_weights = np.log([0.6, 0.3, 0.1])
    orders = np.array([dsir.gumbel_top(log_weights, 3, rng) for _ in range(20_000)])
    first = np.bincount(orders[:, 0], minlength=3) / len(orders)
    assert first == pytest.approx([0.6, 0.3, 0.1], abs=0.01)
    # Once the first is gone the others keep their odds: 3 to 1.
    second = orders[orders[:, 0] == 0][:, 1]
    assert (second == 1).mean() == pytest.approx(0.75, abs=0.01)
    assert (np.sort(orders, axis=1) == [0, 1, 2]).all()
    two = dsir.gumbel_top(log_weights, 2, np.random.default_rng(5))
    assert two.tolist() == dsir.gumbel_top(log_weights, 3, np.random.default_rng(5))[:2].tolist()


def test_moore_lewis_is_a_difference_of_two_interpolated_cross_entropies() -> None:
    number = moore_lewis.vocabulary([["a b a"], ["b c"]])
    assert number.max() == 2  # a and b; c stands there once
    sample = moore_lewis.PairModel.of([["a b a b"]], number)
    corpus = moore_lewis.PairModel.of([["a c a"]], number)
    # Of the sample: 2 a, 2 b, of three words; ab twice, ba once. Of the corpus: 2 a, 1 unknown.
    first = np.log(3 / 6) - np.log(3 / 7)  # "a" begins its text
    then = np.log(0.5 * 0 + 0.5 * 1 / 6) - np.log(0.5 * 2 / 2 + 0.5 * 3 / 7)  # "b" after "a"
    # An unknown word after "b", which was followed once in the sample and never in the corpus.
    last = np.log(2 / 6) - np.log(0.5 * 0 + 0.5 * 1 / 7)
    found = moore_lewis.difference(["a b d", "", "a"], sample, corpus)
    assert found == pytest.approx([(first + then + last) / 3, 0, first])


def test_neighbours_come_by_rounds_each_once() -> None:
    found = np.array([[5, 6], [5, 7], [8, 5]])
    assert nearest.by_rounds(found, np.array([1, 0, 2])).tolist() == [5, 8, 7, 6]


def test_passages_fill_a_budget_and_no_more(env) -> None:
    passages, store = np.flatnonzero(candidates_of(env)), env.stage.store
    held = n_windows(store, passages)
    assert held.min() >= 1
    n = int(held[:3].sum())
    assert filling(store, passages, n).tolist() == passages[:3].tolist()
    assert filling(store, passages, n + 1).tolist() == passages[:4].tolist()
    assert filling(store, passages, held.sum() + 1).tolist() == passages.tolist()


def test_easy_to_hard_reads_what_uniform_would_in_the_order_of_its_loss(env) -> None:
    env.reset(seed=3)
    n, per_step = env.rules.steps * env.settings.windows_per_step, env.settings.windows_per_step
    store, own = env.stage.store, env.stage.retriever.own
    pools = [store.windows_of(own(t)) for t in range(env.stage.world.n_topics)]
    drawn = env.episode.reading_list.copy().spread(pools, n, np.random.default_rng(3))
    by_loss = drawn[np.argsort(env.learner.losses(drawn), kind="stable")]
    flops = n * env.settings.learner.context * env.learner.flops_per_token / 3
    for name, wanted in (("easy-to-hard", by_loss), ("hard-to-easy", by_loss[::-1])):
        player, seen = begun(env, name)
        turns = [player.act(seen) for _ in range(2)]
        read = np.concatenate([turn.info["windows"] for turn in turns])
        assert read.tolist() == wanted[: 2 * per_step].tolist()
        assert [turn.extra_flops for turn in turns] == [pytest.approx(flops), 0]


def test_highest_loss_reads_the_worst_quarter_of_what_it_draws() -> None:
    env = fake_env()
    player, seen = begun(env, "highest-loss")
    env.learner.loss = np.arange(30, 0, -1.0)  # topic 0 has the highest
    before = env.episode.reading_list.times_read.copy()
    n = env.settings.windows_per_step
    pools = [np.flatnonzero(env.learner.topic_of_window == t) for t in range(30)]
    drawn = env.episode.reading_list.copy().spread(pools, 4 * n, np.random.default_rng(3))
    read = player.act(seen).info["windows"]
    topics = np.sort(env.learner.topic_of_window[drawn])
    assert np.sort(env.learner.topic_of_window[read]).tolist() == topics[:n].tolist()
    counted = env.episode.reading_list.times_read - before
    assert counted.sum() == n  # what was measured alone counts as not read
    assert counted[read].min() == 1


def test_highest_loss_is_charged_a_forward_pass_on_all_that_it_draws(env) -> None:
    player, seen = begun(env, "highest-loss")
    n = 4 * env.settings.windows_per_step
    flops = n * env.settings.learner.context * env.learner.flops_per_token / 3
    assert [player.act(seen).extra_flops for _ in range(2)] == pytest.approx([flops, flops])


def test_a_target_aligned_passage_is_one_whose_loss_falls_by_a_large_share() -> None:
    found = target_aligned.drop(np.array([4.0, 2.0, 3.0]), np.array([3.0, 1.0, 3.3]))
    assert found == pytest.approx([0.25, 0.5, -0.1])


def test_target_aligned_is_charged_its_warm_up_and_two_looks_at_each_passage(env) -> None:
    found = target_aligned.scored(env.stage)
    settings, learner = env.settings, env.learner
    budget = settings.rules.steps * settings.windows_per_step  # 32 windows; a sixteenth is less
    warm_up = settings.learner.batch  # than a batch
    assert n_windows(env.stage.store, found.passages).sum() >= 4 * budget
    windows = warm_up + 2 * len(found.passages) / 3
    per_window = settings.learner.context * learner.flops_per_token
    assert found.flops == pytest.approx(windows * per_window)
    again = target_aligned._scored(env.stage)
    assert again.passages.tolist() == found.passages.tolist()


def test_a_design_is_as_good_as_the_best_of_all_designs() -> None:
    mixtures = d_optimal.candidates(3)
    assert len(mixtures) == 4  # halves of two, and all alike
    every = combinations_with_replacement(range(len(mixtures)), 5)
    best = max(np.linalg.det(mixtures[list(d)].T @ mixtures[list(d)]) for d in every)
    chosen = mixtures[d_optimal.d_optimal(mixtures, 5, np.random.default_rng(0))]
    assert np.linalg.det(chosen.T @ chosen) == pytest.approx(best)
    alone = d_optimal.d_optimal(np.eye(2), 16, np.random.default_rng(0))
    assert np.bincount(alone).tolist() == [8, 8]
    for k in (3, 5, 8):
        rows = d_optimal.candidates(k)
        assert (
            np.linalg.matrix_rank(rows[d_optimal.d_optimal(rows, 16, np.random.default_rng(0))])
            == k
        )


def test_a_linear_model_of_mixtures_finds_the_losses_it_was_made_of_and_their_best_mixture() -> (
    None
):
    loss_of = np.array([3.0, 1.0, 2.0, 2.5])
    mixtures = d_optimal.candidates(4)
    assert d_optimal.fitted(mixtures, mixtures @ loss_of) == pytest.approx(loss_of)
    assert d_optimal.best_mixture(loss_of).tolist() == [0, 0.5, 0.5, 0]
    assert d_optimal.best_mixture(loss_of[:2]).tolist() == [0, 1]


def test_the_designed_experiment_is_charged_all_of_its_runs(env) -> None:
    settings, learner = env.settings, env.learner
    per_window = settings.learner.context * learner.flops_per_token
    windows = 16 * settings.learner.batch + 16 * 48 / 3  # a batch each, and the reward split
    assert d_optimal.experiment(env.stage).flops == pytest.approx(windows * per_window)
    again = d_optimal._run(env.stage)
    assert again.mixture.tolist() == d_optimal.experiment(env.stage).mixture.tolist()
    player, seen = begun(env, "d-optimal")
    assert [player.act(seen).extra_flops > 0 for _ in range(2)] == [True, False]


# --- walks -----------------------------------------------------------------------------------


def test_links_weigh_by_place_and_by_clicks() -> None:
    places = np.array([0, 1, 4])
    assert walks.early("", [], places) == pytest.approx([1, 1 / 2, 1 / 5])
    weigh = walks.by_clicks({"a": {"y": 3}})
    assert weigh("a", ["x", "y", "z"], places) == pytest.approx([0.1, 3.05, 0.02])
    assert weigh("b", ["x", "y", "z"], places) == pytest.approx([0.1, 0.05, 0.02])


def test_a_walker_goes_on_from_the_last_topic_and_else_back_along_its_way() -> None:
    # On the ring each topic links to the next two; seeds 0 and 10 came in this order.
    env = fake_env(seeds=(0, 10))
    env.reset(seed=0)
    env.episode.slots = np.array([1, 2, 9, 11])
    choose = [ARMS[name].begin(env, np.random.default_rng(0)) for name in ("random-walk", "markov")]
    assert [player.act({}).info["topic"] for player in choose[:1]] == [11]  # 12 is in no slot
    env.episode.slots = np.array([1, 2, 9])
    counts = Counter()
    walk = walks.walks(walks.early)
    for seed in range(300):
        env.reset(seed=0)
        env.episode.slots = np.array([1, 2, 9])
        player = walk(env, np.random.default_rng(seed))
        counts[player.act({}).info["topic"]] += 1
    assert set(counts) == {1, 2}  # 10 links to none of them, so 0's links count
    assert counts[1] / 300 == pytest.approx(2 / 3, abs=0.08)


def test_a_markov_walker_takes_the_links_that_readers_took(env, tmp_path: Path) -> None:
    titles, graph = env.stage.world.titles, env.stage.table.graph
    env.reset(seed=3)
    taken = {}
    for member in env.state().members.tolist():
        offered = [t for t in graph.out(member) if t in env.episode.slots]
        if offered:
            taken[member] = offered[-1]
    page = [m for m in env.state().members.tolist() if m in taken][-1]
    holes = [
        RabbitHole(
            id=f"walk-{i}",
            source="made up",
            walker="person",
            licence="none needed",
            visits=(Visit(titles[page], None), Visit(titles[taken[page]], parent=0)),
        )
        for i in range(100)
    ]
    file = tmp_path / "people.jsonl"
    write_paths(file, holes)
    arm = arm_of(f"markov@{file}")
    assert arm.name == "markov@people"
    assert arm.digest != arm_of("markov").digest
    observation, _ = env.reset(seed=3)
    assert arm.begin(env, np.random.default_rng(0)).act(observation).info["topic"] == taken[page]
    file.write_text("nonsense\n")
    env.reset(seed=3)
    with pytest.raises(ValueError, match=r"expected recorded paths in .*people.jsonl.*, got none"):
        arm_of(f"markov@{file}").begin(env, np.random.default_rng(0))


# --- domains ---------------------------------------------------------------------------------


def test_the_largest_region_is_parted_as_long_as_there_are_not_too_many() -> None:
    regions = {
        "a": np.arange(6),
        "a.x": np.array([0, 1, 2]),
        "a.y": np.array([2, 3]),  # 2 goes to the smaller of its two
        "b": np.array([6, 7]),
    }
    four = [[4, 5], [0, 1], [2, 3], [6, 7], [8]]  # the rests of `a` and of all come first
    found = [topics.tolist() for topics in domains.parted(regions, 9, 5)]
    assert sorted(found) == sorted(four)
    three = [topics.tolist() for topics in domains.parted(regions, 9, 4)]
    assert sorted(three) == [[0, 1, 2, 3, 4, 5], [6, 7], [8]]
    assert [t.tolist() for t in domains.parted({}, 3, 5)] == [[0, 1, 2]]


def test_a_domain_with_too_little_text_joins_the_closest() -> None:
    vectors = np.array([[1, 0], [0.8, 0.6], [0, 1]], dtype=np.float32)
    groups, held = [np.array([i]) for i in range(3)], np.array([5.0, 0.0, 5.0])
    found = domains.joined(groups, held, vectors, 4)
    assert [topics.tolist() for topics in found] == [[0, 1], [2]]
    with pytest.raises(ValueError, match="at least a step's 11 windows, got 10"):
        domains.joined(groups, held, vectors, 11)


def test_domains_are_the_regions_of_a_world_and_hold_every_topic_once(env) -> None:
    env.reset(seed=3)
    found = domains.domains_of(env.stage)
    assert [topics.tolist() for topics in found] == [
        list(range(i, i + 10)) for i in (0, 10, 20, 30)
    ]
    pools = domains.pools_of(env, found)
    assert sum(map(len, pools)) == len(np.unique(np.concatenate(pools)))
    clusters = domains._clusters(env.stage, 24)
    assert sorted(np.concatenate(clusters).tolist()) == list(range(40))
    assert Arm("x", ARMS["d-optimal"].begin).search_flops == 0.0


def test_domains_hold_a_step_of_whichever_settings_ask(env) -> None:
    env.reset(seed=3)
    few, rules = domains.domains_of(env.stage), env.stage.settings.rules
    held = sum(map(len, domains.pools_of(env, few)))
    longer = replace(rules, updates_per_step=held // 2 // env.stage.settings.learner.batch)
    stage = replace(env.stage, settings=replace(env.stage.settings, rules=longer))
    assert len(domains.domains_of(stage)) < len(few)
    assert domains.domains_of(env.stage) is few
    assert text_of(stage).k < text_of(env.stage).k


# --- a target whose text nobody trains on ------------------------------------------------------


@pytest.fixture(scope="module")
def distant_env(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A generated world; of one community's text only the sample is known."""
    corpus = read_synthetic(SyntheticConfig(n_topics=48, n_communities=4))
    config = BuildConfig(scenario="distant", vocab_size=300, passage_bytes=200)
    world = build_world(corpus, tmp_path_factory.mktemp("worlds") / "distant", config)
    return env_of(world, **SETTINGS)


@pytest.mark.parametrize("name", PLAYED)
def test_every_arm_plays_where_the_targets_text_is_withheld(distant_env, name: str) -> None:
    stage = distant_env.stage
    world, store = stage.world, stage.store
    episode = Playing(distant_env, arm_of(name), 3, 7)
    for _ in range(2):
        read = store.document[episode.step().info["windows"]]
        assert (world.passage_split[read] == 0).all()
        assert not np.isin(world.passage_topic[read], stage.target).any()
    # A domain of topics without text would be drawn from in vain.
    every = domains.domains_of(stage)
    assert sorted(np.concatenate(every).tolist()) == list(range(world.n_topics))
    assert all(len(pool) for pool in domains.pools_of(distant_env, every))


def test_on_other_links_a_withheld_topic_scores_by_what_is_read_there(distant_env) -> None:
    stage, found = distant_env.stage, []
    for where in (stage, stage.with_graph(rewired(stage.world.graph, 0))):
        around = [where.retriever.neighbourhood(int(topic)) for topic in stage.target]
        expected = [dsir.weights(where)[own].mean() for own in around]
        found.append(dsir._scores(where)(SimpleNamespace(stage=where), stage.target).tolist())
        assert found[-1] == expected
    assert found[0] != found[1]


def test_where_every_topic_counts_the_sample_is_of_all_of_them(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    corpus = read_synthetic(SyntheticConfig(n_topics=48, n_communities=4))
    config = BuildConfig(scenario="noisy", vocab_size=300, passage_bytes=200)
    world = build_world(corpus, tmp_path_factory.mktemp("worlds") / "noisy", config)
    env = env_of(world, **SETTINGS)
    covered = np.unique(world.passage_topic[env.stage.sample])
    assert covered.tolist() == np.flatnonzero(world.has_held_out & ~world.topic_is_noise).tolist()
    for name in PLAYED:
        if ARMS[name].family in ("selection", "search"):
            turn = Playing(env, arm_of(name), 3, 7).step()
            read = env.stage.store.document[turn.info["windows"]]
            assert (world.passage_split[read] == 0).all(), name
