"""Run directories of commands: begun once, gone on with, or begun again."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kncl_env.world.world import World


def begin(out: Path, force: bool, needed: Iterable[Path] = ()) -> None:
    """A run of ours is gone on with, or begun again with --force; nothing else is touched.

    Args:
        needed: Inputs of the run; they must not vanish with an old one.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
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


def warm_up(world: Path, settings: dict[str, Any]) -> None:
    """Do the nucleus phase once, with its progress bar, before several processes need it."""
    import kncl_env  # noqa: F401
    from kncl_env.stage import topic_expansion

    topic_expansion(world, progress=True, **settings)


def check_region(world: World, region: str | None) -> None:
    """Raises: ValueError where the world keeps the region for measuring transfer."""
    if region in world.card["scenario"]["transfer_regions"]:
        raise ValueError(
            f"expected a region to train on, got {region!r}, which this world keeps for "
            "measuring transfer: see scenario.transfer_regions in world.json"
        )
