"""What long commands keep and go on from: streams, adapters, worlds that grow, scores.

Each is made honestly on the tiny world of the harness, and read as its command reads it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mutations import Kind, identity

from kncl_env.settings import Settings

if TYPE_CHECKING:
    from kncl_env.world.world import World

NEEDED = (
    *("peft.tuners.lora", "policies.stream.runs", "policies.stream.parallel_run"),
    *("policies.benchmark.page", "policies.benchmark.runs", "policies.benchmark.planning"),
    *("kncl_env.open_world.saved", "kncl_env.open_world.game", "kncl_env.world.build"),
    *("policies.learn.tasting", "kncl_env.knowledge.verb", "policies.benchmark.regret"),
    *("train_lm.pretrained.text_vectors", "kncl_env.table_world.game"),
)
PARTS = Settings.of(model="xxs", nucleus_topics=6, nucleus_updates=20, batch=4)
GROWING = Settings.of(
    model="xxs",
    nucleus_topics=4,
    nucleus_updates=10,
    steps=3,
    updates_per_step=2,
    batch=4,
    slots=3,
    breadth=16,
)
PLAIN = ("adapter_config.json", "adapter_model.safetensors")  # of peft
ADAPTER = (*PLAIN, "kncl_adapter.json")
APART = "adapters/apart-0-0"


def _world(place: Path) -> World:
    from kncl_env.world.world import World

    return World.open(place)


# --- adapters -------------------------------------------------------------------------------------


def _make_adapters(folder: Path) -> None:
    from train_lm.adapters import AdapterConfig
    from train_lm.composing.adapter_files import CARD, save_adapter
    from train_lm.model import ModelConfig, build_model
    from train_lm.trainer import Trainer, TrainerConfig

    shape = AdapterConfig(rank=3, alpha=6)
    model = build_model(ModelConfig(width=16, layers=1, context=8), 40)
    trainer = Trainer(model, TrainerConfig(batch=4), "cpu", adapter=shape)
    trainer.begin_phase(5, decay=False)
    trainer.train(np.random.default_rng(0).integers(0, 40, (20, 9)))
    save_adapter(folder / "adapter", trainer.take_adapter(), {"title": "Ant"})
    shutil.copytree(folder / "adapter", folder / "plain adapter")
    (folder / "plain adapter" / CARD).unlink()


def read_adapter(place: Path) -> str:
    from train_lm.composing.adapter_files import open_adapter

    found = open_adapter(place)
    return identity(found.config, dict(found.weights), found.base, dict(found.about))


# --- streams, and neighbourhoods side by side -----------------------------------------------------


def _stream(world: Path) -> Callable[[Path], str]:
    def read(place: Path) -> str:
        from policies.stream.course import Layout
        from policies.stream.runs import StreamPlan, check_kept, run_stream

        layout = Layout(parts=2, size=4, updates=4, windows=4)
        plan = StreamPlan(("none", "replay/2"), rates=1, seeds=1, rate=6e-3, keep=True)
        opened = _world(world)
        records = run_stream(opened, PARTS, layout, plan, place)
        checked = check_kept(opened, PARTS, layout, plan, records, place)
        lines = [{k: v for k, v in r.to_json().items() if k != "seconds"} for r in records]
        return identity(lines, checked)

    return read


def _parallel(world: Path) -> Callable[[Path], str]:
    def read(place: Path) -> str:
        from policies.stream.course import Layout
        from policies.stream.parallel_run import ParallelPlan, run_parallel

        layout = Layout(parts=2, size=4, updates=4, windows=4)
        found = run_parallel(_world(world), PARTS, layout, ParallelPlan(seeds=1, rank=2), place)
        parts = [(part.key, part.losses) for part in found.parts]
        return identity(parts, [without_times(vars(one)) for one in found.together])

    return read


def without_times(found: dict[str, Any]) -> list[Any]:
    """Of a record, all that two runs of a task have alike."""
    return [(k, v) for k, v in sorted(found.items()) if k not in ("seconds", "began", "ended")]


def _make_streams(folder: Path) -> None:
    from train_lm.files import read_json

    _stream(folder / "world")(folder / "stream")
    parallel = folder / "neighbourhoods"
    _parallel(folder / "world")(parallel)
    shutil.copytree(parallel, folder / "finished neighbourhoods")
    # As a kill leaves it before the adapters are put together: they are read.
    lines = (parallel / "tasks.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line).get("arm") != "together"]
    assert len(kept) < len(lines), "no line of what was put together"
    (parallel / "tasks.jsonl").write_text("".join(kept))
    assert read_json(parallel / "config.json")


# --- worlds that grow -----------------------------------------------------------------------------


def _make_growing(folder: Path) -> None:
    from fakes import FakeWiki, live_world

    from kncl_env.open_world.game import LiveWorld
    from kncl_env.open_world.saved import replay_growth, save_grown
    from policies.play.closed_loop import run_closed_loop

    place = folder / "growing"
    place.mkdir()
    base = live_world(FakeWiki(), place, 16)
    live = LiveWorld(base, FakeWiki(), 4)
    run_closed_loop(live, "random", GROWING, folder / "grew", seed=3, save_every=2)
    for extra in ("model", "tensorboard"):
        shutil.rmtree(folder / "grew" / extra)
    save_grown(replay_growth(base, folder / "grew"), folder / "grown")


def _grow(base: Path) -> Callable[[Path], str]:
    def read(place: Path) -> str:
        from kncl_env.open_world.saved import replay_growth

        found = replay_growth(_world(base), place)
        return identity(found.world.hash, found.hashes, [[vars(a) for a in c] for c in found.came])

    return read


def _live_run(base: Path) -> Callable[[Path], str]:
    """The run goes on, played from what it fetched."""

    def read(place: Path) -> str:
        from fakes import FakeWiki

        from kncl_env.open_world.game import LiveWorld
        from policies.play.closed_loop import _Loop

        loop = _Loop(LiveWorld(_world(base), FakeWiki(), 4), "random", GROWING, place, 3)
        loop.go_on(2, lambda _: None)
        episode = loop.env.snapshot()
        return identity(dict(episode.learner), loop.record, (place / "metrics.jsonl").read_bytes())

    return read


def read_outward(place: Path) -> str:
    from kncl_env.open_world.outward import Outward

    return identity(vars(Outward.of(_world(place))))


def read_crawl(place: Path) -> str:
    """What `build live` had fetched when it was killed; the rest is asked for again."""
    from fakes import FakeWiki

    from kncl_env.open_world.articles import ArticleJournal
    from kncl_env.world.sources.wiki.live import Crawl

    journal = ArticleJournal(place / "world.articles.jsonl", {"api": "made up"})
    crawl = Crawl(("Article 0",), 16)
    crawl.run(journal, FakeWiki(), lambda _: None)
    found = [(title, vars(one)) for title, one in crawl.articles.items()]
    return identity(found, crawl.names, crawl.absent)


# --- builds that go on ----------------------------------------------------------------------------


def build_again(place: Path) -> str:
    """The build that was killed before its index goes on."""
    from fakes import corpus_of

    from kncl_env.world import stages
    from kncl_env.world.build import BuildConfig, build_world

    stages.KEPT = 0.0  # seconds that a build of a minute takes here
    config = BuildConfig(vocab_size=300, passage_bytes=200)
    world = build_world(corpus_of(12), place / "w", config)
    return identity([(f.name, f.read_bytes()) for f in sorted(world.path.iterdir()) if not told(f)])


def told(file: Path) -> bool:
    """Whether a file tells the time of a build."""
    return file.name == "build.json"


def _make_half_built(folder: Path) -> None:
    from fakes import corpus_of

    from kncl_env.world import stages
    from kncl_env.world.build import BuildConfig, build_world

    folder.mkdir()
    kept, whole = stages.KEPT, stages.Stages.forget

    def forget(self: stages.Stages, name: str | None) -> None:
        if name == "linking":
            raise KeyboardInterrupt
        whole(self, name)

    stages.KEPT, stages.Stages.forget = 0.0, forget  # type: ignore[method-assign]
    with suppress(KeyboardInterrupt):
        config = BuildConfig(vocab_size=300, passage_bytes=200)
        build_world(corpus_of(12), folder / "w", config)
    stages.KEPT, stages.Stages.forget = kept, whole  # type: ignore[method-assign]
    assert (folder / ".w.building" / "state.json").is_file()


# --- scores, tables, knowledge --------------------------------------------------------------------


def _make_scores(folder: Path) -> None:
    from test_benchmark import TINY, figures

    from policies.benchmark.standings import placing
    from policies.benchmark.stored import Duel, Score
    from train_lm.checked.digests import sealed
    from train_lm.files import write_json

    arms = {name: figures(2.0 + 0.1 * i) for i, name in enumerate(("uniform", "random"))}
    tests = {name: own.test for name, own in arms.items()}
    world = {"hash": "a" * 64, "source": "synthetic", "licence": "none", "build": "kncl-env build"}
    span = (-0.1, -0.2, -0.05)
    score = Score(
        cell=TINY.to_json(),
        identity="b" * 64,
        world={**world, "counts": {"topics": 24, "tokens": 1000}},
        made_by={"command": "c", "commit": "d", "torch": "2", "machine": "m", "version": "0"},
        moments=(0.0, 100.0),
        arms=arms,
        placing=placing(tests, dict.fromkeys(tests, "frontier rule"), {}),
        duels=(Duel("uniform", "uniform", span, 0.01, "better"),),
        lacks=("seeds",),
        notes=("a note",),
    )
    score.write(folder / "tiny.json")
    pace = {"update": 0.1, "step": 0.2, "window": 0.01, "updates": 2}
    write_json(folder / "pace-xxs.json", sealed(pace))


def read_stored(place: Path) -> str:
    from test_benchmark import TINY

    from policies.benchmark.page import page_of
    from policies.benchmark.stored import read_score

    return identity(page_of({"tiny": read_score(place / "tiny.json")}, {"tiny": TINY}))


def read_pace(place: Path) -> str:
    from test_benchmark import TINY

    from policies.benchmark.planning import paces

    return identity({name: vars(pace) for name, pace in paces([TINY], place).items()})


def _make_table(file: Path) -> None:
    from test_table_world import small_tree

    rng = np.random.default_rng(0)
    rows: list[tuple[int, ...]] = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)]
    small_tree({row: int(rng.integers(1000, 20_000)) for row in rows}).write(file)


def read_table(place: Path) -> str:
    from kncl_env.table_world.table import load_table

    table = load_table(place / "table.npz")
    return identity(*[value for _, value in sorted(vars(table).items())], table.optimum(0))


def _ask(world: Path) -> Callable[[Path], str]:
    """An evaluation whose learners are asked what they know."""

    def read(place: Path) -> str:
        from kncl_env.knowledge.meter import KnowledgeMeter
        from policies.play.curves import CurveMeter
        from policies.play.evaluation import evaluate
        from policies.play.plan import Plan
        from train_lm.files import read_json

        meter = CurveMeter(3, knowledge=KnowledgeMeter(2, 10))
        settings = Settings.of(
            model="xxs",
            nucleus_topics=6,
            nucleus_updates=20,
            steps=2,
            updates_per_step=2,
            batch=4,
            slots=4,
            breadth=16,
        )
        evaluate(_world(world), settings, Plan(["uniform"], 1, meter=meter), place)
        scores = read_json(place / "scores.json")
        told = {k: v for k, v in scores.items() if k not in ("commit", "command", "version")}
        return identity(json.dumps(told, sort_keys=True), (place / "curves.csv").read_bytes())

    return read


def _make_naming(folder: Path) -> None:
    from test_knowledge import naming_corpus

    from kncl_env.world.build import BuildConfig, build_world

    config = BuildConfig(vocab_size=300, passage_bytes=180, held_out=0.1)
    build_world(naming_corpus(30), folder, config)


def _taste(world: Path) -> Callable[[Path], str]:
    def read(place: Path) -> str:
        from honest import SETTINGS

        from policies.learn.tasting import TastingPlan, learn_taste

        (place / "taste.json").unlink(missing_ok=True)
        plan = TastingPlan(4, 1, "random", learners=1)
        return identity(learn_taste(_world(world), SETTINGS, plan, place / "taste.json"))

    return read


def _record(world: Path) -> Callable[[Path], str]:
    """Episodes are added to those of a run that was killed."""

    def read(place: Path) -> str:
        from honest import SETTINGS

        from policies.play.recording import RecordingPlan, record

        file = place / "record.jsonl"
        record(_world(world), SETTINGS, RecordingPlan(["random"], 3, probes=4), file)
        return identity(file.read_bytes())

    return read


def _generate(folder: Path) -> Callable[[Path], str]:
    """Walks of a language model, added to those of a run that was killed."""

    def read(place: Path) -> str:
        from rabbit_holes.cli import main

        os.environ["KNCL_TRACEBACK"] = "1"  # the error itself
        words = f"generate --world {folder}/world --model {folder}/model --device cpu"
        words += " --walks 3 --depth 2 --batch 1"
        code = main([*words.split(), "--out", str(place / "walks.jsonl")])
        return identity(code, (place / "walks.jsonl").read_bytes())

    return read


def _train(folder: Path) -> Callable[[Path], str]:
    """`train-lm run` goes on from its last checkpoint."""

    def read(place: Path) -> str:
        from train_lm.curriculum_run import Machine, RunConfig, run_curriculum

        config, machine = RunConfig("xxs", batch=1, context=16), Machine(cpu=True, save_every=1)
        curriculum = folder / "scores" / "some.jsonl"
        made = run_curriculum(folder / "world", curriculum, place, config, machine)
        model = [(f.name, f.read_bytes()) for f in sorted(made.iterdir())]
        return identity(model, (place / "metrics.jsonl").read_bytes())

    return read


def _make_halves(folder: Path) -> None:
    """Runs as a kill leaves them, with something to do."""
    from train_lm.curriculum import write_curriculum

    for name, read, file, n in (
        ("half recorded", _record(folder / "world"), "record.jsonl", 2),
        ("half generated", _generate(folder), "walks.jsonl", 2),
    ):
        (folder / name).mkdir()
        read(folder / name)
        lines = (folder / name / file).read_bytes().splitlines(keepends=True)
        (folder / name / file).write_bytes(b"".join(lines[:n]))
    world = _world(folder / "world")
    rows = world.passages_of(0).tolist()
    write_curriculum(folder / "scores" / "some.jsonl", world.hash, 64, [0, 1], [rows, rows])
    _train(folder)(folder / "half trained")
    for extra in ("model", "tensorboard"):
        shutil.rmtree(folder / "half trained" / extra)


def _make_queue(file: Path) -> None:
    from kncl_env.queue import JobStore

    store = JobStore(file)
    for topic in range(6):
        store.begin(topic, "")
        if topic % 3:
            store.keep(topic, "", np.arange(topic, 30, 3))
    store.close()


def read_queue(place: Path) -> str:
    """What is not there is retrieved again, and a job that was begun is taken up or not."""
    from kncl_env.queue import JobStore

    store = JobStore(place / "queue.sqlite")
    found = [store.get(topic, "", 30) for topic in range(6)]
    store.unfinished()
    store.keep(0, "", np.arange(3))
    store.close()
    honest = [np.arange(topic, 30, 3) for topic in range(6)]
    return identity([f is None or np.array_equal(f, h) for f, h in zip(found, honest, strict=True)])


def read_page(place: Path) -> str:
    """A page whose table is written anew; the words around it are anybody's."""
    from policies.cli.arms import BEGIN, END
    from policies.cli.main import main

    os.environ["KNCL_TRACEBACK"] = "1"  # the error itself
    main(["arms", "--page", str(place / "ARMS.md")])
    page = (place / "ARMS.md").read_text("utf-8")
    return identity(page.partition(BEGIN)[2].partition(END)[0])


