"""What a collection is told, how far it is and how it ended, as plain values."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rabbit_holes.live.journal import Failure


@dataclass(frozen=True)
class CollectionSettings:
    """What is collected. Equal settings on an unchanged wiki give equal visits.

    Attributes:
        seeds: Titles where walks begin, in turn.
        walks: How many in all; at least one from each seed.
        depth: Clicks in a walk.
        branching: Whether a walk may go back and click on another link.
        random_seed: Of all choices.
        text: Whether visits keep the lead text.
        disambiguation: Whether walks lead through pages that only list what a title may mean.
        max_pages: Different pages that may be visited; None for no limit. Walks then go one after
            another, so that where the limit falls does not depend on the network.
        walker_options: Whatever else decides what the walker does, as recorded in the journal.

    Raises:
        ValueError: For a number out of its range, or a seed that is empty or given twice.
    """

    seeds: tuple[str, ...]
    walks: int = 0
    depth: int = 10
    branching: bool = False
    random_seed: int = 0
    text: bool = False
    disambiguation: bool = False
    max_pages: int | None = None
    walker_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.seeds or not all(seed.strip() for seed in self.seeds):
            raise ValueError(f"expected titles to begin at, got {list(self.seeds)}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"expected different titles to begin at, got {list(self.seeds)}")
        if self.walks == 0:
            object.__setattr__(self, "walks", len(self.seeds))
        if self.walks < len(self.seeds):
            raise ValueError(
                f"expected at least one walk from each of {len(self.seeds)} seeds, got {self.walks}"
            )
        if self.depth < 1 or self.random_seed < 0:
            raise ValueError(
                f"expected a depth of 1 or more and a random seed of 0 or more, got {self.depth} "
                f"and {self.random_seed}"
            )
        if self.max_pages is not None and self.max_pages < 1:
            raise ValueError(f"expected at least 1 page, got max_pages = {self.max_pages}")

    def deciding(self) -> dict[str, Any]:
        """What a resumed collection must share with its beginning: all but how many walks."""
        # Named only where it is on, so that collections from before it existed go on.
        later = {"disambiguation": True} if self.disambiguation else {}
        return {
            "seeds": list(self.seeds),
            "depth": self.depth,
            "branching": self.branching,
            "random_seed": self.random_seed,
            "text": self.text,
            "max_pages": self.max_pages,
            "walker_options": dict(self.walker_options),
            **later,
        }


@dataclass(frozen=True)
class Progress:
    """How far a collection is; the numbers of requests and pages are of this run alone."""

    walks: int  # that are in their file
    visits: int
    failures: int
    requests: int
    from_cache: int
    held: float  # [s] that the gate stays closed


@dataclass(frozen=True)
class Report:
    """How a collection ended.

    Attributes:
        out: The file of paths.
        walks: Paths in it.
        visits: Made in this run.
        failures: Pages that walks wanted and did not get, of all runs, each with its reason.
        requests: Sent in this run, further attempts and redirects included.
        from_cache: Pages of this run that cost no request.
        stopped: Why it ended early; None if it is complete.
    """

    out: pathlib.Path
    walks: int
    visits: int
    failures: tuple[Failure, ...]
    requests: int
    from_cache: int
    stopped: str | None = None

    @property
    def lost(self) -> tuple[Failure, ...]:
        """One failure for each page and reason, however many walks met it."""
        return tuple({(f.title, f.reason): f for f in reversed(self.failures)}.values())[::-1]
