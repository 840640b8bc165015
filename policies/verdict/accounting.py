"""What everything cost: training, looking, probing, and the search that a policy is.

The unit is the token trained and the FLOP. A forward pass on a token is a third of training on it
(Kaplan et al. 2020, arXiv:2001.08361), a half where most weights stand still. What is spent once
can be spread over the runs that it serves; all-in says what a single run costs that has to pay for
all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kncl_env.learner import MEASURED_WINDOWS
from kncl_env.settings import Settings
from policies.verdict.summary import Interval

FORWARD = 1 / 3  # of the FLOPs of training on a token
SPENT = "spent"  # where a policy's provenance lists what its training cost
TASTE = "learning a taste"  # what that is called there
RUNS = (1, 10, 100)  # that a search is spread over, in tables

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Spent:
    """One thing that was paid for once.

    Attributes:
        what: In words.
        episodes: Of a learner that were played for it.
        tokens: That learners were trained on.
        looked: Tokens that learners were measured on.
        flops: Of anything that is no learner, such as a policy's own network.

    Raises:
        ValueError: A negative cost, or no word for it.
    """

    what: str
    episodes: int = 0
    tokens: float = 0.0
    looked: float = 0.0
    flops: float = 0.0

    def __post_init__(self) -> None:
        if not self.what.strip() or min(self.episodes, self.tokens, self.looked, self.flops) < 0:
            raise ValueError(f"expected a cost of 0 or more with a word for it, got {self}")

    def total(self, flops_per_token: float, forward: float = FORWARD) -> float:
        """All of it [FLOPs]; `forward` is the share of training that a forward pass takes."""
        return flops_per_token * (self.tokens + forward * self.looked) + self.flops

    def to_json(self) -> dict[str, object]:
        return {k: v for k, v in vars(self).items() if v}

    @classmethod
    def from_json(cls, record: Record) -> Spent:
        """Raises: ValueError: Not what `to_json` gave."""
        try:
            return cls(**record)
        except TypeError as error:
            raise ValueError(f"expected an entry of what was spent, got another: {error}") from None


def episodes_spent(what: str, n: int, settings: Settings) -> Spent:
    """n episodes of a learner; the game looks at `reward` and at candidates after every step."""
    looked = MEASURED_WINDOWS["reward"] + settings.rules.probes + 1
    steps = n * settings.rules.steps
    return Spent(
        what, n, n * settings.tokens_per_episode, steps * looked * settings.learner.context
    )


def network_spent(what: str, parameters: int, rows: float, passes: float) -> Spent:
    """A small network that scores rows one by one, trained on them in some passes."""
    return Spent(what, flops=6.0 * parameters * rows * passes)


def search_of(provenance: Record) -> tuple[Spent, ...]:
    """What a policy's training cost, as its provenance lists it.

    One of before there was such a list says how many episodes PPO played, and that is told; what
    else it had cost (a surrogate, a taste, cloning) is not known.
    """
    listed = provenance.get(SPENT)
    if isinstance(listed, list):
        return tuple(Spent.from_json(one) for one in listed)
    ppo, settings = provenance.get("ppo"), provenance.get("settings")
    if provenance.get("made_by") == "ppo" and isinstance(ppo, dict) and isinstance(settings, dict):
        episodes = int(ppo["iterations"]) * int(ppo["episodes"])
        found = Settings.from_json(settings, "a policy's provenance")
        return (episodes_spent("episodes of PPO", episodes, found),)
    return ()


@dataclass(frozen=True)
class ArmCost:
    """What an arm costs, a mean over its runs.

    Attributes:
        trained: Tokens that count in its run.
        looked: Tokens that the learner was measured on while it acted: by the game, for reward and
            candidates, and by the arm.
        worked: Tokens of training in all, with copies that were thrown away; `trained` where
            nobody counted.
        charged: What the arm itself says that it spent beside the budget [FLOPs].
        flops_per_token: Of training.
        search: Spent once, for all runs.
        rewarded: Of `looked`, tokens that the game measured for the reward: no arm says them, and
            where no arm looks at rewards, there are none.
        forward: Of the FLOPs of training on a token, the share that a forward pass takes.
    """

    trained: float
    looked: float
    worked: float
    charged: float
    flops_per_token: float
    search: tuple[Spent, ...] = ()
    rewarded: float = 0.0
    forward: float = FORWARD

    @property
    def per_run(self) -> float:
        """FLOPs of a run, its search aside: what was counted, or what the arm says if it is more.

        What an arm spends on its learner is in both, so they are not added. What it spends on
        models of its own is in what it says alone; the game's looks for the reward come on top.
        """
        seen = max(self.worked, self.trained) + self.forward * self.looked
        own = self.trained + self.forward * self.rewarded
        return max(seen * self.flops_per_token, own * self.flops_per_token + self.charged)

    @property
    def once(self) -> float:
        """FLOPs of the search."""
        return sum(one.total(self.flops_per_token, self.forward) for one in self.search)

    def amortised(self, runs: int) -> float:
        """FLOPs of a run that bears its share of the search; all-in with one run."""
        return self.per_run + self.once / runs

    def to_json(self) -> dict[str, object]:
        return {
            "trained_tokens": self.trained,
            "looked_tokens": self.looked,
            "rewarded_tokens": self.rewarded,
            "worked_tokens": self.worked,
            "charged_flops": self.charged,
            "flops_per_token": self.flops_per_token,
            "flops_per_run": self.per_run,
            "flops_once": self.once,
            "flops_all_in": self.amortised(1),
            "search": [one.to_json() for one in self.search],
        }


@dataclass(frozen=True)
class Bill:
    """What an arm costs, and after how many runs it has paid.

    Attributes:
        cost: A mean over its runs.
        runs: Of `break_even`; None where nothing was spent once, or nothing is known.
    """

    cost: ArmCost
    runs: Interval | None = None

    def to_json(self) -> dict[str, object]:
        runs = self.runs
        paid = None if runs is None else {"runs": runs.centre, "low": runs.low, "high": runs.high}
        return {**self.cost.to_json(), "break_even": paid}


def break_even(
    arm: ArmCost, reference: ArmCost, speed_up: Interval, share: float
) -> Interval | None:
    """Runs after which an arm, with its search, has cost less than the reference.

    Both train to the reference's final loss: the reference needs `share` of its budget, the arm
    that over its speed-up.

    Args:
        speed_up: The arm's, with its interval [times].
        share: Of its budget that the reference needs until it first touches its final loss.

    Returns:
        The number of runs; it is None where it never pays, and so is the upper end. None where
        nothing was spent once, or nothing is known.
    """
    if not arm.once or speed_up.centre is None:
        return None

    def runs(speed: float | None) -> float | None:
        if not speed:
            return None
        saved = share * (reference.per_run - arm.per_run / speed)
        return arm.once / saved if saved > 0 else None

    return Interval(runs(speed_up.centre), runs(speed_up.high), runs(speed_up.low))


def cost_of(
    curves: Sequence[Any], search: Sequence[Spent] = (), settings: Settings | None = None
) -> ArmCost:
    """From the curves of an arm's runs, `policies.play.curves.Curve`, and their settings, if they
    are known.
    """
    context = 0 if settings is None else settings.learner.context
    adapts = settings is not None and settings.change.adapter != "none"
    each_step = MEASURED_WINDOWS["reward"] * context

    def average(values: Sequence[float]) -> float:
        return float(sum(values)) / len(values)

    return ArmCost(
        trained=average([c.tokens[-1] for c in curves]),
        looked=average([c.looked for c in curves]),
        worked=average([c.worked or c.tokens[-1] for c in curves]),
        charged=average([c.extra_flops for c in curves]),
        flops_per_token=average([c.flops_per_token for c in curves]),
        search=tuple(search),
        # Nobody counted where nothing was looked at.
        rewarded=average(
            [0 if c.unrewarded else min(c.looked, len(c.topics) * each_step) for c in curves]
        ),
        forward=1 / 2 if adapts else FORWARD,
    )
