"""Episodes on file: a line about what they are of, then one line each, only ever appended.

A process may be killed at any moment: what it left of a line is dropped by the next one, and
everything before it counts.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from kncl_env.settings import Settings
from train_lm.checked.digests import SEAL, sealed, unsealed
from train_lm.checked.records import Fields, parse_json
from train_lm.checkpoint import differences
from train_lm.files import Json, append_line, replacing

log = logging.getLogger(__name__)

NUMBER = "line"  # the key under which a line keeps its number, from 1 on

REMEDY = "remove the line to have its episode played again"

Key = tuple[str, ...]
Line = Json


class LacksError(ValueError):
    """A line is whole, but holds less than is asked for: its episode is played again."""


class Journal:
    """Lines by key, each written once.

    Args:
        file: Made with its first line, if it is not there.
        header: What the lines are of; `format` is among it, and `settings` are those of
            `Settings.to_json`.
        about: More for the first line, which need not agree with what is found there.

    Raises:
        ValueError: The file is another kind of file, or holds lines of something else.
    """

    def __init__(self, file: Path, header: Json, about: Json | None = None) -> None:
        self.file = file
        self.header: Line = json.loads(json.dumps({**header, **(about or {})}))
        self.lines: dict[Key, Line] = {}
        if file.is_file() and (whole := _whole_lines(file)):
            self.header, *lines = (_without_number(line) for line in whole)
            self._check(self.header, json.loads(json.dumps(header)))
            self.lines = {_key_at(file, n, line): line for n, line in enumerate(lines, 2)}
            if _moved(whole):
                log.warning("%s: numbered anew: a line was lost, doubled or moved", file)
                self._rewrite()
        else:
            self._begin()
        if not file.read_bytes().endswith(b"\n"):  # torn: it must not run into the next line
            self._rewrite()

    def append(self, line: Line) -> None:
        """Add a line, or put it in the place of the one of its key; it counts from the moment
        that it is whole.
        """
        again = key_of(line) in self.lines
        self.lines[key_of(line)] = line
        if again:
            self._rewrite()
        else:
            append_line(self.file, _written(line, len(self.lines) + 1))

    def _begin(self) -> None:
        # What a kill, or a power cut, may have left of our own first line is written again.
        left = self.file.read_bytes() if self.file.is_file() else b""
        if not json.dumps(_written(self.header, 1)).encode().startswith(left):
            raise ValueError(
                f"expected a file of {self.header['format']} at {self.file}, got another kind of "
                "file: name another --out"
            )
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._rewrite()

    def _rewrite(self) -> None:
        with replacing(self.file) as part:
            lines = enumerate([self.header, *self.lines.values()], 1)
            part.write_text("".join(json.dumps(_written(line, n)) + "\n" for n, line in lines))

    def _check(self, found: Line, wanted: Line) -> None:
        if found.get("format") != wanted["format"]:
            raise ValueError(
                f"expected a file of {wanted['format']} at {self.file}, got another kind of file: "
                "name another --out"
            )
        there = {name: value for name, value in found.items() if name in wanted}
        if "settings" in there and "settings" in wanted:  # what it does not know is the default
            there["settings"] = Settings.from_json(there["settings"], self.file).to_json()
        differ = "; ".join(differences(there, wanted))
        if differ:
            raise ValueError(
                f"expected episodes of the same world and settings in {self.file}, got others "
                f"({differ}): name another --out, or remove the file"
            )


def key_of(line: Json) -> Key:
    """What tells one episode from another."""
    return tuple(str(line[name]) for name in ("arm", "digest", "seed", "learner_seed"))


def read_lines(file: Path, format: str) -> tuple[Line, list[Line]]:
    """Header and lines of a journal; an unfinished last line is left out.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another kind of file.
    """
    whole = _whole_lines(file)
    if not whole or whole[0].get("format") != format:
        raise ValueError(f"expected a file of {format} at {file}, got another kind of file")
    if number := _moved(whole):
        raise ValueError(
            f"expected every line of {file} in its place, got another one at {file}:{number}: a "
            "line was lost, doubled or moved; the command that wrote it plays again what is missing"
        )
    header, *lines = map(_without_number, whole)
    return header, lines


def _written(line: Line, number: int) -> Line:
    return sealed({**line, NUMBER: number})


def _without_number(line: Line) -> Line:
    return {name: value for name, value in line.items() if name != NUMBER}


def _moved(lines: Sequence[Line]) -> int:
    """The first line that says to be another one; 0 where none does."""
    wrong = (n for n, line in enumerate(lines, 1) if line.get(NUMBER, n) != n)
    return next(wrong, 0)


def _key_at(file: Path, number: int, line: Line) -> Key:
    found = Fields.of(line, f"{file}:{number}", REMEDY)
    for name in ("arm", "digest"):
        found.text(name)
    for name in ("seed", "learner_seed"):
        found.whole(name)
    return key_of(line)


def _whole_lines(file: Path) -> list[Line]:
    lines: list[Line] = []
    *whole, rest = file.read_bytes().split(b"\n")
    if rest:
        log.warning("%s:%d: left out: an unfinished last line", file, len(whole) + 1)
    for number, line in enumerate(whole, 1):
        place = f"{file}:{number}"
        found = Fields.of(parse_json(line, place), place, REMEDY)
        try:
            lines.append(unsealed(dict(found.values), place))
        except ValueError as error:
            raise ValueError(f"{error}: {REMEDY}") from None
        if NUMBER in found.values and SEAL not in found.values:  # one is never written alone
            raise ValueError(f"expected a seal in {place}, found none, it was edited: {REMEDY}")
    return lines
