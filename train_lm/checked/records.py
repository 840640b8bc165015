"""JSON that comes from a file: parsed without surprises, its fields read by name and type.

Whoever reads a file knows what should stand in it; what stands in it is anybody's. Every error is a
ValueError that names the place and says what was expected there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

LARGEST = 2**63 - 1  # what an array of whole numbers can hold
ADVICE = "the file is edited or damaged"  # where a reader has none of its own
LONGEST_SHOWN = 60  # characters of a value in a message

T = TypeVar("T")


def parse_json(text: bytes | str, place: object) -> Any:
    """A value of JSON.

    Args:
        place: File, or file and line, for the message.

    Raises:
        ValueError: No JSON, no UTF-8, nested too deeply, or an object that has a key twice.
    """
    try:
        decoded = text if isinstance(text, str) else text.decode()
        return json.loads(decoded, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ValueError(f"expected UTF-8 in {place}, got byte {byte:#04x}: damaged") from None
    except RecursionError:
        raise ValueError(
            f"expected JSON in {place}, got brackets nested too deeply: damaged"
        ) from None
    except ValueError as error:
        raise ValueError(f"expected JSON in {place}, got {error}: the file is damaged") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:LONGEST_SHOWN]!r} twice in one object")
    return found


@dataclass(frozen=True)
class Fields:
    """The fields of a JSON object, each read as what it has to be.

    Attributes:
        values: The object.
        place: Where it stands, for messages.
        advice: What to do about a wrong one.
    """

    values: Mapping[str, Any]
    place: str
    advice: str = ADVICE

    @classmethod
    def of(cls, found: object, place: object, advice: str = ADVICE) -> Fields:
        """Raises: ValueError where it is no object."""
        if not isinstance(found, Mapping):
            raise ValueError(f"expected an object in {place}, got {shown(found)}: {advice}")
        return cls(found, str(place), advice)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def whole(self, name: str, least: int = 0, most: int = LARGEST) -> int:
        """A whole number."""
        value: int = self._one(name, is_whole(least, most), f"a whole number from {least}")
        return value

    def number(self, name: str, least: float = -math.inf, most: float = math.inf) -> float:
        """A finite number, as a float."""
        return float(self._one(name, is_number(least, most), _range_of(least, most)))

    def text(self, name: str) -> str:
        value: str = self._one(name, lambda v: isinstance(v, str), "text")
        return value

    def digest(self, name: str) -> str:
        """A whole SHA-256, as hexadecimal digits: a piece of one names nothing."""
        value: str = self._one(name, _is_digest, "a SHA-256, 64 hexadecimal digits")
        return value

    def flag(self, name: str) -> bool:
        value: bool = self._one(name, lambda v: isinstance(v, bool), "true or false")
        return value

    def wholes(self, name: str, least: int = 0, most: int = LARGEST) -> list[int]:
        return self._list(name, is_whole(least, most), f"whole numbers from {least}")

    def numbers(self, name: str, least: float = -math.inf) -> list[float]:
        return [float(x) for x in self._list(name, is_number(least), "finite numbers")]

    def texts(self, name: str) -> list[str]:
        return self._list(name, lambda v: isinstance(v, str), "texts")

    def inner(self, name: str) -> Fields:
        """The fields of an object inside."""
        value = self._one(name, lambda v: isinstance(v, Mapping), "an object")
        return Fields(value, f"{name} of {self.place}", self.advice)

    def inners(self, name: str) -> list[Fields]:
        """The fields of each object of a list."""
        found = self._list(name, lambda v: isinstance(v, Mapping), "objects")
        return [
            Fields(value, f"{name}[{i}] of {self.place}", self.advice)
            for i, value in enumerate(found)
        ]

    def or_none(self, name: str, read: Callable[[str], T]) -> T | None:
        """What `read`, one of the methods above, says of a field that may be null."""
        return None if name in self.values and self.values[name] is None else read(name)

    def _one(self, name: str, fits: Callable[[Any], bool], wanted: str) -> Any:
        if name not in self.values:
            raise ValueError(f"expected {name} in {self.place}, found none: {self.advice}")
        if not fits(self.values[name]):
            raise self.wrong(name, wanted)
        return self.values[name]

    def _list(self, name: str, fits: Callable[[Any], bool], wanted: str) -> list[Any]:
        found = self._one(name, lambda v: isinstance(v, list), f"a list of {wanted}")
        for value in found:
            if not fits(value):
                raise ValueError(
                    f"expected {wanted} in {name} of {self.place}, got {shown(value)}: "
                    f"{self.advice}"
                )
        return list(found)

    def wrong(self, name: str, wanted: str) -> ValueError:
        """The error that says a field is not what it has to be."""
        return ValueError(
            f"expected {wanted} as {name} in {self.place}, got {shown(self.values.get(name))}: "
            f"{self.advice}"
        )


def is_whole(least: int = 0, most: int = LARGEST) -> Callable[[object], bool]:
    """Whether a value is a whole number of a range; True and False are none."""
    return lambda value: type(value) is int and least <= value <= most


def is_number(least: float = -math.inf, most: float = math.inf) -> Callable[[object], bool]:
    """Whether a value is a finite number of a range; True and False are none."""

    def fits(value: object) -> bool:
        if type(value) is int:
            return abs(value) <= LARGEST and least <= value <= most
        return type(value) is float and math.isfinite(value) and least <= value <= most

    return fits


def _range_of(least: float, most: float) -> str:
    ends = [("at least", least), ("at most", most)]
    said = " and ".join(f"{word} {end:g}" for word, end in ends if math.isfinite(end))
    return f"a finite number{f' of {said}' if said else ''}"


def shown(value: object) -> str:
    """A value as a message quotes it, cut where it is long."""
    text = repr(value) if not isinstance(value, list | dict) else f"a {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None
