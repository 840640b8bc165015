"""Plays a task of a stream, wherever it is asked to: here, or in a process of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from policies.stream.cells import StreamRecord, StreamTask
from policies.stream.course import open_course
from policies.stream.sequential import Keep, play_sequential
from train_lm.files import write_tensors
from train_lm.plain_text import in_file_name

if TYPE_CHECKING:
    from torch import Tensor


def play(task: StreamTask) -> list[StreamRecord]:
    """The records of a task's methods; the same bytes in any process, but for the seconds.

    Raises:
        FloatingPointError: The loss is not finite: the rate is too high.
    """
    import torch

    torch.set_num_threads(1)
    course = open_course(task.world, task.settings, task.layout, task.seed)
    try:
        return [play_sequential(course, task, _keeper(task))]
    except FloatingPointError as error:
        name = ", ".join(method.name for method in task.methods)
        raise FloatingPointError(f"{name} at a rate of {task.rate:g}: {error}") from None


def kept_in(folder: Path, method: str, rate: float, seed: int) -> Path:
    """Where a cell's weights are kept, a file for each stage."""
    return folder / in_file_name(f"{method.replace('/', '_')} {rate:g} {seed}")


def _keeper(task: StreamTask) -> Keep | None:
    if not task.keep:
        return None
    folder = kept_in(Path(task.keep), task.methods[0].name, task.rate, task.seed)
    folder.mkdir(parents=True, exist_ok=True)

    def keep(done: int, weights: Mapping[str, Tensor]) -> None:
        write_tensors(folder / f"stage-{done}.safetensors", weights, {}, durable=False)

    return keep
