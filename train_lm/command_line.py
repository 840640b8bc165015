"""How every command of the project begins and ends: options, a result, or one clear line.

It stands here because every package may import this one. Nothing of it imports more than the
standard library, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import logging
import os
import shlex
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any, NoReturn, TypeAlias

from train_lm import say_again
from train_lm.inputs import forget_inputs, told_inputs
from train_lm.machine.allocator import keep_freed_memory
from train_lm.outputs import interrupted, told_command
from train_lm.plain_text import visible, visible_lines
from train_lm.provenance import version

# What `add_subparsers` gives; argparse names it with an underscore.
Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

BAD_INPUT = 2
INTERRUPTED = 130
TERMINATED = 143
PATIENCE = 3.0  # [s] that a command has to end in after a signal

GOES_ON = "goes_on"  # set by verbs whose command, given again, goes on where it was

# What an interrupted command says of going on; the words of the command that runs decide.
_HOW = ["the same command begins anew"]


class Terminated(KeyboardInterrupt):
    """SIGTERM came: handled as Ctrl-C is, and told apart by the exit status."""


class _Parser(argparse.ArgumentParser):
    """Remembers what was asked for: a lock names it, and so does the last line of a stopped run.

    It quotes what it was given harmlessly; file names come from strangers, too.
    """

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        told_command([self.prog, *words])
        forget_inputs()
        found = super().parse_args(words, namespace)
        found.argv = words
        _HOW[0] = "the same command begins anew"
        if getattr(found, GOES_ON, False):
            forced = "--force" in words
            _HOW[0] = again(self.prog, words) if forced else "run the same command again to go on"
        return found

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
        0 on success, 2 on bad input, 130 after Ctrl-C, 143 after SIGTERM. A reader that has gone
        away (`| head`) is a success: it has seen what it wanted.
    """
    keep_freed_memory()
    _tell_visibly()
    try:
        with _signals():
            code = action() or 0
            sys.stdout.flush()
            for line in told_inputs():
                say(line, error=True)
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
        interrupted()
        say(_last_line(interrupt), error=True)
        return exit_status(interrupt)


def exit_status(interrupt: KeyboardInterrupt) -> int:
    return TERMINATED if _is_terminated(interrupt) else INTERRUPTED


def _is_terminated(interrupt: KeyboardInterrupt) -> bool:
    # A library that was waiting in another language raises an interrupt of its own instead.
    return isinstance(interrupt, Terminated) or signal.SIGTERM in _CAME


_CAME: set[int] = set()  # the signals that came


def _last_line(interrupt: KeyboardInterrupt) -> str:
    what = "terminated" if _is_terminated(interrupt) else "interrupted"
    return f"{what}: {str(interrupt) or _HOW[0]}"


def program(module: str) -> NoReturn:
    """The process of a command: its `main`, and a quiet end whatever moment a signal falls into."""
    try:
        say_again()
        with _signals():
            code = importlib.import_module(module).main()
            if code in (INTERRUPTED, TERMINATED):
                for act in _BEFORE_LEAVING:
                    with suppress(Exception):  # the process ends, and nobody is left to mend it
                        act()
            _quietly()
    except KeyboardInterrupt as interrupt:  # before the command began, or as it ended
        _leave(interrupt)
    if code in (INTERRUPTED, TERMINATED):
        _leave(None, code)  # whatever still runs has nothing to save
    sys.exit(code)


_BEFORE_LEAVING: list[Callable[[], object]] = []


def before_leaving(act: Callable[[], object]) -> None:
    """Have this done once a command was stopped, within its `PATIENCE`, to end what it started."""
    if act not in _BEFORE_LEAVING:
        _BEFORE_LEAVING.append(act)


def _quietly() -> None:
    """Nothing can be stopped any more."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _leave(interrupt: KeyboardInterrupt | None, code: int = INTERRUPTED) -> NoReturn:
    """End this process at once: what is written is whole, and what is not is swept later."""
    if interrupt is not None:
        interrupted()
        os.write(2, f"{visible(_last_line(interrupt))}\n".encode())
        code = exit_status(interrupt)
    with suppress(Exception):
        sys.stdout.flush()
    os._exit(code)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM as Ctrl-C; either ends this process within `PATIENCE`, and a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stopped, ended = threading.Event(), threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        interrupt = _interrupt(number)
        if stopped.is_set() or _imports(frame):
            _leave(interrupt)
        stopped.set()
        _CAME.add(number)
        raise interrupt

    # One that somebody else handles, or that is ignored as with nohup, stays as it is.
    ours = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {n: usual for n, usual in ours.items() if signal.getsignal(n) == usual}
    if not before:
        yield
        return
    for number in before:
        signal.signal(number, stop)
    # Python's handlers wait for long calls of other languages, this pipe does not.
    came, told = os.pipe()
    os.set_blocking(told, False)
    others = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=_hurry, args=(came, set(before), ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(others)
        os.close(told)
        for number, usual in before.items():
            if signal.getsignal(number) is stop:
                signal.signal(number, usual)


def _hurry(came: int, numbers: set[signal.Signals], ended: threading.Event) -> None:
    """End the process where it has not ended `PATIENCE` after a signal."""
    with os.fdopen(came, "rb", buffering=0) as pipe:
        while number := pipe.read(1):
            if number[0] in numbers and not ended.wait(PATIENCE):
                _leave(_interrupt(number[0]))


def _interrupt(number: int) -> KeyboardInterrupt:
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: libraries turn what is raised there into other errors."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


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
    threading.excepthook = _silent_of_files
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _silent_of_files


def _warning(form: Callable[..., str]) -> Callable[..., str]:
    def visibly(*args: Any, **more: Any) -> str:
        return visible_lines(form(*args, **more))

    return visibly


def _trace(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
    say_lines("".join(traceback.format_exception(kind, error, where)).rstrip(), error=True)


def _silent_of_files(told: threading.ExceptHookArgs | sys.UnraisableHookArgs) -> None:
    """What a library's thread, or what is closed late, could not write is told once, elsewhere.

    Whoever waits for that thread, or has written there before, has the same error.
    """
    if told.exc_value is not None and not isinstance(told.exc_value, OSError):
        _trace(told.exc_type, told.exc_value, told.exc_traceback)


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
