"""Names and links that a file or a folder brings with it stay inside that folder."""

from __future__ import annotations

import os
from pathlib import Path


def inside(folder: Path, name: object, where: str) -> Path:
    """The file of a folder that something else names.

    Args:
        name: As it was read.
        where: What it was read from, for the message.

    Raises:
        ValueError: It is no plain name, or a link of that name leads out of the folder.
    """
    if not is_plain(name):
        raise ValueError(
            f"expected the plain name of a file in {folder}, got {name!r} from {where}: it would "
            "lead out of the folder"
        )
    return checked(folder / str(name), folder)


def is_plain(name: object) -> bool:
    """Whether a name stands for something right inside a folder, on every system."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not any(mark in name for mark in "/\\\0")
    )


def checked(file: Path, folder: Path) -> Path:
    """The file itself.

    Raises:
        ValueError: It, or a folder on the way to it, is a link that leads out of the folder.
    """
    real, root = os.path.realpath(file), os.path.realpath(folder)
    if os.path.commonpath([real, root]) != root:
        raise ValueError(
            f"expected {file} to lie in {folder}, got a link to {real}: put the file itself there"
        )
    return file


def check_links(folder: Path) -> None:
    """Raises: ValueError where a link in a folder leads out of it."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                checked(Path(entry.path), folder)
