"""A cell of a stream: one method at one learning rate and seed. A task is data, a record what came.

Methods that put adapters together in several ways share their training: one task, several records.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from kncl_env.settings import Settings
from policies.stream.course import Layout
from policies.stream.methods import Method
from train_lm.checked.records import Fields, is_number
from train_lm.files import Json, hash_json

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class StreamTask:
    """What one process plays at a time.

    Attributes:
        world: Directory of the world.
        settings: Of learner and nucleus; they name the initial learner.
        layout: What is learned and measured.
        methods: One, or several that train alike and are put together in their own ways.
        rate: Peak learning rate of every stage.
        seed: Of the order of neighbourhoods and of text.
        keep: Folder that keeps the weights after every stage; empty keeps none.
    """

    world: str
    settings: Settings
    layout: Layout
    methods: tuple[Method, ...]
    rate: float
    seed: int
    keep: str = ""

    def __post_init__(self) -> None:
        if len({method.training for method in self.methods}) != 1:
            raise ValueError("expected methods of one training, got others")

    @property
    def training(self) -> Method:
        return self.methods[0].training

    @property
    def keys(self) -> list[Json]:
        """What tells the record of each method from others; see `key_of`."""
        return [self._key(method) for method in self.methods]

    def _key(self, method: Method) -> Json:
        # What a method does not do is not a part of it: a new field voids no cell of before.
        usual = asdict(Method(""))
        does = {name: value for name, value in asdict(method).items() if value != usual[name]}
        digest = hash_json({"method": {**does, "name": ""}, "rate": self.rate})
        learner_seed = self.settings.learner.seed
        own = {"arm": method.name, "digest": digest, "seed": self.seed}
        return {**own, "learner_seed": learner_seed, "rate": self.rate}


@dataclass(frozen=True)
class Cost:
    """What a method costs, measured.

    Attributes:
        changed: Share of the learner's weights that differ from where it began.
        rank: Effective rank of that difference, a mean over matrices (Roy & Vetterli 2007).
        trained: Numbers that an update may change.
        optimizer_bytes: Of the optimiser's state.
        tokens: Trained in all stages together.
    """

    changed: float
    rank: float
    trained: int
    optimizer_bytes: int
    tokens: int

    @classmethod
    def from_json(cls, found: Fields) -> Cost:
        return cls(
            changed=found.number("changed", 0, 1),
            rank=found.number("rank", 0),
            trained=found.whole("trained"),
            optimizer_bytes=found.whole("optimizer_bytes"),
            tokens=found.whole("tokens"),
        )


@dataclass(frozen=True, eq=False)
class StreamRecord:
    """What came of one method at one rate and seed.

    Attributes:
        key: As `StreamTask.keys` has it.
        names: (T,) neighbourhoods in the order of the stages.
        losses: (T + 1, T + 1) held-out loss before the first and after each stage [bits per byte];
            the last column is the nucleus.
        cost: What it took.
        seconds: That training took, on the machine as it was.
    """

    key: Json
    names: tuple[str, ...]
    losses: Floats
    cost: Cost
    seconds: float = field(compare=False)

    @property
    def method(self) -> str:
        return str(self.key["arm"])

    @property
    def rate(self) -> float:
        return float(self.key["rate"])

    @property
    def seed(self) -> int:
        return int(self.key["seed"])

    def to_json(self) -> Json:
        return {
            **self.key,
            "names": list(self.names),
            "losses": self.losses.tolist(),
            "cost": asdict(self.cost),
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, line: Json, place: object) -> StreamRecord:
        """Raises: ValueError where it is no record."""
        found = Fields.of(line, place)
        key: Json = {"arm": found.text("arm"), "digest": found.text("digest")}
        key |= {name: found.whole(name) for name in ("seed", "learner_seed")}
        names, rows = tuple(found.texts("names")), line.get("losses")
        size, fits = len(names) + 1, is_number()
        if (
            not isinstance(rows, list)
            or len(rows) != size
            or not all(
                isinstance(row, list) and len(row) == size and all(map(fits, row)) for row in rows
            )
        ):
            raise found.wrong("losses", f"{size} rows of {size} finite numbers")
        return cls(
            key={**key, "rate": found.number("rate", 0)},
            names=names,
            losses=np.array(rows, dtype=np.float64),
            cost=Cost.from_json(found.inner("cost")),
            seconds=found.number("seconds", 0),
        )
