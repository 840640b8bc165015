"""Digests that writers take and readers check, so that damage is never taken for content.

A file is known by its SHA-256, which stands in the card beside it; a JSON object carries one of
itself, its seal. Files of before there were seals have none and stay readable.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

from train_lm.checked.records import ADVICE, Fields
from train_lm.files import Json, cache_folder, hash_file, hash_json, read_json
from train_lm.inputs import note_file

log = logging.getLogger(__name__)

SEAL = "seal"  # the key under which an object keeps its own digest

# A file that was written a moment ago may be written again within the resolution of its time.
SETTLED = 2.0  # [s]

# Files of so many bytes in all have their digests taken before somebody asks.
WORTH_A_THREAD, AHEAD = 2**18, 2**26


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


def unsealed_file(found: Json, file: Path, what: str = "") -> Json:
    """The object that a file holds, without its seal; named where it has none, for nothing else
    tells what was taken out of it.

    Raises:
        ValueError: It is not what was sealed.
    """
    plain = unsealed(found, file)
    if SEAL not in found:
        note_file(file, what)
    return plain


def read_sealed(file: Path, advice: str = ADVICE) -> Fields:
    """The object in a file, its seal checked.

    Raises:
        FileNotFoundError: No such file.
        ValueError: It holds no object, or another than was sealed.
    """
    found = Fields.of(read_json(file), file, advice)
    return Fields(unsealed_file(dict(found.values), file), str(file), advice)


class Verified:
    """Files of a folder that are what their digests say, each read once.

    That one was found whole is remembered in the cache folder, by size, time and inode. From
    `look_ahead` on, or from the first file that is asked for, a thread takes the digests of the
    others, where they are not large: who asks for one of a folder's files asks for more.

    Args:
        folder: Where they lie.
        digests: SHA-256 by name.
    """

    def __init__(self, folder: Path, digests: Mapping[str, object]) -> None:
        self.folder, self.digests = folder, digests
        self._taken: dict[str, Future[str]] = {}  # by mark
        self._lock, self._process = threading.Lock(), os.getpid()
        self._looked_ahead = False

    def __reduce__(self) -> tuple[type[Verified], tuple[Path, Mapping[str, object]]]:
        return Verified, (self.folder, self.digests)  # without its lock

    def __contains__(self, name: str) -> bool:
        """Whether a file is whole. Raises: OSError where it cannot be read."""
        mark, settled = self._mark_of(name)
        if os.path.exists(mark):
            return True
        if not settled:
            return hash_file(self.folder / name) == self.digests.get(name)
        self.look_ahead()
        return self._digest_of(name, mark) == self.digests.get(name)

    def _mark_of(self, name: str) -> tuple[str, bool]:
        """Where a file's mark goes, and whether its time tells it from what it may become."""
        stat = os.stat(self.folder / name)
        times = [stat.st_mtime_ns, stat.st_ctime_ns]
        known = [self.digests.get(name), stat.st_size, *times, stat.st_dev, stat.st_ino]
        return _mark(known), time.time() - max(stat.st_mtime, stat.st_ctime) > SETTLED

    def _digest_of(self, name: str, mark: str) -> str:
        """Taken once; whoever takes it leaves the mark, when nobody waits for that any more."""
        if os.getpid() != self._process:  # a thread is not there in a child
            return self._left(name, mark, hash_file(self.folder / name))
        with self._lock:
            found = self._taken.get(mark)
            mine = found is None
            if found is None:
                found = self._taken[mark] = Future()
        if not mine:
            return found.result()
        try:
            found.set_result(hash_file(self.folder / name))
        except BaseException as error:  # whoever waits for it is told
            found.set_exception(error)
        return self._left(name, mark, found.result())

    def _left(self, name: str, mark: str, digest: str) -> str:
        if digest == self.digests.get(name):
            _note(mark)
        return digest

    def look_ahead(self) -> None:
        """Begin to take digests that nobody has taken yet; the first call alone does anything."""
        if self._looked_ahead:
            return
        self._looked_ahead = True
        sizes = {}
        for name in self.digests:
            with suppress(OSError):
                sizes[name] = os.stat(self.folder / name).st_size
        if WORTH_A_THREAD <= sum(sizes.values()) <= AHEAD:
            # The smallest first: the most files are done before somebody asks for them.
            names = sorted(sizes, key=sizes.__getitem__)
            with suppress(OSError):
                if os.path.exists(self._mark_of(names[-1])[0]):
                    return
            threading.Thread(target=self._take, args=[names], daemon=True).start()

    def _take(self, names: Sequence[str]) -> None:
        for name in names:
            with suppress(OSError):
                mark, settled = self._mark_of(name)
                if settled and not os.path.exists(mark):
                    self._digest_of(name, mark)


def verify(file: Path, sha256: str) -> bool:
    """Whether a file has the digest that it should have; see `Verified`."""
    return file.name in Verified(file.parent, {file.name: sha256})


@contextmanager
def first_time(what: str, *made_of: object) -> Iterator[bool]:
    """Whether content is looked at for the first time; that nothing was raised is remembered.

    Args:
        what: The check; another name where it changes.
        made_of: What its outcome depends on and nothing else: digests of files that were verified.
    """
    mark = _mark([what, *made_of])
    if os.path.exists(mark):
        yield False
        return
    yield True
    _note(mark)


def _mark(known: Sequence[object]) -> str:
    """An empty file in the cache folder, which stands for something that was found sound."""
    name = hashlib.sha256(json.dumps(known).encode()).hexdigest()
    return os.path.join(cache_folder(), "whole", name[:32])


def _note(mark: str) -> None:
    made = os.O_WRONLY | os.O_CREAT
    try:
        try:
            os.close(os.open(mark, made, 0o666))
        except FileNotFoundError:
            os.makedirs(os.path.dirname(mark), exist_ok=True)
            os.close(os.open(mark, made, 0o666))
    except OSError as error:
        log.debug("%s is looked at again next time: %s", mark, error)