# --- models: a text's, and the hub's --------------------------------------------------------------


def _make_text_model(folder: Path) -> None:
    from dataclasses import replace

    from fakes import corpus_of
    from test_spaces import SMALL, tiny_bert

    from kncl_env.world.build import build_world

    model = tiny_bert(folder / "bert")
    config = replace(SMALL, embedder=str(model), dimensions=16)
    build_world(corpus_of(24), folder / "by model", config)
    notes = folder / "cache" / "embedders"
    shutil.copytree(notes, folder / "bert's place" / "embedders")


def _embed(world: Path) -> Callable[[Path], str]:
    """A world's vectors of new text, by the model in `place` that it was made with."""

    def read(place: Path) -> str:
        from kncl_env.world.text.model_space import PLACE

        os.environ |= {PLACE: str(place), "KNCL_CACHE": str(place / "cache")}
        return identity(_world(world).embed(["some words", "others"]))

    return read


def _by_note(world: Path) -> Callable[[Path], str]:
    """The same by the note of where that model lies."""

    def read(place: Path) -> str:
        os.environ["KNCL_CACHE"] = str(place)
        return identity(_world(world).embed(["some words", "others"]))

    return read


def read_by_model(place: Path) -> str:
    return identity(_world(place).embed(["some words"]))


def _make_hub(model: Path, hub: Path) -> None:
    """A model as the hub's library keeps it, for a machine without a network."""
    place = hub / "models--owner--name"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(model, place / "snapshots" / ("0" * 40))


