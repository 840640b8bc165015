"""How every command of the project ends: a result, or one clear line and a non-zero exit.

It stands here because every package may import this one.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from train_lm.allocator import keep_freed_memory

BAD_INPUT = 2
INTERRUPTED = 130


def run(action: Callable[[], int | None]) -> int:
    """Run a command; what the user can mend becomes one line on stderr.

    Other exceptions are our own faults and keep their traceback.

    Returns:
        0 on success, 2 on bad input, 130 after Ctrl-C.
    """
    keep_freed_memory()
    try:
        return action() or 0
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        if os.environ.get("KNCL_TRACEBACK"):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt as interrupt:
        how = str(interrupt) or "run the same command again to go on"
        print(f"interrupted: {how}", file=sys.stderr)
        return INTERRUPTED


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
