"""Files that are either whole or absent: written beside their place, then moved into it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes `path` in one step, on error it vanishes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename == str(temporary):
            error.filename = str(path)  # the name that the user knows
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Raises: FileNotFoundError, or ValueError naming the file where it is not JSON."""
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"expected JSON in {path}, got {error}: the file is damaged") from None


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder of its own."""
    for part in folder.glob(".*.part"):
        if part.is_file():
            part.unlink()


def cache_folder() -> Path:
    """Where what is dear to make is kept, by the hash of what it was made from."""
    return Path(os.environ.get("KNCL_CACHE") or Path.home() / ".cache" / "kncl")


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON-able value: equal settings, equal hash, whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
