"""Arrays that are dear to make, kept in the cache folder by the hash of what they are made from."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train_lm.checked.arrays import Shape, load_arrays
from train_lm.files import cache_folder, hash_json, replacing, sweep

log = logging.getLogger(__name__)


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
            return _loaded(file, shape)
        except ValueError as error:
            log.warning("made again: %s", error)
    found = make()
    # A cache that cannot be written costs time, nothing else.
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file, durable=False) as part, part.open("wb") as stream:
            np.savez(stream, array=found, sha256=np.array(_digest(found)))
    return found


def _loaded(file: Path, shape: Shape) -> NDArray[Any]:
    """Raises: ValueError where it is not the array that was written."""
    found = load_arrays(file, {"array": ("iufb", shape), "sha256": ("U", ())})
    if _digest(found["array"]) != str(found["sha256"]):
        raise ValueError(f"expected {file} as it was written, got another array")
    return found["array"]


def _digest(array: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
