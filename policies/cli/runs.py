"""Run directories of commands: begun once, gone on with, or begun again."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from train_lm.inside import check_links


def begin(out: Path, force: bool, needed: Iterable[Path] = ()) -> None:
    """A run of ours is gone on with, or begun again with --force; nothing else is touched.

    Args:
        needed: Inputs of the run; they must not vanish with an old one.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if out.is_dir():
        check_links(out)
    if not any((out / part / "config.json").is_file() for part in (".", "practice")):
        raise FileExistsError(
            f"expected a new place or a run to go on with for --out, got {out}: name another"
        )
    if force:
        inside = [p for p in needed if out.resolve() in (p.resolve(), *p.resolve().parents)]
        if inside:
            raise ValueError(
                f"expected inputs outside of {out}, which --force empties, got {inside[0]}: "
                "name another --out"
            )
        shutil.rmtree(out)
