"""A thousand workers and a model of a billion numbers, simulated event by event.

What is simulated is PPO over learners as `kncl-policy train --ray` does it: workers play banks of
episodes in lockstep with a driver, which asks each of them for a step, waits for all, lets the
policy choose, and learns after each rollout; or (`--collect async`) they choose by themselves and
send whole episodes, with weights a number of updates old, and whoever is free plays the next.
Steps take as long as the learner's arithmetic; workers straggle and fail; the driver handles one
answer after another over one network link. What a worker costs the driver is measured on this
machine, or taken from `--measured FILE`.

    python benchmarks/scaling.py                         # measures, then simulates
    python benchmarks/scaling.py --workers 1,10,100,1000 --learner 1e9
"""

from __future__ import annotations

import argparse
import copy
import heapq
import pickle
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from kncl_env.observation import CANDIDATE_FEATURES, CONTEXT_FEATURES
from train_lm.files import read_json, write_json


@dataclass(frozen=True)
class Costs:
    """What was measured.

    Attributes:
        answer_bytes: Of a step of one episode: observation, masks and what is told of it.
        handling: Seconds of the driver for one answer of a worker, beside its bytes.
        per_byte: Seconds of the driver for a byte: unpickling and copying.
        choosing: Seconds of the policy for one observation.
        learning: Seconds of PPO's update for one step of one episode.
        weights_bytes: Of the policy.
    """

    answer_bytes: float
    handling: float
    per_byte: float
    choosing: float
    learning: float
    weights_bytes: float


@dataclass(frozen=True)
class Setup:
    """What is assumed.

    Attributes:
        workers: Accelerators, one worker on each.
        bank: Episodes that a worker plays side by side.
        steps: Of an episode.
        learner: Parameters of a learner.
        tokens: That a step trains.
        rate: FLOP/s that a worker makes of its accelerator.
        straggling: Sigma of the logarithm of a step's time, drawn anew for each step.
        slow: Share of the workers that are twice as slow, always.
        mtbf: Hours between two failures of one worker.
        restart: Seconds until a failed worker plays again, the world being on its disk.
        bandwidth: Bytes per second of the driver's link.
        latency: Seconds from the driver to a worker and back.
        lag: Updates that the weights of workers are behind which choose by themselves, weights
            being sent once per rollout, and whole episodes coming home; None of those which play
            in lockstep with the driver.
        rollouts: That are simulated, each of as many banks as workers.
    """

    workers: int
    bank: int = 4
    steps: int = 60
    learner: float = 1e9
    tokens: float = 10 * 16 * 1024
    rate: float = 4e14 * 0.35
    straggling: float = 0.1
    slow: float = 0.01
    mtbf: float = 2000.0
    restart: float = 120.0
    bandwidth: float = 1.25e9
    latency: float = 1e-3
    lag: int | None = None
    rollouts: int = 12

    @property
    def step(self) -> float:
        """Seconds that a bank's step takes, undisturbed."""
        return self.bank * 6 * self.learner * self.tokens / self.rate


@dataclass(frozen=True)
class Found:
    """What came of rollouts of one episode for each place in every bank.

    Attributes:
        seconds: Of a rollout and its update.
        efficiency: Share of the workers' time that trained learners, work done twice left out.
        driver: Share of the time that the driver worked.
        failures: Of workers.
        lost: Share of the workers' work that was done twice.
    """

    seconds: float
    efficiency: float
    driver: float
    failures: int
    lost: float


def simulate(costs: Costs, setup: Setup, seed: int = 0) -> Found:
    """Rollouts, each with its update."""
    world = _World(costs, setup, np.random.default_rng(seed))
    return world.lockstep() if setup.lag is None else world.ahead(setup.lag)


