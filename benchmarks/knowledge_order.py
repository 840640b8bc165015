"""Does the order of a growing nucleus teach more than the same text in a random order?

    python benchmarks/knowledge_order.py pack      # a generated world whose facts are known
    python benchmarks/knowledge_order.py run --out DIR

Each seed is a learner with a nucleus of a few topics. One expansion after the other is read, half
of it text of the new topic, half of earlier ones (`--replay`). Four copies of that learner read
exactly the same windows, each as often, under the same schedule:

    grown      topic by topic; next comes the frontier's topic with most of its links inside
    outside    the same expansions, in the reverse order
    topics     the same expansions, in a random order
    shuffled   all windows in a random order

At the end, and on the way, each is asked for every fact of the world in words that stand in no
text.
Differences to `shuffled` are paired by seed.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from kncl_env.knowledge.facts import FactProbe, questions_of, truth_of
from kncl_env.knowledge.reading import in_world_tokens
from kncl_env.world.sources.synthetic import SyntheticConfig
from kncl_env.world.sources.synthetic_words import RELATIONS
from kncl_env.world.world import World
from train_lm.bank.bank import LearnerBank
from train_lm.files import Json, write_json
from train_lm.model import PRESETS, ModelConfig, build_model
from train_lm.tokenizer import bytes_per_token, end_of_text
from train_lm.trainer import TrainerConfig
from train_lm.windows import TokenStore, draw_least_read

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

WORLD = Path(__file__).parent / "out" / "telling_world"
ORDERS = ("grown", "outside", "topics", "shuffled")
REFERENCE = "shuffled"
MOMENTS = 4  # after equal parts of the budget


def pack(args: argparse.Namespace) -> None:
    from kncl_env.world.build import BuildConfig, build_world
    from kncl_env.world.sources.synthetic import read_synthetic

    config = SyntheticConfig(
        n_topics=args.topics,
        n_communities=args.communities,
        facts_per_topic=args.facts,
        noise_share=0.0,
        redundant_share=0.0,
        links_between=2 if args.communities > 1 else 0,
        unread=2,
    )
    world = build_world(read_synthetic(config), args.world, BuildConfig(passage_bytes=300))
    size = sum(file.stat().st_size for file in args.world.iterdir())
    print(f"{args.world}: {world.card['counts']['tokens']:,} tokens, {size / 1e6:.1f} MB")


def run(args: argparse.Namespace) -> None:
    world = World.open(args.world)
    probe = FactProbe(questions_of(*truth_of(world)), in_world_tokens(world))
    shape = PRESETS[args.model]
    store = world.windows(shape.context)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    nucleus, order = grown_order(world, args.nucleus)
    updates = max(1, round(args.tokens / (args.batch * shape.context * len(order))))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(args.threads)
    models = [build(world, ModelConfig(shape.width, shape.layers, shape.context, s)) for s in seeds]
    config = TrainerConfig(learning_rate=args.learning_rate, batch=args.batch)
    per_seed = [model for model in models for _ in ORDERS]
    bank = LearnerBank(per_seed, config, device, compile=args.compile)
    began = time.perf_counter()
    first = np.stack([nucleus_windows(world, store, nucleus, s, args) for s in seeds])
    bank.begin_phase(args.nucleus_updates, decay=False)
    bank.train(read_rows(store, np.repeat(first, len(ORDERS), 0)))
    counts = windows_of_expansion(updates * args.batch, args.replay)
    plans = np.stack([plan(world, store, nucleus, order, counts, s) for s in seeds])
    table = plans.reshape(-1, plans.shape[2])  # (seeds * orders, windows)
    bank.begin_phase(table.shape[1] // args.batch, decay=args.schedule == "decayed")
    told: Json = {
        "model": args.model,
        "schedule": args.schedule,
        "replay": args.replay,
        "world": world.hash,
        "tokens": int(table.shape[1] * shape.context),
        "nucleus": [world.titles[t] for t in nucleus],
        "seeds": list(seeds),
        "machine": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "moments": [],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    name = f"knowledge_order-{args.model}-{args.schedule}"
    file = args.out / f"{name}{f'-{args.replay:g}' if args.replay != 0.5 else ''}.json"
    cuts = np.linspace(0, table.shape[1] // args.batch, args.moments + 1).round().astype(int)
    held_out = np.flatnonzero(world.passage_split == 2)
    for low, high in itertools.pairwise([0, *cuts.tolist()]):
        if high > low:
            bank.train(read_rows(store, table[:, low * args.batch : high * args.batch]))
        found = asked(bank, world, probe, store.read(store.windows_of(held_out)))
        done = high * args.batch * shape.context
        told["moments"].append({"tokens": done, **found})
        told["seconds"] = time.perf_counter() - began
        write_json(file, told)
        show(done, found, probe, told["seconds"])
    bank.close()
    print(file)


def read_rows(store: TokenStore, rows: Ints) -> Ints:
    """(n, m, T + 1) token ids of (n, m) windows."""
    return store.read(rows.ravel()).reshape(*rows.shape, -1)


def build(world: World, config: ModelConfig) -> torch.nn.Module:
    return build_model(config, world.tokenizer.get_vocab_size(), end_of_text(world.tokenizer))


def grown_order(world: World, n: int) -> tuple[Ints, list[int]]:
    """Central topics as the nucleus, then all others as a frontier grows: by links inside."""
    graph = world.graph
    inside = [int(np.argmax(graph.pagerank))]
    order: list[int] = []
    while len(inside) + len(order) < len(graph):
        known = {*inside, *order}
        frontier = {t for k in known for t in graph.around(k).tolist()} - known
        rest = frontier or set(range(len(graph))) - known
        share = {
            t: sum(o in known for o in graph.around(t).tolist()) / max(1, graph.degree[t])
            for t in rest
        }
        best = max(sorted(rest), key=lambda t: share[t])
        (inside if len(inside) < n else order).append(best)
    return np.array(inside), order


def nucleus_windows(
    world: World, store: TokenStore, nucleus: Ints, seed: int, args: argparse.Namespace
) -> Ints:
    pool = store.windows_of(np.concatenate([world.passages_of(int(t)) for t in nucleus]))
    read = np.zeros(len(store), dtype=np.int32)
    rng = np.random.default_rng([seed, 0])
    return draw_least_read(pool, read, args.nucleus_updates * args.batch, rng)


def windows_of_expansion(windows: int, replay: float) -> tuple[int, int]:
    """Windows of the new topic, and of earlier ones."""
    new = max(1, round((1 - replay) * windows))
    return new, windows - new


def plan(
    world: World,
    store: TokenStore,
    nucleus: Ints,
    order: list[int],
    counts: tuple[int, int],
    seed: int,
) -> Ints:
    """(orders, windows) what each copy of a learner reads, in order: the same windows for all.

    Args:
        counts: Windows of the new topic, and of earlier ones, of each expansion.
    """
    rng = np.random.default_rng([seed, 1])
    read = np.zeros(len(store), dtype=np.int32)
    known = store.windows_of(np.concatenate([world.passages_of(int(t)) for t in nucleus]))
    blocks = []
    for topic in order:
        own = store.windows_of(world.passages_of(topic))
        new = draw_least_read(own, read, counts[0], rng)
        old = draw_least_read(known, read, counts[1], rng)
        blocks.append(rng.permutation(np.concatenate([new, old])))
        known = np.concatenate([known, own])
    mixed = [blocks[i] for i in rng.permutation(len(blocks))]
    rows = np.stack(
        [
            np.concatenate(blocks),
            np.concatenate(blocks[::-1]),
            np.concatenate(mixed),
            rng.permutation(np.concatenate(blocks)),
        ]
    )
    assert (np.sort(rows) == np.sort(rows[0])).all(), "orders of other windows"
    return rows


def asked(bank: LearnerBank, world: World, probe: FactProbe, held_out: Ints) -> Json:
    """Of each order: recall of each seed, of all facts, of relations, and by depth."""
    plain = bank.model.to(bank.device)
    relation = np.array([question.fact.attribute in RELATIONS for question in probe.questions])
    size = bytes_per_token(world.tokenizer)[held_out[:, 1:]].sum()
    loss = bank.nll(np.repeat(held_out[None], bank.n, 0)).sum(1) / np.log(2) / size
    right = []
    for learner in range(bank.n):
        weights = {n.removeprefix("model."): w for n, w in bank.merged(learner).items()}
        plain.load_state_dict(weights, strict=False)
        right.append(probe.right(plain, bank.device))
    of = np.stack(right).reshape(-1, len(ORDERS), len(probe.questions))
    parts = {"all": np.ones(len(relation), bool), "relations": relation}
    parts |= {f"depth {d}": probe.depths == d for d in np.unique(probe.depths)}
    found = {
        part: {name: of[:, i, among].mean(1).tolist() for i, name in enumerate(ORDERS)}
        for part, among in parts.items()
    }
    found["loss"] = {n: loss.reshape(-1, len(ORDERS))[:, i].tolist() for i, n in enumerate(ORDERS)}
    against = {
        part: {n: paired(by[n], by[REFERENCE]) for n in ORDERS if n != REFERENCE}
        for part, by in found.items()
    }
    pooled = {n: probe.figures(of[:, i].mean(0)).recall.to_json() for i, n in enumerate(ORDERS)}
    frequent = float(np.mean([question.frequent for question in probe.questions]))
    reference = {"chance": probe.chance, "frequent": frequent}
    return {"of": found, "minus_shuffled": against, "over_topics": pooled, **reference}


def paired(a: list[float], b: list[float]) -> Json:
    """Mean difference over seeds, Student's interval, two-sided p of flipped signs."""
    gap = np.array(a) - np.array(b)
    n = len(gap)
    if n < 2:
        return {"mean": float(gap.mean())}
    half = float(stats.t.ppf(0.975, n - 1) * gap.std(ddof=1) / np.sqrt(n))
    flips = np.array([*itertools.product((1, -1), repeat=min(n, 14))])
    drawn = np.abs(flips @ gap[: flips.shape[1]]) / n
    p = float((drawn >= abs(gap[: flips.shape[1]].sum()) / n - 1e-12).mean())
    mean = float(gap.mean())
    return {"mean": mean, "interval": [mean - half, mean + half], "p": p}


