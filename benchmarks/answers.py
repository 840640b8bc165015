"""What a server sends, damaged: answers of a wiki's API, and an archive that is downloaded.

Each reader starts a server on this machine that answers from the files of a folder, and runs what
asks it: one file is mutated, the others are honest. Any request to another place is a fault.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
import socket
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from misbehaving_server import MisbehavingServer, _Handler
from mutations import FORMS, Kind, Rng

WIKI = {f"P{i}": [f"P{(i + j) % 6}" for j in (1, 2, 4)] for i in range(6)}
HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"

# What a server may put before an answer.
LINES = (
    *("Retry-After: 99999999999", "Retry-After: -1", "Retry-After: soon", "Content-Length: -5"),
    *("Content-Length: 99999999999999999999", "Content-Length: 3", "Content-Encoding: gzip"),
    *("Content-Encoding: br, deflate", "Transfer-Encoding: chunked", "Set-Cookie: a=b"),
    *("Location: http://elsewhere.invalid/w/api.php", "Location: //[", "Location: /w/api.php?x"),
    *("Location: file:///etc/passwd", "Content-Type: \x1b[31m", "X: " + "y" * 100_000),
)
STATUS = (*(f"HTTP/1.1 {code} \x1b[2J" for code in (100, 204, 301, 302, 429, 500, 503, 999)), "?")


def _first_lines(data: bytes, rng: Rng) -> bytes:
    """An answer with a line of its head changed, added or lost."""
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    what = int(rng.integers(3))
    if what == 0:
        lines[0] = STATUS[int(rng.integers(len(STATUS)))]
    if what <= 1:
        lines.insert(int(rng.integers(1, len(lines) + 1)), LINES[int(rng.integers(len(LINES)))])
    else:
        del lines[int(rng.integers(len(lines)))]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def _bomb(data: bytes, rng: Rng) -> bytes:
    """A small answer that unpacks to a large one."""
    packed = gzip.compress(bytes(int(rng.integers(2**24, 2**28))), 1)
    return (
        f"{HEAD}Content-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode() + packed
    )


FORMS["http"] = [_first_lines] * 12 + [_bomb]


def _member(data: bytes, rng: Rng) -> bytes:
    """An archive with a member that leads out of it, is a device, a link, or claims to be huge."""
    stream = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as old,
        tarfile.open(fileobj=stream, mode="w:gz") as new,
    ):
        members = old.getmembers()
        odd = int(rng.integers(len(members)))
        for i, member in enumerate(members):
            content = old.extractfile(member) if member.isfile() else None
            if i == odd:
                _make_odd(member, rng)
            new.addfile(member, content if member.isfile() else None)
    return stream.getvalue()


def _make_odd(member: tarfile.TarInfo, rng: Rng) -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)
    names = ("../../x", "/tmp/kncl-mutations-x", "a/../../x", "", "\udce4", "x" * 300)
    if rng.random() < 0.5:
        member.name = names[int(rng.integers(len(names)))]
    else:
        member.type = kinds[int(rng.integers(len(kinds)))]
        member.linkname = names[int(rng.integers(3))]


FORMS["targz"] = [_member] * 4


# --- a server that answers from files -----------------------------------------------------------


@contextmanager
def _served(answer: Any) -> Iterator[str]:
    """A server; `answer` takes a request's target and gives the bytes of the whole response."""
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    def serve() -> None:
        while True:
            try:
                stream, _ = listening.accept()
            except OSError:
                return
            with stream, suppress(OSError):
                stream.settimeout(5)
                asked = b""
                while b"\r\n\r\n" not in asked and (part := stream.recv(65536)):
                    asked += part
                stream.sendall(answer(asked.split(b" ")[1].decode()))
                stream.shutdown(socket.SHUT_WR)

    threading.Thread(target=serve, daemon=True).start()
    with _only(port):
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            listening.close()


@contextmanager
def _only(port: int) -> Iterator[None]:
    """Nobody may be asked but this server."""
    real = socket.socket.connect

    def connect(self: socket.socket, place: Any) -> None:
        if place[1] != port:
            raise AssertionError(f"a request to {place}")
        real(self, place)

    socket.socket.connect = connect  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        socket.socket.connect = real  # type: ignore[method-assign]


def _asked(target: str) -> str:
    """Which of a wiki's answers a request is for."""
    query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
    if "meta" in query:
        return "licence"
    title = re.sub(r"\W", "_", query.get("titles", ""))[:50]
    if "generator" in query:
        return f"{'more' if 'gplcontinue' in query else 'links'}-{title}"
    return f"page-{title}"