def _from_hub(world: Path) -> Callable[[Path], str]:
    def read(place: Path) -> str:
        import huggingface_hub.constants
        import transformers.utils.hub

        huggingface_hub.constants.HF_HUB_CACHE = str(place)
        huggingface_hub.constants.HF_HUB_OFFLINE = True
        assert transformers.utils.hub.is_offline_mode()
        from train_lm.model import open_model

        opened = open_model("owner/name", _world(world).tokenizer, 0)
        tokens = None if opened.tokenizer is None else opened.tokenizer("some text")["input_ids"]
        return identity(dict(opened.model.state_dict()), tokens, opened.model.config.to_dict())

    return read


# --- all of them ----------------------------------------------------------------------------------


def make_kept(folder: Path) -> None:
    """All of it, below a folder that holds a world, a model and a cache."""
    _make_adapters(folder)
    _make_streams(folder)
    _make_growing(folder)
    _make_half_built(folder / "half built")
    (folder / "scores").mkdir()
    _make_scores(folder / "scores")
    _make_table(folder / "scores" / "table.npz")
    _make_naming(folder / "naming")
    _ask(folder / "naming")(folder / "asked")
    _taste(folder / "world")(folder / "tasted")
    _make_text_model(folder)
    _make_hub(folder / "model", folder / "hub")
    _make_halves(folder)
    (folder / "queue").mkdir()
    _make_queue(folder / "queue" / "queue.sqlite")
    (folder / "page").mkdir()
    shutil.copyfile(Path(__file__).parents[1] / "docs" / "ARMS.md", folder / "page" / "ARMS.md")


