"""An archive on a server: fetched with resume, checked, unpacked safely and whole.

It knows nothing of what the files inside mean.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import os
import re
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import IO

from train_lm.checked.records import Fields
from train_lm.files import read_json, replacing
from train_lm.inputs import note_input

# Called with the archive's name, bytes so far, and bytes in all where the server says so.
Progress = Callable[[str, int, "int | None"], None]

RECORD = "downloads.json"
TIMEOUT = 60.0  # [s] without a byte
CHUNK = 1 << 18  # [bytes]


@dataclass(frozen=True)
class Archive:
    """One .tar.gz to fetch; a size or a checksum that is `None` is recorded, not checked.

    Attributes:
        url: Where it lies.
        unpacks_to: The folder that it holds.
        size: [bytes].
        sha256: Hexadecimal.
        largest: [bytes] that it may have, packed and unpacked.
        most_files: That it may hold.
    """

    url: str
    unpacks_to: str
    size: int | None = None
    sha256: str | None = None
    largest: int = 2**30
    most_files: int = 100_000

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.path.endswith(".tar.gz"):
            raise ValueError(f"expected the http(s) address of a .tar.gz, got {self.url!r}")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"expected 64 hexadecimal digits of SHA-256, got {self.sha256!r}")

    @property
    def name(self) -> str:
        return urllib.parse.urlsplit(self.url).path.rsplit("/", 1)[-1]


def fetch(archive: Archive, into: Path, progress: Progress | None = None) -> Path:
    """Download and unpack; call again to go on where a broken download stopped.

    A folder that is there already is not fetched again. `downloads.json` in `into` records address,
    size and SHA-256 of what came, and which of them were checked against a known value.

    Returns:
        The unpacked folder; it appears only when it is whole.

    Raises:
        ValueError: The server cannot be reached, or what came differs from what is expected.
    """
    folder = into / archive.unpacks_to
    if folder.exists():
        return folder
    into.mkdir(parents=True, exist_ok=True)
    record = into / RECORD
    entries = _recorded(record)  # before anything is fetched
    part = into / f"{archive.name}.part"
    _download(archive, part, progress)
    entry = _checked(archive, part)
    _unpack(archive, part, into)
    with replacing(record) as written:
        text = json.dumps({**entries, archive.name: entry}, indent=2, sort_keys=True)
        written.write_text(text + "\n")
    part.unlink()
    return folder


def _recorded(record: Path) -> dict[str, Mapping[str, object]]:
    """What came before, by its name.

    Raises:
        ValueError: The list is damaged.
    """
    if not record.exists():
        return {}
    found = Fields.of(read_json(record), record, "remove it, it decides nothing")
    return {name: found.inner(name).values for name in found.values}


def _download(archive: Archive, part: Path, progress: Progress | None) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "kncl"} | ({"Range": f"bytes={have}-"} if have else {})
    total: int | None = None
    try:
        request = urllib.request.Request(archive.url, headers=headers)
        with _OPENER.open(request, timeout=TIMEOUT) as answer:
            resumed = answer.status == HTTPStatus.PARTIAL_CONTENT
            have = have if resumed else 0
            length = answer.headers.get("Content-Length")
            total = None if length is None else have + int(length)
            with part.open("ab" if resumed else "wb") as file:
                while chunk := answer.read(CHUNK):
                    have += len(chunk)
                    if have > archive.largest:
                        break
                    file.write(chunk)
                    if progress is not None:
                        progress(archive.name, have, total)
    except urllib.error.HTTPError as error:
        with error:
            # Nothing is left to send: unpacking will tell whether the part is the whole.
            if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return
            raise ValueError(f"expected {archive.url}, got {error}: try again later") from None
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(
            f"expected {archive.url}, got {error!r} after {have:,} bytes: "
            "check the network; the same command resumes there"
        ) from None
    if have > archive.largest:
        part.unlink()
        raise ValueError(
            f"expected at most {archive.largest:,} bytes of {archive.url}, got more: it is another "
            "archive; what came was removed"
        )
    if total is not None and have != total:
        raise ValueError(
            f"expected {total:,} bytes of {archive.url}, got {have:,}: the connection broke; "
            "the same command resumes there"
        )


def _checked(archive: Archive, part: Path) -> dict[str, object]:
    """Compare with what is known; a file that differs is removed, since resuming cannot mend it."""
    with part.open("rb") as file:
        got = {
            "size": part.stat().st_size,
            "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
        }
    known = {k: v for k, v in (("size", archive.size), ("sha256", archive.sha256)) if v is not None}
    for key, expected in known.items():
        if got[key] != expected:
            part.unlink()
            raise ValueError(
                f"expected {key} {expected} of {archive.url}, got {got[key]}: the file was damaged "
                "on its way or has changed; it was removed, call again"
            )
    note_input(archive.url, str(got["sha256"]), checked="sha256" in known)
    return {"url": archive.url, **got, "checked": sorted(known)}


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Goes where the server sends us only on that server, and never from https to http."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        asked, sent = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        safer = (asked.scheme, asked.port, sent.scheme, sent.port) == ("http", None, "https", None)
        same = (asked.scheme, asked.port) == (sent.scheme, sent.port)
        if asked.hostname != sent.hostname or not (same or safer):
            raise urllib.error.URLError(f"a redirect to another host, {newurl!r}: not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SameHost)


def _check_size(archive: Archive, part: Path) -> None:
    """Unpack into nothing first: a few packed bytes may stand for any number."""
    size = 0
    with gzip.open(part) as stream:
        while chunk := stream.read(CHUNK):
            size += len(chunk)
            if size > archive.largest:
                raise tarfile.TarError(f"more than {archive.largest:,} bytes when unpacked")


def _within(archive: Archive, tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """The members, where they are not too many; one with holes may be larger than the archive."""
    members: list[tarfile.TarInfo] = []
    size = 0
    for member in tar:
        members.append(member)
        size += member.size
        if len(members) > archive.most_files or size > archive.largest:
            raise tarfile.TarError(
                f"more than {archive.most_files:,} files or {archive.largest:,} bytes"
            )
    return members


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, into: Path) -> None:
    """One plain file or folder. By hand: Python has filters of `extractall` from 3.11.4 on only.

    Raises:
        tarfile.TarError: A link, a device, a name that leads out, one that no file can have, or
            one name for a file and a folder.
    """
    place = PurePosixPath(member.name.lstrip("/"))
    if ".." in place.parts:
        raise tarfile.TarError(f"{member.name!r}, outside the destination")
    if not (member.isdir() or member.isreg()) or "\0" in member.name:
        raise tarfile.TarError(f"{member.name!r}, which is no plain file or folder")
    folder = into / place if member.isdir() else (into / place).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(member)
        if content is not None:
            with content, (into / place).open("wb") as file:
                shutil.copyfileobj(content, file)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise tarfile.TarError(f"{member.name!r}, both a file and a folder") from None


def _unpack(archive: Archive, part: Path, into: Path) -> None:
    """Unpack beside the goal and move it there whole, so that no half of a folder is ever seen."""
    beside = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=into))
    try:
        _check_size(archive, part)
        with tarfile.open(part, "r:gz") as tar:
            for member in _within(archive, tar):
                _extract(tar, member, beside)
        if not (beside / archive.unpacks_to).is_dir():
            raise tarfile.TarError(f"no folder {archive.unpacks_to}, but {os.listdir(beside)[:3]}")
        (beside / archive.unpacks_to).rename(into / archive.unpacks_to)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        part.unlink()
        raise ValueError(
            f"expected an archive with {archive.unpacks_to} from {archive.url}, got {error}: the "
            "file was damaged on its way or has changed; it was removed, call again"
        ) from None
    except OSError as error:  # a full disk, say: the archive is as good as before
        place = into / archive.unpacks_to
        raise OSError(error.errno, error.strerror or str(error), str(place)) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
