"""Which passages of a neighbourhood are worth reading: a taste for their traits, and its file.

A topic says where to read; a crawl holds text there that teaches nothing, and a neighbourhood
reaches across its borders. A taste is an additive function of a few traits of a passage, learned
from reward by `policies/learn`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kncl_env.passage_traits import EDGES, LEVELS, TRAITS, TRAITS_VERSION, Floats
from train_lm.checked.digests import unsealed_file
from train_lm.checked.records import Fields, is_number
from train_lm.files import read_json

TASTE_FORMAT = "kncl-taste"


@dataclass(frozen=True)
class Taste:
    """What a passage is taken to be worth, and how choosy to be.

    Attributes:
        worth: (TRAITS, LEVELS) reward of a step that reads nothing else, against the average step.
        share: Share of the training passages that are read at all, those worth most.
    """

    worth: tuple[tuple[float, ...], ...]
    share: float

    def __post_init__(self) -> None:
        shape = np.shape(self.worth)
        if shape != (len(TRAITS), LEVELS):
            raise ValueError(
                f"expected the worth of {len(TRAITS)} traits at {LEVELS} levels, got {shape}"
            )
        if not np.isfinite(self.worth).all():
            raise ValueError("expected a finite worth of every level, got one that is not")
        if not 0 < self.share <= 1:
            raise ValueError(f"expected a share of 0 to 1, above 0, got {self.share}")

    @classmethod
    def of(cls, worth: Floats, share: float) -> Taste:
        """From an array (TRAITS, LEVELS)."""
        rows = np.atleast_2d(worth)
        return cls(tuple(tuple(float(x) for x in row) for row in rows), float(share))

    def to_json(self) -> dict[str, Any]:
        made_for = {"version": TRAITS_VERSION, "traits": TRAITS, "edges": EDGES}
        return {**made_for, "worth": self.worth, "share": self.share}

    @classmethod
    def from_json(cls, found: Any, place: Path) -> Taste:
        """From what `to_json` gave.

        Args:
            place: Where it was read, for the message.

        Raises:
            ValueError: It is no taste, or one for other traits.
        """
        try:
            return cls._from_json(found)
        except ValueError as error:
            raise ValueError(f"{error} (in {place})") from None

    @classmethod
    def _from_json(cls, found: Any) -> Taste:
        if not isinstance(found, Mapping) or not {"worth", "share"} <= set(found):
            raise ValueError("expected a taste with its worth and share, got something else")
        for name, own in (("version", TRAITS_VERSION), ("traits", TRAITS), ("edges", EDGES)):
            wanted = json.loads(json.dumps(own))
            if found.get(name) != wanted:
                raise ValueError(
                    f"expected a taste whose {name} are {wanted}, got {found.get(name)}: "
                    "learn it again with this version"
                )
        try:
            share = Fields.of(found, "it").number("share", 0, 1)
            rows = found["worth"]
            if not all(is_number()(x) for row in rows for x in row):
                raise ValueError("no numbers")
            worth = np.array(rows, dtype=np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                f"expected a taste's worth as {len(TRAITS)} rows of {LEVELS} numbers, and a share, "
                "got something else: the file is edited or damaged"
            ) from None
        return cls.of(worth, share)


def load_taste(file: Path) -> Taste:
    """A taste that `kncl-policy taste` has written.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Another kind of file.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"expected a taste at {file}, found no file: make one with `kncl-policy taste`"
        )
    card = read_json(file)
    card = unsealed_file(card, file, "a taste") if isinstance(card, dict) else {}
    if card.get("format") != TASTE_FORMAT:
        raise ValueError(
            f"expected a taste in {file}, got another kind of file: make one with "
            "`kncl-policy taste`"
        )
    return Taste.from_json(card.get("taste"), file)