def kinds_kept(folder: Path) -> Iterator[Kind]:
    """What the commands of today keep, and read again."""
    for name in ADAPTER:
        form = name.split(".")[-1]
        yield Kind(f"adapter: {name}", folder / "adapter", name, read_adapter, form)
    for name in PLAIN:
        form = name.split(".")[-1]
        yield Kind(f"peft's adapter: {name}", folder / "plain adapter", name, read_adapter, form)
    yield from _of_streams(folder)
    yield from _of_growth(folder)
    building = folder / "half built" / ".w.building"
    for file in sorted(f for f in building.rglob("*") if f.is_file()):
        name = str(file.relative_to(folder / "half built"))
        form = "json" if file.suffix == ".json" else "bytes"
        kind = f"build: {file.name}"
        yield Kind(kind, folder / "half built", name, build_again, form, every=2)
    scores, naming = folder / "scores", _ask(folder / "naming")
    yield Kind("benchmark: a score", scores, "tiny.json", read_stored, "json")
    yield Kind("benchmark: pace", scores, "pace-xxs.json", read_pace, "json")
    yield Kind("table world", scores, "table.npz", read_table, "npz")
    file = "episodes.jsonl"
    yield Kind("knowledge: episodes", folder / "asked", file, naming, "jsonl", every=2)
    tasted = _taste(folder / "world")
    file = "taste.json.episodes.jsonl"
    yield Kind("taste: episodes", folder / "tasted", file, tasted, "jsonl", every=2)
    yield from _of_models_kept(folder)
    yield from _of_halves(folder)
    yield Kind("page of arms", folder / "page", "ARMS.md", read_page, "text")
    yield Kind("queue", folder / "queue", "queue.sqlite", read_queue, "bytes")


