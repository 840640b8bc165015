"""Files that are either whole or absent: written beside their place, then moved into it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Json = dict[str, Any]  # an object, as JSON knows it; whoever reads one checks what it holds


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it becomes `path` in one step, on error it vanishes.

    Raises:
        OSError: It cannot be written; the error names `path`, not the temporary one.
    """
    temporary = _part_of(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask has it; some libraries are stricter
        yield temporary
        temporary.chmod(mode)
        os.replace(temporary, path)
    except OSError as error:
        raise _told_of(path, temporary, error) from None
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """As `replacing`, of a new folder: yield an empty one beside it, which becomes `folder`.

    Raises:
        OSError: It cannot be written, or `folder` is there by now.
    """
    temporary = _part_of(folder)
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with this number
        temporary.mkdir(parents=True)
        yield temporary
        _open_to_others(temporary)
        temporary.rename(folder)
    except OSError as error:
        raise _told_of(folder, temporary, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open_to_others(folder: Path) -> None:
    """Files get the mode that the umask gave their folder; some libraries are stricter."""
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(folder.stat().st_mode & 0o666)


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _told_of(path: Path, temporary: Path, error: OSError) -> OSError:
    """The same error, without the name of a file that nobody asked for."""
    if not path.parent.is_dir():
        return FileNotFoundError(f"expected a folder at {path.parent} to write into, found none")
    if error.errno is not None and str(error.filename or "").startswith(str(temporary)):
        asked_for = str(error.filename).replace(str(temporary), str(path))
        return OSError(error.errno, error.strerror, asked_for)
    named = (a.replace(str(temporary), str(path)) if isinstance(a, str) else a for a in error.args)
    error.args = tuple(named)
    return error


def write_json(path: Path, value: Any) -> None:
    with replacing(path) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        # Half a letter, as a folder's name may hold, is written as JSON spells it.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """Raises: FileNotFoundError, or ValueError naming the file where it is not JSON."""
    if not path.is_file():
        raise FileNotFoundError(f"expected a file at {path}, found none")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSON's own, or bytes that are no text
        raise ValueError(f"expected JSON in {path}, got {error}: the file is damaged") from None


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written in a folder of its own."""
    for part in folder.glob(".*.part"):
        if part.is_dir():
            shutil.rmtree(part)
        else:
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
