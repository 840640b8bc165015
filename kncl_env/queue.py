"""The expansion queue: what is likely to be expanded next is retrieved while the learner trains.

A job is a topic and a taste, in one world, at one breadth. What came of it, the passages, is kept
in a file of the cache folder, so that later episodes and other processes find it; a job that was
begun and not finished, because its process was killed, is taken up by the next one that opens the
file. Retrieval is deterministic: whoever does a job finds the same passages, and an episode is the
same to the last byte with the queue on or off.

The worker lives only while there is something to do: it leaves no thread behind.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.retrieval import RETRIEVAL_VERSION, NeighbourhoodRetriever
from kncl_env.taste import Taste
from train_lm.files import cache_folder, hash_json

if TYPE_CHECKING:
    from kncl_env.topic_table import Goal
    from kncl_env.world.world import World
    from train_lm.windows import TokenStore

Ints = NDArray[np.int64]
Job = tuple[int, Taste | None]

log = logging.getLogger(__name__)

STORE_VERSION = 2  # of the file; another one is left alone

# What is not there is a job that was begun: the process that began it was killed, or is at it.
_TABLE = (
    "CREATE TABLE IF NOT EXISTS job (topic INTEGER, taste TEXT, passages BLOB, sha256 TEXT, "
    "PRIMARY KEY (topic, taste))"
)


class ExpansionQueue(NeighbourhoodRetriever):
    """A retriever that retrieves ahead. Usable from several threads and processes.

    `expect` says what is likely to be asked for. `neighbourhood` then finds it done, waits for what
    is being done, or does it itself: nothing is retrieved twice.

    Args:
        world: Where the passages come from.
        breadth: Passages per neighbourhood.
        ahead: Topics that are retrieved ahead at a time, at most; the likeliest.
        goal: What a taste may prefer passages to be close to.
        windows: Read ahead as well, so that nobody waits for the disk; nothing is, if None.
        kept: Where results are kept; a file of the cache folder, if None.
    """

    def __init__(
        self,
        world: World,
        breadth: int,
        ahead: int,
        *,
        goal: Goal | None = None,
        windows: TokenStore | None = None,
        kept: JobStore | None = None,
    ) -> None:
        super().__init__(world, breadth, goal=goal)
        self.ahead = ahead
        self.windows = windows
        self.kept = kept or JobStore.of(
            {
                "world": world.hash,
                "breadth": breadth,
                "pull": self.pull,
                "goal": None if goal is None else goal.topics.tolist(),
                "version": RETRIEVAL_VERSION,
            }
        )
        self._lock = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._at: set[Job] = set()  # jobs that somebody does at this moment
        self._worker: threading.Thread | None = None
        self._unfinished: dict[str, list[int]] | None = None  # of killed processes, by taste

    def expect(self, topics: Iterable[int], taste: Taste | None = None) -> None:
        """These are likely to be asked for next, the first of them first.

        What was expected before and is not done yet comes after them, up to `ahead` in all.
        """
        with self._lock:
            wanted = [(int(topic), taste) for topic in topics]
            wanted += [*self._waiting, *self._left_behind(taste)]
            fresh = (job for job in wanted if job not in self._found and job not in self._at)
            self._waiting = deque(islice(dict.fromkeys(fresh), self.ahead))
            if self._waiting and self._worker is None:
                self._worker = threading.Thread(
                    target=self._work, name="expansion-queue", daemon=True
                )
                self._worker.start()

    def neighbourhood(self, topic: int, taste: Taste | None = None) -> Ints:
        """As a retriever without a queue finds it."""
        job = (topic, taste)
        with self._lock:
            while job in self._at:
                self._lock.wait()
            if job in self._found:
                return self._found[job]
            self._at.add(job)
            if job in self._waiting:
                self._waiting.remove(job)
        return self._do(job)

    def close(self) -> None:
        """Forget what is expected and let the worker end; what is done stays, and more may come."""
        with self._lock:
            self._waiting.clear()
            worker = self._worker
        if worker is not None:
            worker.join()
        self.kept.close()

    def _left_behind(self, taste: Taste | None) -> list[Job]:
        """Jobs that an earlier process began; each is taken up once."""
        if self._unfinished is None:
            self._unfinished = self.kept.unfinished()
        topics = self._unfinished.pop(_name(taste), [])
        return [(topic, taste) for topic in topics if topic < self.world.n_topics]

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._worker = None
                    return
                job = self._waiting.popleft()
                if job in self._at or job in self._found:
                    continue
                self._at.add(job)
            try:
                self._read(self._do(job))
            except Exception as error:  # told to whoever asks for it, who does it again
                log.debug("topic %d: not retrieved ahead: %s", job[0], error)

    def _do(self, job: Job) -> Ints:
        """Find what was done before, or do it; `job` is ours."""
        topic, taste = job
        try:
            found = self.kept.get(topic, _name(taste), len(self.world.passage_topic))
            if found is None:
                self.kept.begin(topic, _name(taste))
                found = self.retrieve(topic, taste)
                self.kept.keep(topic, _name(taste), found)
            self._found[job] = found
        finally:
            with self._lock:
                self._at.discard(job)
                self._lock.notify_all()
        return found

    def _read(self, passages: Ints) -> None:
        """Have the system read from disk what is memory-mapped: the learner would wait for it."""
        if self.windows is not None:
            self.windows.read(self.windows.windows_of(passages))


class JobStore:
    """Jobs and what came of them, in one SQLite file. Usable from several threads and processes.

    It is a cache: where it cannot be read or written, jobs are done again, and a warning says why.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._base: sqlite3.Connection | None = None
        self._broken = False

    @classmethod
    def of(cls, made_from: Mapping[str, Any]) -> JobStore:
        """The store in the cache folder of all that passages depend on, topic and taste aside."""
        made_from = {**made_from, "store": STORE_VERSION}
        return cls(cache_folder() / f"queue-{hash_json(made_from)[:32]}.sqlite")

    def get(self, topic: int, taste: str, below: int) -> Ints | None:
        """Passages, ascending, each of them below a number; None where they are not there."""
        row = None
        with self._use() as base:
            if base is not None:
                wanted = "SELECT passages, sha256 FROM job WHERE topic = ? AND taste = ?"
                row = base.execute(wanted, (topic, taste)).fetchone()
        if row is None or row[0] is None:
            return None
        found = _passages(row[0], row[1], _digest(topic, taste, row[0]), below)
        if found is None:
            log.warning("%s: retrieved again: topic %d is damaged there", self.file, topic)
        return found

    def begin(self, topic: int, taste: str) -> None:
        """Note that a job is begun: should we be killed, it is taken up."""
        self._write("INSERT OR IGNORE INTO job (topic, taste) VALUES (?, ?)", (topic, taste))

    def keep(self, topic: int, taste: str, passages: Ints) -> None:
        """Keep what came of a job; the same, should another process have done it too."""
        data = np.ascontiguousarray(passages, dtype="<i8").tobytes()
        row = (topic, taste, data, _digest(topic, taste, data))
        self._write("INSERT OR REPLACE INTO job VALUES (?, ?, ?, ?)", row)

    def unfinished(self) -> dict[str, list[int]]:
        """Topics of jobs that were begun and not finished, by taste."""
        found: dict[str, list[int]] = {}
        with self._use() as base:
            if base is not None:
                rows = "SELECT topic, taste FROM job WHERE passages IS NULL ORDER BY topic"
                for topic, taste in base.execute(rows).fetchall():
                    if type(topic) is int and topic >= 0 and isinstance(taste, str):
                        found.setdefault(taste, []).append(topic)
        return found

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        with self._lock:
            if self._base is not None:
                self._base.close()
                self._base = None

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        with self._use() as base:
            if base is not None:
                with base:
                    base.execute(statement, values)

    @contextmanager
    def _use(self) -> Iterator[sqlite3.Connection | None]:
        """The file, opened; None, from the first failure on, where it is of no use."""
        with self._lock:
            if self._base is None and not self._broken:
                try:
                    self._base = self._opened()
                except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
                    self._give_up(error)
            try:
                yield None if self._broken else self._base
            except (sqlite3.Error, OSError, OverflowError, UnicodeDecodeError) as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        # A result costs less than an episode: whatever is wrong there, it is done again.
        log.warning("%s: nothing is kept there: %s; delete it", self.file, error)
        self._broken = True

    def _opened(self) -> sqlite3.Connection:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        base = sqlite3.connect(self.file, timeout=30, check_same_thread=False)
        try:
            # A write-ahead log: a kill costs nothing, a power cut the last few results.
            base.execute("PRAGMA journal_mode=WAL")
            base.execute("PRAGMA synchronous=NORMAL")
            with base:
                base.execute("BEGIN IMMEDIATE")
                version = base.execute("PRAGMA user_version").fetchone()[0]
                if version not in (0, STORE_VERSION):
                    raise sqlite3.DatabaseError(f"version {version} of a job store")
                base.execute(_TABLE)
                base.execute(f"PRAGMA user_version={STORE_VERSION}")
        except BaseException:
            base.close()
            raise
        return base


def _digest(topic: int, taste: str, data: object) -> str:
    """Of passages and of what they were found for."""
    kept = data if isinstance(data, bytes) else b""
    return hashlib.sha256(f"{topic} {taste} ".encode() + kept).hexdigest()


def _passages(data: object, sha256: object, wanted: str, below: int) -> Ints | None:
    """None where it is not what was kept."""
    if not isinstance(data, bytes) or sha256 != wanted or len(data) % 8:
        return None
    found = np.frombuffer(data, dtype="<i8").astype(np.int64)
    if len(found) and (found[0] < 0 or found[-1] >= below or (np.diff(found) <= 0).any()):
        return None
    return found


def _name(taste: Taste | None) -> str:
    """What tells a taste from another, in the file."""
    return "" if taste is None else hash_json(taste.to_json())[:32]