def _of_halves(folder: Path) -> Iterator[Kind]:
    half, read = folder / "half recorded", _record(folder / "world")
    yield Kind("record goes on", half, "record.jsonl", read, "jsonl", grows=True, every=2)
    half = folder / "half generated"
    yield Kind("generate goes on", half, "walks.jsonl", _generate(folder), "jsonl", every=4)
    half, train = folder / "half trained", _train(folder)
    newest = sorted(f.name for f in half.glob("checkpoint*.safetensors"))[-1]
    for name in ("config.json", "metrics.jsonl", "checkpoint.json", newest):
        form = name.split(".")[-1]
        yield Kind(f"train-lm run: {name.split('-')[0]}", half, name, train, form, every=4)


def _of_streams(folder: Path) -> Iterator[Kind]:
    stream, parallel = folder / "stream", folder / "neighbourhoods"
    read = _stream(folder / "world")
    kept = sorted(str(f.relative_to(stream)) for f in stream.rglob("stage-2.safetensors"))[0]
    yield Kind("stream: cells.jsonl", stream, "cells.jsonl", read, "jsonl", every=2)
    yield Kind("stream: config.json", stream, "config.json", read, "json", every=2)
    yield Kind("stream: kept weights", stream, kept, read, "safetensors", every=2)
    read = _parallel(folder / "world")
    finished = folder / "finished neighbourhoods"
    for name in ("tasks.jsonl", "config.json"):
        form = name.split(".")[-1]
        yield Kind(f"neighbourhoods: {name}", finished, name, read, form, every=4)
    for name in ADAPTER:
        form = name.split(".")[-1]
        yield Kind(f"neighbourhoods: {name}", parallel, f"{APART}/{name}", read, form, every=8)


