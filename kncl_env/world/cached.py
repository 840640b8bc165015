"""Arrays that are dear to make, kept in the cache folder by the hash of what they are made from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_lm.files import cache_folder, hash_json, replacing, sweep


def cached_array(
    name: str, made_from: Mapping[str, Any], make: Callable[[], NDArray[Any]]
) -> NDArray[Any]:
    """What `make` returns, made once for all processes.

    Args:
        name: Begins the file's name.
        made_from: All that the array depends on, as JSON would have it.
    """
    file = cache_folder() / f"{name}-{hash_json(dict(made_from))[:32]}.npy"
    sweep(file.parent, file.name)
    if file.is_file():
        try:
            return np.asarray(np.load(file, allow_pickle=False))
        except (ValueError, OSError, EOFError):
            file.unlink()  # damaged; it is made again
    found = make()
    # A cache that cannot be written costs time, nothing else.
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, durable=False) as part, part.open("wb") as stream:
            np.save(stream, found)
    return found
