"""Finds an arm by what a user types: a baseline's name, a policy, an arm of the user's own.

uniform                   a baseline
runs/learned              a policy's directory
my_package.arms:MyArm     an arm of one's own: anything with `begin(env, rng) -> Player`
my-arm                    the same, announced by an installed package in the group `kncl.arms`
random+runs/learned       an arm with the taste of a policy, or of a taste's file
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from kncl_env.env import TopicExpansionEnv
from kncl_env.observation import Observation
from kncl_env.taste import load_taste
from policies.arms import baselines
from policies.arms.arm import Arm, Rng, expands
from policies.arms.baselines import BASELINES
from policies.arms.spaces import in_space, space_of
from policies.curiosity import CuriosityPolicy
from train_lm.files import hash_file

GROUP = "kncl.arms"

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
        raise ValueError(
            f"expected a policy directory, an import path (my_package.arms:MyArm) or one of "
            f"{', '.join([*BASELINES, *_announced()])}, alone or with the taste of another place "
            f"(random+POLICY), got {spec!r}"
        )
    taste = CuriosityPolicy.load(place).taste if Path(place).is_dir() else load_taste(Path(place))
    if taste is None:
        raise ValueError(f"expected a policy with a taste in {place}, got one that reads anything")
    name = f"{arm.name}+{Path(_name_of(place)).stem}"
    begin = in_space(arm.begin, name, space_of(Path(place)))
    return Arm(name, begin, taste, arm.origin)


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


def place_of(spec: str) -> Path:
    """The policy directory, or the file, that an arm is read from; nothing's, for a plain name."""
    return Path(spec if Path(spec).is_dir() else spec.partition("+")[2] or spec)


def _alone(spec: str) -> Arm | None:
    if spec in BASELINES:
        # The source belongs to it: what an edited baseline played is not taken for its own.
        return Arm(spec, BASELINES[spec], origin=hash_file(Path(baselines.__file__)))
    if Path(spec).is_dir():
        return _policy(spec)
    if _IMPORT_PATH.fullmatch(spec):
        return _imported(spec, spec.partition(":")[2].rpartition(".")[2])
    announced = _announced()
    return _imported(announced[spec], spec) if spec in announced else None


def _policy(place: str) -> Arm:
    policy = CuriosityPolicy.load(place)

    def choose(env: TopicExpansionEnv, seen: Observation, rng: Rng) -> int:
        return policy.predict(seen, action_masks=env.action_masks())[0]

    weights = hash_file(Path(place) / "policy.safetensors")
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
        raise ValueError(f"expected an arm at {path}, got: {error}") from None
    made = found() if isinstance(found, type) else found
    if not callable(getattr(made, "begin", None)):
        raise ValueError(
            f"expected an arm at {path}, got something without begin(env, rng): see "
            "policies/arms/arm.py"
        )
    source = inspect.getsourcefile(module)
    origin = hash_file(Path(source)) if source else ""
    return Arm(name, made.begin, getattr(made, "taste", None), origin)
