"""Methods of learning one neighbourhood after another, as data: what changes, and what is kept.

A name says all: `replay/8` replays one window in eight, `topk/20` keeps a twentieth of the
gradient, `lora-routed` trains an adapter for each neighbourhood and sends a text to the nearest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

# The environment's settings that a stream reads: there is no episode in it.
OF_LEARNERS = (
    "model",
    "learning_rate",
    "learner_seed",
    "batch",
    "nucleus_topics",
    "nucleus_titles",
    "nucleus_updates",
)

MEMORIES = ("none", "replay", "self", "ewc")
RULES = ("full", "topk", "lowrank")
ADAPTERS = ("none", "lora", "relora")

# How adapters that were trained apart become one learner. `own` is told which neighbourhood a text
# is of, and so is no method but the bound of the routed ones.
ROUTED = ("own", "routed")
MERGED = ("arrow", "linear", "ties", "dare", "svd", "cat")


@dataclass(frozen=True)
class Method:
    """What a stage trains, and what is done about earlier ones.

    Attributes:
        name: As it is asked for.
        memory: Of earlier text: `none`, `replay`, `self` (text of the learner's own) or `ewc`.
        share: Of a stage's windows that `replay` and `self` take.
        strength: Of the penalty of `ewc`.
        rule: Which part of the gradient becomes a step: `full`, `topk` or `lowrank`.
        kept: Share of the gradient that `topk` keeps.
        rank: Of the projection of `lowrank`, or of the adapter.
        adapter: `none`, `lora` on a frozen base, or `relora`, merged and begun anew every stage.
        compose: How adapters that were trained apart are put together; empty where one learner
            goes from stage to stage.
        joint: Whether every stage reads all neighbourhoods: what could be had, and no method.
        rate_scale: Factor of its learning rates: what moves few numbers has to move them further.
    """

    name: str
    memory: str = "none"
    share: float = 0.0
    strength: float = 0.0
    rule: str = "full"
    kept: float = 1.0
    rank: int = 8
    adapter: str = "none"
    compose: str = ""
    joint: bool = False
    rate_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.memory not in MEMORIES or self.rule not in RULES or self.adapter not in ADAPTERS:
            raise ValueError(
                f"expected a memory among {MEMORIES}, a rule among {RULES} and an adapter among "
                f"{ADAPTERS}, got {self.memory!r}, {self.rule!r} and {self.adapter!r}"
            )
        if not 0 <= self.share < 1 or not 0 < self.kept <= 1:
            raise ValueError(
                f"expected shares of 0 <= share < 1 and 0 < kept <= 1 in {self.name!r}, got "
                f"{self.share} and {self.kept}"
            )
        if self.strength < 0 or self.rank < 1:
            raise ValueError(
                f"expected strength >= 0 and rank >= 1 in {self.name!r}, got {self.strength} and "
                f"{self.rank}"
            )
        if self.compose and (self.compose not in (*ROUTED, *MERGED) or self.adapter != "lora"):
            raise ValueError(
                f"expected adapters put together by one of {', '.join((*ROUTED, *MERGED))}, got "
                f"{self.name!r}"
            )

    @property
    def training(self) -> Method:
        """What is trained, whatever is done with it then: methods that share it train once."""
        if not self.compose:
            return self
        return replace(self, name=f"{self.adapter} apart", compose="own")


def _divisor(name: str, given: str, usual: int) -> int:
    if not given:
        return usual
    if not (given.isascii() and given.isdigit() and len(given) < 10 and int(given) >= 1):
        raise ValueError(f"expected a whole number after the stroke of a method, got {name!r}")
    return int(given)


# What comes before the stroke; each is told the number after it.
_KINDS: dict[str, Callable[[str, str], Method]] = {
    "none": lambda name, n: Method(name),
    "joint": lambda name, n: Method(name, joint=True),
    "replay": lambda name, n: Method(name, "replay", 1 / _divisor(name, n, 2)),
    "self": lambda name, n: Method(name, "self", 1 / _divisor(name, n, 2)),
    "ewc": lambda name, n: Method(name, "ewc", strength=float(_divisor(name, n, 100))),
    "topk": lambda name, n: Method(name, rule="topk", kept=1 / _divisor(name, n, 20), rate_scale=3),
    "lowrank": lambda name, n: Method(name, rule="lowrank", rank=_divisor(name, n, 8)),
    "lora": lambda name, n: Method(name, rank=_divisor(name, n, 8), adapter="lora", rate_scale=10),
    "relora": lambda name, n: Method(
        name, rank=_divisor(name, n, 8), adapter="relora", rate_scale=10
    ),
}
_WITHOUT_NUMBER = ("none", "joint")


def method_of(name: str) -> Method:
    """The method of a name.

    Raises:
        ValueError: No method has this name; all are listed.
    """
    kind, _, number = name.partition("/")
    plain, _, compose = kind.partition("-")
    unknown = plain not in _KINDS or (compose and plain != "lora")
    if unknown or ("/" in name and (not number or plain in _WITHOUT_NUMBER)):
        composed = ", ".join(f"lora-{how}" for how in (*ROUTED, *MERGED))
        raise ValueError(
            f"expected methods among {', '.join(_KINDS)} (with a number, as in replay/8) and "
            f"{composed}, got {name!r}"
        )
    found = _KINDS[plain](name, number)
    return replace(found, compose=compose) if compose else found


def methods_of(names: Sequence[str]) -> list[Method]:
    """The methods of names, each once. Raises: ValueError as `method_of`, or one stands twice."""
    found = [method_of(name) for name in names]
    twice = {name for name in names if list(names).count(name) > 1}
    if twice:
        raise ValueError(f"expected each method once, got {', '.join(sorted(twice))} again")
    return found
