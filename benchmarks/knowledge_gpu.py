"""Which links models of several sizes know, minute by minute, on a GPU.

    python benchmarks/knowledge_gpu.py pack WORLD       # here: text and questions into one folder
    python benchmarks/knowledge_gpu.py run --out DIR    # there: train, ask at several moments

The folder holds the world's training text in tokens of a larger vocabulary, compressed, and the
items of a link cloze of its held-out text: a few dozen MB, and no world is needed beside it. Each
preset is trained on windows drawn from all training text, every one once before any is drawn again,
with a schedule that decays over the minutes it gets. What is found so far is written after each
moment.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from numpy.typing import NDArray

from kncl_env.knowledge.cloze import LinkCloze, hops_of
from kncl_env.knowledge.links import LinkFigures, LinkProbe
from train_lm.files import Json, read_json, write_json
from train_lm.model import PRESETS, build_model
from train_lm.tokenizer import encode, end_of_text, load_tokenizer, train_tokenizer
from train_lm.trainer import Trainer, TrainerConfig
from train_lm.windows import TokenStore

Ints = NDArray[np.int64]

PACKET = Path(__file__).parent / "out" / "knowledge_packet"
TEXT, WORDS, ITEMS = "text.npz", "tokenizer.json", "cloze.json"
SHARES = {"s": 0.12, "m": 0.33, "l": 0.55}  # of the minutes
RATES = {"xxs": 3e-3, "xs": 3e-3, "s": 2e-3, "m": 1e-3, "l": 6e-4}  # peak learning rates
TOKENS = 16_384  # of an update
MOMENTS = (0.0, 0.06, 0.12, 0.25, 0.5, 1.0)  # when models are asked, as shares of their updates
TRIED_OUT = 12  # updates that are timed, to know how many fit


@dataclass(frozen=True)
class WrittenCloze:
    """Items of a cloze that were written down; see `kncl_env.knowledge.links.Cloze`."""

    contexts: list[str]
    topics: Ints
    strangers: Ints
    clusters: Ints
    names: dict[int, str]
    hops: Ints

    def __len__(self) -> int:
        return len(self.contexts)

    @classmethod
    def read(cls, file: Path) -> WrittenCloze:
        found = read_json(file)
        whole = {n: np.array(found[n]) for n in ("topics", "strangers", "clusters", "hops")}
        names = {int(topic): name for topic, name in found["names"].items()}
        return cls(found["contexts"], names=names, **whole)


def pack(args: argparse.Namespace) -> None:
    from kncl_env.settings import Settings
    from kncl_env.stage import seed_topics
    from kncl_env.world.world import World

    world = World.open(args.world)
    cloze = LinkCloze.of(world, "select", args.items)
    train = np.flatnonzero(world.passage_split == 0)
    texts = [row.text for row in world.passage_rows(train)]
    print(f"{len(texts):,} training passages, {sum(map(len, texts)) / 1e6:.1f} MB")
    tokenizer = train_tokenizer(texts[:: args.every], args.vocabulary)
    ids = encode(tokenizer, texts)
    args.packet.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.packet / WORDS))
    starts = np.cumsum([0, *map(len, ids)])
    segment = np.unique(world.passage_topic[train], return_inverse=True)[1]
    tokens = np.concatenate(ids).astype(np.uint16)
    np.savez_compressed(args.packet / TEXT, tokens=tokens, starts=starts, segment=segment)
    targets = cloze.topics[:, 0]
    used = np.unique(cloze.topics).tolist()
    items = {
        "contexts": cloze.contexts,
        "topics": cloze.topics.tolist(),
        "strangers": cloze.strangers.tolist(),
        "clusters": cloze.clusters.tolist(),
        "hops": hops_of(world, seed_topics(world, Settings()), cloze.sources, targets).tolist(),
        "names": {str(topic): cloze.names[topic] for topic in used},
        "world": world.hash,
    }
    write_json(args.packet / ITEMS, items)
    size = sum(file.stat().st_size for file in args.packet.iterdir())
    print(f"{args.packet}: {len(tokens):,} tokens, {len(cloze)} items, {size / 1e6:.1f} MB")


def run(args: argparse.Namespace) -> None:
    tokenizer = load_tokenizer(args.packet / WORDS)
    cloze = WrittenCloze.read(args.packet / ITEMS)
    with np.load(args.packet / TEXT) as found:
        text = {name: found[name] for name in ("tokens", "starts", "segment")}

    def ids_of(texts: list[str]) -> list[Ints]:
        return [ids[:-1].astype(np.int64) for ids in encode(tokenizer, texts)]

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    machine = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    told: Json = {"machine": machine, "torch": torch.__version__, "minutes": args.minutes}
    told |= {"items": len(cloze), "chance": 1 / cloze.topics.shape[1], "sizes": {}}
    shares = {name: SHARES.get(name, 1.0) for name in args.presets.split(",")}
    args.out.mkdir(parents=True, exist_ok=True)
    for preset, share in shares.items():
        context = PRESETS[preset].context
        store = TokenStore(text["tokens"], text["starts"], text["segment"], context)
        probe = LinkProbe(cloze, ids_of, context)
        model = build_model(PRESETS[preset], tokenizer.get_vocab_size(), end_of_text(tokenizer))
        seconds = 60 * args.minutes * share / sum(shares.values())
        size = {"parameters": sum(p.numel() for p in model.parameters()), "moments": []}
        told["sizes"][preset] = size
        batch = max(1, args.tokens // context)
        precision = "bf16" if device.type == "cuda" else "fp32"
        config = TrainerConfig(learning_rate=RATES[preset], batch=batch, precision=precision)
        for moment in train_and_ask(Trainer(model, config, device), store, probe, seconds):
            size["moments"].append(moment)
            write_json(args.out / "knowledge_gpu.json", told)
        del model
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(args.out / "knowledge_gpu.json")


def train_and_ask(
    trainer: Trainer, store: TokenStore, probe: LinkProbe, seconds: float
) -> Iterator[Json]:
    """What a model knows at each moment; it trains in between, about so long in all."""
    windows = drawn(len(store), trainer.config.batch)
    began = time.perf_counter()
    yield asked(trainer, probe, 0, began, float("nan"))
    spent_on_probe = time.perf_counter() - began
    trainer.begin_phase(TRIED_OUT, decay=False)
    for _ in range(TRIED_OUT - 8):  # the first ones are slow
        trainer.update(store.read(next(windows)))
    per_update = -time.perf_counter()
    for _ in range(8):
        trainer.update(store.read(next(windows)))
    per_update = (per_update + time.perf_counter()) / 8
    left = seconds - (time.perf_counter() - began) - (len(MOMENTS) - 1) * spent_on_probe
    n = max(len(MOMENTS), int(0.95 * left / per_update))
    trainer.begin_phase(n, decay=True)
    moments = {max(1, round(n * share)) for share in MOMENTS if share}
    recent: list[float] = []
    for update in range(1, n + 1):
        recent.append(trainer.update(store.read(next(windows))))
        late = time.perf_counter() - began > 1.15 * seconds  # somebody else uses the machine
        if update in moments or late:
            loss, recent = float(np.mean(recent)), []
            yield asked(trainer, probe, TRIED_OUT + update, began, loss)
        if late:
            break


def asked(trainer: Trainer, probe: LinkProbe, updates: int, began: float, loss: float) -> Json:
    ranks = probe.scores(trainer.model, trainer.device).ranks()
    figures: LinkFigures = ranks.figures(probe.clusters)
    context = trainer.model.config.max_position_embeddings  # type: ignore[union-attr]
    tokens = updates * trainer.config.batch * int(context)  # type: ignore[arg-type]
    print(
        f"{trainer.n_parameters / 1e6:7.1f} M  {tokens / 1e6:8.2f} M tokens  loss {loss:6.3f}  own "
        f"context {figures.accuracy}, a stranger's {figures.without}, difference "
        f"{figures.by_context}, lift {figures.lift}",
        flush=True,
    )
    return {
        "tokens": tokens,
        "seconds": time.perf_counter() - began,
        "loss_nats_per_token": None if np.isnan(loss) else loss,
        "knows": figures.knows(probe.chance),
        **figures.to_json(),
        "ranks": ranks.to_json(),
    }


def drawn(n: int, batch: int) -> Iterator[Ints]:
    """Windows in a random order, all of them once before any is drawn again."""
    rng, order = np.random.default_rng(0), np.zeros(0, dtype=np.int64)
    while True:
        while len(order) < batch:
            order = np.concatenate([order, rng.permutation(n)])
        yield order[:batch]
        order = order[batch:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True)
    here = verbs.add_parser("pack", help="text and questions of a world into one folder")
    here.add_argument("world", type=Path, help="a world directory")
    here.add_argument("--vocabulary", type=int, default=8192, help="token ids (8192)")
    here.add_argument("--every", type=int, default=4, help="of so many texts one is counted (4)")
    here.add_argument("--items", type=int, default=400, help="links in question (400)")
    here.set_defaults(action=pack)
    there = verbs.add_parser("run", help="train presets and ask them")
    there.add_argument("--presets", default=",".join(SHARES), help="by comma (s,m,l)")
    there.add_argument("--minutes", type=float, default=3.2, help="of all presets together (3.2)")
    there.add_argument("--tokens", type=int, default=TOKENS, help=f"of an update ({TOKENS})")
    there.add_argument("--out", type=Path, default=Path(__file__).parent / "out", help="folder")
    there.set_defaults(action=run)
    for verb in (here, there):
        verb.add_argument("--packet", type=Path, default=PACKET, help=f"the folder ({PACKET.name})")
    args = parser.parse_args()
    args.action(args)


if __name__ == "__main__":
    main()
