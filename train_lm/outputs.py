"""Who may write where: one writer at a time, into what the same command made, or into a new place.

A command holds its output from its first look at it until it is done. Whoever comes meanwhile is
told who holds it; when the holder dies, the system sets it free. What a killed command left is
known by the note that stays behind in the lock: the same command line goes on or begins again
there without being told to.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from train_lm.checked.records import parse_json
from train_lm.files import Json, is_litter, remove_folder, sweep

# Whether what stands at a place was made by the command that asks.
Mine = Callable[[Path], bool]

MADE_BY = "command"  # in a run's config.json: what made it
SETTINGS = "config.json"

_COMMAND: list[str] = []  # words of the command that this process runs


def told_command(words: Iterable[str]) -> None:
    """Remember what this process was asked for; a lock names it, and a message."""
    _COMMAND[:] = words
    _DONE.clear()


def command_line() -> str:
    return shlex.join(_COMMAND or sys.argv)


class Hold:
    """The right to write to an output, from `take` until `release`.

    Args:
        wait: Whether whoever holds it already is waited for, and not told of.
    """

    def __init__(self, out: Path, *, wait: bool = False) -> None:
        self.out, self._wait = out, wait
        # By its real name: one place is one output, whatever leads there.
        real = Path(os.path.realpath(out))
        self._file = real.with_name(f".{real.name}.lock")
        self._stream = -1
        self._left_by_us = False  # the last to write there was this command line, and was killed
        self._began = False

    def take(self) -> None:
        """Raises: BlockingIOError, which says who holds it, unless it waits."""
        try:
            import fcntl
        except ImportError:  # no advisory locks on Windows
            return
        while self._stream < 0:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                stream = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.out)) from None
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | (0 if self._wait else fcntl.LOCK_NB))
            except BlockingIOError:
                holder = _note(stream)
                os.close(stream)
                raise BlockingIOError(
                    f"expected to be alone in writing {self.out}, got another process that writes "
                    f"it, {holder.get('pid', 'unknown')} ({holder.get('command', 'unknown')}): "
                    "wait for it or name another --out"
                ) from None
            if _is_at(stream, self._file):
                self._stream = stream
            else:
                os.close(stream)  # its last holder has just removed it
        found = _note(self._stream)
        self._left_by_us = bool(found.get("began")) and found.get("command") == command_line()
        self._write(began=self._left_by_us)

    def release(self) -> None:
        if self._stream >= 0:
            # A part of another output is not asked for by itself: its command goes on or skips it.
            if self._began and not _is_held_by(threading.get_ident()):
                _DONE.append(self)
            with suppress(OSError):
                self._file.unlink()
            os.close(self._stream)
            self._stream = -1

    def leave_note(self) -> None:
        """As if the command had been killed before it let go, where nobody has come since."""
        if not os.path.lexists(self.out):
            return
        with suppress(OSError):
            note = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            os.write(note, _noted(began=True))
            os.close(note)

    def begin_anew(self, force: bool, mine: Mine, inputs: Iterable[Path | None] = ()) -> None:
        """Refuse to overwrite anything but what this command made, and that only if told to.

        Args:
            force: Whether what the command made before may be replaced.
            mine: Tells whether it made what is there.
            inputs: What it reads; none of it may be replaced.

        Raises:
            FileExistsError: `out` is there, and may not be replaced.
            ValueError: An input lies there.
        """
        if os.path.lexists(self.out) and not _is_empty(self.out):
            if not (force or (self._left_by_us and mine(self.out))):
                raise FileExistsError(
                    f"expected a new place for --out, got {self.out}, which exists: name another "
                    "or add --force"
                )
            self._keep(inputs)
            if not mine(self.out):
                raise FileExistsError(
                    "expected something that this command made, and nothing else, to replace, got "
                    f"{self.out}: name another --out"
                )
        self.go_on()

    def begin_run(self, made_by: str, force: bool, inputs: Iterable[Path | None] = ()) -> None:
        """Go on with a run of this command, or begin one; `force` empties it first.

        Raises:
            FileExistsError: Something else is there.
            ValueError: An input lies in what would be emptied.
        """
        if self.check_run(made_by) and force:
            self._keep(inputs)
            remove_folder(self.out)
        self.go_on()

    def check_run(self, made_by: str) -> bool:
        """Whether a run of this command is there; ask before any work is spent on one.

        Raises:
            FileExistsError: Something else is there.
        """
        if not os.path.lexists(self.out) or _is_empty(self.out):
            return False
        if not _is_run(self.out, made_by):
            raise FileExistsError(
                f"expected a new place or a run to go on with for --out, got {self.out}, which "
                f"`{made_by}` did not make: name another"
            )
        return True

    def go_on(self) -> None:
        """Whatever ends us, what stands there from now on is ours; earlier litter goes."""
        self._began = True
        self._write(began=True)
        sweep(self.out.parent, self.out.name)
        if self.out.is_dir():
            for folder in {part.parent for part in self.out.rglob(".*.part")}:
                sweep(folder)

    def _keep(self, inputs: Iterable[Path | None]) -> None:
        if self.out.is_dir() and self.out.resolve() in (Path.cwd(), *Path.cwd().parents):
            raise FileExistsError(
                f"expected another place than the current folder, got {self.out}: it would be "
                "replaced"
            )
        for place in inputs:
            real = None if place is None else place.resolve()
            if real is not None and self.out.resolve() in (real, *real.parents):
                raise ValueError(
                    f"expected inputs outside of {self.out}, which --force empties, got {place}: "
                    "name another --out"
                )

    def _write(self, began: bool) -> None:
        if self._stream < 0:
            return
        with suppress(OSError):  # a full disk must not keep anybody from looking
            os.ftruncate(self._stream, 0)
            os.pwrite(self._stream, _noted(began), 0)


# What this command has let go of, in order.
_DONE: list[Hold] = []


def interrupted() -> None:
    """A command that is stopped as it ends has said that it begins anew: let it, unforced."""
    for hold in _DONE:
        hold.leave_note()


# By place and thread: a call within a call shares one.
_HELD: dict[tuple[str, int], Hold] = {}


def _is_held_by(thread: int) -> bool:
    return any(holder == thread for _, holder in _HELD)


@contextmanager
def alone(out: Path, *, wait: bool = False) -> Iterator[Hold]:
    """Be the only one that writes to a file or folder.

    Args:
        wait: Whether another one is waited for: who makes something for a cache finds it made.

    Raises:
        BlockingIOError: Another process is, and is not waited for; it is named.
    """
    key = (os.path.realpath(out), threading.get_ident())
    if key in _HELD:
        yield _HELD[key]
        return
    hold = Hold(out, wait=wait)
    hold.take()
    _HELD[key] = hold
    try:
        yield hold
    finally:
        del _HELD[key]
        hold.release()


def holds_json(file: Path, /, **fields: object) -> bool:
    """Whether a file holds a JSON object with these fields; no error, whatever it is."""
    try:
        found = parse_json(file.read_bytes(), file)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and all(found.get(k, fields) == v for k, v in fields.items())


def _is_run(folder: Path, made_by: str) -> bool:
    # A run may be killed in its first part, the practice before it.
    return any(
        holds_json(folder / part / SETTINGS, **{MADE_BY: made_by}) for part in (".", "practice")
    )


def _is_empty(path: Path) -> bool:
    """Whether nothing would be lost: what a killed command left before its first whole file."""
    if path.is_file():
        return not path.stat().st_size
    return path.is_dir() and all(
        is_litter(inside) or (inside.is_dir() and not inside.is_symlink() and _is_empty(inside))
        for inside in path.iterdir()
    )


def _is_at(stream: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(stream), os.stat(file))
    except FileNotFoundError:
        return False


def _noted(began: bool) -> bytes:
    note = {"pid": os.getpid(), "command": command_line(), "began": began}
    return json.dumps(note).encode()


def _note(stream: int) -> Json:
    """What the holder of a lock wrote into it."""
    try:
        found = json.loads(os.pread(stream, 1 << 16, 0))
    except (ValueError, OSError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
