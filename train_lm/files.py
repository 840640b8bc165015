"""Files that are either whole or absent: written beside their place, then moved into it.

Everything that the project writes goes through here, so that a kill at any moment, or a full disk,
costs what was being written and nothing else. `replacing` and `replacing_folder` put a whole file
or folder in its place in one step; `append_line` adds to a journal, whose readers drop a last line
that was not finished.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from train_lm.checked.tensors import Packed

from train_lm.checked.records import parse_json

Json = dict[str, Any]  # an object, as JSON knows it; whoever reads one checks what it holds
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written")  # numpy's, of a full disk
_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)

_EXCHANGE = 2  # of renameat2: two names change places in one step
_HERE = -100  # of the *at calls: a name is meant as it stands
# What libraries of other languages say of an error of the system, as Rust and faiss do.
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]|(No space left on device)")


@contextmanager
def replacing(path: Path, *, durable: bool = True, room: bool = False) -> Iterator[Path]:
    """Yield a temporary file; on success it becomes `path` in one step, on error it vanishes.

    Args:
        durable: Whether it outlasts a power cut from then on; a cache need not.
        room: Whether it gets a folder of its own, for who replaces it by a file of theirs.

    Raises:
        OSError: It cannot be written; the error names `path`, not the temporary one.
    """
    with beside(path) if room else _draft(path) as part:
        if room:
            part.touch()
        mode = part.stat().st_mode  # as the umask has it; some libraries are stricter
        yield part
        if part.stat().st_mode != mode:
            part.chmod(mode)
        if durable:
            sync(part)
        os.replace(part, path)
        if durable:
            sync(path.parent)
    sweep(path.parent, path.name)


@contextmanager
def replacing_folder(folder: Path, *, over: bool = False, durable: bool = True) -> Iterator[Path]:
    """As `replacing`, of a folder: yield an empty one beside it, which becomes `folder`.

    Args:
        over: Whether one that is there is replaced, in one step and as a whole.

    Raises:
        OSError: It cannot be written, or `folder` is there and not to be replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with beside(folder) as part:
        part.mkdir()
        yield part
        put_in_place(part, folder, over=over, durable=durable)
    sweep(folder.parent, folder.name)


def put_in_place(part: Path, folder: Path, *, over: bool, durable: bool = True) -> None:
    """Make a finished folder another one in one step; what was there is left at `part`."""
    _open_to_others(part)
    if durable:
        for inside in (part, *part.rglob("*")):
            sync(inside)
    move_folder(part, folder, over=over)
    if durable:
        sync(folder.parent)


def _open_to_others(folder: Path) -> None:
    """Files get the mode that the umask gave their folder; some libraries are stricter."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file() and file.stat().st_mode & 0o777 != mode:
            file.chmod(mode)


def remove_folder(folder: Path) -> None:
    """Take a folder away in one step; a kill in the midst leaves what the next `sweep` removes."""
    with beside(folder) as part:
        folder.rename(part)
    sweep(folder.parent, folder.name)


def append_line(file: Path, value: object, *, durable: bool = True) -> None:
    """Add a value to a file of JSON Lines; it counts once its line is whole.

    Raises:
        OSError: It cannot be written; the error names the file.
    """
    line = json.dumps(value).encode() + b"\n"
    with naming(file), file.open("ab", buffering=0) as stream:
        if stream.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if durable:
            os.fsync(stream.fileno())


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Errors of writing to a stream name the file, which the system does not."""
    try:
        yield
    except OSError as error:
        raise _told_of(file, file, error) from None


@contextmanager
def told_as(path: Path, part: Path) -> Iterator[None]:
    """Errors of writing to `part` name `path`, which is what was asked for."""
    try:
        yield
    except Exception as error:
        told = _told_of(path, part, error)
        if told is error:
            raise
        raise told from None


