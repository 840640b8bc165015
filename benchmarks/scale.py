"""How worlds grow: build, index and step, from ten thousand to a million passages.

Each size is a process of its own, so that its peak of memory is its own. Times named `cpu` are
those that cores worked, and steps and searches are timed so: they do not grow on a busy machine.
Builds read a generated corpus that never stands in memory: ten short passages for each topic,
links, regions. The index is built of generated vectors, clustered ones and harder ones without
clusters; both are stated. Prints a table, writes `out/scale.json`.

    python benchmarks/scale.py                          # small: a trial
    python benchmarks/scale.py --sizes 10000,100000,1000000 --vectors 1000000 --dimensions 384
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.build import build_world
from kncl_env.world.build_config import BuildConfig
from kncl_env.world.card import BUILD_LOG
from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.index import NEAREST, PassageIndex
from kncl_env.world.world import World
from train_lm.checked.rows import RowFile, RowWriter
from train_lm.files import read_json, write_json

GIB = 2**30
PASSAGES = 10  # of a topic
WORDS = 25  # of a passage
SENTENCE = 12  # [words]
REGIONS = 40
VOCABULARY = 30_000
LINKS = 8
BLOCK = 2**15
BREADTH = 512  # [passages] that a step asks for at defaults

Floats = NDArray[np.float32]


class Generated:
    """Articles drawn anew each time they are asked for: the same ones, and none is kept.

    Words have Zipf's frequencies; a third of a topic's words are of its region.
    """

    def __init__(self, n_topics: int) -> None:
        self.n_topics = n_topics
        rng = np.random.default_rng(0)
        letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
        lengths = rng.integers(3, 9, VOCABULARY).tolist()
        self._words = np.array(["".join(rng.choice(letters, n)) for n in lengths], dtype=object)

    def __iter__(self) -> Iterator[Article]:
        common = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
        common /= common[-1]
        own = VOCABULARY // REGIONS
        for topic in range(self.n_topics):
            rng = np.random.default_rng([1, topic])
            n = PASSAGES * WORDS
            drawn = np.searchsorted(common, rng.random(n))
            region = topic % REGIONS
            of_region = rng.random(n) < 1 / 3
            drawn[of_region] = region * own + (own * rng.random(of_region.sum()) ** 3).astype(int)
            words = self._words[drawn].tolist()
            paragraphs = tuple(
                ". ".join(
                    " ".join(words[i : min(i + SENTENCE, first + WORDS)]).capitalize()
                    for i in range(first, first + WORDS, SENTENCE)
                )
                + "."
                for first in range(0, n, WORDS)
            )
            others = rng.integers(self.n_topics, size=LINKS) // REGIONS * REGIONS + region
            links = tuple((f"Topic {t}", "link") for t in others.tolist() if t < self.n_topics)
            yield Article(f"Topic {topic}", paragraphs, links, (f"region.{region:02d}",))


def corpus_of(n_passages: int) -> Corpus:
    n_topics = n_passages // PASSAGES
    return Corpus(Generated(n_topics), "generated", "none needed", fingerprint=str(n_topics))


def build(n_passages: int, out: Path) -> dict[str, float]:
    """One build; its stages are in the world's own log."""
    config = BuildConfig(passage_bytes=200)
    began = time.monotonic()
    world = build_world(corpus_of(n_passages), out, config, lambda s: print(s, file=sys.stderr))
    took = time.monotonic() - began
    stages = read_json(out / BUILD_LOG)["stages"]
    n = world.card["counts"]["passages"]
    peak = max(stage["peak_bytes"] for stage in stages)
    found = {
        f"build_{n_passages}_passages": n,
        f"build_{n_passages}_bytes": world.card["counts"]["bytes"],
        f"build_{n_passages}_s": took,
        f"build_{n_passages}_cpu_s": sum(stage["cpu_seconds"] for stage in stages),
        f"build_{n_passages}_peak_gib": peak / GIB,
        f"build_{n_passages}_peak_allowed_gib": 1.5 + 1000 * n / GIB,
        f"build_{n_passages}_disk_gib": sum(f.stat().st_size for f in out.iterdir()) / GIB,
    }
    for stage in stages:
        name = stage["stage"].replace(" ", "_")
        found[f"build_{n_passages}_{name}_s"] = stage["seconds"]
        found[f"build_{n_passages}_{name}_cpu_s"] = stage["cpu_seconds"]
        found[f"build_{n_passages}_{name}_peak_gib"] = stage["peak_bytes"] / GIB
    return found


