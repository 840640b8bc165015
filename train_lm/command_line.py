"""How every command of the project begins and ends: options, a result, or one clear line.

It stands here because every package may import this one. Nothing of it imports more than the
standard library, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import csv
import io
import logging
import os
import shlex
import sys
import traceback
import types
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from train_lm.allocator import keep_freed_memory
from train_lm.plain_text import visible, visible_lines
from train_lm.provenance import version

# What `add_subparsers` gives; argparse names it with an underscore.
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

BAD_INPUT = 2
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Quotes what it was given harmlessly; file names come from strangers, too."""

    def error(self, message: str) -> NoReturn:
        super().error(visible(message))


class _Version(argparse.Action):
    """Prints the installed version; looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"{parser.prog} {version()}")
        parser.exit()


def command(prog: str, description: str) -> argparse.ArgumentParser:
    """The parser of a command: its story, and `--version`."""
    parser = _Parser(prog=prog, description=description)
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version that is installed"
    )
    return parser


def comma_separated(text: str) -> list[str]:
    """The one spelling of lists on every command line: `a,b,"c, d"`. Give it as `type`.

    Raises:
        argparse.ArgumentTypeError: Nothing is listed.
    """
    rows = csv.reader([text], skipinitialspace=True)
    items = [item.strip() for row in rows for item in row if item.strip()]
    if not items:
        raise argparse.ArgumentTypeError(f"expected names by comma, such as a,b, got {text!r}")
    return items


def by_comma(items: Iterable[str]) -> str:
    """What `comma_separated` reads back."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(items)
    return out.getvalue()


def run(action: Callable[[], int | None]) -> int:
    """Run a command; what the user can mend becomes one line on stderr.

    Other exceptions are our own faults and keep their traceback.

    Returns:
        0 on success, 2 on bad input, 130 after Ctrl-C. A reader that has gone away (`| head`) is
        a success: it has seen what it wanted.
    """
    keep_freed_memory()
    _tell_visibly()
    try:
        code = action() or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Python would flush what is left at exit, and complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        if os.environ.get("KNCL_TRACEBACK"):
            raise
        say(f"error: {' '.join(_told(error).split())}", error=True)
        return BAD_INPUT
    except KeyboardInterrupt as interrupt:
        how = str(interrupt) or "run the same command again to go on"
        say(f"interrupted: {how}", error=True)
        return INTERRUPTED


def say(text: object = "", *, error: bool = False, end: str = "\n", flush: bool = False) -> None:
    """Print one line, parts of which may come from files or servers: they cannot drive a terminal.

    Args:
        error: Print to standard error.
    """
    print(visible(text), file=sys.stderr if error else sys.stdout, end=end, flush=flush)


def say_lines(text: str, error: bool = False) -> None:
    """`say`, where the line breaks are our own: of a table, or of a passage that is shown whole."""
    for line in text.split("\n"):
        say(line, error=error)


class _VisibleRecord(logging.LogRecord):
    def getMessage(self) -> str:  # noqa: N802
        return visible_lines(super().getMessage())


def _tell_visibly() -> None:
    """What modules and libraries log or warn of quotes files; so does a fault of our own."""
    logging.setLogRecordFactory(_VisibleRecord)
    if warnings.formatwarning.__module__ != __name__:
        warnings.formatwarning = _warning(warnings.formatwarning)
    sys.excepthook = _trace


def _warning(form: Callable[..., str]) -> Callable[..., str]:
    def visibly(*args: Any, **more: Any) -> str:
        return visible_lines(form(*args, **more))

    return visibly


def _trace(
    kind: type[BaseException], error: BaseException, where: types.TracebackType | None
) -> None:
    say_lines("".join(traceback.format_exception(kind, error, where)).rstrip(), error=True)


def _told(error: Exception) -> str:
    """The message; what the system says of a file, without its number."""
    if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
        what = (error.strerror or "").lower()
        if isinstance(error, FileNotFoundError):
            return f"expected a file at {error.filename}, found none"
        return f"expected to use {error.filename}, got: {what}"
    return str(error)


def again(program: str, arguments: list[str]) -> str:
    """How to go on with an interrupted run; `--force` would begin it again."""
    return f"to go on: {shlex.join([program, *(a for a in arguments if a != '--force')])}"


def claim_output(out: Path, force: bool, marker: str | None = None) -> Path:
    """Refuse to overwrite; returns `out` with its parent folder made.

    Args:
        marker: File that an `out` which may be replaced holds, where `out` is a directory.

    Raises:
        FileExistsError: `out` exists and `force` is false, or it is somebody else's directory.
    """
    if out.exists() and not force:
        raise FileExistsError(
            f"expected a new place for --out, got {out}, which exists: name another or add --force"
        )
    if marker is not None and out.is_dir() and any(out.iterdir()) and not (out / marker).is_file():
        raise FileExistsError(
            f"expected something that this command made (with {marker}) to replace, got {out}: "
            "name another --out"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    return out