@contextmanager
def beside(path: Path) -> Iterator[Path]:
    """A name in a room of its own beside `path`, where libraries may leave files of theirs, too."""
    room, lock = _open_room(path)
    part = room / path.name
    try:
        with told_as(path, part):
            yield part
    finally:
        shutil.rmtree(room, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _open_room(path: Path) -> tuple[Path, int | None]:
    """An empty folder, locked by us: what nobody has locked was left by somebody who was killed."""
    while True:
        try:
            made = tempfile.mkdtemp(suffix=".part", prefix=f".{path.name}.", dir=path.parent or ".")
        except OSError as error:
            raise _told_of(path, path, error) from None
        lock = _locked(Path(made))
        if Path(made).is_dir():  # nobody swept it before we had the lock
            return Path(made), lock
        if lock is not None:
            os.close(lock)


@contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, locked by us; it is gone afterwards, or has another name."""
    part, lock = _open_draft(path)
    try:
        with told_as(path, part):
            yield part
    finally:
        part.unlink(missing_ok=True)
        os.close(lock)


def _open_draft(path: Path) -> tuple[Path, int]:
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            made = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        except OSError as error:
            raise _told_of(path, part, error) from None
        with suppress(BlockingIOError):  # it is being swept
            _lock(made)
            if part.exists():  # nobody swept it before we had the lock
                return part, made
        os.close(made)


def _locked(place: Path) -> int | None:
    """A descriptor that holds the lock of a file or folder; None where there are no such locks.

    Raises:
        BlockingIOError: Somebody else holds it.
    """
    held = os.open(place, os.O_RDONLY)
    try:
        if _lock(held):
            return held
    except BlockingIOError:
        os.close(held)
        raise
    os.close(held)
    return None


def _lock(held: int) -> bool:
    """Lock what a descriptor stands for, if there are such locks.

    Raises:
        BlockingIOError: Somebody else holds it.
    """
    try:
        import fcntl
    except ImportError:  # no advisory locks on Windows
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # some file systems lock no folders
        return False
    return True


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left half written in a folder; what is being written stays.

    Args:
        name: Only of this file or folder.
    """
    begins = "." if name is None else f".{name}."
    names = os.listdir(folder) if folder.is_dir() else []
    for part in (folder / n for n in names if n.startswith(begins) and n.endswith(".part")):
        with suppress(OSError):
            if (lock := _locked(part)) is not None:
                try:
                    shutil.rmtree(part) if part.is_dir() else part.unlink()
                finally:
                    os.close(lock)


def is_litter(path: Path) -> bool:
    """Whether a name is one that `sweep` knows."""
    return path.name.startswith(".") and path.name.endswith(".part")


def sync(path: Path) -> None:
    """See to it that what stands there outlasts a power cut."""
    held = os.open(path, os.O_RDONLY)
    try:
        os.fsync(held)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync a folder
            raise
    finally:
        os.close(held)


def move_folder(part: Path, folder: Path, *, over: bool) -> None:
    """Put a folder in its place in one step; what it replaces is left where it came from."""
    if not (over and folder.is_dir()):
        part.rename(folder)
        return
    swap = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    names = (os.fsencode(part), os.fsencode(folder))
    if swap is None or swap(_HERE, names[0], _HERE, names[1], _EXCHANGE):
        old = part.with_name("old")  # the system cannot: two steps
        folder.rename(old)
        part.rename(folder)


def _told_of(path: Path, part: Path, error: Exception) -> Exception:
    """The same error of the file that was asked for; an `OSError` where the system refused."""
    if not isinstance(error, OSError):
        found = _SYSTEM_ERROR.search(str(error))
        if found is None:
            return error
        number = int(found[1] or found[2] or errno.ENOSPC)
        return OSError(number, os.strerror(number), str(path))
    if not path.parent.is_dir():
        return FileNotFoundError(f"expected a folder at {path.parent} to write into, found none")
    said = str(error.filename or "")
    if str(part) in said:
        return OSError(error.errno, error.strerror, said.replace(str(part), str(path)))
    if not said:
        text = str(error)
        code: int | None = error.errno
        if code is None and (found := _SYSTEM_ERROR.search(text)):
            code = int(found[1] or found[2] or errno.ENOSPC)
        if code is None and _CUT_SHORT.search(text):
            code = errno.ENOSPC
        if code is not None and code in _OF_WRITING:
            return OSError(code, os.strerror(code), str(path))
        error.args = tuple(
            a.replace(str(part), str(path)) if isinstance(a, str) else a for a in error.args
        )
    return error


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    with replacing(path, durable=durable) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        # Half a letter, as a folder's name may hold, is written as JSON spells it.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any] | None = None,
    *,
    durable: bool = True,
) -> None:
    """Write tensors as safetensors, whole or not at all.

    Raises:
        OSError: It cannot be written; the error names the file.
    """
    from train_lm.checked.tensors import Packed

    texts = None if about is None else {key: str(value) for key, value in about.items()}
    write_packed(path, Packed.of(tensors, texts), durable=durable)


def write_packed(path: Path, packed: Packed, *, durable: bool = True) -> None:
    """The same of tensors that somebody packed, to take their digest, too."""
    with replacing(path, durable=durable) as part, part.open("wb", buffering=2**20) as stream:
        packed.write(stream)


def read_json(path: Path) -> Any:
    """Raises: FileNotFoundError, or ValueError naming the file where it is not JSON."""
    if not path.is_file():
        raise FileNotFoundError(f"expected a file at {path}, found none")
    return parse_json(path.read_bytes(), path)


def cache_folder() -> Path:
    """Where what is dear to make is kept, by the hash of what it was made from."""
    return Path(os.environ.get("KNCL_CACHE") or Path.home() / ".cache" / "kncl")


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON-able value: equal settings, equal hash, whatever the order of keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