def steps(n_passages: int, place: Path, n: int, model: str) -> dict[str, float]:
    """Seconds of the environment's steps in a world, retrieval's among them; the same learner.

    One thread, and the time that it had a core: other processes on the machine do not count.
    """
    import faiss
    import torch

    from kncl_env.env import TopicExpansionEnv
    from kncl_env.settings import Settings
    from kncl_env.stage import open_stage

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)  # a thread of its own would not be in our time
    began = time.monotonic()
    world = World.open(place)
    settings = Settings.of(
        model=model, slots=min(64, n_passages // 100), nucleus_topics=20, nucleus_updates=40
    )
    stage = open_stage(world, settings)
    env = TopicExpansionEnv(stage, stage.learner())
    env.reset(seed=0)
    opened = time.monotonic() - began
    search, spent = world.index.search, [0.0]

    def timed(*args: object) -> NDArray[np.int64]:
        begin = time.thread_time()
        found = search(*args)  # type: ignore[arg-type]
        spent.append(time.thread_time() - begin)
        return found

    world.index.search = timed  # type: ignore[method-assign, assignment]
    rng = np.random.default_rng(0)
    took, retrieving = [], []
    for _ in range(n):
        spent.clear()
        begin = time.thread_time()
        env.step(int(rng.integers(env.action_masks().sum() - 1)))
        took.append(time.thread_time() - begin)
        retrieving.append(sum(spent))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        f"step_{n_passages}_s": float(np.median(took)),
        f"step_{n_passages}_retrieval_s": float(np.median(retrieving)),
        f"step_{n_passages}_retrieval_share": float(np.median(np.divide(retrieving, took))),
        f"step_{n_passages}_open_and_nucleus_s": opened,
        f"step_{n_passages}_peak_gib": peak / GIB,
    }


