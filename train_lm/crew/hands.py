"""Who plays independent tasks: this process, processes of this machine, or a Ray cluster.

A task is data and playing it a function of the task alone. So it does not matter which process of
which machine plays it, how often it is tried, or in which order: the results are the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from train_lm.crew.folders import Folder
from train_lm.crew.local import played_here
from train_lm.crew.standing import Standing, local_workers

Task = TypeVar("Task")
Result = TypeVar("Result")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Hands:
    """What plays.

    Attributes:
        processes: Of this machine; with one, tasks are played in this process.
        ray: Address of a Ray cluster's head (`host:port`, `auto` for the one that runs on this
            machine, `local` to start one); no Ray, if None.

    Raises:
        ValueError: No process, or processes and a cluster at once.
    """

    processes: int = 1
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise ValueError(f"expected processes >= 1, got {self.processes}")
        if self.ray is not None and self.processes > 1:
            raise ValueError(
                f"expected processes of this machine or a Ray cluster, got {self.processes} "
                f"processes and {self.ray}: leave one out"
            )
        if self.ray is not None and not self.ray.strip():
            raise ValueError("expected the address of a Ray cluster, such as host:6379, got none")

    @property
    def several(self) -> bool:
        """Whether tasks are played outside of this process."""
        return self.processes > 1 or self.ray is not None

    def at_once(self) -> int:
        """Tasks that are played at a time, about; connects to the cluster, where there is one."""
        if self.ray is None:
            return self.processes
        from train_lm.crew.cluster import connected

        return connected(self.ray).cores

    def played(
        self,
        tasks: Sequence[Task],
        play: Callable[[Task], Result],
        folders: Sequence[Folder] = (),
        leaves: Callable[[Task], Sequence[Path]] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """(number of the task, its result) of every task, as they are finished.

        Args:
            play: A function of a module, which workers import.
            folders: What has to be there where a task is played, such as its world; a node that
                has it not fetches it once.
            leaves: A function of a module: folders that playing a task writes; they come home
                with its result.

        Raises:
            ValueError: Ray is asked for and not installed, or a node runs another version.
            ConnectionError: No cluster answers at the address.
            ChildProcessError: Workers died several times and nothing was finished in between.
            Exception: What `play` raised; the other tasks are given up.
        """
        if self.ray is None:
            yield from played_here(tasks, play, self.processes)
        elif tasks:
            from train_lm.crew.cluster import connected

            yield from connected(self.ray).played(tasks, play, folders, leaves)

    def in_order(
        self,
        tasks: Iterable[Task],
        play: Callable[[Task], Result],
        folders: Sequence[Folder] = (),
    ) -> Iterator[Result]:
        """Results in the order of their tasks, which may bring much data along.

        Tasks are asked for one after another, and few of them and of their results are in memory at
        a time: some for each core.

        Args:
            play, folders: As of `played`.

        Raises:
            ValueError, ConnectionError, ChildProcessError, Exception: As of `played`.
        """
        if self.ray is None:
            found = played_here(tasks, play, self.processes, in_order=True)
        else:
            from train_lm.crew.cluster import connected

            found = connected(self.ray).played(tasks, play, folders, in_order=True)
        early: dict[int, Result] = {}
        following = 0
        with closing(found):
            for number, result in found:
                early[number] = result
                while following in early:
                    yield early.pop(following)
                    following += 1

    def standing(
        self, make: Callable[[Any], Made], specs: Sequence[Any], folders: Sequence[Folder] = ()
    ) -> Standing[Made]:
        """Workers that keep what `make(spec)` gives, one for each spec; close them.

        Args:
            make: A function of a module, which workers import.
            folders: As of `played`.

        Raises:
            ValueError, ConnectionError: As of `played`.
        """
        if self.ray is None:
            return local_workers(make, specs)
        from train_lm.crew.cluster import connected

        return connected(self.ray).standing(make, specs, folders)


ALONE = Hands()
