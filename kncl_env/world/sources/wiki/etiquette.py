"""Manners towards a wiki: who asks, how fast at most, how long to wait, and what may go wrong.

Everything here is about requests in general. It knows no HTTP library, no page and no walk, so that
every request of a collection can pass through one gate, whichever walk made it.
Sources: mediawiki.org API:Etiquette and Manual:Maxlag parameter; RFC 9110 section 10.2.3.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

from kncl_env.world.sources.wiki.errors import StoppedError, WikiError

_MAIL_OR_URL = re.compile(r"[^@\s<>()]+@[^@\s<>()]+\.[^@\s<>()]+|https?://[^\s/<>()]+\.[^\s<>()]+")
OWN_NAME = "kncl-rabbit-holes/0.1"  # as user agent, where the user names none
_MOST_CONCURRENT = 16  # above this, a wiki's administrators would rightly call it an attack
# The stated rate is a ceiling for what the server sees, while we only know when we send: a little
# slack keeps two requests whose travel times differ from arriving too close together.
_SLACK = 1.05


@dataclass(frozen=True)
class Etiquette:
    """How a collection behaves towards one wiki.

    Attributes:
        contact: Mail or web address at which the operator can be reached; may be empty where
            `user_agent` holds one.
        user_agent: What to call ourselves; the contact is added if it is not in it.
        rate: [requests/s] ceiling over all walks of the collection.
        concurrency: Requests that may be under way at one moment.
        maxlag: [s] database lag above which the wiki shall turn us away.
        retries: Further attempts after a failure that may pass.
        backoff: [s] first wait; it doubles with every attempt.
        longest_wait: [s] above this we do not wait but stop the collection.
        timeout: [s] without a byte.
        deadline: [s] for one whole answer.
        largest_answer: [bytes] uncompressed.

    Raises:
        ValueError: Without a contact, or with a number out of its range.
    """

    contact: str = ""
    user_agent: str = ""
    rate: float = 2.0
    concurrency: int = 1
    maxlag: int = 5
    retries: int = 5
    backoff: float = 1.0
    longest_wait: float = 300.0
    timeout: float = 15.0
    deadline: float = 60.0
    largest_answer: int = 16 * 2**20

    def __post_init__(self) -> None:
        if not _MAIL_OR_URL.search(self.contact or self.user_agent):
            raise ValueError(
                "expected a mail or web address at which a wiki's administrators can reach you, "
                f"got {self.contact or self.user_agent!r}: name one with --contact"
            )
        if not self.agent.isascii() or not self.agent.isprintable():
            raise ValueError(f"expected a user agent in printable ASCII, got {self.agent!r}")
        if not (math.isfinite(self.rate) and self.rate > 0):
            raise ValueError(f"expected a rate above 0 requests per second, got {self.rate}")
        if not 1 <= self.concurrency <= _MOST_CONCURRENT:
            raise ValueError(
                f"expected a concurrency of 1 to {_MOST_CONCURRENT}, got {self.concurrency}"
            )
        for name in ("backoff", "longest_wait", "timeout", "deadline", "largest_answer"):
            if not getattr(self, name) > 0:
                raise ValueError(f"expected {name} above 0, got {getattr(self, name)}")
        if self.retries < 0 or self.maxlag < 0:
            raise ValueError(
                f"expected retries and maxlag of 0 or more, got {self.retries} and {self.maxlag}"
            )

    @property
    def agent(self) -> str:
        """The user agent with a contact in it."""
        name = self.user_agent or OWN_NAME
        return name if self.contact in name else f"{name} ({self.contact})"

    def wait_before(self, attempt: int, error: WikiError, jitter: float) -> float:
        """[s] to wait before attempt 1, 2, …: exponential with jitter, never less than asked.

        Args:
            attempt: Which further attempt this is, from 1.
            error: Why the one before failed.
            jitter: Uniform in [0, 1): clients that failed together must not return together.
        """
        backoff = self.backoff * 2.0 ** (attempt - 1) * (0.5 + jitter)
        asked = error.wait if error.wait is not None else 0.0
        return max(backoff, asked)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """[s] that a `Retry-After` header asks for, as a number or as a date; None without one.

    A date is read against the server's own `Date`, since the two clocks may differ; `now` is the
    local Unix time [s] to fall back on.
    """
    value = headers.get("retry-after", headers.get("Retry-After", "")).strip()
    if value.isdecimal() and value.isascii():
        return float(value[:12])
    until = _http_date(value)
    if until is None:
        return None
    sent = _http_date(headers.get("date", headers.get("Date", "")))
    if sent is None:
        sent = time.time() if now is None else now
    return max(0.0, until - sent)


def _http_date(value: str) -> float | None:
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


class Gate:
    """The one place that every request of a collection passes, whichever walk it serves.

    Passing is one at a time and at most `rate` times a second; `hold` keeps everyone back, as a
    server that asks one request to wait means all of them. The first passage waits for one interval
    too, so that a collection that is killed and resumed does not beat the rate either.

    Args:
        rate: [requests/s].
    """

    def __init__(self, rate: float) -> None:
        self.interval = _SLACK / rate
        self.passed = 0
        self._turn = threading.Lock()
        self._next = time.monotonic() + self.interval
        self._held_until = 0.0
        self._stop = threading.Event()

    def enter(self) -> None:
        """Wait for a turn.

        Raises:
            StoppedError: If the gate was closed before the turn came.
        """
        with self._turn:
            while True:
                if self._stop.is_set():
                    raise StoppedError
                wait = max(self._next, self._held_until) - time.monotonic()
                if wait <= 0:
                    break
                self._stop.wait(wait)
            self._next = time.monotonic() + self.interval
            self.passed += 1

    def hold(self, seconds: float) -> None:
        """Let nobody pass for so long from now; a longer hold stays in force."""
        self._held_until = max(self._held_until, time.monotonic() + seconds)

    @property
    def held(self) -> float:
        """[s] until the gate lets anybody pass again."""
        return max(0.0, self._held_until - time.monotonic())

    @property
    def closed(self) -> bool:
        return self._stop.is_set()

    def close(self) -> None:
        """Turn away everyone who waits and everyone who comes."""
        self._stop.set()
