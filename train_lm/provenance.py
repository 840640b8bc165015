"""Which version and commit of the project runs here: what a result has to name.

A repository counts only if it keeps this very file. One that merely lies around a virtual
environment is somebody else's.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

DISTRIBUTION = "kncl"
UNKNOWN = "unknown"
PACKAGES = ("train_lm", "kncl_env", "rabbit_holes", "policies")


def version() -> str:
    """Version of the installed distribution; `unknown` where none is installed."""
    found = _distribution()
    return UNKNOWN if found is None else found.version


@cache
def source_digest() -> str:
    """SHA-256 of the project's source as it runs here: two machines with the same run the same."""
    root = Path(__file__).resolve().parents[1]
    whole = hashlib.sha256()
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            whole.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()


def commit() -> str:
    """Commit of the running source; `unknown` where nothing tells it.

    Returns:
        `git describe` of the repository that tracks this file, `-dirty` if it was changed since;
        otherwise the commit that the distribution was installed from.
    """
    return _described(Path(__file__).resolve()) or _installed_from() or UNKNOWN


def _described(file: Path) -> str:
    """What git says of a file's repository; nothing if the repository does not track the file."""
    try:
        _git(file.parent, "ls-files", "--error-unmatch", "--", file.name)
        return _git(file.parent, "describe", "--always", "--dirty")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _git(folder: Path, *arguments: str) -> str:
    # A hook of another repository sets GIT_DIR and the like for whatever it calls.
    outside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    asked = ["git", *arguments]
    done = subprocess.run(
        asked, cwd=folder, env=outside, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _installed_from() -> str:
    """The commit that an installer noted (PEP 610), if what it installed holds this file."""
    found = _distribution()
    if found is None or not _holds_this_file(found):
        return ""
    try:
        noted = json.loads(found.read_text("direct_url.json") or "{}")
        return str(noted["vcs_info"]["commit_id"])
    except (ValueError, KeyError, TypeError):
        return ""


def _holds_this_file(found: Distribution) -> bool:
    place = Path(str(found.locate_file(f"{__name__.replace('.', '/')}.py")))
    return place.exists() and place.samefile(__file__)


def _distribution() -> Distribution | None:
    try:
        return distribution(DISTRIBUTION)
    except PackageNotFoundError:
        return None
