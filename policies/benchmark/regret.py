"""Exact regret: arms in the table world, where what every action costs is known.

The regret of an action is what the best continuation would have brought before it, minus its own
reward and what can still be had after it; of an episode, the best return minus its own. Both are
looked up, not estimated: only an arm's own lot varies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kncl_env.table_world.game import TableEnv
from policies.arms.arm import Arm
from policies.play.episodes import Playing
from policies.play.seeds import EVALUATION
from policies.verdict.statistics import mean, stratified_bootstrap_ci

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RegretRow:
    """What an arm's episodes in a table came to.

    Attributes:
        arm: Its name.
        returns: (E,) of each episode [share of the reducible loss].
        steps: (E, S) regret of each action; 0 beyond an episode's end.
        problem: Why it cannot be played in a table; empty where it can.
    """

    arm: str
    returns: Floats
    steps: Floats
    problem: str = ""

    @property
    def regrets(self) -> Floats:
        """(E,) of each episode."""
        return np.asarray(self.steps.sum(1))

    @property
    def best_share(self) -> float:
        """Share of the actions that none would have been better than."""
        return float((self.steps < 1e-9).mean())

    def interval(self, draws: int) -> tuple[float, float]:
        """Of the mean regret over these draws, 95 %: what an arm's own lot leaves open.

        An arm without any has exactly this regret, and an interval of no width.
        """
        by_draw = self.regrets.reshape(-1, draws)
        return stratified_bootstrap_ci(by_draw, mean, np.random.default_rng(0))


def regret_of(env: TableEnv, arm: Arm, rounds: int) -> RegretRow:
    """Play an arm; draws come in turn, each as often as there are rounds."""
    length, episodes = env.rules.steps, rounds * env.table.draws
    returns, steps = np.zeros(episodes), np.zeros((episodes, length))
    try:
        for number, seed in enumerate(EVALUATION(episodes)):
            episode, step = Playing(env, arm, seed, EVALUATION.choices), 0
            while not episode.over:
                returns[number] += episode.step().reward
                steps[number, step] = env.table.regret(env.row)
                step += 1
    except ValueError as error:
        return RegretRow(arm.name, returns[:0], steps[:0], str(error))
    return RegretRow(arm.name, returns, steps)


def lines_of(env: TableEnv, rows: Sequence[RegretRow]) -> list[str]:
    """A table for a terminal, the least regret first."""
    table = env.table
    best = ", ".join(f"{table.optimum(draw):.4f}" for draw in range(table.draws))
    lines = [
        f"{len(table):,} states, {table.draws} draws; best returns {best} [share of the reducible "
        "loss]",
        f"{'arm':28s} {'regret':>26s} {'return':>9s} {'best actions':>13s}  regret of each step",
    ]
    played = [row for row in rows if not row.problem]
    for row in sorted(played, key=lambda row: float(row.regrets.mean())):
        low, high = row.interval(table.draws)
        regret = f"{row.regrets.mean():.4f}"
        regret += f" [{low:.4f}, {high:.4f}]" if np.isfinite(low) else ""
        each = " ".join(f"{x:.3f}" for x in row.steps.mean(0))
        lines.append(
            f"{row.arm[:28]:28s} {regret:>26s} {row.returns.mean():9.4f} {row.best_share:13.0%}  "
            f"{each}"
        )
    unplayed = ", ".join(row.arm for row in rows if row.problem)
    if unplayed:
        lines.append(f"not to be played in a table, which holds no other text: {unplayed}")
    return lines
