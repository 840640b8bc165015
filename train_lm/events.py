"""TensorBoard's events of a run: one stream, whose thread ends with it."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from train_lm.files import naming


class Events:
    """`with Events(out / "tensorboard", done) as events: events.number("loss", 2.0, step)`.

    Args:
        folder: Of the files.
        done: Steps that an earlier process did; what it wrote of later ones is hidden.

    Raises:
        OSError: In every method: there is no room; it names the folder.
    """

    def __init__(self, folder: Path, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._folder = folder
        with naming(folder):
            self._writer = SummaryWriter(str(folder), purge_step=done + 1)

    def number(self, name: str, value: float, step: int) -> None:
        with naming(self._folder):
            self._writer.add_scalar(name, value, step)

    def text(self, name: str, markdown: str, step: int) -> None:
        """Foreign text must have been made harmless."""
        with naming(self._folder):
            self._writer.add_text(name, markdown, step)

    def __enter__(self) -> Events:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with naming(self._folder):
            self._writer.close()
