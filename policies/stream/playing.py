"""Plays a task of a stream, wherever it is asked to: here, or in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policies.stream.apart import apart_again, play_apart
from policies.stream.cells import StreamRecord, StreamTask
from policies.stream.course import open_course
from policies.stream.methods import Method
from policies.stream.sequential import play_sequential, sequential_again
from train_lm.checked.tensors import load_tensors
from train_lm.files import write_tensors
from train_lm.plain_text import in_file_name

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]


def play(task: StreamTask) -> list[StreamRecord]:
    """The records of a task's methods; the same bytes in any process, but for the seconds.

    Raises:
        FloatingPointError: The loss is not finite: the rate is too high.
    """
    import torch

    torch.set_num_threads(1)
    course = open_course(task.world, task.settings, task.layout, task.seed)

    def keep(done: int, snapshot: Mapping[str, Tensor]) -> None:
        if task.keep:
            folder = kept_in(task)
            folder.mkdir(parents=True, exist_ok=True)
            write_tensors(folder / f"stage-{done}.safetensors", snapshot, {}, durable=False)

    try:
        if task.training.compose:
            return play_apart(course, task, keep)
        return [play_sequential(course, task, keep)]
    except FloatingPointError as error:
        name = ", ".join(method.name for method in task.methods)
        raise FloatingPointError(f"{name} at a rate of {task.rate:g}: {error}") from None


def prepare(task: StreamTask) -> None:
    """The nucleus phase of a task's learner, where it is not cached yet: once, and not by each."""
    import torch

    torch.set_num_threads(1)
    open_course(task.world, task.settings, task.layout, task.seed)


def kept_in(task: StreamTask) -> Path:
    """Where a task's snapshots are kept, a file for each stage."""
    name = f"{task.training.name.replace('/', '_')} {task.rate:g} {task.seed}"
    return Path(task.keep) / in_file_name(name)


def kept_places(task: StreamTask) -> list[Path]:
    """Folders that playing a task writes."""
    return [kept_in(task)] if task.keep else []


def measured_again(task: StreamTask, method: Method) -> Floats:
    """(T + 1, T + 1) losses of the snapshots that a task kept, as the method's record has them.

    Raises:
        FileNotFoundError: The snapshot of a stage is missing.
        ValueError: It is damaged, or of another model.
    """
    course = open_course(task.world, task.settings, task.layout, task.seed)

    def kept(done: int) -> Mapping[str, Tensor]:
        return load_tensors(kept_in(task) / f"stage-{done}.safetensors")[0]

    try:
        if task.training.compose:
            return apart_again(course, task, method, kept)
        return sequential_again(course, task, kept)
    except ValueError as error:
        raise ValueError(
            f"expected snapshots of this task in {kept_in(task)}, got {error}"
        ) from None
