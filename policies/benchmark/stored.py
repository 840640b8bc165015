"""The score of a cell on file: small, sealed, and the same bytes whenever it is played again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from policies.benchmark.standings import Placing
from train_lm.checked.digests import sealed, unsealed
from train_lm.checked.records import Fields
from train_lm.files import Json, read_json, write_json

FORMAT = "kncl-benchmark-score"
VERSION = 1
LARGEST = 200_000  # [bytes] of a file

ADVICE = "remove the file and play the cell again"

Span = tuple[float, float | None, float | None]


@dataclass(frozen=True)
class ArmFigures:
    """What a cell's table says of one arm.

    Attributes:
        family: As the registry has it.
        digest: Of what it played by.
        test: Final test loss of each seed [bits per byte].
        curve: Loss on `select` at each of the cell's moments, a mean over seeds [bits per byte].
        tokens: Trained in an episode.
        training: FLOPs of an episode's training.
        beside: FLOPs that the arm spent in an episode beside the budget.
        search: FLOPs spent once, such as a policy's training.
        loss: Interquartile mean of `test`, and its interval.
        speed_up: Over uniform, and its interval; None where it has no meaning.
        difference: To uniform, and its interval; None for uniform.
        p: Of the difference, corrected for the number of arms.
        verdict: One cautious word.
    """

    family: str
    digest: str
    test: tuple[float, ...]
    curve: tuple[float, ...]
    tokens: float
    training: float
    beside: float
    search: float
    loss: Span
    speed_up: Span | None
    difference: Span | None
    p: float | None
    verdict: str

    @property
    def all_in(self) -> float:
        """FLOPs of one episode and of all that had to come before it."""
        return self.training + self.beside + self.search

    def to_json(self) -> Json:
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, found: Fields) -> ArmFigures:
        """Raises: ValueError where it is none."""
        return cls(
            family=found.text("family"),
            digest=found.text("digest"),
            test=tuple(found.numbers("test", least=0)),
            curve=tuple(found.numbers("curve", least=0)),
            tokens=found.number("tokens", least=0),
            training=found.number("training", least=0),
            beside=found.number("beside", least=0),
            search=found.number("search", least=0),
            loss=_span(found, "loss"),
            speed_up=found.or_none("speed_up", lambda name: _span(found, name)),
            difference=found.or_none("difference", lambda name: _span(found, name)),
            p=found.or_none("p", lambda name: found.number(name, 0, 1)),
            verdict=found.text("verdict"),
        )


@dataclass(frozen=True)
class Score:
    """What came of a cell.

    Attributes:
        cell: As `Cell.to_json` has it.
        identity: Digest of all that the figures depend on; another one asks for another run.
        world: What the world is: its hash, source, licence and counts.
        made_by: Command, commit, versions, machine.
        moments: Tokens at which curves were measured.
        arms: By name, in the order in which they were played.
        placing: Who came first.
        notes: What a reader must know before comparing.
    """

    cell: Json
    identity: str
    world: Json
    made_by: Json
    moments: tuple[float, ...]
    arms: dict[str, ArmFigures]
    placing: Placing
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return str(self.cell["name"])

    def to_json(self) -> Json:
        return {
            "format": FORMAT,
            "version": VERSION,
            "cell": self.cell,
            "identity": self.identity,
            "world": self.world,
            "made_by": self.made_by,
            "moments": [*self.moments],
            "placing": self.placing.to_json(),
            "notes": [*self.notes],
            "arms": {arm: own.to_json() for arm, own in self.arms.items()},
        }

    def write(self, file: Path) -> None:
        """Raises: ValueError where the file would be too large to be kept beside the table."""
        if len(repr(self.to_json())) > LARGEST:
            raise ValueError(
                f"expected a score below {LARGEST:,} bytes, got more for {self.name}: leave out "
                "arms or seeds"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, sealed(self.to_json()))


def read_score(file: Path) -> Score:
    """A score as it was written.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It is no score, or one that was edited.
    """
    card = read_json(file)
    found = Fields.of(card, file, ADVICE)
    if found.values.get("format") != FORMAT or found.values.get("version") != VERSION:
        raise ValueError(f"expected the score of a cell in {file}, got another kind of file")
    if "seal" not in found:
        raise ValueError(f"expected the seal of {file}, found none: {ADVICE}")
    try:
        found = Fields.of(unsealed(card, file), file, ADVICE)
    except ValueError as error:
        raise ValueError(f"{error}: {ADVICE}") from None
    arms = found.inner("arms")
    cell = found.inner("cell")
    score = Score(
        cell=dict(cell.values),
        identity=found.text("identity"),
        world=dict(found.inner("world").values),
        made_by=dict(found.inner("made_by").values),
        moments=tuple(found.numbers("moments", least=0)),
        arms={arm: ArmFigures.from_json(arms.inner(arm)) for arm in arms},
        placing=Placing.from_json(found.inner("placing")),
        notes=tuple(found.texts("notes")),
    )
    if file.stem != cell.text("name"):
        raise ValueError(
            f"expected the score of {file.stem} in {file}, got that of {cell.text('name')}: "
            f"{ADVICE}"
        )
    return score


def _span(found: Fields, name: str) -> Span:
    values = found.values.get(name)
    if not isinstance(values, list) or len(values) != 3:
        raise found.wrong(name, "a centre, a low and a high end")
    ends = Fields({"0": values[0], "1": values[1], "2": values[2]}, f"{name} of {found.place}")
    low, high = (ends.or_none(end, ends.number) for end in ("1", "2"))
    return ends.number("0"), low, high


def _plain(value: object) -> object:
    return [*value] if isinstance(value, tuple) else value
