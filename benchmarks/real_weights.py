"""Adapters of neighbourhoods on a pretrained model: what they learn, what it forgets of other text.

    python benchmarks/real_weights.py --world worlds/wiki --model path/to/SmolLM2 --out real.json

Three neighbourhoods of a world, an adapter for each on the frozen model, trained apart; routed to
the right one, merged, and beside them one adapter and one whole model that go from neighbourhood to
neighbourhood over the same windows. Measured on held-out text of the neighbourhoods, and on general
text: held-out text of the rest of the world, and this Python's own documentation. One seed, a small
budget: it says what happens, and has no interval.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from kncl_env.settings import Settings
from kncl_env.world.world import World
from policies.stream.course import MERGING, Layout, parts_of
from train_lm.adapters import Adapter, AdapterConfig, merge_adapters, with_adapter
from train_lm.files import write_json
from train_lm.model import hide_library_bars, open_model
from train_lm.provenance import commit
from train_lm.trainer import Trainer, TrainerConfig

Ints = NDArray[np.int64]
OTHERS = ("rest of the world", "documentation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--model", required=True, help="a Hugging Face directory or a preset")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--neighbourhoods", type=int, default=3)
    parser.add_argument("--size", type=int, default=40, help="topics of each")
    parser.add_argument("--updates", type=int, default=16, help="of each neighbourhood")
    parser.add_argument("--batch", type=int, default=2, help="windows per update")
    parser.add_argument("--context", type=int, default=128, help="tokens per window")
    parser.add_argument("--windows", type=int, default=8, help="measured of each text")
    parser.add_argument("--rate", type=float, default=3e-4, help="of adapters")
    parser.add_argument("--full-rate", type=float, default=2e-5, help="of the whole model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    hide_library_bars()
    write_json(args.out, run(args))


def run(args: argparse.Namespace) -> dict[str, object]:
    world = World.open(args.world)
    opened = open_model(args.model, world.tokenizer, args.seed)
    text = Text(world, args, opened.tokenizer)
    names = [*text.names, *OTHERS]
    losses: dict[str, list[float]] = {}
    seconds: dict[str, float] = {}

    def measure(name: str, model: nn.Module) -> None:
        began = time.perf_counter()
        trainer = Trainer(model, TrainerConfig())
        losses[name] = [text.bits(trainer, k) for k in range(len(names))]
        seconds[f"measuring {name}"] = time.perf_counter() - began
        row = "  ".join(f"{n[:20]} {x:.4f}" for n, x in zip(names, losses[name], strict=True))
        print(f"{name:14s} {row}", flush=True)

    def train(name: str, trainer: Trainer, numbers: Sequence[int]) -> None:
        began = time.perf_counter()
        for number in numbers:
            trainer.begin_phase(args.updates, decay=True)
            trainer.train(text.train[number])
        seconds[name] = time.perf_counter() - began

    base = opened.model
    measure("base", base)
    shape = AdapterConfig(8, 16.0, seed=args.seed)
    config = TrainerConfig(learning_rate=args.rate, batch=args.batch)
    adapters: list[Adapter] = []
    for number in range(len(text.names)):
        trainer = Trainer(copy.deepcopy(base), config, adapter=shape)
        train(f"adapter {number}", trainer, [number])
        adapters.append(trainer.take_adapter())
        del trainer
        measure(f"adapter {number}", with_adapter(base, adapters[-1]))
    own = [losses[f"adapter {k}"][k] for k in range(len(adapters))]
    losses["routed"] = [*own, *losses["base"][len(own) :]]  # other text is read with the base
    for how in ("linear", "ties", "cat"):
        rule, power = MERGING[how]
        weights = [float(len(adapters)) ** power] * len(adapters)
        merged = merge_adapters(base, adapters, weights, rule, seed=args.seed)
        measure(f"merged {how}", with_adapter(base, merged))
    trainer = Trainer(copy.deepcopy(base), config, adapter=shape)
    for number in range(len(adapters)):
        train(f"one adapter, stage {number + 1}", trainer, [number])
    measure("one adapter", with_adapter(base, trainer.take_adapter()))
    del trainer
    full = TrainerConfig(learning_rate=args.full_rate, batch=args.batch)
    trainer = Trainer(base, full)  # the base is needed no more
    train("whole model", trainer, range(len(adapters)))
    measure("whole model", trainer.model)
    about = {name: str(value) for name, value in vars(args).items()}
    found = {"columns": names, "bits_per_byte": losses, "seconds": seconds, "settings": about}
    return {**found, "world": world.hash, "commit": commit()}


class Text:
    """Windows of training text of each neighbourhood, and of all held-out text.

    Args:
        tokenizer: The model's own; the world's, if None.
    """

    def __init__(self, world: World, args: argparse.Namespace, tokenizer: Any) -> None:
        own = world.tokenizer
        self.encode: Callable[[str], list[int]] = (
            (lambda text: own.encode(text).ids)
            if tokenizer is None
            else (lambda text: tokenizer(text, add_special_tokens=False)["input_ids"])
        )
        self.decode: Callable[[list[int]], str] = (tokenizer or own).decode
        self.context = args.context
        layout = Layout(args.neighbourhoods, args.size)
        parts = parts_of(world, Settings(), layout)
        self.names = [part.name for part in parts]
        rng = np.random.default_rng(args.seed)
        inside = np.concatenate([part.topics for part in parts])
        rest = rng.permutation(np.setdiff1d(world.target_topics(), inside))[:100]
        n = args.updates * args.batch
        self.train = [self.windows(passages(world, p.topics, "train", rng), n)[0] for p in parts]
        texts = [passages(world, part.topics, "test", rng) for part in parts]
        texts += [passages(world, rest, "test", rng), documentation()]
        self.held_out = [self.windows(one, args.windows) for one in texts]

    def windows(self, texts: Sequence[str], n: int) -> tuple[Ints, int]:
        """(n, T + 1) tokens of as many texts, and the bytes that they ask to predict."""
        found, size = [], 0
        for text in texts:
            ids = list(self.encode(text))[: self.context + 1]
            if len(ids) == self.context + 1:
                found.append(ids)
                size += len(self.decode(ids[1:]).encode())
            if len(found) == n:
                return np.array(found, dtype=np.int64), size
        raise ValueError(f"expected {n} texts of {self.context} tokens, got {len(found)}")

    def bits(self, trainer: Trainer, column: int) -> float:
        tokens, size = self.held_out[column]
        return float(trainer.nll(tokens).sum() / np.log(2) / size)


def passages(world: World, topics: Ints, split: str, rng: np.random.Generator) -> list[str]:
    """Running text of topics in an order by lot, four passages at a time."""
    found = []
    for topic in topics:
        own = [world.passage_text(int(p)) for p in world.passages_of(int(topic), split)[:12]]
        found += [" ".join(own[i : i + 4]) for i in range(0, max(1, len(own) - 3), 4)]
    return [found[int(i)] for i in rng.permutation(len(found))]


def documentation() -> list[str]:
    """Docstrings of this Python, which no encyclopedia has."""
    found = []
    for value in (argparse, json, copy, time):
        for name in sorted(vars(value)):
            doc = getattr(getattr(value, name), "__doc__", None)
            if isinstance(doc, str) and len(doc) > 600:
                found.append(doc)
    for kind in (int, str, bytes, list, dict, set, float, Path, type, memoryview, bytearray):
        docs = [getattr(vars(kind)[name], "__doc__", None) or "" for name in sorted(vars(kind))]
        found.append("\n".join(doc for doc in docs if doc and not doc.startswith("Return self")))
    return [doc for doc in found if len(doc) > 600]


if __name__ == "__main__":
    main()
