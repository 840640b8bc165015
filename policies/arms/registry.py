"""Finds an arm by what a user types: a baseline's name, a policy, an arm of the user's own.

uniform                   one of `ARMS`
markov@people.jsonl       one of those that take a file
runs/learned              a policy's directory
my_package.arms:MyArm     an arm of one's own: anything with `begin(env, rng) -> Player`
my-arm                    the same, announced by an installed package in the group `kncl.arms`
random+runs/learned       an arm with the taste of a policy, or of a taste's file
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from kncl_env.taste import load_taste
from policies.arms import temperature, walks
from policies.arms.arm import Arm, Begin, Listed, Rng, expands
from policies.arms.bandits.listed import BANDITS
from policies.arms.baselines import BASELINES
from policies.arms.selection import (
    by_loss,
    d_optimal,
    dsir,
    moore_lewis,
    nearest,
    target_aligned,
)
from policies.arms.spaces import in_space, space_of
from policies.curiosity import CuriosityPolicy
from train_lm.crew.folders import located
from train_lm.files import hash_file, hash_json

# Every arm that has a name of its own; each family's files say which theirs are.
ARMS: dict[str, Listed] = {
    **BASELINES,
    **temperature.ARMS,
    **walks.ARMS,
    **by_loss.ARMS,
    **dsir.ARMS,
    **moore_lewis.ARMS,
    **nearest.ARMS,
    **target_aligned.ARMS,
    **d_optimal.ARMS,
    **BANDITS,
}

# Those that go by the target's loss as the game measures it after each step, here and on the
# frontier; the others go by text and links, or measure what they need, and are spared rewards.
REWARDED = ("graves", "skill-it", "aioli", "greedy", "best-of")

GROUP = "kncl.arms"
OWN = "policies.arms."  # modules whose source an arm of `ARMS` is told apart by
CONTRACT = "policies.arms.arm"  # the one that says what an arm is: no part of any

_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def arm_of(spec: str) -> Arm:
    """The arm that a user means; a taste is lent with `+`.

    Raises:
        ValueError: Nothing of that name, a damaged policy, or a place without a taste.
    """
    whole = _alone(spec)
    if whole is not None:
        return whole
    name, plus, place = spec.partition("+")
    arm = _alone(name) if plus else None
    if arm is None:
        names = [*ARMS, *_announced()]
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see `kncl-policy arms`"
        raise ValueError(
            f"expected a policy directory, an import path (my_package.arms:MyArm) or one of "
            f"{', '.join(names)}, alone or with the taste of another place "
            f"(random+POLICY), got {spec!r}: {hint}"
        )
    lent = located(place)
    taste = CuriosityPolicy.load(lent).taste if lent.is_dir() else load_taste(lent)
    if taste is None:
        raise ValueError(f"expected a policy with a taste in {place}, got one that reads anything")
    name = f"{arm.name}+{Path(_name_of(place)).stem}"
    begin = in_space(arm.begin, name, space_of(lent))
    return replace(arm, name=name, begin=begin, taste=taste)


def check_arms(specs: Sequence[str]) -> list[Arm]:
    """The arms of an evaluation, each checked before any work is spent.

    Raises:
        ValueError: An unknown arm, a damaged policy, no `uniform`, or one name twice.
    """
    if "uniform" not in specs:
        raise ValueError(
            f"expected uniform among the policies, the reference arm, got {', '.join(specs)}"
        )
    arms = [arm_of(spec) for spec in specs]
    names = [arm.name for arm in arms]
    if len(set(names)) < len(names):
        raise ValueError(f"expected arms with different names, got {', '.join(names)}")
    return arms


def parts_of(spec: str) -> tuple[str, str]:
    """An arm without a taste that it is lent, and the place of that; empty where it has none."""
    if _alone(spec) is not None:
        return spec, ""
    name, _, place = spec.partition("+")
    return name, place


def places_of(spec: str) -> list[Path]:
    """The policy directories and the files that an arm is read from; a plain name is nothing's."""
    if located(spec).is_dir():
        return [Path(spec)]
    _, at, file = spec.partition("@")
    if at and located(file).exists():
        return [Path(file)]
    arm, plus, lender = spec.partition("+")
    return [*places_of(arm), Path(lender)] if plus else [Path(file or spec)]


