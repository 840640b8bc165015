"""`collect` walks a live wiki: which page next, what is noted down, and how it goes on.

What it makes is a collection: a file of walks and its journal. Each walk is fully decided by its
settings, its number and the wiki's pages: every click draws from a generator of its own, so a walk
taken up after a kill goes where it would have gone. This file knows no HTTP and no command line.
"""

from __future__ import annotations

import logging
import pathlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from urllib.parse import urlsplit

import numpy as np

from kncl_env.world.sources.wiki.errors import (
    RefusedError,
    StoppedError,
    UnreachableError,
    WikiError,
)
from kncl_env.world.sources.wiki.page_cache import Absent, Library, Page
from rabbit_holes.live.journal import Failure, Journal, WalkLog, is_journal
from rabbit_holes.live.settings import CollectionSettings, Progress, Report
from rabbit_holes.path import Path, PathWriter, Visit, holds_paths, read_paths
from rabbit_holes.walkers.walkers import Walker, next_click
from train_lm.files import hash_json

logger = logging.getLogger(__name__)

_TICK = 0.2  # [s] between reports of progress


def collect(
    out: pathlib.Path,
    settings: CollectionSettings,
    walker: Walker,
    library: Library,
    *,
    concurrency: int = 1,
    force: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Walk a wiki and write one path per walk; taken up where an earlier call was stopped.

    Args:
        out: File of paths; `out` + `.journal` stands beside it.
        settings: What to collect.
        walker: Who walks.
        library: The wiki's pages, those from earlier runs and those to be fetched.
        concurrency: Walks at one time.
        force: Begin anew where a collection is.
        on_progress: Called now and then from this thread.

    Raises:
        FileExistsError: If `out` holds paths that no journal beside it explains, or what would be
            begun anew is no collection.
        BlockingIOError: If another process writes there now.
        ValueError: If an earlier collection with other settings began there.
        KeyboardInterrupt: After everything finished is safe on the disk.
    """
    journal_file = out.with_name(out.name + ".journal")
    written = out.exists() and out.stat().st_size > 0
    if written and not journal_file.exists() and not force:
        raise FileExistsError(
            f"expected a new --out or one of an earlier collection, got {out} without its "
            f"{journal_file.name}: name another or add --force"
        )
    deciding = {"api": library.wiki.api, "walker": walker.name, **settings.deciding()}
    mine = partial(holds_paths, sources=("mediawiki:",))
    if force and journal_file.exists() and not is_journal(journal_file):
        raise FileExistsError(
            f"expected the journal of a collection in {journal_file}, got another file: name "
            "another --out"
        )
    with PathWriter(out, force=force, mine=mine) as writer:
        if force:
            journal_file.unlink(missing_ok=True)
        journal = Journal(journal_file, deciding, done=writer.ids)
        try:
            run = _Run(settings, walker, library, writer, journal)
            stopped = run.make_walks(concurrency, on_progress or (lambda progress: None))
        finally:
            journal.close()
        return run.report(out, stopped)


class _Run:
    """One run of `collect`, with what its walks share."""

    def __init__(
        self,
        settings: CollectionSettings,
        walker: Walker,
        library: Library,
        writer: PathWriter,
        journal: Journal,
    ) -> None:
        self.settings = settings
        self.walker = walker
        self.library = library
        self.gate = library.wiki.gate
        self.writer = writer
        self.journal = journal
        self.source = f"mediawiki:{urlsplit(library.wiki.api).netloc}"
        self.name = f"{self.source}:{walker.name}:{hash_json(journal.settings)[:8]}"
        self.licence = "unknown"
        self.visits = 0
        self._only_articles = not settings.disambiguation
        self._choosing = threading.Lock()
        self._writing = threading.Lock()
        self._visited = self._titles_so_far() if settings.max_pages is not None else set()

    def make_walks(self, concurrency: int, on_progress: Callable[[Progress], None]) -> str | None:
        """Make every walk that is not in the file; returns why it stopped early, if it did."""
        todo = [i for i in range(self.settings.walks) if self._id(i) not in self.writer.ids]
        threads = 1 if self.settings.max_pages is not None else concurrency
        if not todo:
            return None
        try:
            self.licence = self._licence()
            with ThreadPoolExecutor(threads, thread_name_prefix="walk") as pool:
                try:
                    pending: set[Future[None]] = {pool.submit(self._walk, i) for i in todo}
                    while pending:
                        done, pending = wait(pending, _TICK)
                        for walk in done:
                            walk.result()
                        on_progress(self._progress())
                except BaseException:
                    # Whoever waits at the gate leaves; a request under way is let finish.
                    self.gate.close()
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        except (RefusedError, UnreachableError) as error:
            return str(error)
        return None

    def report(self, out: pathlib.Path, stopped: str | None) -> Report:
        return Report(
            out=out,
            walks=len(self.writer.ids),
            visits=self.visits,
            failures=tuple(self.journal.failures),
            requests=self.gate.passed,
            from_cache=self.library.from_cache,
            stopped=stopped,
        )

    def _progress(self) -> Progress:
        return Progress(
            walks=len(self.writer.ids),
            visits=self.visits,
            failures=len(self.journal.failures),
            requests=self.gate.passed,
            from_cache=self.library.from_cache,
            held=self.gate.held,
        )

    def _id(self, index: int) -> str:
        return f"{self.name}:{index}"

    def _licence(self) -> str:
        licence = self.library.cache.get_licence()
        if licence is None:
            try:
                licence = self.library.wiki.fetch_licence()
            except (RefusedError, UnreachableError):
                raise
            except WikiError as error:
                logger.warning("the wiki does not tell its licence: %s", error)
            if licence is None:
                return "unknown"
            self.library.cache.put_licence(licence)
        return licence

    def _titles_so_far(self) -> set[str]:
        titles = {visit.title for log in self.journal.walks.values() for visit in log.visits}
        titles.update(failure.title for failure in self.journal.failures)
        for path in read_paths(self.writer.file, on_error=logger.warning):
            titles.update(path.titles)
        return titles

    def _walk(self, index: int) -> None:
        """Make or finish one walk; its path is written when it ends."""
        identity = self._id(index)
        seed = self.settings.seeds[index % len(self.settings.seeds)]
        with self._writing:
            log = self.journal.begin(identity, time.time())
        status = "finished"
        while len(log.visits) <= self.settings.depth:
            if self.gate.closed:
                raise StoppedError
            click = self._next_click(index, log) if log.visits else (seed, None)
            if click is None:
                status = "dead_end"
                break
            title, parent = click
            if not self._can_afford(title):
                status = "max_pages"
                break
            self._open(identity, log, title, parent)
            if not log.visits:
                return
        if not log.visits:
            return
        path = Path(
            id=identity,
            visits=tuple(log.visits),
            source=self.source,
            walker=self.walker.name,
            licence=self.licence,
            status=status,
            meta={
                "seed": seed,
                "depth": self.settings.depth,
                "random_seed": self.settings.random_seed,
                "began": log.began,
                "failures": len(log.failures),
            },
        )
        with self._writing:
            self.writer.write(path)
            self.journal.finish(identity)

    def _next_click(self, index: int, log: WalkLog) -> tuple[str, int] | None:
        key = [self.settings.random_seed, index, len(log.visits), len(log.failures)]
        with self._choosing:
            return next_click(
                self.walker,
                log.visits,
                np.random.default_rng(key),
                branching=self.settings.branching,
                dead=frozenset(failure.title for failure in log.failures),
            )

    def _can_afford(self, title: str) -> bool:
        most = self.settings.max_pages
        return most is None or title in self._visited or len(self._visited) < most

    def _offered(self, page: Page) -> tuple[str, ...]:
        closed = frozenset(page.disambiguations if self._only_articles else ())
        return tuple(title for title in page.links if title not in closed)

    def _open(self, walk: str, log: WalkLog, title: str, parent: int | None) -> None:
        """Get a page and note the visit, or why there is none."""
        outcome: Page | Absent | WikiError
        try:
            outcome = self.library.get(title)
        except (RefusedError, UnreachableError):
            raise
        except WikiError as error:
            outcome = error
        if isinstance(outcome, Page) and outcome.disambiguation and self._only_articles:
            outcome = _no_article(title, outcome)
        if isinstance(outcome, Page) and all(v.title != outcome.title for v in log.visits):
            seconds = max(time.time() - log.began, log.visits[-1].time or 0 if log.visits else 0)
            visit = Visit(
                title=outcome.title,
                parent=parent,
                time=round(seconds, 3),
                page_id=outcome.page_id,
                revision_id=outcome.revision_id,
                offered=self._offered(outcome),
                text=outcome.text if self.settings.text else None,
                disambiguation=bool(outcome.disambiguation),
            )
            with self._writing:
                self.journal.visit(walk, visit)
                self.visits += 1
                self._visited.add(outcome.title)
            return
        if isinstance(outcome, Page):
            failure = Failure(walk, title, "visited", f"it has become {outcome.title!r}")
        else:
            failure = Failure(walk, title, outcome.reason, outcome.detail)
        with self._writing:
            self._visited.add(title)
            if failure not in log.failures:
                self.journal.failure(failure)


def _no_article(asked: str, page: Page) -> Absent:
    named = f" such as {page.links[0]}" if page.links else ""
    return Absent(
        asked,
        "disambiguation",
        f"{page.title} only lists what its name may mean: name an article{named}, or let such "
        "pages in with --disambiguation",
    )
