"""What the arms of an evaluation have cost before it began, read from where they say so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from policies.arms.registry import arm_of, place_of
from policies.curiosity import CuriosityPolicy
from policies.verdict.accounting import Spent, search_of
from train_lm.files import read_json


def spent_on(spec: str) -> tuple[Spent, ...]:
    """What an arm, as `arm_of` takes it, has cost once: a policy's training, or a taste."""
    stated = arm_of(spec).search_flops
    found = (Spent("what the arm says of itself", flops=stated),) if stated else ()
    place = place_of(spec)
    if place.is_dir():
        return found + search_of(CuriosityPolicy.load(place).provenance)
    if "+" in spec and place.is_file():
        tokens = tokens_of_taste(place)
        return (*found, Spent("learning a taste", tokens=tokens)) if tokens else found
    return found


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
