"""Walks over a live wiki: which page next, what is noted down, and how a collection goes on.

A collection is a number of walks, each fully decided by its settings, its number and the wiki's
pages: every click draws from a generator of its own, so a walk taken up after a kill goes where it
would have gone. This file knows no HTTP and no command line.
"""

from __future__ import annotations

import logging
import pathlib
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from rabbit_holes.live.errors import RefusedError, StoppedError, UnreachableError, WikiError
from rabbit_holes.live.etiquette import Gate
from rabbit_holes.live.journal import Failure, Journal, WalkLog
from rabbit_holes.live.page_cache import Absent, Library, Page, PageCache, Site, Wiki
from rabbit_holes.live.settings import CollectionSettings, Progress, Report
from rabbit_holes.path import Path, PathWriter, Visit, read_paths
from rabbit_holes.walkers.walkers import Walker, next_click
from train_lm.files import hash_json

logger = logging.getLogger(__name__)

_TICK = 0.2  # [s] between reports of progress


class LiveWiki(Wiki, Protocol):
    """A wiki that can be collected from, such as `rabbit_holes.live.wikipedia.PoliteWikipedia`."""

    api: str
    gate: Gate

    def fetch_site(self) -> Site:
        """What the wiki says of itself; raises WikiError."""


def collect(
    out: pathlib.Path,
    settings: CollectionSettings,
    walker: Walker,
    wiki: LiveWiki,
    cache: PageCache,
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
        wiki: Asked for what the cache does not hold.
        cache: Where pages are kept.
        concurrency: Walks at one time.
        force: Begin anew, whatever is there.
        on_progress: Called now and then from this thread.

    Raises:
        FileExistsError: If `out` holds paths that no journal beside it explains.
        ValueError: If an earlier collection with other settings began there, or another process
            writes there now.
        KeyboardInterrupt: After everything finished is safe on the disk.
    """
    journal_file = out.with_name(out.name + ".journal")
    written = out.exists() and out.stat().st_size > 0
    if written and not journal_file.exists() and not force:
        raise FileExistsError(
            f"expected a new --out or one of an earlier collection, got {out} without its "
            f"{journal_file.name}: name another or add --force"
        )
    if force and out.exists():
        _empty(out)
    if force:
        journal_file.unlink(missing_ok=True)
    source = f"mediawiki:{urlsplit(wiki.api).netloc}"
    deciding = {"api": wiki.api, "walker": walker.name, **settings.deciding()}
    with PathWriter(out) as writer:
        journal = Journal(journal_file, deciding, done=writer.ids)
        try:
            run = Collector(settings, walker, wiki, cache, writer, journal, source, deciding)
            stopped = run.run(concurrency, on_progress or (lambda progress: None))
        finally:
            journal.close()
        return run.report(out, stopped)


def _empty(out: pathlib.Path) -> None:
    """Empty a file, whatever it holds, unless it is a path file that somebody is writing."""
    try:
        PathWriter(out).close()
    except ValueError:
        # Held by another process, or foreign: only the first keeps its lock.
        if _is_locked(out):
            raise
    out.write_bytes(b"")


def _is_locked(file: pathlib.Path) -> bool:
    try:
        import fcntl
    except ImportError:  # no advisory locks on Windows
        return False
    with open(file, "rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class Collector:
    """One run of `collect`, with what its walks share."""

    def __init__(
        self,
        settings: CollectionSettings,
        walker: Walker,
        wiki: LiveWiki,
        cache: PageCache,
        writer: PathWriter,
        journal: Journal,
        source: str,
        deciding: Mapping[str, Any],
    ) -> None:
        self.settings = settings
        self.walker = walker
        self.wiki = wiki
        self.cache = cache
        self.writer = writer
        self.journal = journal
        self.source = source
        self.name = f"{source}:{walker.name}:{hash_json(deciding)[:8]}"
        self.visits = 0
        self._choosing = threading.Lock()
        self._writing = threading.Lock()
        self._visited = self._titles_so_far() if settings.max_pages is not None else set()

    def run(self, concurrency: int, on_progress: Callable[[Progress], None]) -> str | None:
        """Make every walk that is not in the file; returns why it stopped early, if it did."""
        todo = [i for i in range(self.settings.walks) if self._id(i) not in self.writer.ids]
        threads = 1 if self.settings.max_pages is not None else concurrency
        self.library = Library(self.cache, self.wiki, needs_text=self.settings.text)
        if not todo:
            return None
        gate = self.wiki.gate
        try:
            self.site = self._site()
            self.library.first_letter = self.site.first_letter
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
                    gate.close()
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
            requests=self.wiki.gate.passed,
            from_cache=self.library.from_cache,
            stopped=stopped,
        )

    def _progress(self) -> Progress:
        return Progress(
            walks=self.settings.walks,
            walks_done=len(self.writer.ids),
            visits=self.visits,
            failures=len(self.journal.failures),
            requests=self.wiki.gate.passed,
            from_cache=self.library.from_cache,
            held=self.wiki.gate.held,
        )

    def _id(self, index: int) -> str:
        return f"{self.name}:{index}"

    def _site(self) -> Site:
        site = self.cache.get_site()
        if site is None:
            try:
                site = self.wiki.fetch_site()
            except (RefusedError, UnreachableError):
                raise
            except WikiError as error:
                logger.warning("the wiki does not tell its licence: %s", error)
                return Site(name="", licence="unknown")
            self.cache.put_site(site)
        return site

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
        if not log.visits and any(not failure.passing for failure in log.failures):
            return  # an earlier run has learned that there is no such page to begin at
        status = "finished"
        while len(log.visits) <= self.settings.depth:
            if self.wiki.gate.closed:
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
            licence=self.site.licence,
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

    def _open(self, walk: str, log: WalkLog, title: str, parent: int | None) -> None:
        """Get a page and note the visit, or why there is none."""
        outcome: Page | Absent | WikiError
        try:
            outcome = self.library.get(title)
        except (RefusedError, UnreachableError):
            raise
        except WikiError as error:
            outcome = error
        if isinstance(outcome, Page) and all(v.title != outcome.title for v in log.visits):
            seconds = max(time.time() - log.began, log.visits[-1].time or 0 if log.visits else 0)
            visit = Visit(
                title=outcome.title,
                parent=parent,
                time=round(seconds, 3),
                page_id=outcome.page_id,
                revision_id=outcome.revision_id,
                offered=outcome.links,
                text=outcome.text if self.settings.text else None,
            )
            with self._writing:
                self.journal.visit(walk, visit)
                self.visits += 1
                self._visited.add(outcome.title)
            return
        if isinstance(outcome, Page):
            failure = Failure(walk, title, "visited", f"it has become {outcome.title!r}")
        else:
            passing = isinstance(outcome, WikiError) and outcome.retry
            failure = Failure(walk, title, outcome.reason, outcome.detail, passing)
        with self._writing:
            self._visited.add(title)
            if failure not in log.failures:
                self.journal.failure(failure)
