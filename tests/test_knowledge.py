"""What a model knows of a world: links told from frequent titles, and facts in unread words."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import FakeLearner, env_of
from harnesses import harness
from numpy.typing import NDArray
from torch import Tensor, nn

from kncl_env.cli import main
from kncl_env.knowledge.cloze import LinkCloze, hops_of, names_of
from kncl_env.knowledge.export import AskedLink, write_graphml
from kncl_env.knowledge.facts import FactProbe, questions_of, truth_of
from kncl_env.knowledge.figures import beyond_chance, estimate, ranks
from kncl_env.knowledge.links import LinkFigures, LinkProbe, LinkRanks
from kncl_env.knowledge.meter import KnowledgeCurve, KnowledgeMeter, together
from kncl_env.knowledge.reading import in_world_tokens, learner_model
from kncl_env.vector import side_by_side
from kncl_env.world.build import BuildConfig, build_world
from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.graph import TopicGraph
from kncl_env.world.sources.synthetic import SyntheticConfig, generate, read_synthetic
from kncl_env.world.sources.synthetic_words import ASKING, STATEMENTS
from kncl_env.world.world import World
from policies.arms.registry import arm_of
from policies.play.curves import CurveMeter
from policies.play.episodes import play
from policies.play.guard import Guarded
from policies.play.seeds import EVALUATION
from policies.verdict.knowledge_section import knowledge_section
from train_lm.continuations import Question, log_likelihoods
from train_lm.model import ModelConfig, build_model
from train_lm.trainer import Trainer, TrainerConfig

Ints = NDArray[np.int64]

TINY = ModelConfig(width=64, layers=2, context=64)
FACTS = SyntheticConfig(n_topics=24, n_communities=2, facts_per_topic=6, unread=2)


def naming_corpus(n: int = 60, seed: int = 0) -> Corpus:
    """Topics whose every paragraph ends with the title of a linked topic, after random words."""
    rng = np.random.default_rng(seed)
    parts = ["ba", "ke", "li", "mo", "nu", "ra", "si", "to", "ve", "za"]
    words = ["".join(rng.choice(parts, 3)) for _ in range(200)]
    titles = sorted({"".join(rng.choice(parts, 4)).capitalize() for _ in range(4 * n)})[:n]
    titles = [str(t) for t in rng.permutation(titles)]
    articles = []
    for i, title in enumerate(titles):
        linked = [titles[(i + step) % n] for step in (1, 2, 5, 11)]
        paragraphs = tuple(
            f"{' '.join(rng.choice(words, 22))} of {linked[k % 4]}." for k in range(24)
        )
        articles.append(Article(title, paragraphs, tuple((t, "link") for t in linked)))
    return Corpus(tuple(articles), "made up", "none needed")


@pytest.fixture(scope="module")
def naming_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    out = tmp_path_factory.mktemp("naming") / "world"
    config = BuildConfig(vocab_size=300, passage_bytes=180, held_out=0.1)
    return build_world(naming_corpus(), out, config)


@pytest.fixture(scope="module")
def telling_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A generated world whose facts can be asked in words that stand in no text."""
    out = tmp_path_factory.mktemp("telling") / "world"
    return build_world(read_synthetic(FACTS), out, BuildConfig(vocab_size=300, passage_bytes=300))


class Parrot(nn.Module):
    """A causal model that has learned sequences by heart, and finds all else equally likely.

    Guarantees: what it says of a place depends on the visible tokens alone, so a mask or a position
    that is wrong shows.
    """

    def __init__(
        self, known: Sequence[Ints], vocabulary: int, frequent: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=vocabulary, max_position_embeddings=4096)
        self.unused = nn.Parameter(torch.zeros(1))
        self.next: dict[bytes, int] = {}
        for ids in known:
            for end in range(1, len(ids)):
                self.next[ids[:end].tobytes()] = int(ids[end])
        self.frequent = torch.zeros(vocabulary)
        self.frequent[list(frequent)] = 5.0

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, attention_mask: Tensor, use_cache: bool
    ) -> SimpleNamespace:
        logits = self.frequent.repeat(*input_ids.shape, 1)
        for row, ids in enumerate(input_ids.numpy()):
            for at in range(len(ids)):
                seen = attention_mask[row, 0, at].numpy() == 0
                assert position_ids[row, at] in (0, seen.sum() - 1)  # 0: what pads
                following = self.next.get(ids[seen].tobytes())
                if following is not None:
                    logits[row, at, following] += 20.0
        return SimpleNamespace(logits=logits)