def _honest_answer(target: str) -> Any:
    query = {name: values[0] for name, values in parse_qs(urlsplit(target).query).items()}
    handler: Any = object.__new__(_Handler)
    handler.wiki = MisbehavingServer.__new__(MisbehavingServer)
    handler.wiki.graph, handler.wiki.per_answer = WIKI, 2
    handler.wiki.redirects, handler.wiki.variants, handler.wiki.namespaces = {}, {}, {}
    handler.wiki.disambiguations = set()
    return handler._answer(query)


def _whole(body: bytes) -> bytes:
    return f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body


def read_collection(place: Path) -> str:
    """Two walks over the wiki whose answers lie in `place`; what it does not get is told."""
    from kncl_env.world.sources.wiki.etiquette import Etiquette, Gate
    from kncl_env.world.sources.wiki.page_cache import Library, PageCache
    from kncl_env.world.sources.wiki.wikipedia import PoliteWikipedia
    from rabbit_holes.live.collector import collect
    from rabbit_holes.live.settings import CollectionSettings
    from rabbit_holes.path import read_paths
    from rabbit_holes.walkers.walkers import RandomWalker

    def answer(target: str) -> bytes:
        name = _asked(target)
        for file in (place / f"{name}.http", place / f"{name}.json"):
            if file.is_file():
                data = file.read_bytes()
                return data if file.suffix == ".http" else _whole(data)
        return _whole(json.dumps(_honest_answer(target)).encode())

    manners = Etiquette(
        "you@example.org", rate=1e5, retries=1, backoff=1e-3, longest_wait=1, timeout=2, deadline=4
    )
    out = place / "out" / "walks.jsonl"
    out.parent.mkdir()
    with _served(answer) as server:
        wiki = PoliteWikipedia(manners, Gate(1e5), f"{server}/w/api.php", needs_text=True)
        cache = PageCache(place / "pages", wiki.api)
        settings = CollectionSettings(("P0",), walks=2, depth=4, text=True)
        report = collect(out, settings, RandomWalker(), Library(cache, wiki))
        cache.close()
        wiki.close()
    told = logging.getLogger("collection").warning
    for failure in report.failures:
        told("%s: %s: %s", failure.title, failure.reason, failure.detail)
    if report.stopped:
        told(report.stopped)
    walks = []
    for walk in read_paths(out, on_error=told):
        seen = [(v.title, v.page_id, v.offered, v.text) for v in walk.visits]
        # An id begins with what names the server, whose port is another each time.
        walks.append((walk.id.rpartition(":")[2], walk.status, walk.licence, seen))
    return repr(walks)


def read_archive(place: Path) -> str:
    """An archive downloaded, checked and unpacked."""
    from kncl_env.world.sources.archive import Archive, fetch

    data = (place / "a.tar.gz").read_bytes()
    into = place / "into"
    with _served(lambda _: _whole(data)) as server:
        folder = fetch(Archive(f"{server}/a.tar.gz", "words", largest=2**20, most_files=9), into)
    found = {str(f.relative_to(folder)): f.read_bytes() for f in folder.iterdir() if f.is_file()}
    json.loads((into / "downloads.json").read_text())
    return repr(sorted(found.items()))


def kinds_of_servers(folder: Path) -> list[Kind]:
    """Answers of a wiki, an archive, and what is noted of it."""
    answers, whole, archive = folder / "answers", folder / "whole answer", folder / "archive"
    for place in (answers, whole, archive / "into"):
        place.mkdir(parents=True)
    asks = {
        "licence": "meta=siteinfo",
        "page-P0": "titles=P0&prop=info|pageprops|extracts",
        "links-P0": "titles=P0&generator=links",
        "more-P0": "titles=P0&generator=links&gplcontinue=2",
    }
    for name, query in asks.items():
        body = json.dumps(_honest_answer(f"/w/api.php?{query}")).encode()
        (answers / f"{name}.json").write_bytes(body)
        if name.startswith("page"):
            (whole / f"{name}.http").write_bytes(_whole(body))
    with tarfile.open(archive / "a.tar.gz", "w:gz") as tar:
        for name in ("a", "b", "c"):
            member = tarfile.TarInfo(f"words/{name}.tsv")
            member.size = 6
            tar.addfile(member, io.BytesIO(f"word {name}".encode()))
    noted = {"b.tar.gz": {"url": "http://127.0.0.1/b.tar.gz", "size": 3}}
    (archive / "into" / "downloads.json").write_text(json.dumps(noted))
    file = "into/downloads.json"
    return [
        *(Kind(f"API: {name}", answers, f"{name}.json", read_collection, "json") for name in asks),
        Kind("API: its head", whole, "page-P0.http", read_collection, "http"),
        Kind("archive", archive, "a.tar.gz", read_archive, "targz"),
        Kind("list of archives", archive, file, read_archive, "json"),
    ]
