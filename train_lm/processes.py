"""Processes that we start, or that are started for us, end with their parent, whatever ends it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

from train_lm.command_line import before_leaving
from train_lm.machine.cores import CORES, cores

RAYON = "RAYON_NUM_THREADS"  # environment variable: threads of what tokenises
LOOK = 0.5  # [s] between looks at the parent


def end_with_parent(parent: int) -> None:
    """End this process soon after its parent has ended.

    A thread looks, on every system and for every way to start a process; Linux' own signal comes
    when the *thread* that started it ends, too.
    """
    threading.Thread(target=_watch, args=(parent,), daemon=True, name="parent").start()


def _begin(parent: int, share: int) -> None:
    end_with_parent(parent)
    os.environ[CORES] = os.environ[RAYON] = str(share)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)


@contextmanager
def worker_pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose workers end with this process, and at once where its work is broken off.

    The cores that this process may keep busy are shared among them.
    Give it its work within `without_interrupts`.
    """
    pool = ProcessPoolExecutor(
        processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(os.getpid(), max(1, cores() // processes)),
    )
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        for worker in multiprocessing.active_children():
            worker.kill()
        pool.shutdown(cancel_futures=True)
        # A process that leaves at once would not give its semaphores back, and be told of them.
        before_leaving(gc.collect)
        raise


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Processes started in it never see a Ctrl-C, which a terminal sends to all: we tell them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
