"""How a world grows: an expanded topic asks for articles that it links to, and they join it.

What joins depends on decisions alone. The first titles of a topic's links that are not known yet
are asked for when it is expanded, in reading order, and join at the end of that step; the
environment waits for them there. That they may be fetched and prepared earlier, by a worker,
changes nothing.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from kncl_env.open_world.articles import ArticleJournal, ArticleSource, Fetched, SourceError
from kncl_env.open_world.grown import GrownWorld, Names
from kncl_env.open_world.prepare import Prepared, prepare
from kncl_env.world.world import World

Result = TypeVar("Result")

log = logging.getLogger(__name__)

REACH = 50  # [titles] that an expansion asks for, at most: one request of a wiki


class OpenWorld:
    """A world, where more of it comes from, and what has come. Usable from several threads.

    Args:
        base: Built by `kncl-env build live`.
        journal: Keeps what is fetched; what is in it is never asked for again.
        source: Asked for what the journal does not hold.
        reach: Titles that an expansion asks for, at most.

    Raises:
        ValueError: The world does not say what leads out of it.
    """

    def __init__(
        self, base: World, journal: ArticleJournal, source: ArticleSource, reach: int = REACH
    ) -> None:
        if reach < 1:
            raise ValueError(f"expected a reach of at least one title, got {reach}")
        self.journal, self.source, self.reach = journal, source, reach
        self.names = Names()
        self.start = GrownWorld.begin(base, self.names)
        self._asking = threading.Lock()
        self._ready: dict[str, Prepared] = {}

    def asked_by(self, world: GrownWorld, topic: int) -> tuple[str, ...]:
        """Titles that an expansion of a topic asks for."""
        row = world.known.rows[topic]
        fresh = (title for title in row if title not in world.known.topic_of)
        return tuple(dict.fromkeys(fresh))[: self.reach]

    def after(self, world: GrownWorld, topic: int) -> GrownWorld:
        """The world after an expansion of a topic; waits for what it asks for.

        Raises:
            SourceError: The source gives nothing now; what it gave before is kept.
        """
        asked = self.asked_by(world, topic)
        return self.joined(world, self.fetch(asked)) if asked else world

    def joined(self, world: GrownWorld, came: Sequence[Fetched]) -> GrownWorld:
        """The world with further articles, in their order."""
        return world.grow(came, self._prepared(came), self.names)

    def fetch(self, titles: Sequence[str]) -> list[Fetched]:
        """What titles lead to, from the journal, or from the source and then kept there.

        Raises:
            SourceError: As `after`.
        """
        with self._asking:
            missing = [title for title in titles if title not in self.journal]
            if missing:
                try:
                    self.journal.add(self.source.fetch(missing))
                except SourceError as error:
                    raise SourceError(
                        f"expected {len(missing)} articles, the first {missing[0]!r}, from "
                        f"{self.source.name}, got {error}: the {len(self.journal)} that came "
                        f"before are kept in {self.journal.file}, the same command goes on"
                    ) from None
        found = [self.journal.get(title) for title in titles]
        return [one for one in found if one is not None]

    def expect(self, titles: Sequence[str]) -> None:
        """Fetch and prepare what is likely to be asked for; whoever asks is told of errors."""
        try:
            self._prepared(self.fetch(titles))
        except SourceError as error:
            log.debug("not fetched ahead: %s", error)

    def _prepared(self, came: Sequence[Fetched]) -> dict[str, Prepared]:
        fresh = {a.title: a for a in came if not a.absent and a.title not in self._ready}
        for one in prepare(self.start.base, list(fresh.values())):
            self._ready[one.article.title] = one
        return self._ready


class Ahead:
    """A worker that lives only while there is something to do: first what is asked for, then hints.

    What is asked for is done in its order; hints are forgotten as soon as there are others.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._hints: deque[Callable[[], None]] = deque()
        self._worker: threading.Thread | None = None

    def ask(self, job: Callable[[], Result]) -> Future[Result]:
        """Do a job soon; its result, or its error, is the future's."""
        future: Future[Result] = Future()
        with self._lock:
            self._asked.append((future, job))
            self._wake()
        return future

    def hint(self, jobs: Sequence[Callable[[], None]]) -> None:
        """Do jobs when there is nothing else; those of before that are not done are forgotten."""
        with self._lock:
            self._hints = deque(jobs)
            if self._hints:
                self._wake()

    def close(self) -> None:
        """Forget all hints and wait for what is being done."""
        with self._lock:
            self._hints.clear()
            worker = self._worker
        if worker is not None:
            worker.join()

    def _wake(self) -> None:
        if self._worker is None:
            self._worker = threading.Thread(target=self._work, name="open-world", daemon=True)
            self._worker.start()

    def _work(self) -> None:
        while True:
            with self._lock:
                future = None
                if self._asked:
                    future, job = self._asked.popleft()
                elif self._hints:
                    job = self._hints.popleft()
                else:
                    self._worker = None
                    return
            try:
                result = job()
            except BaseException as error:  # whoever waits is told
                if future is None:
                    log.warning("not done ahead: %s", error)
                else:
                    future.set_exception(error)
            else:
                if future is not None:
                    future.set_result(result)
