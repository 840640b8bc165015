"""Ratios of training speed, all from one interleaved run: `make bench`.

Compared with a bare PyTorch loop on the same model and batches: our trainer, and the environment's
step end to end, with and without its measurements. Prints a table, writes `out/bench.json`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from kncl_env.build import BuildConfig, build_world
from kncl_env.make import build_trainer, topic_expansion
from kncl_env.sources.synthetic import read_synthetic
from train_lm.files import write_json

SETTINGS = {"nucleus_topics": 8, "nucleus_updates": 20, "steps": 12, "slots": 16, "breadth": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (7)")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch (1)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        world = build_world(
            read_synthetic(), Path(folder) / "world", BuildConfig(passage_bytes=300)
        )
        env = topic_expansion(world, **SETTINGS)
        trainer = build_trainer(world, env.config)
        bare = build_trainer(world, env.config)
        measured = measure(env, trainer, bare, args.rounds)
    medians = {name: float(np.median(rates)) for name, rates in measured.items()}
    flops = trainer.flops_per_token
    peak = matmul_peak()
    print(f"{'what':28s} {'tokens/s':>10s} {'of bare':>8s} {'of peak':>8s}")
    for name, rate in medians.items():
        share = rate / medians["bare_loop"]
        print(f"{name:28s} {rate:10,.0f} {share:8.2f} {rate * flops / peak:8.2f}")
    out = Path(__file__).parent / "out"
    out.mkdir(exist_ok=True)
    found = {f"{name}_tokens_per_s": rate for name, rate in medians.items()}
    found |= {
        "trainer_over_bare_loop": medians["trainer"] / medians["bare_loop"],
        "env_over_bare_loop": medians["env_without_measuring"] / medians["bare_loop"],
        "measuring_share_of_env_step": 1 - medians["env"] / medians["env_without_measuring"],
        "matmul_peak_flops": peak,
        "threads": args.threads,
    }
    write_json(out / "bench.json", found)
    print(out / "bench.json")


def measure(env, trainer, bare, rounds: int) -> dict[str, list[float]]:  # type: ignore[no-untyped-def]
    """Tokens per second of each way, once per round, so that a slow moment hits all of them."""
    config = env.config
    store = env.reading_store
    rng = np.random.default_rng(0)
    tokens = config.tokens_per_step
    trainer.begin_phase(10_000, decay=False)
    rates: dict[str, list[float]] = {
        name: [] for name in ("bare_loop", "trainer", "env_without_measuring", "env")
    }
    for round_ in range(rounds + 1):
        env.reset(seed=round_)
        windows = store.read(rng.integers(len(store), size=config.windows_per_step))
        seconds = {
            "bare_loop": timed(lambda w=windows: bare_loop(bare, w, config.batch)),
            "trainer": timed(lambda w=windows: trainer.train(w)),
        }
        spent: list[float] = []
        held_out_loss, probe = env.learner.held_out_loss, env.learner.probe

        def stop_watch(call, *arguments):  # type: ignore[no-untyped-def]
            began = time.perf_counter()
            result = call(*arguments)
            spent.append(time.perf_counter() - began)  # noqa: B023
            return result

        env.learner.held_out_loss = lambda f=held_out_loss: stop_watch(f)
        env.learner.probe = lambda topics, f=probe: stop_watch(f, topics)
        seconds["env"] = timed(lambda: env.step(0))
        seconds["env_without_measuring"] = seconds["env"] - sum(spent)
        env.learner.held_out_loss, env.learner.probe = held_out_loss, probe
        if round_:  # the first round warms up
            for name, value in seconds.items():
                rates[name].append(tokens / value)
    return rates


def bare_loop(trainer, windows, batch: int) -> None:  # type: ignore[no-untyped-def]
    """The least that trains the same model: no schedule, no checks."""
    model = trainer.model
    if not hasattr(trainer, "bare_optimizer"):
        trainer.bare_optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    model.train()
    for i in range(0, len(windows), batch):
        ids = torch.from_numpy(windows[i : i + batch])
        logits = model(input_ids=ids[:, :-1]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        trainer.bare_optimizer.step()
        trainer.bare_optimizer.zero_grad(set_to_none=True)


def matmul_peak(n: int = 1024) -> float:
    """FLOP/s of a square matrix product in float32, best of five."""
    a, b = torch.rand(n, n), torch.rand(n, n)
    return 2 * n**3 / min(timed(lambda: a @ b) for _ in range(5))


def timed(action) -> float:  # type: ignore[no-untyped-def]
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
