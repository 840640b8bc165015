"""What an import read, kept and dropped, so that nothing is dropped in silence.

It counts and names; it decides nothing and prints nothing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

from rabbit_holes.path import StrPath, shown


class Tally:
    """Counts by reason, and every single loss by file and line.

    Attributes:
        read: What was read, by kind, in order of first mention (`finished games`).
        dropped: What was left out, by reason.
        noted: What was kept but is worth knowing, by kind.
        problems: `file:line: reason`, one for each line that lost something.
    """

    def __init__(self) -> None:
        self.read: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.noted: Counter[str] = Counter()
        self.problems: list[str] = []
        self._firsts: dict[str, str] = {}

    def drop_line(self, file: StrPath, line: int, reason: str, text: str = "") -> None:
        """A line that holds nothing usable; `text` is what stands there."""
        self.drop(file, line, "malformed lines", reason, text)

    def drop_named_line(self, problem: str) -> None:
        """A line that holds nothing usable, `file:line: reason` in one string."""
        self.dropped["malformed lines"] += 1
        self._firsts.setdefault("malformed lines", problem)
        self.problems.append(problem)

    def drop(self, file: StrPath, line: int, kind: str, reason: str, text: str = "") -> None:
        """Something of a named kind that stood on a line."""
        self.dropped[kind] += 1
        self.problems.append(f"{os.fspath(file)}:{line}: {reason}")
        self._firsts.setdefault(kind, f"{self.problems[-1]}{': ' + shown(text) if text else ''}")

    def leave_out(self, file: StrPath, line: int, kind: str, text: str) -> None:
        """A sound line that is not wanted: counted, not named, as there may be millions."""
        self.dropped[kind] += 1
        if kind not in self._firsts:
            self._firsts[kind] = f"{os.fspath(file)}:{line}: {kind}: {shown(text)}"

    def drop_visits(self, file: StrPath, line: int, reasons: Counter[str]) -> None:
        """Visits of one path, by reason."""
        if not reasons:
            return
        for reason, count in reasons.items():
            self.dropped[f"visits: {reason}"] += count
            self._firsts.setdefault(f"visits: {reason}", f"{os.fspath(file)}:{line}: {reason}")
        text = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
        self.problems.append(f"{os.fspath(file)}:{line}: dropped visits: {text}")

    def lines(self) -> Iterator[str]:
        """The counts as a reader wants them, one per line."""
        for title, counts in (("read", self.read), ("noted", self.noted)):
            for name, count in counts.items():
                yield f"{title:<8} {count:>9,} {name}"
        if not self.dropped:
            yield f"{'dropped':<8} {0:>9,} of anything"
        for name, count in self.dropped.items():
            yield f"{'dropped':<8} {count:>9,} {name}"

    def why(self) -> str:
        """The end of an error that nothing is left: what was dropped, and the first such line.

        Of several reasons the most frequent one gives the line.
        """
        if not self.dropped:
            return ""
        frequent = self.dropped.most_common()
        counts = ", ".join(f"{count:,} {kind}" for kind, count in frequent)
        return f"; dropped were {counts}; the first of them: {self._firsts[frequent[0][0]]}"