class _World:
    def __init__(self, costs: Costs, setup: Setup, rng: np.random.Generator) -> None:
        self.costs, self.setup, self.rng = costs, setup, rng
        self.slowness = np.where(rng.random(setup.workers) < setup.slow, 2.0, 1.0)
        self.fails_at = rng.exponential(setup.mtbf * 3600, setup.workers)
        self.failures, self.again, self.busy = 0, 0.0, 0.0

    def duration(self, worker: int) -> float:
        spread = self.setup.straggling
        noise = np.exp(self.rng.normal(-spread * spread / 2, spread))
        return float(self.setup.step * self.slowness[worker] * noise)

    def played(self, worker: int, begin: float, done: int) -> float:
        """When a step is over that a worker begins after so many of the episode."""
        end = begin + self.duration(worker)
        while self.fails_at[worker] < end:  # what it had played is played again
            lost = max(0.0, self.fails_at[worker] - begin)
            redo = sum(self.duration(worker) for _ in range(done))
            begin = self.fails_at[worker] + self.setup.restart + redo
            self.failures += 1
            self.again += lost + redo
            self.fails_at[worker] = begin + self.rng.exponential(self.setup.mtbf * 3600)
            end = begin + self.duration(worker)
        return end

    def handling(self, n: int) -> float:
        """Seconds of the driver for an answer of n steps of a bank."""
        size = n * self.setup.bank * self.costs.answer_bytes
        return self.costs.handling + size * (self.costs.per_byte + 1 / self.setup.bandwidth)

    def lockstep(self) -> Found:
        clock = 0.0
        for _ in range(self.setup.rollouts):
            clock = self.rollout(clock) + self.learning
        return self.found(clock)

    def rollout(self, clock: float) -> float:
        """When a rollout is over, of which every step waits for everybody."""
        setup = self.setup
        for done in range(setup.steps):
            ends = [(self.played(w, clock + setup.latency, done), w) for w in range(setup.workers)]
            heapq.heapify(ends)
            while ends:  # answers wait until the driver is through with those before
                end, _ = heapq.heappop(ends)
                clock = max(clock, end) + self.handling(1)
                self.busy += self.handling(1)
            choosing = setup.workers * setup.bank * self.costs.choosing
            clock += choosing
            self.busy += choosing
        return clock

    def ahead(self, lag: int) -> Found:
        setup = self.setup
        sending = setup.workers * (self.costs.weights_bytes / setup.bandwidth + self.costs.handling)
        free = [(0.0, w) for w in range(setup.workers)]
        known = [0.0]  # when the weights before each rollout are known
        driver = 0.0  # handles answers on a thread of its own, beside the update
        for rollout in range(setup.rollouts):
            may = known[max(0, rollout - lag)] + sending
            self.busy += sending
            ends = []
            for _ in range(setup.workers):  # whoever is free plays the next bank
                since, worker = heapq.heappop(free)
                end = self.episode(worker, max(since, may))
                heapq.heappush(free, (end, worker))
                ends.append(end)
            for end in sorted(ends):
                driver = max(driver, end) + self.handling(setup.steps)
                self.busy += self.handling(setup.steps)
            known.append(max(driver, known[-1]) + self.learning)
        return self.found(known[-1])

    @property
    def learning(self) -> float:
        """Seconds of an update."""
        return self.setup.workers * self.setup.bank * self.setup.steps * self.costs.learning

    def episode(self, worker: int, begin: float) -> float:
        clock = begin + self.setup.latency
        for done in range(self.setup.steps):
            clock = self.played(worker, clock, done) + self.setup.bank * self.costs.choosing
        return clock

    def found(self, clock: float) -> Found:
        setup = self.setup
        useful = setup.rollouts * setup.workers * setup.steps * setup.step
        return Found(
            seconds=clock / setup.rollouts,
            efficiency=useful / (clock * setup.workers),
            driver=(self.busy + setup.rollouts * self.learning) / clock,
            failures=self.failures,
            lost=self.again / useful,
        )


