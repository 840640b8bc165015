"""What the arms of an evaluation have cost before it began, read from where they say so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from policies.arms.registry import arm_of, parts_of
from policies.curiosity import CuriosityPolicy
from policies.verdict.accounting import TASTE, Spent, search_of
from train_lm.crew.folders import located
from train_lm.files import read_json


def spent_on(spec: str) -> tuple[Spent, ...]:
    """What an arm, as `arm_of` takes it, has cost once: a policy's training, or a taste.

    Who borrows the taste of a policy pays for that alone, where the policy says what it took.
    """
    arm, lender = parts_of(spec)
    if lender:
        return spent_on(arm) + _spent_on_taste(located(lender))
    stated = arm_of(spec).search_flops
    found = (Spent("what the arm says of itself", flops=stated),) if stated else ()
    place = located(spec)
    return found + search_of(CuriosityPolicy.load(place).provenance) if place.is_dir() else found


def _spent_on_taste(place: Path) -> tuple[Spent, ...]:
    if place.is_dir():
        listed = search_of(CuriosityPolicy.load(place).provenance)
        return tuple(one for one in listed if one.what == TASTE) or listed
    tokens = tokens_of_taste(place)
    return (Spent(TASTE, tokens=tokens),) if tokens else ()


def spent_on_all(specs: Sequence[str]) -> tuple[Spent, ...]:
    """Of several trainings of one policy, what one costs: the mean, part by part."""
    each = [spent_on(spec) for spec in specs]
    if len(each) == 1:
        return each[0]
    sums: dict[str, Spent] = {}
    for one in (part for parts in each for part in parts):
        before = sums.get(one.what, Spent(one.what))
        sums[one.what] = Spent(
            one.what,
            before.episodes + one.episodes,
            before.tokens + one.tokens,
            before.looked + one.looked,
            before.flops + one.flops,
        )
    n = len(each)
    return tuple(
        Spent(s.what, s.episodes // n, s.tokens / n, s.looked / n, s.flops / n)
        for s in sums.values()
    )


def episodes_of(spent: Sequence[Spent], tokens_per_episode: int) -> int:
    """Whole episodes of a learner that could have been trained with what an arm has cost once."""
    return round(sum(one.tokens for one in spent) / tokens_per_episode)


def tokens_of_taste(file: Path) -> int:
    """Tokens that learning a taste took, by its file or the folder of its policy; 0 if unknown."""
    found = read_json(file) if file.is_file() else {}
    tokens = found.get("tokens", 0) if isinstance(found, dict) else 0
    return tokens if isinstance(tokens, int) and tokens > 0 else 0
