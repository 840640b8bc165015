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
        digest: Of what it played by; of every training, where there are several.
        trainings: Of a learned policy, that the seeds are spread over; 0 where none was learned.
        test: Final test loss of each seed [bits per byte].
        curve: Loss on `select` at each of the cell's moments, a mean over seeds [bits per byte].
        tokens: Trained in an episode.
        per_run: FLOPs of an episode, with what the arm spent beside its budget.
        once: FLOPs spent once, such as a policy's training.
        loss: Interquartile mean of `test`, and its interval.
        speed_up: Over uniform, and its interval; None where it has no meaning.
        difference: To uniform, and its interval; None for uniform.
        p: Of the difference, corrected for the number of arms.
        verdict: One cautious word.
    """

    family: str
    digest: str
    trainings: int
    test: tuple[float, ...]
    curve: tuple[float, ...]
    tokens: float
    per_run: float
    once: float
    loss: Span
    speed_up: Span | None
    difference: Span | None
    p: float | None
    verdict: str

    @property
    def all_in(self) -> float:
        """FLOPs of one episode and of all that had to come before it."""
        return self.per_run + self.once

    def to_json(self) -> Json:
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, found: Fields) -> ArmFigures:
        """Raises: ValueError where it is none."""
        return cls(
            family=found.text("family"),
            digest=found.text("digest"),
            trainings=found.whole("trainings"),
            test=tuple(found.numbers("test", least=0)),
            curve=tuple(found.numbers("curve", least=0)),
            tokens=found.number("tokens", least=0),
            per_run=found.number("per_run", least=0),
            once=found.number("once", least=0),
            loss=_span(found, "loss"),
            speed_up=found.or_none("speed_up", lambda name: _span(found, name)),
            difference=found.or_none("difference", lambda name: _span(found, name)),
            p=found.or_none("p", lambda name: found.number(name, 0, 1)),
            verdict=found.text("verdict"),
        )


@dataclass(frozen=True)
class Duel:
    """The cell's subject against one arm that was named before the first episode, or a control.

    Attributes:
        against: In words: `uniform`, `the best selection method`; of a control, its name.
        rival: The arm.
        difference: The subject's final test loss minus the rival's, and its interval.
        p: Corrected for the number of such comparisons.
        verdict: One cautious word.
    """

    against: str
    rival: str
    difference: Span
    p: float
    verdict: str

    def to_json(self) -> Json:
        return {name: _plain(value) for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, found: Fields) -> Duel:
        """Raises: ValueError where it is none."""
        return cls(
            against=found.text("against"),
            rival=found.text("rival"),
            difference=_span(found, "difference"),
            p=found.number("p", 0, 1),
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
        duels: Of the cell's subject, where it has one, against those named beforehand.
        controls: Of the subject, likewise.
        lacks: What a headline about the subject would need, one phrase each.
        notes: What a reader must know before comparing.
    """

    cell: Json
    identity: str
    world: Json
    made_by: Json
    moments: tuple[float, ...]
    arms: dict[str, ArmFigures]
    placing: Placing
    duels: tuple[Duel, ...] = ()
    controls: tuple[Duel, ...] = ()
    lacks: tuple[str, ...] = ()
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
            "duels": [one.to_json() for one in self.duels],
            "controls": [one.to_json() for one in self.controls],
            "lacks": [*self.lacks],
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
        cell=_cell(cell),
        identity=found.text("identity"),
        world=_world(found.inner("world")),
        made_by=_texts(found.inner("made_by")),
        moments=tuple(found.numbers("moments", least=0)),
        arms={arm: ArmFigures.from_json(arms.inner(arm)) for arm in arms},
        placing=Placing.from_json(found.inner("placing")),
        duels=tuple(map(Duel.from_json, found.inners("duels"))),
        controls=tuple(map(Duel.from_json, found.inners("controls"))),
        lacks=tuple(found.texts("lacks")),
        notes=tuple(found.texts("notes")),
    )
    if "uniform" not in score.arms or not {score.placing.winner, *_named(score)} <= set(score.arms):
        raise found.wrong("arms", "uniform and the arm that came first among them")
    if file.stem != cell.text("name"):
        raise ValueError(
            f"expected the score of {file.stem} in {file}, got that of {cell.text('name')}: "
            f"{ADVICE}"
        )
    return score


def _named(score: Score) -> list[str]:
    """Arms that a page looks up."""
    subject, runner_up = score.cell.get("subject"), score.placing.runner_up
    about = [str(subject)] if subject is not None and score.duels else []
    return about + ([] if runner_up is None else [runner_up])


def _cell(found: Fields) -> Json:
    """A cell as it was; what a page does not show is not looked at."""
    found.text("name")
    found.inner("settings")
    if "subject" in found:
        found.or_none("subject", found.text)
    return dict(found.values)


def _world(found: Fields) -> Json:
    for name in ("hash", "source", "licence", "build"):
        found.text(name)
    counts = found.inner("counts")
    for name in ("topics", "tokens"):
        counts.whole(name)
    return dict(found.values)


def _texts(found: Fields) -> Json:
    for name in ("command", "commit", "torch", "machine"):
        found.text(name)
    return dict(found.values)


def _span(found: Fields, name: str) -> Span:
    values = found.values.get(name)
    if not isinstance(values, list) or len(values) != 3:
        raise found.wrong(name, "a centre, a low and a high end")
    ends = Fields({"0": values[0], "1": values[1], "2": values[2]}, f"{name} of {found.place}")
    low, high = (ends.or_none(end, ends.number) for end in ("1", "2"))
    return ends.number("0"), low, high


def _plain(value: object) -> object:
    return [*value] if isinstance(value, tuple) else value
