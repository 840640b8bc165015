"""What each arm costs beside training: its bookkeeping on the CPU, and the models that it runs.

Bookkeeping is the CPU time of the arm's thread in `begin` and `act`, without what the environment's
`step` and `feed` and the stage's learners take. A stage's first episode pays for what its episodes
share, such as counts of words, or what is read in the place of withheld text: `begin first` and
`step first` show it, and the rest is of the same episode once more. Models beside the budget are
probes, reference models and trial runs: they are paid for by design, and charged. Where an arm
trains a model of another kind, its time stands with the bookkeeping.

    python benchmarks/arms.py --world worlds/wiki
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kncl_env.env import TopicExpansionEnv
from kncl_env.learner import Learner
from kncl_env.settings import Settings
from kncl_env.stage import Stage, open_stage
from kncl_env.world.build import BuildConfig, build_world
from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic
from kncl_env.world.world import World
from policies.arms.registry import ARMS, arm_of
from train_lm.files import write_json

SHARE = 0.02  # of a step that bookkeeping may take
TINY = {"model": "xxs", "slots": 8, "steps": 4, "updates_per_step": 2, "batch": 4}
TINY |= {"nucleus_topics": 6, "nucleus_updates": 30, "breadth": 16}


@dataclass(frozen=True)
class Costs:
    """What an arm costs.

    Attributes:
        family: Of the arm.
        begin_first: CPU time of its first `begin` on this stage, models included [s].
        begin: The same of the next one, without models [s].
        act_first: Bookkeeping of a step of its first episode on this stage [s].
        act: The same of the same episode once more [s].
        step: What environment and learner take for it, models beside the budget aside [s].
        share: Bookkeeping of an episode, begun again, as a share of its steps.
        models: FLOPs beside the budget as a share of the episode's training.
    """

    family: str
    begin_first: float
    begin: float
    act_first: float
    act: float
    step: float
    share: float
    models: float


class _Clock:
    """CPU time of this thread within calls; of nested ones the outermost counts."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **more: Any) -> Any:
            began, self._depth = time.thread_time(), self._depth + 1
            try:
                return call(*args, **more)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.thread_time() - began

        return timed


class _Watched:
    """A learner whose methods are timed."""

    def __init__(self, learner: Learner, clock: _Clock) -> None:
        self._learner, self._clock = learner, clock

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._learner, name)
        return self._clock.around(found) if callable(found) else found


def measure(stage: Stage, names: Sequence[str], steps: int) -> dict[str, Costs]:
    """Begin an episode of each arm twice, and play some of its steps.

    Args:
        steps: That are measured, after one that is not.
    """
    found = {}
    learner, settings = stage.learner(), stage.settings
    paid, make = _Clock(), Stage.learner
    # Learners that an arm asks for are watched, too.
    Stage.learner = lambda own, *more: _Watched(make(own, *more), paid)  # type: ignore
    for name in names:
        arm, rules = arm_of(name), _Clock()  # of the environment's step alone
        env = TopicExpansionEnv(stage, _Watched(learner, paid))
        env.step = paid.around(rules.around(env.step))  # type: ignore[method-assign]
        env.feed = paid.around(rules.around(env.feed))  # type: ignore[method-assign]
        begins, acts = [], []
        for _ in range(2):
            # A step is as long as an evaluation's: without rewards, where the arm looks at none.
            observation, _info = env.reset(seed=0, options={"rewarded": arm.rewarded})
            before, began = paid.seconds, time.thread_time()
            player = arm.begin(env, np.random.default_rng(0))
            spent = time.thread_time() - began
            begins.append((spent, spent - (paid.seconds - before)))
            rows = []
            for _ in range(steps + 1):
                before, within, began = paid.seconds, rules.seconds, time.thread_time()
                turn = player.act(observation)
                spent, observation = time.thread_time() - began, turn.observation
                own = spent - (paid.seconds - before)
                rows.append((own, rules.seconds - within, turn.extra_flops))
            (_, _, first), *later = rows
            acts.append(float(np.mean([own for own, _, _ in later])))
        act, step, flops = np.mean(later, axis=0).tolist()
        n = settings.rules.steps
        found[name] = Costs(
            family=ARMS[name].family,
            begin_first=begins[0][0],
            begin=begins[1][1],
            act_first=acts[0],
            act=act,
            step=step,
            share=(begins[1][1] / n + act) / step,
            models=(first + (n - 1) * flops)
            / (settings.tokens_per_episode * learner.flops_per_token),
        )
    Stage.learner = make  # type: ignore[method-assign]
    return found


def flat(costs: dict[str, Costs]) -> dict[str, float]:
    """The figure of each arm that counts, by name: its bookkeeping, or the models it pays for."""
    shares = {f"bookkeeping_share_of_{n}": c.share for n, c in costs.items() if not c.models}
    models = {f"models_of_{name}_share_of_training": c.models for name, c in costs.items()}
    return shares | {name: share for name, share in models.items() if share}


def print_table(costs: dict[str, Costs]) -> None:
    print(
        f"{'':26s} {'begin first':>12s} {'begin':>8s} {'step first':>11s} {'a step':>9s} "
        f"{'of a step':>10s} {'models beside':>14s}"
    )
    print(f"{'':26s} {'s':>12s} {'s':>8s} {'ms':>11s} {'ms':>9s} {'%':>10s} {'% of training':>14s}")
    # Those that pay for models by design stand apart.
    for name, c in sorted(costs.items(), key=lambda item: item[1].models > 0):
        over = " over 2 %" if c.share > SHARE and not c.models else ""
        models = f"{100 * c.models:14.0f}" if c.models else f"{'':14s}"
        print(
            f"{name:26s} {c.begin_first:12.2f} {c.begin:8.3f} "
            f"{1000 * c.act_first:11.2f} {1000 * c.act:9.2f} "
            f"{100 * c.share:10.2f} {models}{over}"
        )


def generated(folder: Path) -> World:
    return build_world(read_synthetic(SyntheticConfig()), folder, BuildConfig(passage_bytes=300))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", type=Path, help="a world's directory (a generated world)")
    parser.add_argument("--region", help="another target region than the world's own (its own)")
    parser.add_argument("--arms", help="by comma (all that have a name)")
    parser.add_argument("--steps", type=int, default=5, help="steps that are measured (5)")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes: a trial")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "arms.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.arms.split(",") if args.arms else list(ARMS)
    opened = nullcontext(args.world) if args.world else tempfile.TemporaryDirectory()
    with opened as folder:
        world = World.open(folder) if args.world else generated(Path(folder) / "world")
        settings = Settings.of(**(TINY if args.tiny else {}), region=args.region)
        costs = measure(open_stage(world, settings), names, args.steps)
    print_table(costs)
    args.out.parent.mkdir(exist_ok=True)
    write_json(args.out, {name: asdict(c) for name, c in costs.items()})
    print(args.out)


if __name__ == "__main__":
    main()
