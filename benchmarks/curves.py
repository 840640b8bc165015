"""Whether a learning curve of few points and windows tells the speed-ups of a full one.

    python benchmarks/curves.py --world worlds/wiki --meters usual,13x128 --out curves.json

Each episode is measured after every step and on all windows of `select`; sparse curves are measured
beside it, such as `usual`, by the meter that `evaluate` uses. Printed are each arm's speed-up over
uniform with its interval, by every curve, and what each costs as a share of the training. With the
defaults it takes about ten minutes of one core.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import MEASURED_WINDOWS, ClockedLearner
from kncl_env.settings import Settings
from kncl_env.stage import open_stage
from kncl_env.world.world import World
from policies.arms.arm import Turn
from policies.arms.registry import arm_of
from policies.play.curves import Curve, CurveMeter
from policies.play.episodes import Playing
from policies.play.seeds import EVALUATION
from policies.verdict.scores import ArmRun, summarise
from policies.verdict.summary import Summary
from train_lm.command_line import comma_separated, say
from train_lm.files import write_json
from train_lm.provenance import commit

USUAL = "usual"


@dataclass(frozen=True)
class Pair:
    """Several curves of one episode, and what each took between its steps [s]."""

    curves: tuple[Curve, ...]
    seconds: tuple[float, ...]


class PairWatch:
    def __init__(self, env: TopicExpansionEnv, meters: tuple[CurveMeter, ...]) -> None:
        self.watches = [meter.begin(env) for meter in meters]
        self.seconds = [0.0 for _ in meters]

    def after(self, turn: Turn) -> None:
        for i, watch in enumerate(self.watches):
            began = time.perf_counter()
            watch.after(turn)
            self.seconds[i] += time.perf_counter() - began

    def finish(self) -> Pair:
        return Pair(tuple(w.finish() for w in self.watches), tuple(self.seconds))


class Game:
    """Environments with learners on a clock, one for each initial learner."""

    def __init__(self, world: World, settings: Settings, inits: int) -> None:
        each = [settings.with_learner_seed(settings.learner.seed + i) for i in range(inits)]
        stages = [open_stage(world, one) for one in each]
        self.clocks = [ClockedLearner(stage.learner()) for stage in stages]
        pairs = zip(stages, self.clocks, strict=True)
        self.envs = [TopicExpansionEnv(stage, clock) for stage, clock in pairs]

    def of(self, seed: int) -> TopicExpansionEnv:
        """As `evaluate` gives learners to seeds."""
        return self.envs[seed % len(self.envs)]

    @property
    def training(self) -> float:
        """Seconds of training."""
        return sum(clock.seconds["train"] for clock in self.clocks)


def measured(env: TopicExpansionEnv, arm: str, seed: int, meters: tuple[CurveMeter, ...]) -> Pair:
    """All curves of one whole episode."""
    chosen = arm_of(arm)
    episode = Playing(env, chosen, seed, EVALUATION.choices, chosen.rewarded)
    watch = PairWatch(env, meters)
    while not episode.over:
        watch.after(episode.step())
    return watch.finish()


def summary_of(curves: dict[tuple[str, int], Curve], inits: int) -> Summary:
    runs = [
        ArmRun(
            arm,
            seed,
            np.array(c.tokens),
            np.array(c.loss),
            c.test_before,
            c.test_after,
            learner_seed=seed % inits,
        )
        for (arm, seed), c in curves.items()
    ]
    return summarise(runs, rng=np.random.default_rng(0))


def meter_of(text: str, settings: Settings) -> CurveMeter:
    """`usual`, that of `evaluate`; `13x128`, points and windows; `13x35+512`, more at the ends."""
    if text == USUAL:
        return CurveMeter.within(settings)
    points, _, rest = text.partition("x")
    windows, _, ends = rest.partition("+")
    return CurveMeter(int(points), int(windows), int(ends) if ends else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", required=True)
    parser.add_argument(
        "--arms",
        type=comma_separated,
        default=["uniform", "rule", "coverage"],
        help="arms to measure, uniform among them (uniform,rule,coverage)",
    )
    parser.add_argument(
        "--meters",
        type=comma_separated,
        default=[USUAL],
        help="sparse curves: POINTSxWINDOWS, POINTSxWINDOWS+ENDS, or usual, that of evaluate "
        "(usual)",
    )
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--inits", type=int, default=1, help="initial learners among them (1)")
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--nucleus-updates", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--updates-per-step", type=int, default=6)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("expected at least 2 seeds: one has no interval")
    if not 1 <= args.inits <= args.seeds:
        parser.error(f"expected 1 to {args.seeds} initial learners, got {args.inits}")
    settings = Settings.of(
        steps=args.steps,
        updates_per_step=args.updates_per_step,
        slots=args.slots,
        nucleus_updates=args.nucleus_updates,
    )
    game = Game(World.open(args.world), settings, args.inits)
    dense = CurveMeter(args.steps + 1, MEASURED_WINDOWS["select"])
    try:
        meters = (dense, *(meter_of(text, settings) for text in args.meters))
    except ValueError as error:
        parser.error(f"expected curves such as 13x128, got {', '.join(args.meters)}: {error}")
    kinds = ("dense", *args.meters)
    found: list[dict[tuple[str, int], Curve]] = [{} for _ in kinds]
    spent = np.zeros(len(kinds))
    for seed in EVALUATION(args.seeds):
        for name in args.arms:
            pair = measured(game.of(seed), name, seed, meters)
            for curves, curve in zip(found, pair.curves, strict=True):
                curves[name, seed] = curve
            spent += pair.seconds
    training = game.training
    summaries = [summary_of(curves, args.inits) for curves in found]
    table = {
        name: {
            kind: [found.centre, found.low, found.high]
            for kind, found in zip(kinds, (s.arms[name].speed_up for s in summaries), strict=True)
        }
        for name in args.arms
    }
    shares = {k: s / training for k, s in zip(kinds, spent.tolist(), strict=True)}
    for name, row in table.items():
        figures = (f"{k} {v[0]:.3f} [{v[1]:.3f}, {v[2]:.3f}]" for k, v in row.items())
        say(f"{name:10s} {'   '.join(figures)}")
    say(f"share of the training: {', '.join(f'{k} {v:.3f}' for k, v in shares.items())}")
    if args.out:
        write_json(args.out, {"speed_up": table, "share_of_training": shares, "commit": commit()})


if __name__ == "__main__":
    main()
