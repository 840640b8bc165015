"""The cells of the reference benchmark, as data: what is played, in which world, for how long.

A cell is a world, a target and rules; its arms are those of the registry, so that a new arm joins
by itself. An episode is short, so that the whole table can be played; in one of twice its length 8
seeds tell the leading arms from uniform no better, to a tenth or so (docs/NOTEBOOK.md, 2026-11-26).
`kncl-policy benchmark --plan` says what a cell takes on a machine at hand.

It imports nothing that is heavy, so that `--help` and `--list` answer at once.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase

from train_lm.files import Json, hash_json

ALL = "all"  # in the place of arms: every arm of the registry that needs no file
DATA = "DATA"  # stands for the folder that a source reads, in words that are shown

Setting = int | float | str


@dataclass(frozen=True)
class Recipe:
    """How the world of a cell is built.

    Attributes:
        source: As `kncl-env build` knows it.
        scenario: As `kncl-env build` knows it.
        region: Target region, where the scenario has one.
        topics: Of a generated world; the source's own number, if None.
        needs_data: Whether the source reads a folder, which `--data` names.
    """

    source: str
    scenario: str
    region: str | None = None
    topics: int | None = None
    needs_data: bool = False

    @property
    def name(self) -> str:
        """Of its folder: readable, and another one where anything of the recipe is another."""
        return f"{self.source}-{self.scenario}-{hash_json(asdict(self))[:8]}"

    @property
    def command(self) -> str:
        """What to type to build it."""
        words = ["kncl-env", "build", self.source, *([DATA] if self.needs_data else [])]
        words += ["--scenario", self.scenario]
        words += ["--region", self.region] if self.region else []
        words += ["--topics", str(self.topics)] if self.topics else []
        return shlex.join([*words, "--out", "WORLD"])


@dataclass(frozen=True)
class Learning:
    """How the learned policies of a cell come about.

    Each training clones walks anew, then learns by reward; seeds of clones, of learners and of
    training are its own, and none is an evaluation's.

    Attributes:
        trainings: Policies that are cloned, then trained by reward.
        scratch: Policies that are trained by reward from fresh weights.
        cloned: Policies that are cloned alone.
        walks: Recorded paths that each clone learns from: people's where the source has any,
            and else simulated wayfinders'.
        iterations: Rollouts of a training.
        episodes: Of each rollout.
        learning_rate: Of the policy, at first.
    """

    trainings: int = 3
    scratch: int = 1
    cloned: int = 1
    walks: int = 4000
    iterations: int = 6
    episodes: int = 8
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("walks", "iterations", "episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")
        for name in ("trainings", "scratch", "cloned"):
            if getattr(self, name) < 0:
                raise ValueError(f"expected {name} >= 0, got {getattr(self, name)}")

    @property
    def searched(self) -> int:
        """Episodes that one training takes: what an equal search may try."""
        return self.iterations * self.episodes

    @property
    def trained_episodes(self) -> int:
        """Episodes with a learner, of all trainings together."""
        return (self.trainings + self.scratch) * self.searched


@dataclass(frozen=True)
class Cell:
    """One row block of the benchmark's table.

    Attributes:
        name: Of the cell and of the file of its scores.
        recipe: Of its world.
        settings: Those of the environment that are not usual, by their flat names.
        arms: Names of arms, or `ALL`.
        seeds: Paired seeds, each with an initial learner of its own.
        learners: Episodes that are played side by side.
        points: Measurements of a learning curve.
        learning: How policies are learned; none is, if None.
        subject: The arm that all controls are of, and that is compared with the best of each
            family; fixed before the first episode. Nobody, if None.

    Raises:
        ValueError: No seed, no arm but `uniform`, or a name that is no file's.
    """

    name: str
    recipe: Recipe
    settings: Mapping[str, Setting]
    arms: str | tuple[str, ...] = ALL
    seeds: int = 8
    learners: int = 6
    points: int = 9
    learning: Learning | None = None
    subject: str | None = None

    def __post_init__(self) -> None:
        if not self.name.replace("-", "").isalnum():
            raise ValueError(f"expected a cell's name of letters, digits and -, got {self.name!r}")
        for name in ("seeds", "learners"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")
        if self.arms != ALL and "uniform" not in self.arms:
            raise ValueError(f"expected uniform among the arms of {self.name}, got {self.arms}")

    @property
    def preset(self) -> str:
        """Of the learner."""
        return str(self.settings.get("model", "xs"))

    def to_json(self) -> Json:
        found = asdict(self)
        found["arms"] = self.arms if isinstance(self.arms, str) else [*self.arms]
        return {**found, "settings": dict(self.settings)}

    @property
    def episode_digest(self) -> str:
        """Tells apart cells whose episodes would come out with other numbers, whatever the arm."""
        own, what = self.to_json(), ("recipe", "settings", "points", "seeds", "learning", "subject")
        return hash_json({name: own[name] for name in what})


# What an episode is: the same for all worlds, so that cells can be compared.
XS: dict[str, Setting] = {
    "model": "xs",
    "nucleus_updates": 600,
    "steps": 24,
    "updates_per_step": 3,
    "slots": 32,
}
S: dict[str, Setting] = {**XS, "model": "s", "learning_rate": 1e-3}
# Curricula are known to fade under a decayed rate (Luo et al. 2025, arXiv:2511.18903).
CONSTANT: dict[str, Setting] = {**XS, "schedule": "constant", "averaging": "tail"}
LEARNED = "learned"  # the arm of all trainings of a cell
BY_HAND = "coverage"  # the arm that controls are of, where no policy is learned
SEVERAL = ("uniform", "random", "coverage", "rule", "dsir", "knn", "centroid", "moore-lewis")
# Uniform, and the five untrained arms with the lowest mean loss in both regions at xs.
LEADING = ("uniform", "knn", "centroid", "coverage", "rule", "goal")
SYNTHETIC_TOPICS = 400

REGIONS: dict[str, tuple[str, ...]] = {
    "wikispeedia": (
        "subject.Science.Biology",
        "subject.Science.Physics",
    ),
    "synthetic": ("community.2", "community.4"),
    "pydoc": ("chapter.internet", "chapter.concurrency"),
}


def _short(region: str) -> str:
    last = region.split(".")[-1].split("_")[0].lower()
    return f"community{last}" if last.isdigit() else last


def _recipe(source: str, scenario: str, region: str | None = None) -> Recipe:
    topics = SYNTHETIC_TOPICS if source == "synthetic" else None
    return Recipe(source, scenario, region, topics, needs_data=source == "wikispeedia")


def _distant() -> Iterator[Cell]:
    for source, regions in REGIONS.items():
        for region in regions:
            recipe = _recipe(source, "distant", region)
            name = f"{source}-distant-{_short(region)}"
            yield Cell(name, recipe, XS, learning=Learning(), subject=LEARNED)
    for region in REGIONS["wikispeedia"][:2]:
        recipe = _recipe("wikispeedia", "distant", region)
        name = f"wikispeedia-distant-{_short(region)}-s"
        yield Cell(name, recipe, S, arms=LEADING, seeds=5, learners=5)
    for source, regions in REGIONS.items():
        recipe = _recipe(source, "distant", regions[0])
        yield Cell(f"{source}-distant-{_short(regions[0])}-constant", recipe, CONSTANT, SEVERAL)


def _others() -> Iterator[Cell]:
    for source, regions in REGIONS.items():
        for region in regions[:2]:
            # The target is a setting of a broad world, which such cells share.
            settings = {**XS, "region": region}
            recipe = _recipe(source, "broad")
            name = f"{source}-focused-{_short(region)}"
            yield Cell(name, recipe, settings, subject=BY_HAND)
        for scenario in ("noisy", "broad"):
            yield Cell(f"{source}-{scenario}", _recipe(source, scenario), XS, subject=BY_HAND)


CELLS = {cell.name: cell for cell in (*_distant(), *_others())}


def chosen(names: Sequence[str], cells: Mapping[str, Cell] = CELLS) -> list[Cell]:
    """The cells that are meant, in the order of the table; a name may have `*` in it.

    Raises:
        ValueError: A name that is no cell's.
    """
    for name in names:
        if not any(fnmatchcase(cell, name) for cell in cells):
            raise ValueError(
                f"expected cells among {', '.join(cells)}, or a pattern such as '*-distant-*', "
                f"got {name!r}"
            )
    return [cell for own, cell in cells.items() if any(fnmatchcase(own, name) for name in names)]
