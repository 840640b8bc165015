"""What a collection has done so far, visit by visit, so that a kill at any moment loses none.

A path is written to its file when its walk ends; until then its visits stand here, one synced line
each, in `FILE.journal`. When a collection is taken up again, walks that have reached their file are
dropped from the journal; the reasons why pages failed stay. It knows no network and no walker.
"""

from __future__ import annotations

import json
import logging
import os
import pathlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from threading import Lock
from typing import Any, BinaryIO

from rabbit_holes.path import Visit
from train_lm.checked.digests import sealed, unsealed
from train_lm.checked.records import Fields, parse_json
from train_lm.files import naming, replacing, sweep

logger = logging.getLogger(__name__)

_VERSION = 1
NUMBER = "line"  # the key under which a line keeps which one it is


@dataclass(frozen=True)
class Failure:
    """A page that a walk wanted and did not get.

    Attributes:
        walk: Id of the walk.
        title: As it was asked for.
        reason: One word: `missing`, `rate_limited`, `timeout`, `too_large`, ….
        detail: For people.
    """

    walk: str
    title: str
    reason: str
    detail: str


@dataclass
class WalkLog:
    """What is known of one walk: enough to go on with it as if it had never stopped.

    Attributes:
        began: Unix time [s] of its first request.
        visits: In order of time.
        failures: Pages that it did not get; a root that came in the end leaves none.
    """

    began: float
    visits: list[Visit] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class Journal:
    """The journal of one collection, append-only while it is open. Usable from several threads.

    Args:
        file: Created if absent.
        settings: Whatever decides which visits are made; a journal of other settings is refused.
        done: Ids of walks that have reached their file.

    Attributes:
        settings: As given.
        walks: Of those not done, by id.
        failures: All of the collection, in order.

    Raises:
        ValueError: If the file is no journal, or one of other settings.
    """

    def __init__(
        self, file: pathlib.Path, settings: Mapping[str, Any], done: Collection[str] = ()
    ) -> None:
        self.file = file
        self.walks: dict[str, WalkLog] = {}
        self.failures: list[Failure] = []
        self.settings = dict(settings)
        self._lock = Lock()
        self._stale = not file.exists()  # whether the file holds other lines than it should
        self._lines = 0  # in the file
        self._replay(done)
        sweep(file.parent, file.name)
        self._rewrite()
        self._stream: BinaryIO = open(file, "ab")  # noqa: SIM115

    def begin(self, walk: str, began: float) -> WalkLog:
        """Note the start of a walk; a walk that has begun goes on with what it has."""
        if walk not in self.walks:
            self._append({"kind": "begin", "walk": walk, "began": began})
            self.walks[walk] = WalkLog(began)
        return self.walks[walk]

    def visit(self, walk: str, visit: Visit) -> None:
        """Note a finished visit; on return it is on the disk."""
        visits = self.walks[walk].visits
        record = {"kind": "visit", "walk": walk, "step": len(visits), "visit": visit.to_json()}
        self._append(record)
        if not visits:
            self._forgive(walk)
        visits.append(visit)

    def failure(self, failure: Failure) -> None:
        """Note a page that a walk did not get."""
        self._append({"kind": "failure", **asdict(failure)})
        self.walks[failure.walk].failures.append(failure)
        self.failures.append(failure)

    def finish(self, walk: str) -> None:
        """Forget the visits of a walk that is in its file; `close` takes them off the disk."""
        del self.walks[walk]
        self._stale = True

    def close(self) -> None:
        with naming(self.file):
            self._stream.close()
        self._rewrite()

    def _forgive(self, walk: str) -> None:
        """Forget that earlier runs did not get the root: the walk is as if they had."""
        if any(failure.walk == walk for failure in self.failures):
            self.failures = [failure for failure in self.failures if failure.walk != walk]
            self._stale = True
        if walk in self.walks:
            self.walks[walk].failures.clear()

    def _append(self, record: Mapping[str, Any]) -> None:
        with self._lock, naming(self.file):
            self._stream.write(_to_line(record, self._lines + 1))
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._lines += 1

    def _rewrite(self) -> None:
        if not self._stale:
            return
        with replacing(self.file) as partial, open(partial, "wb") as stream:
            self._lines = 0
            for record in self._records():
                self._lines += 1
                stream.write(_to_line(record, self._lines))
        self._stale = False

    def _replay(self, done: Collection[str]) -> None:
        if not self.file.exists():
            return
        *lines, rest = self.file.read_bytes().split(b"\n")
        # Every whole line ends with a newline: what follows the last one was cut short by a kill.
        # Never the first: a journal appears with it.
        self._stale = bool(rest)
        if rest and lines:
            logger.warning("%s: left out, visit again: an unfinished last line", self.file)
        self._lines = len(lines)
        found: set[int] = set()
        last = 0
        for number, line in enumerate(lines or [rest], start=1):
            try:
                record = self._record(line, number)
                own = record.pop(NUMBER, number)
                if own in found:
                    raise ValueError(f"line {own} once more")
                if own != last + 1:
                    what = "numbered anew: a line was lost, doubled or moved"
                    logger.warning("%s:%d: %s", self.file, number, what)
                    self._stale = True
                found.add(own)
                last = own if isinstance(own, int) else number
                if number > 1:
                    self._replay_one(record, done)
            except (KeyError, TypeError, ValueError) as error:
                if number == 1:
                    raise ValueError(
                        f"expected the journal of a collection in {self.file}, got another file: "
                        f"{error}: name another --out"
                    ) from None
                self._stale = True
                logger.warning("%s:%d: left out, visit again: %s", self.file, number, error)
                last = number
                continue
            if number == 1:
                self._check(record)

    def _record(self, line: bytes, number: int) -> dict[str, Any]:
        place = f"{self.file}:{number}"
        found = Fields.of(parse_json(line, place), place)
        if number == 1 and found.text("kind") != "collection":
            raise found.wrong("kind", "'collection'")
        if number == 1:
            found.inner("settings")
        return unsealed(dict(found.values), place)

    def _replay_one(self, record: dict[str, Any], done: Collection[str]) -> None:
        if record["walk"] in done and record["kind"] != "failure":
            self._stale = True
            if record.get("step") == 0:
                self._forgive(record["walk"])
        else:
            self._take(record)

    def _check(self, record: Any) -> None:
        if record.get("version") != _VERSION:
            raise ValueError(f"expected a journal of version {_VERSION} in {self.file}")
        before, settings = record["settings"], self.settings
        for name in sorted({*before, *settings}):
            if before.get(name) != settings.get(name):
                raise ValueError(
                    f"expected to go on with {name} = {before.get(name)!r} as {self.file} began, "
                    f"got {settings.get(name)!r}: repeat the same command, name another --out, or "
                    "begin anew with --force"
                )

    def _take(self, record: dict[str, Any]) -> None:
        kind = record.pop("kind")
        if kind == "failure":
            found = Fields.of(record, "a failure")
            failure = Failure(*map(found.text, ("walk", "title", "reason", "detail")))
            self.failures.append(failure)
            if failure.walk in self.walks:
                self.walks[failure.walk].failures.append(failure)
        elif kind == "begin":
            found = Fields.of(record, "the beginning of a walk")
            self.walks.setdefault(found.text("walk"), WalkLog(found.number("began")))
        else:
            visits = self.walks[record["walk"]].visits
            if record["step"] != len(visits):
                raise KeyError(f"visit {len(visits)}, got {record['step']}")
            try:
                visit = Visit.from_json(record["visit"])
            except ValueError as error:
                raise TypeError(str(error)) from None
            if not visits:
                self._forgive(record["walk"])
            visits.append(visit)

    def _records(self) -> Iterator[dict[str, Any]]:
        yield {"kind": "collection", "version": _VERSION, "settings": self.settings}
        noted: set[int] = set()
        for walk, log in self.walks.items():
            yield {"kind": "begin", "walk": walk, "began": log.began}
            for step, visit in enumerate(log.visits):
                yield {"kind": "visit", "walk": walk, "step": step, "visit": visit.to_json()}
            for failure in log.failures:
                noted.add(id(failure))
                yield {"kind": "failure", **asdict(failure)}
        for failure in self.failures:
            if id(failure) not in noted:
                yield {"kind": "failure", **asdict(failure)}


def is_journal(file: pathlib.Path) -> bool:
    """Whether a file is the journal of a collection, whichever; an empty one would do."""
    with file.open("rb") as stream:
        first = stream.readline()
    try:
        return not first or parse_json(first, file)["kind"] == "collection"
    except (ValueError, KeyError, TypeError):
        return False


def _to_line(record: Mapping[str, Any], number: int) -> bytes:
    """A sealed line that says which one it is, so that a lost or moved one is seen."""
    return json.dumps(sealed({**record, NUMBER: number}), separators=(",", ":")).encode() + b"\n"
