"""Arrays that are dear to make, kept in the cache folder by the hash of what they are made from."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_lm.checked.arrays import Shape, load_arrays
from train_lm.files import cache_folder, hash_json, replacing, sweep

log = logging.getLogger(__name__)

ONLY = "array"  # its name in its file


def cached_array(
    name: str, made_from: Mapping[str, Any], shape: Shape, make: Callable[[], NDArray[Any]]
) -> NDArray[Any]:
    """What `make` returns, made once for all processes.

    Args:
        name: Begins the file's name.
        shape: What it has to have, as `load_array` takes it.
        made_from: All that the array depends on, as JSON would have it.
    """
    file = cache_folder() / f"{name}-{hash_json(dict(made_from))[:32]}.npz"
    sweep(file.parent, file.name)
    if file.is_file():
        try:
            # A zip has a checksum of its own.
            return load_arrays(file, {ONLY: ("iufb", shape)})[ONLY]
        except ValueError as error:
            log.warning("made again: %s", error)
    found = make()
    # A cache that cannot be written costs time, nothing else.
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, durable=False) as part, part.open("wb") as stream:
            np.savez(stream, array=found)
    return found