@dataclass(frozen=True)
class MadeCloze:
    """Items made by hand: contexts of random words, invented titles, the next item a stranger."""

    contexts: list[str]
    topics: Ints
    names: list[str]
    strangers: Ints = field(init=False)
    clusters: Ints = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.contexts)
        object.__setattr__(self, "strangers", (np.arange(n) + 1) % n)
        object.__setattr__(self, "clusters", np.arange(n))

    def __len__(self) -> int:
        return len(self.contexts)


def letters(texts: Sequence[str]) -> list[Ints]:
    """A token for each byte."""
    return [np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) for text in texts]


def made_cloze(n: int = 40, seed: int = 0) -> MadeCloze:
    """Titles of four letters; the first n / 2 of them are the right ones, each of two items."""
    rng = np.random.default_rng(seed)
    names = list(dict.fromkeys("".join(rng.choice(list("bdfgklmnprst"), 4)) for _ in range(4 * n)))
    right = np.arange(n) % (n // 2)
    others = np.stack([rng.permutation(np.arange(n // 2, 2 * n))[:9] for _ in range(n)])
    contexts = ["".join(rng.choice(list("aeiou "), 40)) for _ in range(n)]
    return MadeCloze(contexts, np.column_stack([right, others]), names)


def knowledge(model: nn.Module, probe: LinkProbe) -> LinkFigures:
    return probe.scores(model, "cpu").ranks().figures(probe.clusters)


# --- continuations ---------------------------------------------------------------------------


def test_many_options_at_once_are_as_likely_as_each_one_alone() -> None:
    model = build_model(TINY, 300)
    rng = np.random.default_rng(0)
    questions = [
        Question(
            rng.integers(0, 300, length),
            tuple(rng.integers(0, 300, k) for k in rng.integers(1, 12, options)),
        )
        for length, options in ((1, 3), (48, 10), (17, 30), (48, 1))
    ]
    questions.append(Question(questions[1].prefix, questions[0].options))  # a prefix once more
    found = log_likelihoods(model, questions, "cpu")
    for question, values in zip(questions, found, strict=True):
        for option, value in zip(question.options, values, strict=True):
            ids = torch.from_numpy(np.concatenate([question.prefix, option]))[None]
            with torch.no_grad():
                each = model(input_ids=ids).logits[0].log_softmax(-1)
            begin = len(question.prefix)
            alone = sum(float(each[begin - 1 + k, t]) for k, t in enumerate(option))
            assert value == pytest.approx(alone, abs=1e-4)


def test_a_question_that_does_not_fit_the_model_is_refused() -> None:
    model = build_model(TINY, 300)
    with pytest.raises(ValueError, match="at most 64 tokens"):
        log_likelihoods(model, [Question(np.zeros(61, int), (np.zeros(5, int),))], "cpu")
    with pytest.raises(ValueError, match="at least one token"):
        Question(np.zeros(0, int), (np.zeros(5, int),))


# --- items -----------------------------------------------------------------------------------


def test_an_item_asks_for_a_linked_title_that_its_context_does_not_hold(
    naming_world: World,
) -> None:
    cloze = LinkCloze.of(naming_world, n=50)
    assert len(cloze) == 50
    for i, context in enumerate(cloze.contexts):
        source, passage, at = cloze.rows[i, :3].tolist()
        right, *others = cloze.topics[i].tolist()
        text = naming_world.passage_text(passage)
        assert text[at:].startswith(naming_world.titles[right])
        assert text[: at - 1].endswith(context)
        assert naming_world.graph.has_edge(source, right)
        assert len({source, right, *others}) == 11
        around = naming_world.graph.around(source)
        assert not set(others) & set(around.tolist())
        assert not any(naming_world.titles[t] in context for t in (right, *others))
        assert naming_world.passage_split[passage] == 2  # select


def test_a_stranger_has_no_link_to_any_title_of_the_item(naming_world: World) -> None:
    cloze = LinkCloze.of(naming_world, n=50)
    linked = [{t, *naming_world.graph.around(t).tolist()} for t in range(60)]
    apart = 0
    for i, stranger in enumerate(cloze.strangers.tolist()):
        assert stranger != i
        assert cloze.sources[stranger] != cloze.sources[i]
        asked = {*cloze.topics[i].tolist()}
        lent = [int(s) for s in cloze.sources[:8] if s != cloze.sources[i]]
        ties = {lender: len(linked[lender] & asked) for lender in lent}
        own = int(cloze.sources[stranger])
        apart += ties[own] == 0
        assert ties[own] <= 1 + min(ties.values())  # named in the text counts, too
    assert apart > 25  # each of 60 topics is linked with eight, and ten are asked for


def test_items_are_drawn_once_the_same_for_all_and_topics_are_used_evenly(
    naming_world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = LinkCloze.of(naming_world, n=40).rows
    monkeypatch.setenv("KNCL_CACHE", str(tmp_path))
    again = LinkCloze.of(naming_world, n=40)
    assert np.array_equal(first, again.rows)
    assert len(np.unique(again.topics[:, 0])) == 40
    assert not np.array_equal(first, LinkCloze.of(naming_world, n=40, seed=1).rows)
    assert np.array_equal(first[:20], LinkCloze.of(naming_world, n=20).rows)


def test_text_that_names_no_linked_topic_has_nothing_to_ask(small_world: World) -> None:
    with pytest.raises(ValueError, match="names a topic which its own topic links to"):
        LinkCloze.of(small_world)
    with pytest.raises(ValueError, match="expected a split among reward, select, test"):
        LinkCloze.of(small_world, "train")


def test_a_name_that_two_topics_share_is_nobodys() -> None:
    titles = ["Mercury (planet)", "Mercury (metal)", "Venus (planet)", "1984", "Mars"]
    assert names_of(titles) == ("", "", "Venus", "", "Mars")


def test_hops_count_to_the_farther_end_of_a_link() -> None:
    # 0 -> 1 -> 2 -> 3, 4 -> 3, and 5 apart; links count in both directions.
    graph = TopicGraph.from_links(6, [[(1, 0)], [(2, 0)], [(3, 0)], [], [(3, 0)], []])
    world = SimpleNamespace(graph=graph)
    sources, targets = np.array([0, 1, 2, 4, 5]), np.array([1, 2, 3, 3, 0])
    hops = hops_of(world, np.array([0, 1]), sources, targets)  # type: ignore[arg-type]
    assert hops.tolist() == [0, 1, 2, 3, -1]


# --- what a model knows ----------------------------------------------------------------------


def test_removing_the_context_drops_a_planted_link() -> None:
    cloze = made_cloze()
    answers = [
        f"{c} {cloze.names[t[0]]}" for c, t in zip(cloze.contexts, cloze.topics, strict=True)
    ]
    found = knowledge(Parrot(letters(answers), 256), LinkProbe(cloze, letters, 4096))
    assert found.accuracy.value == 1
    assert found.without.low <= 0.1 <= found.without.high
    assert found.lift.value == 1
    assert found.knows(0.1)


def test_removing_the_context_does_not_drop_a_frequent_title() -> None:
    cloze = made_cloze()
    right = {letter for t in cloze.topics[:, 0] for letter in cloze.names[t]}
    shown = [name for t, name in enumerate(cloze.names) if t >= 20]
    # A title that no other topic's letters make is frequent wherever it stands.
    names = [*(name.upper() for name in cloze.names[:20]), *shown]
    upper = MadeCloze(cloze.contexts, cloze.topics, names)
    capitals = [ord(letter.upper()) for letter in right]
    found = knowledge(Parrot([], 256, capitals), LinkProbe(upper, letters, 4096))
    assert found.accuracy.value == found.without.value == 1
    assert found.by_context.value == 0
    assert found.lift.low <= 0.1 <= found.lift.high
    assert not found.knows(0.1)


def test_a_model_trained_on_the_answers_finds_them_and_not_by_frequency(
    naming_world: World,
) -> None:
    cloze = LinkCloze.of(naming_world, n=40)
    encode = in_world_tokens(naming_world)
    probe = LinkProbe(cloze, encode, TINY.context, context=12)
    model = build_model(TINY, 300)
    trainer = Trainer(model, TrainerConfig(learning_rate=5e-3, batch=40), "cpu")
    names = [f" {naming_world.titles[t]}" for t in cloze.topics[:, 0]]
    answers: dict[int, list[Ints]] = {}  # by length
    for context, title in zip(encode(cloze.contexts), encode(names), strict=True):
        answers.setdefault(len(title), []).append(np.concatenate([context[-12:], title]))
    trainer.begin_phase(60 * len(answers), decay=True)
    for _ in range(60):
        for alike in answers.values():
            trainer.update(np.stack(alike))
    found = knowledge(model, probe)
    assert found.accuracy.value > 0.9
    assert found.without.value < 0.5
    assert found.knows(probe.chance)


@pytest.mark.parametrize("seed", range(3))
def test_an_untrained_model_is_at_chance_within_its_interval(
    naming_world: World, seed: int
) -> None:
    probe = LinkProbe(LinkCloze.of(naming_world, n=200), in_world_tokens(naming_world), 64)
    model = build_model(ModelConfig(width=64, layers=2, context=64, seed=seed), 300)
    found = knowledge(model, probe)
    for share in (found.accuracy, found.without, found.lift):
        assert share.low <= probe.chance <= share.high
    assert not found.knows(probe.chance)


def test_a_model_too_short_for_the_titles_is_refused(naming_world: World) -> None:
    with pytest.raises(ValueError, match="room for a title and a token before it"):
        LinkProbe(LinkCloze.of(naming_world, n=20), in_world_tokens(naming_world), 3)


# --- figures ---------------------------------------------------------------------------------


def test_intervals_hold_the_true_share_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(800):
        sizes = rng.integers(1, 5, 30)
        share = rng.beta(2, 4, 30)  # items of one topic are alike
        clusters = np.repeat(np.arange(30), sizes)
        values = (rng.random(len(clusters)) < share[clusters]).astype(float)
        found = estimate(values, clusters, reps=300)
        held += found.low <= 1 / 3 <= found.high
    assert 0.93 < held / 800 < 0.97


def test_where_all_topics_agree_the_interval_is_wilsons() -> None:
    found = estimate(np.ones(20), np.arange(20))
    assert found.low == pytest.approx(0.8389, abs=1e-4)  # 20 of 20
    assert found.high == 1
    zero = estimate(np.zeros(20), np.arange(20) // 2)
    assert (zero.low, zero.high) == (0, pytest.approx(0.2775, abs=1e-4))  # 0 of 10 topics


def test_a_model_that_finds_all_alike_is_right_as_often_as_chance_is() -> None:
    alike = ranks(np.zeros((4000, 10)))
    assert np.mean(alike == 1) == pytest.approx(0.1, abs=0.015)
    assert ranks(np.array([[1.0, 0.0, 2.0], [3.0, 0.0, 2.0]])).tolist() == [2, 1]
    assert beyond_chance(0.1, 0.1) == 0
    assert beyond_chance(1.0, 0.1) == 1
    assert beyond_chance(0.55, 0.1) == pytest.approx(0.5)


# --- facts -----------------------------------------------------------------------------------


def test_a_world_without_unread_wordings_is_what_it_always_was() -> None:
    known = "9a33a034b14695aacc7041c911e2ea417ea56bf02f085b8f4db1729196be6af1"
    corpus = read_synthetic()
    assert corpus.sha256 == known
    assert set(corpus.counts) == {"topics", "noise_topics", "redundant_topics"}


def test_unread_wordings_stand_in_no_text_and_what_is_asked_is_true() -> None:
    truth = generate(FACTS)
    texts = [" ".join(article.paragraphs) for article in truth.corpus.articles]
    titles = [article.title for article in truth.corpus.articles]
    asked = questions_of(FACTS, truth)
    for question in asked:
        assert question.fact in truth.facts[question.topic]
        assert question.values[0] == question.fact.value
        assert len(set(question.values)) == len(question.values) > 1
        assert not any(question.prompt in text for text in texts)
        assert titles[question.topic] in question.prompt
        assert question.fact.attribute in question.prompt
    plain = [t for t in range(len(titles)) if t not in truth.redundant_of]
    facts = sum(len(truth.facts[t]) for t in plain)
    assert len({(q.topic, q.fact) for q in asked}) > 0.9 * facts  # some values have no others
    assert {question.depth for question in asked} >= {0, 1}
    other = STATEMENTS[ASKING[2]].split("{a}")[0].format(x="")
    assert any(other.strip() in text for text in texts)  # a wording that is read, for comparison


def test_depth_counts_the_topics_that_a_fact_holds_through() -> None:
    truth = generate(FACTS)
    for question in questions_of(FACTS, truth):
        topic, fact, steps = question.topic, question.fact, 0
        while fact.through is not None:
            topic, steps = fact.through, steps + 1
            (fact,) = [f for f in truth.facts[topic] if f.attribute == fact.attribute]
            assert fact.value == question.fact.value
        assert question.depth == steps


def test_recall_is_exact_against_the_generator(telling_world: World) -> None:
    questions = questions_of(*truth_of(telling_world))
    encode = in_world_tokens(telling_world)
    probe = FactProbe(questions, encode)

    def recalled(taught: set[int]) -> NDArray[np.float64]:
        """Of a model that says the truth of some topics, and something else of all others."""
        said = [q.values[0] if q.topic in taught else q.values[-1] for q in questions]
        prompts = encode([q.prompt for q in questions])
        values = encode([f" {value}." for value in said])
        known = [np.concatenate(pair) for pair in zip(prompts, values, strict=True)]
        model = Parrot(known, telling_world.tokenizer.get_vocab_size())
        return probe.right(model, "cpu")

    topics = sorted({question.topic for question in questions})
    taught = set(topics[::2])
    right = recalled(taught)
    assert right.tolist() == [float(q.topic in taught) for q in questions]
    found = probe.figures(right)
    assert found.recall.value == np.mean([q.topic in taught for q in questions])
    for depth, own in found.by_depth.items():
        assert own.value == np.mean([q.topic in taught for q in questions if q.depth == depth])
    assert probe.figures(recalled(set(topics))).recall.value == 1
    assert probe.figures(recalled(set())).recall.value == 0
    assert 1 / 6 < found.chance < found.frequent < 1


def test_facts_are_asked_of_worlds_that_can_be_generated_again(
    telling_world: World, naming_world: World
) -> None:
    config, truth = truth_of(telling_world)
    assert (config.n_topics, config.unread, config.n_noise) == (24, 2, FACTS.n_noise)
    assert truth.facts == generate(FACTS).facts
    with pytest.raises(ValueError, match="expected a generated world"):
        truth_of(naming_world)
    plain = SyntheticConfig(n_topics=24, n_communities=2)
    with pytest.raises(ValueError, match="wordings that nobody reads"):
        questions_of(plain, generate(plain))


# --- files and the verb ----------------------------------------------------------------------


def test_graphml_holds_every_link_with_what_the_model_makes_of_it(tmp_path: Path) -> None:
    links = [
        AskedLink("A & B", "<C>", 1, 1, 4, 1, 2.5, 3.0),
        AskedLink("<C>", "D\x1b[31m", 2, 3, 3, 2, -1.0, 0.5),
    ]
    write_graphml(tmp_path / "links.graphml", links)
    space = {"g": "http://graphml.graphdrawing.org/xmlns"}
    root = ElementTree.parse(tmp_path / "links.graphml").getroot()
    titles = [data.text for data in root.findall(".//g:node/g:data", space)]
    assert titles[:2] == ["A & B", "<C>"]
    assert "\x1b" not in str(titles[2])
    edges = root.findall(".//g:edge", space)
    told = [{d.get("key"): d.text for d in edge} for edge in edges]
    assert [edge["known"] for edge in told] == ["true", "false"]
    assert [edge["hop"] for edge in told] == ["1", "2"]
    assert edges[0].get("target") == edges[1].get("source")


def test_the_verb_prints_a_table_writes_whole_files_and_never_overwrites(
    telling_world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["knowledge", str(telling_world.path), "--model", "xxs", "--context", "12"]
    words += ["--items", "20", "--out", str(tmp_path / "known")]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "no link is known: the interval holds chance" in told
    assert "facts recalled in unread words" in told
    found = json.loads((tmp_path / "known" / "knowledge.json").read_text())
    assert found["world"] == telling_world.hash
    assert telling_world.path.name in found["inputs"]
    assert len(found["links"]) == found["all"]["accuracy"]["items"] > 0
    assert set(found["facts"]) == {"recall", "chance", "frequent", "by_depth"}
    assert main(words) == 2
    assert "name another or add --force" in capsys.readouterr().err
    assert main([*words, "--force"]) == 0
    assert main(["knowledge", str(telling_world.path), "--model", "x/y/z"]) == 2
    assert main(["knowledge", str(telling_world.path), "--model", "no/such", "--nucleated"]) == 2
    assert "expected a preset to nucleate" in capsys.readouterr().err


def test_a_learner_is_nucleated_to_be_asked_in_a_world_smaller_than_an_episode_offers(
    telling_world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["knowledge", str(telling_world.path), "--model", "xxs", "--nucleated", "--items", "4"]
    assert main([*words, "--nucleus-topics", "4", "--nucleus-updates", "2"]) == 0
    assert "xxs, nucleated" in capsys.readouterr().out
    assert main([*words[:4], "--items", "0"]) == 2
    assert "see --split, --items and --others" in capsys.readouterr().err


# --- in an episode ---------------------------------------------------------------------------

SMALL = {"model": "xxs", "nucleus_topics": 4, "nucleus_updates": 20, "steps": 4, "slots": 4}
SMALL |= {"updates_per_step": 2, "batch": 4}


def test_moments_are_those_of_the_curve_that_lie_nearest_to_even_ones() -> None:
    assert KnowledgeMeter(3).moments({0, 1, 4, 9, 16}) == {0, 9, 16}
    assert KnowledgeMeter(2).moments({0, 3, 7}) == {0, 7}
    assert KnowledgeMeter(9).moments({0, 3, 7}) == {0, 3, 7}
    with pytest.raises(ValueError, match="2 moments or more"):
        KnowledgeMeter(1)


def test_an_episode_tells_what_was_known_where_it_is_asked_and_nothing_else_changes(
    naming_world: World,
) -> None:
    env = env_of(naming_world, **SMALL)
    plain, asking = CurveMeter(), CurveMeter(knowledge=KnowledgeMeter(3, 20))
    lines = [
        play(env, arm_of("uniform"), 0, EVALUATION.choices, meter).measured.to_json()
        for meter in (plain, asking)
    ]
    assert "knowledge" not in plain.to_json()
    assert "knowledge" not in lines[0]
    told = lines[1].pop("knowledge")
    assert lines[0] == lines[1]
    assert told["tokens"][0] == 0
    assert told["tokens"][-1] == lines[0]["tokens"][-1]
    assert len(told["ranks"]) == 3
    assert len(told["hops"]) == len(told["clusters"]) == len(told["ranks"][0]["with"]) == 20
    again = asking.from_json({**lines[1], "knowledge": json.loads(json.dumps(told))})
    assert again.knowledge is not None
    assert again.knowledge.to_json() == told
    with pytest.raises(ValueError, match="expected"):
        asking.from_json({**lines[1], "knowledge": {**told, "hops": told["hops"][1:]}})


def test_arms_that_begin_alike_are_asked_once_before_their_first_step(
    naming_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = env_of(naming_world, **SMALL)
    scores, asked = LinkProbe.scores, []

    def counted(self, *known):  # type: ignore[no-untyped-def]
        asked.append(1)
        return scores(self, *known)

    monkeypatch.setattr(LinkProbe, "scores", counted)

    def told(arm: str, items: int = 20) -> list[object]:
        asked.clear()
        meter = CurveMeter(knowledge=KnowledgeMeter(3, items))
        curve = play(env, arm_of(arm), 0, EVALUATION.choices, meter).measured.knowledge
        assert curve is not None
        return [ranks.to_json() for ranks in curve.ranks]

    first = told("uniform")
    assert len(asked) == 3
    second = told("random")
    assert len(asked) == 2
    assert second[0] == first[0]
    assert second[-1] != first[-1]
    told("random", 10)  # other links
    assert len(asked) == 3


def test_a_learner_in_a_bank_is_asked_with_its_own_weights(naming_world: World) -> None:
    stage = env_of(naming_world, **SMALL).stage
    # As an evaluation has them: with a guard around each.
    bank = side_by_side(stage, 2, compile=False, watch=partial(Guarded, stage=stage))
    alone = stage.learner()
    windows = np.arange(8)
    for learner in (alone, bank.envs[0].learner, bank.envs[1].learner):
        learner.begin(1024)
    alone.train(windows)
    bank.envs[1].learner.train(windows)
    asked = [
        learner_model(stage, learner)
        for learner in (alone, bank.envs[0].learner, bank.envs[1].learner)
    ]
    scores = []
    for one in asked:
        probe = LinkProbe(LinkCloze.of(naming_world, n=20), one.encode, one.longest)
        scores.append(probe.scores(one.model, one.device).own)
    bank.close()
    assert np.allclose(scores[0], scores[2], atol=1e-3)
    assert not np.allclose(scores[0], scores[1], atol=1e-3)


def test_where_weights_are_averaged_the_average_is_asked(naming_world: World) -> None:
    stage = env_of(naming_world, **SMALL, schedule="constant", averaging="ema").stage
    learner = stage.learner()
    learner.begin(4096)
    learner.train(np.arange(32))
    asked = learner_model(stage, learner)
    measured = learner.trainer.measured_weights()
    raw = learner.trainer.weights()
    for name, parameter in asked.model.named_parameters():
        assert torch.equal(parameter, measured[name])
    assert any(not torch.equal(raw[name], measured[name]) for name in raw)


def test_a_formula_is_not_asked(naming_world: World) -> None:
    stage = env_of(naming_world, **SMALL).stage
    with pytest.raises(ValueError, match="expected a language model to ask"):
        learner_model(stage, FakeLearner(np.zeros(4, int), np.zeros(1, int), np.zeros(1)))


def known_curve(right: float, seed: int = 0, stranger: float = 0.1) -> KnowledgeCurve:
    """A curve that begins at chance and ends at a share of right titles."""
    rng = np.random.default_rng(seed)

    def places(share: float) -> Ints:
        return np.where(rng.random(300) < share, 1, 2 + rng.integers(0, 9, 300))

    moments = [
        LinkRanks({"with": places(s), "without": places(stranger), "lift": places(s)})
        for s in (0.1, right)
    ]
    hops = np.arange(300) % 3
    return KnowledgeCurve([0, 1000], moments, hops, np.arange(300), 0.1)


def test_of_a_size_that_knows_nothing_the_section_says_so_and_draws_no_curve() -> None:
    curves = {"uniform": known_curve(0.1), "rule": known_curve(0.09, 1)}
    looks = {"uniform": "ref", "rule": "c1"}
    page = knowledge_section(curves, looks, "xs")
    assert "Nothing is known at this size (xs)" in page
    assert "<svg" not in page
    assert knowledge_section({}, {}, "xs") == ""


def test_the_section_draws_those_alone_whose_learners_know_something() -> None:
    hostile = "<script>alert(1)</script>"
    curves = {"uniform": known_curve(0.1), hostile: known_curve(0.6, 1)}
    curves["titles"] = known_curve(0.6, 2, stranger=0.6)
    looks = {"uniform": "ref", hostile: "c1", "titles": "c2"}
    page = knowledge_section(curves, looks, "m")
    assert "Links are known" in page
    assert "Nothing is known after uniform, titles" in page
    assert page.count("class='line c1'") == 2
    assert "class='line ref'" not in page
    assert "class='line c2'" not in page
    assert "<script" not in page
    root = ElementTree.fromstring(page.replace("&nbsp;", " "))
    cells = [cell.findtext("span") for cell in root.findall(".//tbody/tr[2]/td")]
    assert cells[0] in {f"{p} %" for p in range(52, 69)}
    assert len(cells) == 6  # three hops


def test_seeds_add_items_and_no_topics() -> None:
    both = together([known_curve(0.5, 0), known_curve(0.5, 1)])
    alone = known_curve(0.5, 0)
    own = alone.ranks[1].figures(alone.clusters).accuracy
    found = both.ranks[1].figures(both.clusters).accuracy
    assert (own.items, own.topics) == (300, 300)
    assert (found.items, found.topics) == (600, 300)
    assert both.tokens == [0, 1000]


# --- the test of the hypothesis --------------------------------------------------------------


@pytest.fixture(scope="module")
def orders() -> ModuleType:
    return harness("knowledge_order")


def test_all_orders_read_the_same_windows_each_as_often(
    telling_world: World, orders: ModuleType
) -> None:
    store = telling_world.windows(32)
    nucleus, order = orders.grown_order(telling_world, 4)
    assert sorted([*nucleus.tolist(), *order]) == list(range(24))
    known = set(nucleus.tolist())
    for topic in order:  # each is next to what is known when its turn comes
        assert known & set(telling_world.graph.around(topic).tolist())
        known.add(topic)
    rows = orders.plan(telling_world, store, nucleus, order, (12, 12), 0)
    grown, outside, topics, shuffled = rows
    assert rows.shape == (4, 20 * 3 * 8)
    assert (np.sort(rows) == np.sort(grown)).all()
    blocks = grown.reshape(20, -1)
    assert np.array_equal(outside.reshape(20, -1), blocks[::-1])
    assert {b.tobytes() for b in topics.reshape(20, -1)} == {b.tobytes() for b in blocks}
    for block, topic in zip(blocks, order, strict=True):
        of = telling_world.passage_topic[store.document[block]]
        assert (of == topic).sum() >= 12  # half of it, and replay may bring it again
    assert not (shuffled.reshape(20, -1) == blocks).all(1).any()


def test_a_difference_of_orders_is_paired_by_seed(orders: ModuleType) -> None:
    found = orders.paired([0.2, 0.4, 0.6], [0.1, 0.3, 0.5])
    assert found["mean"] == pytest.approx(0.1)
    assert found["interval"] == pytest.approx([0.1, 0.1])
    assert found["p"] == pytest.approx(0.25)  # the least that three pairs can give
    other = orders.paired([0.0, 0.2, 0.1, 0.1], [0.1, 0.0, 0.2, 0.0])
    assert other["interval"][0] < 0 < other["interval"][1]
    assert other["p"] > 0.5