def _of_growth(folder: Path) -> Iterator[Kind]:
    grew, base = folder / "grew", folder / "growing" / "world"
    for name in ("articles.jsonl", "curriculum.jsonl", "config.json"):
        form = name.split(".")[-1]
        yield Kind(f"growth: {name}", grew, name, _grow(base), form)
    newest = sorted(f.name for f in grew.glob("checkpoint*.safetensors"))[-1]
    for name in ("articles.jsonl", "checkpoint.json", newest):
        form = name.split(".")[-1]
        kind = f"live run: {name.split('-')[0]}"
        yield Kind(kind, grew, name, _live_run(base), form, every=2)
    crawled = "world.articles.jsonl"
    grown = folder / "grown"
    yield Kind("live build: articles", folder / "growing", crawled, read_crawl, "jsonl")
    yield Kind("grown world: outward.json", grown, "outward.json", read_outward, "json")
    from honest import READERS, reseal_world

    kind = "hostile grown world: outward.json"
    yield Kind(kind, grown, "outward.json", read_outward, "json", reseal_world)
    yield Kind("grown world: world.json", grown, "world.json", READERS["world.json"], "json")


def _of_models_kept(folder: Path) -> Iterator[Kind]:
    embed = _embed(folder / "by model")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"):
        form = name.split(".")[-1]
        yield Kind(f"text model: {name}", folder / "bert", name, embed, form, every=2)
    note = next((folder / "bert's place" / "embedders").iterdir()).name
    by = _by_note(folder / "by model")
    yield Kind("text model's place", folder / "bert's place", f"embedders/{note}", by, "json")
    world = folder / "by model"
    yield Kind("world by a model: embedder.npz", world, "embedder.npz", read_by_model, "npz")
    from honest import reseal_world

    kind = "hostile world by a model: embedder.npz"
    yield Kind(kind, world, "embedder.npz", read_by_model, "npz", reseal_world)
    hub, read = folder / "hub", _from_hub(folder / "world")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "main"):
        form = name.split(".")[-1]
        file = f"models--owner--name/snapshots/{'0' * 40}/{name}"
        if name == "main":
            form, file = "text", "models--owner--name/refs/main"
        kind = f"model of the hub: {name}"
        yield Kind(kind, hub, file, read, form, called="owner/name", every=4)