def source_of(listed: Listed) -> str:
    """Digest of the source of an arm: what an edited one played is not taken for its own."""
    return _digest_of(listed.begin.__module__)


@cache
def _digest_of(module: str) -> str:
    digests = [hash_file(file) for file in sorted(set(_files(module, set())))]
    return digests[0] if len(digests) == 1 else hash_json(digests)


def _files(module: str, seen: set[str]) -> Iterator[Path]:
    """Files of a module and of all modules of arms that it takes something from."""
    seen.add(module)
    found = importlib.import_module(module)
    assert found.__file__ is not None
    yield Path(found.__file__)
    for value in vars(found).values():
        other = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
        if isinstance(other, str) and other.startswith(OWN) and other not in {*seen, CONTRACT}:
            yield from _files(other, seen)


def _alone(spec: str) -> Arm | None:
    if spec in ARMS:
        return _listed(spec, ARMS[spec].begin, source_of(ARMS[spec]))
    if located(spec).is_dir():
        return _policy(spec)
    name, at, place = spec.partition("@")
    lends = "+" in place and not located(place).exists()  # then this is the arm and a taste's place
    if at and name in ARMS and not lends:
        return _of_file(name, located(place))
    if _IMPORT_PATH.fullmatch(spec):
        return _imported(spec, spec.partition(":")[2].rpartition(".")[2])
    announced = _announced()
    return _imported(announced[spec], spec) if spec in announced else None


def _of_file(name: str, file: Path) -> Arm:
    """An arm that goes by a file. Raises: ValueError or OSError: It takes none, or not this one."""
    listed = ARMS[name]
    if listed.of_file is None:
        takes = ", ".join(f"{n}@FILE" for n, arm in ARMS.items() if arm.of_file) or "none"
        raise ValueError(f"expected an arm that takes a file ({takes}), got {name}@{file}")
    origin = hash_json([source_of(listed), hash_file(file)])
    return replace(_listed(name, listed.of_file(file), origin), name=f"{name}@{file.stem}")


def _listed(name: str, begin: Begin, origin: str) -> Arm:
    return Arm(name, begin, origin=origin, rewarded=name.removesuffix("-frontier") in REWARDED)


def _policy(place: str) -> Arm:
    here = located(place)
    policy = CuriosityPolicy.load(here)

    def choose(env: TopicExpansionEnv, seen: Observation, rng: Rng) -> int:
        return policy.predict(seen, action_masks=env.action_masks())[0]

    weights = hash_file(here / "policy.safetensors")
    name = _name_of(place)
    return Arm(name, in_space(expands(choose), name, space_of(policy)), policy.taste, weights)


def _name_of(place: str) -> str:
    """What a folder or file is called; `.` and `..` are called as the folders that they mean.

    Raises:
        ValueError: It has no name to tell it by in tables and file names.
    """
    name = Path(place).name
    if name in ("", ".."):
        name = Path(place).resolve().name
    if not name:
        raise ValueError(f"expected a policy in a folder with a name, got {place}: move it")
    return name


def _announced() -> dict[str, str]:
    """Import paths by name, of installed packages."""
    return {found.name: found.value for found in entry_points(group=GROUP)}


def _imported(path: str, name: str) -> Arm:
    """An arm by import path; a class is called without arguments.

    The folder that the command runs in counts as well, as it does for `python -m`.
    """
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
        found: Any = module
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"expected an arm at {path}, got: {error}: call the command in the folder that holds "
            f"{module_name.partition('.')[0]}"
        ) from None
    made = found() if isinstance(found, type) else found
    if not callable(getattr(made, "begin", None)):
        raise ValueError(
            f"expected an arm at {path}, got something without begin(env, rng): see "
            "policies/arms/arm.py"
        )
    source = inspect.getsourcefile(module)
    origin = hash_file(Path(source)) if source else ""
    rewarded = bool(getattr(made, "rewarded", True))
    return Arm(name, made.begin, getattr(made, "taste", None), origin, rewarded=rewarded)
