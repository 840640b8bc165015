"""Plays independent tasks on a Ray cluster; the only door to Ray.

Every task occupies one core and has one thread: without a limit of its own, each process of a node
would start a thread for every core. What a worker or a node loses by its death is tried again with
the same task, so the result is what it would have been.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Generic, TypeVar

from train_lm.command_line import before_leaving
from train_lm.crew.folders import Folder, Piece, settle
from train_lm.crew.local import HERE
from train_lm.crew.standing import Standing, WorkerDiedError
from train_lm.crew.under_way import UnderWay
from train_lm.machine.cores import CORES, cores
from train_lm.provenance import source_digest, version

log = logging.getLogger(__name__)

TRIES = 5  # times that one task may lose its worker or its node
ANSWER = 10.0  # [s] that a head has to answer in
PATIENCE = 5.0  # [s] between looks whether a worker finds a place
SLOW = 4.0  # times the median of what a task takes, from which on it is told
REMEMBERED = 1000  # times that the median is of
STORE = 256 * 2**20  # [bytes] of the object store of a cluster that is started here

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    CORES: "1",
}

# How Ray goes about its own work, where nobody has said otherwise; it reads this when imported.
OF_RAY = {
    # Nothing is reported to anybody.
    "RAY_USAGE_STATS_ENABLED": "0",
    # It would have its workers give way to everybody else by 15 steps of niceness: beside anything
    # else that runs here, they would come to a fraction of what local processes do.
    "RAY_worker_niceness": "0",
    # What follows grows with every task: its monitor keeps logs open of processes that ended, 200
    # of them, its head remembers 100,000 tasks and as many actors that ended, and measures itself.
    "RAY_LOG_MONITOR_MAX_OPEN_FILES": "20",
    "RAY_task_events_report_interval_ms": "0",
    "RAY_maximum_gcs_destroyed_actor_cached_count": "100",
    "RAY_enable_metrics_collection": "0",
}

Task = TypeVar("Task")
Result = TypeVar("Result")
Made = TypeVar("Made")


@dataclass(frozen=True)
class _Job(Generic[Task, Result]):
    """What a worker is sent."""

    task: Task
    play: Callable[[Task], Result]
    folders: tuple[Folder, ...]
    version: str
    source: str
    leaves: Callable[[Task], Sequence[Path]] | None = None


@dataclass(frozen=True)
class _Told(Generic[Result]):
    """What it answers: a result, or what keeps it from one."""

    result: Result | None = None
    missing: tuple[Folder, ...] = ()
    left: tuple[tuple[Folder, tuple[Piece, ...]], ...] = ()
    other: str = ""
    node: str = ""


class _Times:
    """How long tasks take, so that one that takes much longer is told."""

    def __init__(self) -> None:
        self._began: dict[int, float] = {}
        self._told: set[int] = set()
        self._took: deque[float] = deque(maxlen=REMEMBERED)

    def begin(self, number: int) -> None:
        self._began[number] = time.monotonic()

    def end(self, number: int) -> None:
        self._took.append(time.monotonic() - self._began.pop(number))

    def tell_stragglers(self) -> None:
        if len(self._took) < 3:
            return
        usual = median(self._took)
        for number, began in self._began.items():
            so_far = time.monotonic() - began
            if so_far > SLOW * max(1.0, usual) and number not in self._told:
                self._told.add(number)
                log.warning(
                    "task %d has been under way for %.0f s, others took %.0f",
                    number + 1,
                    so_far,
                    usual,
                )


def connected(address: str) -> Cluster:
    """The cluster at an address; the same one for the whole life of the process.

    Raises:
        ValueError: Ray is not installed, or this process is connected to another address.
        ConnectionError: Nothing answers there.
    """
    if address not in _CONNECTED:
        if _CONNECTED:
            (other,) = _CONNECTED
            raise ValueError(f"expected one cluster for a command, {other}, got {address}")
        _CONNECTED[address] = Cluster(address)
    return _CONNECTED[address]


_CONNECTED: dict[str, Cluster] = {}


def prepare() -> None:
    """Before Ray is imported, and before a node of it is started here; see `OF_RAY`."""
    for name, value in OF_RAY.items():
        os.environ.setdefault(name, value)


def leave() -> None:
    """Leave the cluster; one that was started here ends."""
    if _CONNECTED:
        import ray

        _CONNECTED.clear()
        ray.shutdown()


def _end_at_once() -> None:
    """End all that was started below this process, which is about to go.

    Ray's own shutdown aborts where a task's answer comes while it is at it, and its agents, should
    their node be killed, try for a minute to tell it that: so nobody is asked.
    """
    import psutil  # of the extra `ray`

    for process in psutil.Process().children(recursive=True):  # nodes first, then what is below
        with suppress(psutil.Error):
            process.kill()


class Cluster:
    """A Ray cluster that this process is connected to.

    Args:
        address: As `Hands.ray`.
    """

    def __init__(self, address: str) -> None:
        if importlib.util.find_spec("ray") is None:
            raise ValueError(
                f"expected Ray for --ray {address}, found none: install it with "
                "`pip install 'kncl[ray]'`"
            )
        prepare()
        import ray

        self.ray: Any = ray
        self.address = address
        self._connect()
        before_leaving(_end_at_once)
        self._cores_before = self.cores
        # Made once: Ray keeps whatever it is handed, for as long as it is connected.
        self._play = self.ray.remote(num_cpus=1, max_retries=TRIES)(_play)
        self.keeper = self.ray.remote(_Keeper)

    @property
    def cores(self) -> int:
        """Tasks that it can play at a time."""
        return max(1, int(self.ray.cluster_resources().get("CPU", 1)))

    def played(
        self,
        tasks: Iterable[Task],
        play: Callable[[Task], Result],
        folders: Sequence[Folder],
        leaves: Callable[[Task], Sequence[Path]] | None = None,
        in_order: bool = False,
    ) -> Generator[tuple[int, Result]]:
        """As `Hands.played`.

        Args:
            in_order: As of `UnderWay`.
        """
        ray = self.ray
        sent: dict[Folder, list[Any]] = {}
        under_way, times = UnderWay(tasks, in_order), _Times()
        lost: Counter[int] = Counter()  # results that were on a node that is gone
        answers: dict[Any, int] = {}  # numbers of tasks by what Ray will answer

        def hand_out(number: int) -> None:
            task = under_way.tasks[number]
            job = _Job(task, play, tuple(folders), version(), source_digest(), leaves)
            answers[self._play.remote(job, sent)] = number

        try:
            while True:
                for number in under_way.more(self._cores_now()):
                    hand_out(number)
                    times.begin(number)
                if not answers:
                    return
                ready, _ = ray.wait(list(answers), num_returns=1, timeout=1.0)
                for answer in ready:
                    number = answers.pop(answer)
                    told = self._answer(answer, number, lost)
                    if told is None or told.missing:
                        for folder in () if told is None else told.missing:
                            if folder not in sent:
                                sent[folder] = self.send(folder)
                        hand_out(number)
                        continue
                    for folder, pieces in told.left:
                        if folder.here() is None:  # the node has a disk of its own
                            folder.put_back(pieces)
                    under_way.done(number)
                    times.end(number)
                    yield number, told.result  # type: ignore[misc]
                times.tell_stragglers()
        finally:
            for answer in answers:
                ray.cancel(answer, force=True)

    def _cores_now(self) -> int:
        cores = self.cores
        if cores < self._cores_before:
            log.warning(
                "%s: a node is gone, %d of %d cores are left: its tasks are played on the others",
                self.address,
                cores,
                self._cores_before,
            )
        self._cores_before = cores
        return cores

    def standing(
        self, make: Callable[[Any], Made], specs: Sequence[Any], folders: Sequence[Folder]
    ) -> Standing[Made]:
        """As `Hands.standing`."""
        jobs = [_Job(spec, make, tuple(folders), version(), source_digest()) for spec in specs]
        return Standing(
            lambda i: _Actor(self, jobs[i], len(jobs)), len(jobs), self._ready, self.ray.put
        )

    def _ready(self, workers: Sequence[_Actor], seconds: float) -> list[int]:
        asked = [worker.asked for worker in workers]
        found, _ = self.ray.wait(asked, num_returns=1, timeout=seconds)
        return [i for i, one in enumerate(asked) if one in found]

    def check(self, told: _Told[Any]) -> None:
        """Raises: ValueError where a node runs another version."""
        if told.other:
            raise ValueError(
                f"expected kncl {version()} of source {source_digest()[:12]} on every node of "
                f"{self.address}, got {told.other} on {told.node}: install the same there"
            )

    def send(self, folder: Folder) -> list[Any]:
        """The pieces of a folder, on their way to nodes without it."""
        log.warning("%s: sent to a node without it", folder.path)
        return [self.ray.put(piece) for piece in folder.pieces()]

    def _answer(self, answer: Any, number: int, lost: Counter[int]) -> _Told[Any] | None:
        """What was told; None where it is lost, and the task to be played again."""
        errors = self.ray.exceptions
        gone = (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError)
        try:
            told: _Told[Any] = self.ray.get(answer)
        except errors.RayTaskError as error:
            raise error.cause from None
        except (*gone, errors.ObjectLostError) as error:
            lost[number] += 1
            if isinstance(error, errors.ObjectLostError) and lost[number] <= TRIES:
                return None
            raise ChildProcessError(
                f"expected task {number + 1} to be played, but its workers were killed "
                f"{TRIES + 1} times: look for what ends them, such as too little memory"
            ) from None
        self.check(told)
        return told

    def _connect(self) -> None:
        started = self.address == HERE
        if not started and self.address != "auto":
            _knock(self.address)
        try:
            _keep_apart()
            self.ray.init(
                HERE if started else self.address,  # none would join one that runs here
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                runtime_env={"env_vars": ONE_THREAD},
                **({"object_store_memory": STORE, "num_cpus": cores()} if started else {}),
            )
            if threading.current_thread() is threading.main_thread():
                # Beneath Python it prints a trace at SIGTERM: what is set anew is above that.
                signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))
        except Exception as error:  # Ray raises nothing more precise, such as for a slow start
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise ConnectionError(
                f"expected a Ray cluster at {self.address}, got no answer ({first}): start one "
                "with `ray start --head`"
            ) from None


def _keep_apart() -> None:
    """A command decides how it ends and what it prints: Ray has no setting for either.

    By itself it would answer SIGTERM in a way of its own; what is sent to all of a group, such as a
    terminal's Ctrl-C, would end its processes under the command that is about to end them; and of a
    node that dies it prints the last lines of its log to standard output, where a command's result
    goes. Where a version has other parts, it does as it does.
    """
    parts = ("utils", "services", "worker")
    utils, services, worker = (importlib.import_module(f"ray._private.{part}") for part in parts)
    _change(utils, "set_sigterm_handler", lambda _: lambda handler: None)
    _change(services, "ConsolePopen", lambda start: partial(start, start_new_session=True))
    _change(worker, "print_to_stdstream", lambda _: _print_nothing)


def _print_nothing(data: Any, *_: Any, **__: Any) -> None:
    log.debug("%s", data["lines"])


def _change(module: Any, name: str, changed: Callable[[Any], Any]) -> None:
    if hasattr(module, name):
        setattr(module, name, changed(getattr(module, name)))


def _knock(address: str) -> None:
    """Raises: ConnectionError where nothing listens: Ray itself would try for a minute."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if not (host and port.isdigit()):
            raise OSError("no host:port")
        socket.create_connection((host, int(port)), timeout=ANSWER).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(
            f"expected the head of a Ray cluster at {address}, got no answer ({error}): give its "
            "host:port, or start one with `ray start --head`"
        ) from None


