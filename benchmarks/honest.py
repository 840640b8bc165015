"""Honest files of every kind, made on the tiny world of the tests, and what reads each of them."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(Path(__file__).parent)]
# Nothing may outlive a fork: neither threads nor a network.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}

import numpy as np  # noqa: E402
from answers import kinds_of_servers  # noqa: E402
from corpora import kinds_of_sources, make_sources  # noqa: E402
from fakes import corpus_of, fake_env  # noqa: E402
from kept import NEEDED as NEEDED_BY_KEPT  # noqa: E402
from kept import kinds_kept, make_kept  # noqa: E402
from mutations import Kind, identity, in_a_child  # noqa: E402
from rabbit_hole_fakes import finished, unfinished, walk_of, write_snap  # noqa: E402
from test_sources_wikispeedia import unpacked  # noqa: E402

from kncl_env.settings import Settings  # noqa: E402
from train_lm.files import hash_file, read_json, write_json  # noqa: E402

SETTINGS = Settings.of(
    nucleus_topics=6,
    nucleus_updates=30,
    steps=4,
    updates_per_step=2,
    batch=4,
    breadth=16,
    slots=6,
    model="xxs",
)
WORLD = (
    *(("world.json", "json"), ("passages.parquet", "parquet"), ("topics.parquet", "parquet")),
    *(("tokens.npy", "npy"), ("starts.npy", "npy"), ("tokenizer.json", "json")),
    *(("graph.npz", "npz"), ("topic_vectors.npy", "npy"), ("embedder.npz", "npz")),
    *(("index.json", "json"), ("passages.faiss", "bytes"), ("indexed_passages.npy", "npy")),
)
NEEDED = (
    *("faiss", "pyarrow.dataset", "pyarrow.parquet", "scipy.sparse.linalg", "tokenizers"),
    *("sklearn.feature_extraction.text", "kncl_env.world.sources.wikispeedia"),
    *("policies.curiosity", "rabbit_holes.live.collector", "kncl_env.world.sources.wiki.wikipedia"),
    *("train_lm.checkpoint", "datasets", "libzim", "kncl_env.world.sources.registry"),
    *("kncl_env.world.sources.jsonl", "kncl_env.world.sources.parquet"),
    *("kncl_env.world.sources.mediawiki", "kncl_env.world.sources.folder"),
    *("kncl_env.world.sources.zim", "kncl_env.world.sources.hf"),
)
NEEDED_BY_RUNS = (
    *("torch.utils.tensorboard", "transformers.models.llama.modeling_llama", "rabbit_holes.cli"),
    *("policies.learn.ppo", "policies.play.closed_loop", "policies.play.evaluation"),
    *("policies.play.recording", "rabbit_holes.walkers.generative", "train_lm.curriculum_run"),
    *("rabbit_holes.walkers.language_model", "rabbit_holes.walkers.over_world"),
)
MODEL = (
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    "generation_config.json",
)
TEXT = "plaintext_articles/Zebra.txt"
API = "https://example.org/w/api.php"


def ready(quick: bool = False) -> None:
    """Import what readers need, so that each fork finds it there."""
    import torch

    for name in (*NEEDED, *(() if quick else (*NEEDED_BY_RUNS, *NEEDED_BY_KEPT))):
        importlib.import_module(name)
    if not quick:
        import transformers

        _ = (transformers.AutoModelForCausalLM, transformers.AutoTokenizer)  # it imports lazily
    torch.set_num_threads(1)


def kinds_in(folder: Path, quick: bool = False) -> list[Kind]:
    """Every kind, its honest files made in a folder.

    Args:
        quick: Only kinds that are made and read in a moment.
    """
    ready(quick)
    os.environ["KNCL_CACHE"] = str(folder / "cache")
    told = in_a_child(lambda: _make(folder, quick), 600)
    if told["how"] != "value":
        raise RuntimeError(f"honest files could not be made: {told}")
    kinds = [*_of_worlds(folder / "world"), *_of_policies(folder / "policy"), *_others(folder)]
    kinds += [*kinds_of_servers(folder), *kinds_of_sources(folder / "corpora")]
    if not quick:
        kinds += [*_of_runs(folder), *_of_caches(folder), *_of_models(folder)]
        kinds += kinds_kept(folder)
    return kinds


def _of_worlds(world: Path) -> list[Kind]:
    honest = [Kind(f"world: {n}", world, n, READERS[n], form) for n, form in WORLD]
    resealed = [
        Kind(f"hostile: {n}", world, n, READERS[n], form, reseal_world) for n, form in WORLD
    ]
    return [*honest, *resealed]


def _of_policies(policy: Path) -> list[Kind]:
    kinds = []
    for n, form in (("policy.json", "json"), ("policy.safetensors", "safetensors")):
        kinds.append(Kind(f"policy: {n}", policy, n, read_policy, form))
        kinds.append(Kind(f"hostile: {n}", policy, n, read_policy, form, reseal_policy))
    return kinds


def _others(folder: Path) -> list[Kind]:
    small, text = folder / "small", next((folder / "cache").glob("text-*")).name
    (pages,) = (folder / "pages").glob("*.sqlite")
    kinds = [
        Kind("taste", small, "taste.json", read_taste, "json"),
        Kind("surrogate", small, "surrogate.json", read_surrogate, "json"),
        Kind("curriculum", small, "curriculum.jsonl", read_order, "jsonl"),
        Kind("paths", small, "paths.jsonl", read_walks, "jsonl"),
        Kind("page cache", folder / "pages", pages.name, read_pages, "bytes"),
        Kind(
            "journal of a collection",
            small,
            "w.jsonl.journal",
            read_journal,
            "jsonl",
            grows=True,
        ),
        Kind("clickstream", small, "clicks.tsv", _clicks("clicks.tsv"), "text"),
        Kind("clickstream, packed", small, "c.tsv.gz", _clicks("c.tsv.gz"), "bytes"),
        Kind("llm games", small, "games.jsonl", read_llm_games, "jsonl"),
    ]
    for name in ("articles", "links", "paths_finished", "paths_unfinished"):
        file = f"wikispeedia_paths-and-graph/{name}.tsv"
        kinds.append(Kind(f"wikispeedia: {name}", folder / "snap", file, read_snap, "text"))
    for file in ("articles.tsv", "links.tsv", "categories.tsv", TEXT):
        name = "a text" if file == TEXT else file
        place = file if file == TEXT else f"wikispeedia_paths-and-graph/{file}"
        source = folder / "source"
        called = "wikispeedia"
        kinds.append(Kind(f"source: {name}", source, place, read_source, "text", called=called))
    kinds.append(Kind("lock", small, ".anything.lock", read_lock, "json"))
    read = _text(folder / "world")
    for file in ("card.json", "tokens.npy", "starts.npy", "row_of.npy"):
        form = file.split(".")[1]
        kinds.append(Kind(f"text: {file}", folder / "cache", f"{text}/{file}", read, form))
    return kinds


def _of_runs(folder: Path) -> list[Kind]:
    world, evaluation = folder / "world", folder / "evaluation"
    small = folder / "small"
    kinds = [Kind("recorded episodes", small, "record.jsonl", read_recorded, "jsonl", grows=True)]
    for file in ("episodes.jsonl", "config.json", "scores.json"):
        form = file.split(".")[1]
        kinds.append(Kind(f"evaluation: {file}", evaluation, file, _evaluate(world), form))
    for name, read in (("train", read_ppo), ("train-lm", read_run), ("run", _read_loop(world))):
        root = folder / name
        newest = sorted(f.name for f in root.glob("checkpoint*.safetensors"))[-1]
        kinds.append(Kind(f"{name}: checkpoint.json", root, "checkpoint.json", read, "json"))
        kinds.append(Kind(f"{name}: checkpoint", root, newest, read, "safetensors", every=2))
    loop, run = _read_loop(world), folder / "run"
    kinds.append(Kind("run: config.json", run, "config.json", loop, "json"))
    kinds.append(Kind("run: metrics", run, "metrics.jsonl", loop, "jsonl"))
    return kinds


def _of_models(folder: Path) -> list[Kind]:
    """A model's directory: anybody's, so without a digest."""
    kinds = []
    for file in MODEL:
        form = file.split(".")[1]
        for name, read in (("trained on", _trained_on(folder)), ("asked", _asked(folder))):
            kinds.append(Kind(f"model {name}: {file}", folder / "model", file, read, form, every=4))
    return kinds


def _of_caches(folder: Path) -> list[Kind]:
    world, cache = folder / "world", folder / "cache"
    nucleus = next(cache.glob("nucleus-*"))
    reference = next(nucleus.glob("reference-*")).name
    kinds = []
    for file in ("card.json", "times_read.npy", "nucleus.safetensors", reference):
        name, form = file.split("-")[0].split(".")[0], file.split(".")[1]
        place = f"{nucleus.name}/{file}"
        kinds.append(Kind(f"nucleus: {name}", cache, place, _nucleus(world), form, every=2))
    for name in ("traits", "titles"):
        found = next(cache.glob(f"{name}-*"))
        kinds.append(Kind(f"{name} cache", cache, found.name, _traits(world), found.suffix[1:]))
    return kinds


# --- how they are made ------------------------------------------------------------------------


def _make(folder: Path, quick: bool) -> str:
    import torch

    from kncl_env.world.build import BuildConfig, build_world
    from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy

    torch.set_num_threads(1)
    config = BuildConfig(scenario="focused", region="region.3", vocab_size=300, passage_bytes=200)
    world = build_world(corpus_of(n_topics=40, seed=0), folder / "world", config)
    (folder / "small").mkdir()
    CuriosityPolicy(CuriosityNetwork(CuriosityConfig(width=16)), {"made_by": "test"}).save(
        folder / "policy"
    )
    _make_small(folder / "small", world)
    _text(folder / "world")(folder / "cache")
    _make_walks(folder)
    make_sources(folder / "corpora")
    if not quick:
        _make_runs(folder, world)
        make_kept(folder)
    return "made"


def _make_runs(folder: Path, world: Any) -> None:
    from policies.play.closed_loop import run_closed_loop
    from policies.play.recording import RecordingPlan, record

    record(world, SETTINGS, RecordingPlan(["random"], 3, probes=4), folder / "small/record.jsonl")
    _evaluate(folder / "world")(folder / "evaluation")
    run_closed_loop(world, "random", SETTINGS, folder / "run", seed=3, save_every=2)
    read_ppo(folder / "train")
    shutil.copytree(folder / "run" / "model", folder / "model")
    for extra in ("run/model", "run/tensorboard", "train/tensorboard"):
        shutil.rmtree(folder / extra)
    (folder / "train-lm").mkdir()
    read_run(folder / "train-lm")
    _traits(folder / "world")(folder / "cache")


def _make_small(folder: Path, world: Any) -> None:
    from kncl_env.passage_traits import LEVELS, TRAITS
    from kncl_env.surrogate import Dynamics, Surrogate
    from kncl_env.taste import TASTE_FORMAT, Taste
    from train_lm.checked.digests import sealed
    from train_lm.curriculum import write_curriculum

    rng = np.random.default_rng(0)
    taste = Taste.of(rng.normal(size=(len(TRAITS), LEVELS)), 0.4)
    write_json(folder / "taste.json", sealed({"format": TASTE_FORMAT, "taste": taste.to_json()}))
    n = world.n_topics
    start, fall = rng.uniform(3, 5, n), rng.uniform(1, 2, n)
    start[2] = np.nan
    Surrogate(world.hash, SETTINGS.to_json(), Dynamics(), 4.0, start, fall, fall / n, {}).save(
        folder / "surrogate.json"
    )
    rows = world.passages_of(0).tolist()
    write_curriculum(folder / "few.jsonl", world.hash, 16, [0, 0], [rows, rows])
    write_curriculum(
        folder / "curriculum.jsonl", world.hash, 256, [1, -1, 5], [[3, 4], [0], [7, 9, 11]]
    )


def _make_walks(folder: Path) -> None:
    from kncl_env.world.sources.wiki.page_cache import Page, PageCache
    from rabbit_holes.live.journal import Failure, Journal
    from rabbit_holes.path import Visit, write_paths

    small = folder / "small"
    walks = [walk_of("Ant", "Bee", "Cat", id=f"w{i}", goal="Cat", meta={"n": i}) for i in range(4)]
    write_paths(small / "paths.jsonl", walks)
    cache = PageCache(folder / "pages", API)
    for i in range(6):
        links = tuple(f"Page {j}" for j in range(6) if j != i)
        cache.put(f"page {i}", Page(f"Page {i}", i, 10 + i, links, "Some text.", True, False))
    cache.put_licence("CC BY-SA 4.0")
    cache.close()
    journal = Journal(small / "w.jsonl.journal", {"depth": 3})
    for walk in ("a", "b"):
        journal.begin(walk, 1700000000.5)
        journal.visit(walk, Visit("Ant", None, 0.0, 1, 2))
        journal.visit(walk, Visit("Bee", 0, 1.5, 3, 4, offered=("Cat", "Dog")))
    journal.failure(Failure("b", "Cat", "missing", "no such page"))
    journal._stream.close()
    rows = [f"Page_{i}\tPage_{j}\tlink\t{10 + i + j}" for i in range(6) for j in range(6) if i != j]
    clicks = "\n".join([*rows, "other-search\tPage_1\texternal\t99", ""])
    (small / "clicks.tsv").write_text(clicks)
    (small / "c.tsv.gz").write_bytes(gzip.compress(clicks.encode(), mtime=0))
    game = {"source": "s", "model": "m", "start": "Ant", "target": "Cat", "status": "success"}
    games = [{**game, "pair": f"p{i}", "path": ["Ant", "Bee", "Cat"]} for i in range(5)]
    (small / "games.jsonl").write_text("".join(json.dumps(g) + "\n" for g in games))
    unpacked(folder / "source")
    note = {"pid": 1, "command": "a walk", "began": False}
    (small / ".anything.lock").write_text(json.dumps(note))
    write_snap(
        folder / "snap",
        [finished("%C3%85land;Ant;<;Dog"), finished("Ant;Big_Cat;Dog", "3")],
        [unfinished("Ant;Big_Cat", "Dog"), unfinished("Dog;%C3%85land", "Licence", "restart")],
    )


def reseal_world(place: Path) -> None:
    """The card of a world says again what its files are."""
    try:
        card = read_json(place / "world.json")
        card["files"] = {n: hash_file(place / n) for n in card["files"] if (place / n).is_file()}
        card["hash"] = _world_hash(card)
        write_json(place / "world.json", _sealed(card))
    except (ValueError, TypeError, KeyError, AttributeError):
        pass  # no card that could be sealed


def _world_hash(card: Any) -> str:
    from kncl_env.world.card import world_hash

    return world_hash(card)


def _sealed(card: Any) -> Any:
    from train_lm.checked.digests import sealed

    return sealed(card)


def reseal_policy(place: Path) -> None:
    """The card of a policy says again what its weights are."""
    try:
        card = read_json(place / "policy.json")
        card["weights_sha256"] = hash_file(place / "policy.safetensors")
        write_json(place / "policy.json", _sealed(card))
    except (ValueError, TypeError, KeyError, AttributeError):
        pass


# --- how they are read ------------------------------------------------------------------------


def _of_world(read: Callable[[Any], Iterable[object]]) -> Callable[[Path], str]:
    from kncl_env.world.world import World

    return lambda place: identity(*read(World.open(place)))


READERS: dict[str, Callable[[Path], str]] = {
    "world.json": _of_world(lambda w: (w.card, w.target_topics())),
    "passages.parquet": _of_world(lambda w: (w.passages(), w.passage_is_noise)),
    "topics.parquet": _of_world(
        lambda w: (w.titles, w.topic_is_noise, w.regions, w.target_topics())
    ),
    "tokens.npy": _of_world(lambda w: (*w.tokens(), w.windows(32).window_start)),
    "starts.npy": _of_world(lambda w: (*w.tokens(), w.windows(32).window_start)),
    "tokenizer.json": _of_world(
        lambda w: (w.tokenizer.to_str(), w.tokenizer.encode("some text").ids, w.windows(32).tokens)
    ),
    "graph.npz": _of_world(
        lambda w: (w.graph.indptr, w.graph.indices, w.graph.types, w.graph.pagerank)
    ),
    "topic_vectors.npy": _of_world(lambda w: (w.topic_vectors,)),
    "embedder.npz": _of_world(lambda w: (w.embed(["some words", w.passage_text(3)]),)),
    **{
        name: _of_world(lambda w: (w.index.passages, w.index.search(w.topic_vectors[:3], 5)))
        for name in ("index.json", "passages.faiss", "indexed_passages.npy")
    },
}


def read_policy(place: Path) -> str:
    from policies.curiosity import CuriosityPolicy

    policy = CuriosityPolicy.load(place)
    observation, _ = fake_env().reset(seed=0)
    weights = dict(policy.network.state_dict())
    return identity(policy.logits(observation), policy.provenance, policy.taste, weights)


def read_taste(place: Path) -> str:
    from kncl_env.taste import load_taste

    return identity(load_taste(place / "taste.json"))


def read_surrogate(place: Path) -> str:
    from kncl_env.surrogate import Surrogate

    s = Surrogate.load(place / "surrogate.json")
    return identity(s.world, s.settings, s.dynamics, s.held_out, s.start, s.fall, s.target_fall)


def read_recorded(place: Path) -> str:
    from policies.learn.surrogate_fit import Recorded
    from policies.play.recording import read_episodes

    header, episodes = read_episodes([place / "record.jsonl"])
    r = Recorded.of(episodes, len(header["probes"]))
    start = [header[k] for k in ("world", "settings", "held_out", "probes")]
    return identity(r.windows, r.held_out, r.probed, r.probes, *start)


def _evaluate(world: Path) -> Callable[[Path], str]:
    def read(place: Path) -> str:
        from kncl_env.world.world import World
        from policies.play.evaluation import evaluate
        from policies.play.plan import Plan

        evaluate(World.open(world), SETTINGS, Plan(["uniform", "random"], 1), place)
        return identity((place / "curves.csv").read_bytes())

    return read


def read_ppo(place: Path) -> str:
    from stable_baselines3.common.vec_env import DummyVecEnv

    from policies.learn.ppo import PPOConfig, train_ppo

    config = PPOConfig(iterations=3, episodes=2, learners=1, epochs=2, batch=10, seed=3)
    policy = train_ppo(DummyVecEnv([fake_env]), 10, place, config)  # type: ignore[list-item]
    return identity(dict(policy.network.state_dict()))


def read_run(place: Path) -> str:
    from train_lm.checkpoint import restore_checkpoint, save_checkpoint
    from train_lm.machine.parallel import Alone
    from train_lm.model import ModelConfig, build_model
    from train_lm.trainer import Trainer, TrainerConfig

    model = build_model(ModelConfig(width=16, layers=1, context=8), 40)
    trainer = Trainer(model, TrainerConfig(batch=4), device="cpu")
    trainer.begin_phase(6, decay=True)
    windows = np.random.default_rng(0).integers(0, 40, (24, 9))
    for update in range(restore_checkpoint(place, trainer, Alone()), 6):
        trainer.update(windows[4 * update : 4 * update + 4])
        if update % 2:
            save_checkpoint(place, trainer, Alone())
    return identity(trainer.snapshot())


def _read_loop(world: Path) -> Callable[[Path], str]:
    def read(place: Path) -> str:
        from kncl_env.world.world import World
        from policies.play.closed_loop import _Loop

        loop = _Loop(World.open(world), "random", SETTINGS, place, 3)
        loop.go_on(2, lambda _: None)
        episode = loop.env.snapshot()
        return identity(dict(episode.learner), loop.record, (place / "metrics.jsonl").read_bytes())

    return read


def _nucleus(world: Path) -> Callable[[Path], str]:
    def read(place: Path) -> str:
        from kncl_env.stage import open_stage
        from kncl_env.world.world import World

        os.environ["KNCL_CACHE"] = str(place)
        stage = open_stage(World.open(world), SETTINGS, progress=False)
        assert stage.nucleated is not None
        return identity(dict(stage.nucleated), stage.reading_list.times_read, stage.reducible)

    return read


def _traits(world: Path) -> Callable[[Path], str]:
    def read(place: Path) -> str:
        from kncl_env.passage_traits import text_traits
        from kncl_env.world.world import World

        os.environ["KNCL_CACHE"] = str(place)
        opened = World.open(world)
        return identity(text_traits(opened), opened.title_vectors)

    return read


def _text(world: Path) -> Callable[[Path], str]:
    def read(place: Path) -> str:
        from train_lm.training_text import open_text

        os.environ["KNCL_CACHE"] = str(place)
        text = open_text(world, read_json(world / "world.json")["hash"], None)
        return identity(np.array(text.tokens), text.starts, text.row_of)

    return read


def read_order(place: Path) -> str:
    from train_lm.curriculum import read_curriculum

    found = read_curriculum(place / "curriculum.jsonl")
    return identity(found.world, [(s.passages.tolist(), s.tokens, s.line) for s in found.steps])


def read_walks(place: Path) -> str:
    import logging

    from rabbit_holes.path import read_paths

    said = logging.getLogger("paths").warning
    return identity(list(read_paths(place / "paths.jsonl", on_error=said)))


def read_pages(place: Path) -> str:
    """A miss is no other result: the page is asked for again."""
    from kncl_env.world.sources.wiki.page_cache import PageCache

    cache = PageCache(place, API)
    honest = [("page", i, f"Page {i}") for i in range(6)]
    found = []
    for name, i, title in honest:
        for asked in (title, f"{name} {i}"):
            page = cache.get(asked)
            links = tuple(f"Page {j}" for j in range(6) if j != i)
            found.append(
                page is None
                or (page.title, page.page_id, page.revision_id, page.links, page.text)
                == (title, i, 10 + i, links, "Some text.")
            )
    return identity(found, cache.get_licence() in (None, "CC BY-SA 4.0"))


def read_journal(place: Path) -> str:
    from rabbit_holes.live.journal import Journal

    journal = Journal(place / "w.jsonl.journal", {"depth": 3})
    return identity({k: repr(v) for k, v in journal.walks.items()}, journal.failures)


def _told(tally: Any) -> None:
    import logging

    lost = [*tally.problems, *tally._firsts.values(), *(k for k in tally.noted)]
    if lost:
        logging.getLogger("tally").warning(lost[0])


def _clicks(name: str) -> Callable[[Path], str]:
    def read(place: Path) -> str:
        from rabbit_holes.imports.clickstream import read_clickstream
        from rabbit_holes.imports.tally import Tally

        tally = Tally()
        counts = read_clickstream(place / name, tally)
        _told(tally)
        return identity(counts._clicks, counts._starts, counts._start_totals)

    return read


def read_llm_games(place: Path) -> str:
    from rabbit_holes.imports.llm_games import read_games
    from rabbit_holes.imports.tally import Tally

    tally = Tally()
    found = list(read_games(place / "games.jsonl", tally))
    _told(tally)
    return identity(found)


def read_snap(place: Path) -> str:
    from rabbit_holes.imports.tally import Tally
    from rabbit_holes.imports.wikispeedia import read_games

    tally = Tally()
    found = list(read_games(place, tally))
    _told(tally)
    return identity(found)


def read_source(place: Path) -> str:
    from kncl_env.world.sources.wikispeedia import read_wikispeedia

    corpus = read_wikispeedia(place)
    return identity(list(corpus.read()))  # what was dropped is counted in the world's card


def read_lock(place: Path) -> str:
    from train_lm.outputs import alone

    with alone(place / "anything") as hold:
        hold.go_on()
    return identity("ours")


def _trained_on(folder: Path) -> Callable[[Path], str]:
    def read(place: Path) -> str:
        from train_lm.curriculum_run import Machine, RunConfig, run_curriculum

        config = RunConfig(str(place), batch=1, context=16)
        curriculum, out = folder / "small" / "few.jsonl", place / "out"
        made = run_curriculum(folder / "world", curriculum, out, config, Machine(cpu=True))
        return identity(sorted((f.name, hash_file(f)) for f in made.iterdir()))

    return read


def _asked(folder: Path) -> Callable[[Path], str]:
    def read(place: Path) -> str:
        from rabbit_holes.cli import main

        os.environ["KNCL_TRACEBACK"] = "1"  # the error itself
        words = f"generate --world {folder}/world --model {place} --walks 1 --depth 1 --device cpu"
        code = main([*words.split(), "--out", str(place / "out.jsonl")])
        return identity(code, (place / "out.jsonl").read_bytes())

    return read