class Vectors:
    """Unit vectors to index, and queries of the same kind that are not among them.

    Args:
        kind: `clustered`: 1 in 100 is a centre, sizes by a power law, as text that has topics;
            `harder`: one cloud without clusters, the spectrum of which falls as that of latent
            semantic analysis does, with the power -1/2.
    """

    def __init__(self, kind: str, n: int, dimensions: int) -> None:
        self.kind, self.n = kind, n
        self._rng = np.random.default_rng(7)
        self._spectrum = np.arange(1, dimensions + 1, dtype=np.float32) ** -0.5
        self._centres = self._cloud(max(10, n // 100))
        weights = np.arange(1, len(self._centres) + 1) ** -0.7
        self._ends = np.cumsum(weights / weights.sum())

    def _cloud(self, n: int) -> Floats:
        drawn = self._rng.standard_normal((n, len(self._spectrum)), dtype=np.float32)
        return unit(drawn * self._spectrum)

    def draw(self, n: int) -> Floats:
        cloud = self._cloud(n)
        if self.kind == "harder":
            return cloud
        chosen = np.searchsorted(self._ends, self._rng.random(n)).clip(max=len(self._centres) - 1)
        return unit(self._centres[chosen] + 0.7 * cloud)

    def write(self, file: Path) -> None:
        with RowWriter(file, len(self._spectrum)) as writer:
            for first in range(0, self.n, BLOCK):
                writer.append(self.draw(min(BLOCK, self.n - first)))


def unit(rows: Floats) -> Floats:
    found: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def exact(rows: RowFile, queries: Floats, k: int) -> NDArray[np.int64]:
    """(n, k) true nearest rows, nearest first, found one by one."""
    best = np.full((len(queries), 0), 0, dtype=np.float32)
    of = np.zeros((len(queries), 0), dtype=np.int64)
    for low, block in rows.blocks():
        number = np.broadcast_to(np.arange(low, low + len(block)), (len(queries), len(block)))
        best = np.concatenate([best, queries @ block.T], axis=1)
        of = np.concatenate([of, number], axis=1)
        keep = np.argpartition(-best, k - 1, axis=1)[:, :k]
        best, of = np.take_along_axis(best, keep, 1), np.take_along_axis(of, keep, 1)
    return np.asarray(np.take_along_axis(of, np.argsort(-best, axis=1), 1))


def share_found(found: NDArray[np.int64], true: NDArray[np.int64]) -> float:
    """Of the true rows, counted strictly: of equally near ones, too, it is the very rows."""
    same = [len(set(a) & set(b)) for a, b in zip(found.tolist(), true.tolist(), strict=True)]
    return float(np.mean(same)) / true.shape[1]


def index(kind: str, n: int, dimensions: int, folder: Path) -> dict[str, float | str]:
    """Build, save, open and search an index, in a process of its own."""
    import faiss

    vectors = Vectors(kind, n, dimensions)
    vectors.write(folder / "vectors.npy")
    queries = vectors.draw(500)
    rows = RowFile(folder / "vectors.npy")
    began = time.monotonic()
    built = PassageIndex.build(rows, np.arange(n), "generated", vectors.draw(1000))
    built.save(folder)
    took = time.monotonic() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    del built
    began = time.monotonic()
    opened = PassageIndex.open(folder, "generated", dimensions, n)
    opening = time.monotonic() - began
    breadth = min(BREADTH, n)
    true = exact(rows, queries, breadth)
    recall = share_found(opened.search(queries, NEAREST), true[:, :NEAREST])
    of_step = share_found(opened.search(queries, breadth), true)
    faiss.omp_set_num_threads(1)
    raw = faiss.read_index(str(folder / "passages.faiss"))
    mine, faiss_own, broad = [], [], []
    for query in queries[:200, None]:
        begin = time.thread_time()
        opened.search(query, NEAREST)
        middle = time.thread_time()
        raw.search(query, NEAREST)
        mine.append(middle - begin)
        end = time.thread_time()
        opened.search(query, breadth)
        faiss_own.append(end - middle)
        broad.append(time.thread_time() - end)
    made_as = opened.made_as or {"kind": "Flat", "cells_searched": 0, "listed": 0}
    return {
        "kind": made_as["kind"],
        "cells_searched": made_as["cells_searched"],
        "listed": made_as["listed"],
        "peak_gib": peak / GIB,
        "build_s": took,
        "open_s": opening,
        "file_gib": (folder / "passages.faiss").stat().st_size / GIB,
        "recall_at_10": recall,
        "search_s": float(np.median(mine)),
        f"recall_at_{BREADTH}": of_step,
        f"search_{BREADTH}_s": float(np.median(broad)),
        "over_raw_faiss": float(np.median(mine) / np.median(faiss_own)),
    }


def child(*words: str) -> dict[str, float]:
    """What one part found, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(
    sizes: list[int],
    n_vectors: int,
    dimensions: int,
    folder: Path,
    out: Path | None = None,
    learner: tuple[str, ...] = (),
) -> dict[str, float]:
    """All of it.

    Args:
        sizes: Of the worlds [passages].
        n_vectors: In the index.
        dimensions: Numbers of each.
        folder: Where worlds are kept.
        out: What was found so far is written there.
        learner: Options `--model` and `--steps`; the default step, eight times, if none.
    """
    found: dict[str, float] = {}
    for size in sizes:
        place = folder / f"world-{size}"
        found |= child("--part", "build", "--size", str(size), "--folder", str(place))
        found |= child("--part", "steps", "--size", str(size), "--folder", str(place), *learner)
        save(out, found)
    step = found[f"step_{sizes[0]}_s"]
    found["largest_step_over_smallest"] = found[f"step_{sizes[-1]}_s"] / step
    if len(sizes) > 1:
        logs = np.log([[found[f"build_{s}_passages"], found[f"build_{s}_cpu_s"]] for s in sizes])
        found["build_cpu_time_exponent"] = float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])
    found |= index_figures(n_vectors, dimensions, folder, step)
    save(out, found)
    return found


def index_figures(n_vectors: int, dimensions: int, folder: Path, step: float) -> dict[str, float]:
    """What indexes of both kinds of vectors find and cost; a search as a share of a step.

    Args:
        folder: Where vectors lie meanwhile, four bytes for each number.
        step: Seconds of one.
    """
    found: dict[str, float] = {}
    kinds = ("clustered", "harder")
    for kind in kinds:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            words = ("--size", str(n_vectors), "--dimensions", str(dimensions))
            one = child("--part", "index", "--kind", kind, *words, "--folder", place)
        found |= {f"index_{kind}_{name}": value for name, value in one.items()}
    name = "1m" if n_vectors == 1_000_000 else str(n_vectors)
    found[f"index_{name}_peak_gib"] = max(found[f"index_{k}_peak_gib"] for k in kinds)
    found[f"index_{name}_recall_at_10"] = min(found[f"index_{k}_recall_at_10"] for k in kinds)
    found["retrieval_over_raw_faiss"] = max(found[f"index_{k}_over_raw_faiss"] for k in kinds)
    found["retrieval_share_of_step"] = max(found[f"index_{k}_search_s"] for k in kinds) / step
    broad = max(found[f"index_{k}_search_{BREADTH}_s"] for k in kinds)
    found[f"retrieval_{BREADTH}_share_of_step"] = broad / step
    return found


def save(out: Path | None, found: dict[str, float]) -> None:
    if out is not None:
        out.parent.mkdir(exist_ok=True)
        write_json(out, found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="2000,4000", help="worlds to build [passages]")
    parser.add_argument("--vectors", type=int, default=2000, help="vectors of the index")
    parser.add_argument("--dimensions", type=int, default=384, help="numbers of each")
    parser.add_argument("--folder", type=Path, help="where worlds are kept (nowhere)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "scale.json")
    parser.add_argument("--model", default="xs", help="preset of the learner that steps (xs)")
    parser.add_argument("--steps", type=int, default=8, help="steps in each world (8)")
    parser.add_argument("--part", default="all", help="build, steps or index alone (all)")
    parser.add_argument("--size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part == "build":
        print(json.dumps(build(args.size, args.folder)))
    elif args.part == "steps":
        print(json.dumps(steps(args.size, args.folder, args.steps, args.model)))
    elif args.part == "index":
        print(json.dumps(index(args.kind, args.size, args.dimensions, args.folder)))
    elif args.part == "all":
        with tempfile.TemporaryDirectory() as scratch:
            folder = args.folder or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            sizes = [int(size) for size in args.sizes.split(",")]
            learner = ("--model", args.model, "--steps", str(args.steps))
            found = measure(sizes, args.vectors, args.dimensions, folder, args.out, learner)
            for name, value in found.items():
                shown = f"{value:.4g}" if isinstance(value, float) else value
                print(f"{name:50} {shown}")
        print(args.out)


if __name__ == "__main__":
    main()