class _Actor:
    """A worker of a cluster, as this process sees it.

    Args:
        cluster: That it is of.
        job: What it is made from, and how.
        beside: Workers that are there at a time.
    """

    def __init__(self, cluster: Cluster, job: _Job[Any, Any], beside: int) -> None:
        self.ray = cluster.ray
        self._cluster, self._job, self._beside = cluster, job, beside
        self.asked: Any = None
        self._start(1)

    def _start(self, cores: int) -> None:
        self._actor = self._cluster.keeper.options(num_cpus=cores).remote()
        self._cores = cores
        self._made: Any = self._actor.make.remote(self._job, {})

    def ask(self, method: str, args: tuple[Any, ...]) -> None:
        if self._made is not None:
            self._settle()
        self.asked = self._actor.call.remote(method, args)

    def answer(self) -> Any:
        return self._get(self.asked)

    def close(self) -> None:
        self.ray.kill(self._actor)

    def _settle(self) -> None:
        while not self.ray.wait([self._made], timeout=PATIENCE)[0]:
            if self._cores and self._cluster.cores < self._beside:
                # A node is gone, and no other has a core for it: it shares one.
                self.close()
                self._start(0)
        told = self._get(self._made)
        self._cluster.check(told)
        if told.missing:
            sent = {folder: self._cluster.send(folder) for folder in told.missing}
            self._cluster.check(self._get(self._actor.make.remote(self._job, sent)))
        self._made = None

    def _get(self, answer: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(answer)
        except errors.RayTaskError as error:
            raise error.cause from None
        except (errors.RayActorError, errors.ObjectLostError):
            raise WorkerDiedError from None


class _Keeper:
    """In a worker: keeps what was made, and calls its methods."""

    def __init__(self) -> None:
        self._made: Any = None

    def make(self, job: _Job[Any, Any], sent: dict[Folder, list[Any]]) -> _Told[None]:
        told = _ready(job, sent)
        if not (told.other or told.missing):
            self._made = job.play(job.task)
        return told

    def call(self, method: str, args: tuple[Any, ...]) -> Any:
        import ray

        # What many are told was put into the object store once: a node fetches it once.
        told = [ray.get(one) if isinstance(one, ray.ObjectRef) else one for one in args]
        return getattr(self._made, method)(*told)


def _play(job: _Job[Task, Result], sent: dict[Folder, list[Any]]) -> _Told[Result]:
    """In a worker: play a task, with the folders that it needs."""
    told = _ready(job, sent)
    if told.other or told.missing:
        return told
    result = job.play(job.task)
    places = [] if job.leaves is None else job.leaves(job.task)
    left = [Folder.of(place, "") for place in places if place.is_dir()]
    return replace(told, result=result, left=tuple((one, tuple(one.pieces())) for one in left))


def _ready(job: _Job[Any, Any], sent: dict[Folder, list[Any]]) -> _Told[Any]:
    """Whether this node can play it; folders that were sent are kept."""
    import ray

    node = ray.util.get_node_ip_address()
    if (job.version, job.source) != (version(), source_digest()):
        return _Told(other=f"{version()} of source {source_digest()[:12]}", node=node)
    missing = tuple(folder for folder in job.folders if folder.here() is None)
    if unsent := tuple(folder for folder in missing if folder not in sent):
        return _Told(missing=unsent, node=node)
    for folder in missing:
        folder.keep(ray.get(piece) for piece in sent[folder])
    settle(job.folders)
    return _Told(node=node)
