"""How long the learner waits for what it reads, with the queue and without: `make bench` does not.

Two worlds: one that is closed, where a neighbourhood is retrieved from an index, and one that grows
out of a wiki that answers at most twice a second, each answer after a while. The same episode is
played with the queue off and on; a run with other results is an error. Prints a table, writes
`out/waiting.json`.

    python benchmarks/waiting.py --steps 20
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch

from kncl_env.env import TopicExpansionEnv
from kncl_env.open_world.articles import ArticleJournal, Fetched
from kncl_env.open_world.game import LiveWorld, open_game
from kncl_env.open_world.outward import Outward
from kncl_env.queue import ExpansionQueue, JobStore
from kncl_env.settings import Settings
from kncl_env.stage import Stage, open_stage
from kncl_env.world.build import BuildConfig, build_world
from kncl_env.world.corpus import Article
from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic
from kncl_env.world.sources.wiki.live import Crawl, corpus_of_crawl
from train_lm.files import write_json
from train_lm.machine.allocator import keep_freed_memory

SEED = 7
AHEAD = (0, 1, 16, 64)  # settings of the queue that are compared
FIRST = 200  # [articles] that an open world begins with
RATE, LATENCY = 2.0, 0.3  # [requests/s] and [s] of the wiki

Figures = dict[str, float]


class SlowWiki:
    """A wiki that holds a corpus and answers as a polite client would be answered.

    Attributes:
        requests: So far.
    """

    name = "a made-up wiki"

    def __init__(self, articles: Sequence[Article], rate: float, latency: float) -> None:
        self.pages = {a.title: a for a in articles}
        self.interval, self.latency = 1 / rate, latency
        self.requests = 0
        self._next = 0.0

    def fetch(self, titles: Sequence[str]) -> list[Fetched]:
        time.sleep(max(0.0, self._next - time.monotonic()))
        self._next = time.monotonic() + self.interval
        time.sleep(self.latency)
        self.requests += 1
        return [self._page(title) for title in titles]

    def _page(self, title: str) -> Fetched:
        if title not in self.pages:
            return Fetched(title, absent="missing")
        one = self.pages[title]
        return Fetched(title, title, 1, one.paragraphs, tuple(t for t, _ in one.links))

    def close(self) -> None:
        pass


def play(env: TopicExpansionEnv, steps: int) -> tuple[Figures, bytes]:
    """Seconds of an episode and of waiting in it, and what it came to."""
    rng = np.random.default_rng(SEED)
    env.reset(seed=SEED)
    waited, result = [], b""
    began = time.perf_counter()
    for _ in range(steps):
        offered = np.flatnonzero(env.action_masks()[:-1])
        _, reward, _, _, info = env.step(int(rng.choice(offered)))
        waited.append(env.waited)
        result += info["windows"].tobytes() + np.float64(reward).tobytes()
    seconds = time.perf_counter() - began
    env.close()
    return {
        "seconds": seconds,
        "waited": sum(waited),
        "longest": max(waited),
        "share": sum(waited) / seconds,
        "topics": len(env.stage.table),
    }, result


def closed(stage: Stage, ahead: int, steps: int, folder: Path) -> tuple[Figures, bytes]:
    if ahead:
        kept = JobStore(folder / f"jobs-{ahead}.sqlite")
        breadth = stage.settings.reading.breadth
        retriever = ExpansionQueue(
            stage.world, breadth, ahead, goal=stage.goal, windows=stage.store, kept=kept
        )
        stage = replace(stage, retriever=retriever)
    return play(TopicExpansionEnv(stage, stage.learner()), steps)


def compare(name: str, results: dict[int, tuple[Figures, bytes]]) -> dict[str, Figures]:
    found = {}
    for ahead, (figures, result) in results.items():
        assert result == results[0][1], f"{name}: another episode with queue {ahead}"
        found[f"{name}_queue_{ahead}"] = figures
        print(
            f"{name:8s} queue {ahead:3d}   {figures['seconds']:7.1f} s   waited "
            f"{figures['waited']:7.3f} s   {100 * figures['share']:6.2f} %   longest "
            f"{figures['longest']:.3f} s   {figures['topics']:.0f} topics",
            flush=True,
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="expansions of an episode (20)")
    parser.add_argument("--topics", type=int, default=2000, help="of the generated world (2000)")
    parser.add_argument("--model", default="xs", help="preset of the learner (xs)")
    parser.add_argument("--reach", type=int, default=50, help="titles an expansion asks for (50)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "waiting.json")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    settings = {"model": args.model, "steps": args.steps, "slots": 16, "nucleus_updates": 200}
    corpus = read_synthetic(SyntheticConfig(n_topics=args.topics, n_communities=20))
    articles = list(corpus.articles)
    found: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = BuildConfig(passage_bytes=300)
        world = build_world(corpus, folder / "closed", config)
        stage = open_stage(world, Settings.of(**settings))
        found |= compare("closed", {n: closed(stage, n, args.steps, folder) for n in AHEAD})
        journal = ArticleJournal(folder / "first.jsonl", {"api": "made up"})
        crawl = Crawl((articles[0].title,), FIRST)
        crawl.run(journal, SlowWiki(articles, 1000, 0), lambda _: None)
        base = corpus_of_crawl(crawl, "made up", "none needed", Outward("made up"))
        nucleus = build_world(base, folder / "open", config)
        results = {}
        for ahead in AHEAD:
            wiki = SlowWiki(articles, RATE, LATENCY)
            live = LiveWorld(nucleus, wiki, args.reach)
            env = open_game(live, Settings.of(**settings, queue=ahead), folder / f"{ahead}.jsonl")
            results[ahead] = play(env, args.steps)
            results[ahead][0]["requests"] = wiki.requests
        found |= compare("open", results)
    args.out.parent.mkdir(exist_ok=True)
    write_json(args.out, found)
    print(args.out)


if __name__ == "__main__":
    main()
