"""What the process that started us was asked for."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def check_launcher(words: Sequence[str] | None = None) -> None:
    """Raises: ValueError where accelerate was asked for several processes and started one.

    `accelerate launch --cpu --num_processes 2` does so, and says nothing (accelerate 1.15).

    Args:
        words: Of the launcher's command; those of our parent, if None.
    """
    words = _parent() if words is None else words
    asked = _processes(words)
    if asked > 1:
        raise ValueError(
            f"expected the {asked} processes that accelerate was asked for, got one: start them "
            f"with `torchrun --nproc_per_node {asked} -m train_lm.cli run ...`"
        )


def _processes(words: Sequence[str]) -> int:
    if "launch" not in words or not any("accelerate" in word for word in words[:3]):
        return 1
    for word, value in zip(words, [*words[1:], ""], strict=True):
        name, _, own = word.partition("=")
        if name.replace("-", "_") == "__num_processes":
            told = own or value
            return int(told) if told.isascii() and told.isdigit() else 1
    return 1


def _parent() -> list[str]:
    """Words of our parent's command; none where the system does not tell."""
    try:
        whole = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return []
    return whole.decode(errors="replace").split("\0")