def measured(slots: int = 64) -> Costs:
    """What an answer, a choice and an update cost on this machine, one core."""
    import torch

    from policies.curiosity import CuriosityConfig, CuriosityNetwork

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    seen = {
        "candidates": rng.random((1, slots, len(CANDIDATE_FEATURES)), dtype=np.float32),
        "context": rng.random((1, len(CONTEXT_FEATURES)), dtype=np.float32),
    }
    told = {"windows": np.zeros(160, dtype=np.int64), "reward": dict.fromkeys("abcd", 0.1)}
    answer = (seen, 0.1, False, told, np.ones(slots + 1, dtype=bool))
    # Copies: a pickle writes what it has written before as a reference.
    few, many = (pickle.dumps([copy.deepcopy(answer) for _ in range(n)]) for n in (1, 64))
    one, all_ = (median_of(lambda x=x: pickle.loads(x)) for x in (few, many))  # type: ignore[misc]
    network = CuriosityNetwork(CuriosityConfig())
    candidates, context = (torch.from_numpy(seen[k]) for k in ("candidates", "context"))
    with torch.no_grad():
        choosing = median_of(lambda: network(candidates, context))
    batch = [torch.from_numpy(np.repeat(seen[k], 64, 0)) for k in ("candidates", "context")]

    def update() -> None:
        logits, value = network(*batch)
        (logits.logsumexp(1).sum() + value.sum()).backward()

    per_byte = max(0.0, all_ - one) / max(1, len(many) - len(few))
    return Costs(
        answer_bytes=len(many) / 64,
        handling=1e-3,  # [s] of a Ray call that has its answer; see docs/SCALING.md
        per_byte=per_byte,
        choosing=choosing,
        learning=8 * median_of(update) / 64,  # eight epochs
        weights_bytes=sum(p.numel() * 4 for p in network.parameters()),
    )


def median_of(action: object, n: int = 30) -> float:
    took = []
    for _ in range(n):
        began = time.thread_time()
        action()  # type: ignore[operator]
        took.append(time.thread_time() - began)
    return float(np.median(took))


def rows(costs: Costs, workers: list[int], base: Setup) -> Iterator[tuple[Setup, Found]]:
    for n in workers:
        for lag in (None, 0, 1, 3):
            setup = replace(base, workers=n, lag=lag)
            yield setup, simulate(costs, setup)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="1,10,100,1000,4000", help="numbers of workers")
    parser.add_argument("--learner", type=float, default=1e9, help="parameters of a learner")
    parser.add_argument("--tokens", type=float, default=Setup.tokens, help="tokens of a step")
    parser.add_argument("--rate", type=float, default=Setup.rate, help="FLOP/s of a worker")
    parser.add_argument("--bank", type=int, default=Setup.bank, help="episodes of a worker")
    parser.add_argument("--measured", type=Path, help="costs of an earlier run (measure)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "scaling.json")
    args = parser.parse_args()
    costs = Costs(**read_json(args.measured)["costs"]) if args.measured else measured()
    base = Setup(1, bank=args.bank, learner=args.learner, tokens=args.tokens, rate=args.rate)
    print(", ".join(f"{name} {value:.3g}" for name, value in asdict(costs).items()))
    print(f"a step of a bank: {base.step:.3g} s\n")
    print("workers  how       rollout [s]  efficiency  driver busy  failures  played twice")
    found = []
    for setup, one in rows(costs, [int(n) for n in args.workers.split(",")], base):
        how = "lockstep" if setup.lag is None else f"async {setup.lag}"
        print(
            f"{setup.workers:7d}  {how:8s}  {one.seconds:11,.0f}  {one.efficiency:10.2f}  "
            f"{one.driver:11.2f}  {one.failures:8d}  {one.lost:12.4f}"
        )
        found.append({**asdict(setup), **asdict(one)})
    args.out.parent.mkdir(exist_ok=True)
    write_json(args.out, {"costs": asdict(costs), "found": found})
    print(args.out)


if __name__ == "__main__":
    main()