def show(tokens: int, found: Json, probe: FactProbe, seconds: float) -> None:
    print(
        f"{tokens:,} tokens, {seconds:.0f} s; chance {found['chance']:.3f}, most frequent "
        f"{found['frequent']:.3f}; {len(probe.questions)} questions",
        flush=True,
    )
    for name in ORDERS:
        parts = "  ".join(f"{part} {np.mean(by[name]):.3f}" for part, by in found["of"].items())
        gap = found["minus_shuffled"]["all"].get(name, {})
        told = f"{gap['mean']:+.4f} {np.round(gap.get('interval', []), 4)}" if gap else ""
        print(f"  {name:9s} {parts}  {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    here = verbs.add_parser("pack", help="build the generated world")
    for name, value, about in (
        ("topics", 120, "topics"),
        ("communities", 1, "communities"),
        ("facts", 8, "facts of a topic"),
    ):
        here.add_argument(f"--{name}", type=int, default=value, help=f"{about} ({value})")
    here.set_defaults(action=pack)
    there = verbs.add_parser("run", help="train copies in four orders and ask them")
    there.add_argument("--model", default="xs", help="preset (xs)")
    there.add_argument("--schedule", default="decayed", choices=("decayed", "constant"))
    there.add_argument("--tokens", type=float, default=3e6, help="of each learner (3e6)")
    there.add_argument(
        "--replay", type=float, default=0.5, help="share of an expansion that is old text (0.5)"
    )
    there.add_argument("--learning-rate", type=float, default=5e-3, help="peak (5e-3)")
    for name, value, about in (
        ("seeds", 8, "learners"),
        ("first-seed", 0, "seed of the first one"),
        ("batch", 16, "windows of an update"),
        ("nucleus", 8, "topics of the nucleus"),
        ("nucleus-updates", 200, "updates of its phase"),
        ("moments", MOMENTS, "equal parts of the budget after which they are asked"),
        ("threads", 1, "threads of a CPU"),
    ):
        there.add_argument(f"--{name}", type=int, default=value, help=f"{about} ({value})")
    there.add_argument("--compile", action="store_true", help="compile the learners' program (no)")
    there.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder")
    there.set_defaults(action=run)
    for verb in (here, there):
        verb.add_argument("--world", type=Path, default=WORLD, help=f"its folder ({WORLD.name})")
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    main()
