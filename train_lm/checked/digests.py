"""Digests that writers take and readers check, so that damage is never taken for content.

A file is known by its SHA-256, which stands in the card beside it; a JSON object carries one of
itself, its seal. Files of before there were seals have none and stay readable.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from train_lm.checked.records import ADVICE, Fields
from train_lm.files import Json, cache_folder, hash_file, hash_json, read_json

log = logging.getLogger(__name__)

SEAL = "seal"  # the key under which an object keeps its own digest

# A file that was written a moment ago may be written again within the resolution of its time.
SETTLED = 2.0  # [s]


def sealed(value: Mapping[str, object]) -> Json:
    """The same object with a digest of itself."""
    plain = {name: inner for name, inner in value.items() if name != SEAL}
    # Of what a reader will find: lists for tuples, text for keys.
    return {**plain, SEAL: hash_json(json.loads(json.dumps(plain)))}


def unsealed(found: Json, place: object) -> Json:
    """The object without its seal.

    Raises:
        ValueError: It is not what was sealed.
    """
    plain = {name: inner for name, inner in found.items() if name != SEAL}
    if SEAL in found and found[SEAL] != hash_json(plain):
        raise ValueError(f"expected {place} as it was written, got another: edited or damaged")
    return plain


def read_sealed(file: Path, advice: str = ADVICE) -> Fields:
    """The object in a file, its seal checked.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It holds no object, or another than was sealed.
    """
    found = Fields.of(read_json(file), file, advice)
    return Fields(unsealed(dict(found.values), file), str(file), advice)


def verify(file: Path, sha256: str) -> bool:
    """Whether a file has the digest that it should have.

    It is read once: that it was found whole is remembered in the cache folder, by size, time and
    inode.

    Raises:
        OSError: It cannot be read.
    """
    stat = file.stat()
    known = [sha256, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_dev, stat.st_ino]
    mark = _mark(known)
    if mark.exists():
        return True
    if hash_file(file) != sha256:
        return False
    if time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED:
        _note(mark)
    return True


@contextmanager
def first_time(what: str, *made_of: object) -> Iterator[bool]:
    """Whether content is looked at for the first time; that nothing was raised is remembered.

    Args:
        what: The check; another name where it changes.
        made_of: What its outcome depends on and nothing else: digests of files that were verified.
    """
    mark = _mark([what, *made_of])
    if mark.exists():
        yield False
        return
    yield True
    _note(mark)


def _mark(known: Sequence[object]) -> Path:
    """An empty file in the cache folder, which stands for something that was found sound."""
    name = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    return cache_folder() / "whole" / name[:32]


def _note(mark: Path) -> None:
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    except OSError as error:
        log.debug("%s is looked at again next time: %s", mark, error)
