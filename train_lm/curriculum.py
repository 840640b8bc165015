"""A recorded order of reading: which passages at which step, and the world they are of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train_lm.checked.digests import SEAL, sealed, unsealed
from train_lm.checked.records import Fields, parse_json
from train_lm.files import hash_file, replacing
from train_lm.inputs import note_input

BOM = b"\xef\xbb\xbf"
BODY = "steps_sha256"  # of the header: the digest of all lines after it

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class CurriculumStep:
    """One expansion or rehearsal.

    Attributes:
        passages: Passages to read.
        tokens: Budget of the step.
        line: Where it stands in its file.
        topics: What was expanded; none, if it was a rehearsal or nobody says.
    """

    passages: Ints
    tokens: int
    line: int
    topics: tuple[int, ...] = ()


@dataclass(frozen=True)
class Curriculum:
    """Steps in order, and the hash of the world whose passages they name.

    Attributes:
        hash: Identity of the file.
    """

    file: Path
    world: str
    steps: tuple[CurriculumStep, ...]
    hash: str

    @property
    def tokens(self) -> int:
        """Token budget of all steps."""
        return sum(step.tokens for step in self.steps)


def read_curriculum(file: Path) -> Curriculum:
    """Read JSON Lines: a header, then a step per line.

    Raises:
        FileNotFoundError: No such file.
        ValueError: A line is not as expected; file and line are named.
    """
    if not file.is_file():
        raise FileNotFoundError(f"expected a curriculum at {file}, found none")
    header: Fields | None = None
    steps: list[CurriculumStep] = []
    body = hashlib.sha256()
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            place = f"{file}:{number}"
            # Some editors put a byte order mark at the top of a file.
            found = parse_json(line.removeprefix(BOM) if number == 1 else line, place)
            record = Fields.of(found, place, "not a step of a curriculum")
            if header is None:
                if (found.get("format"), found.get("version")) != ("kncl-curriculum", 1):
                    raise ValueError(
                        f"{place}: expected the header of a kncl-curriculum, version 1"
                    )
                header = record
            else:
                steps.append(_step(record, number))
                body.update(line)
    if header is None or not steps:
        raise ValueError(f"expected steps in curriculum {file}, got none")
    unsealed(dict(header.values), header.place)
    if BODY in header and header.text(BODY) != body.hexdigest():
        raise ValueError(
            f"expected the steps that {file} was written with, got others: if they were changed on "
            f"purpose, take {BODY} and {SEAL} out of its first line"
        )
    digest = hash_file(file)
    note_input(file, digest, "a curriculum", checked=SEAL in header and BODY in header)
    return Curriculum(file, header.digest("world"), tuple(steps), digest)


def write_curriculum(
    file: Path,
    world: str,
    tokens_per_step: int,
    topics: Sequence[int],
    passages: Sequence[Sequence[int]],
    *,
    durable: bool = True,
) -> None:
    """Write what was read, a step per line; a topic below 0 is none.

    Args:
        durable: Whether it outlasts a power cut from then on; one that is written again need not.
    """
    header = {
        "format": "kncl-curriculum",
        "version": 1,
        "world": world,
        "tokens_per_step": tokens_per_step,
    }
    steps = [
        {"topics": [t] if t >= 0 else [], "passages": list(p), "tokens": tokens_per_step}
        for t, p in zip(topics, passages, strict=True)
    ]
    body = "".join(json.dumps(step) + "\n" for step in steps).encode()
    first = sealed({**header, BODY: hashlib.sha256(body).hexdigest()})
    with replacing(file, durable=durable) as part:
        part.write_bytes(json.dumps(first).encode() + b"\n" + body)


def _step(record: Fields, line: int) -> CurriculumStep:
    passages, tokens = record.wholes("passages"), record.whole("tokens", least=1)
    if not passages:
        raise record.wrong("passages", "a passage or more")
    topics = tuple(record.wholes("topics")) if "topics" in record else ()
    return CurriculumStep(np.array(passages, dtype=np.int64), tokens, line, topics)
