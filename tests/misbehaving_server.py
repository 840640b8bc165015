"""A loopback server that speaks enough of MediaWiki's API to be collected from, and lies on demand.

It answers `prop=info`, `generator=links` with continuation and `meta=siteinfo` over a graph of
pages that the test gives, quickly and correctly; a page with a `Fault` misbehaves instead, for its
first so many requests or for ever. Titles it normalises as wikis do, by rules of its own that no
client can know. Every request is stamped on arrival, before anything else
happens. What it guarantees: no state but the graph, the faults and the log.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

LICENCE = "Loopback Licence (https://licence.invalid/)"


@dataclass(frozen=True)
class Fault:
    """How requests for one page go wrong.

    Attributes:
        kind: Name of one of the methods `_fault_<kind>` below.
        times: Requests that go wrong before the page behaves.
        number: What the kind needs: seconds to wait, bytes to send, ….
    """

    kind: str
    times: int = 10**9
    number: float = 0.0


@dataclass(frozen=True)
class Arrival:
    """A request as it came in: monotonic time [s], path with query, title asked for, user agent."""

    time: float
    target: str
    title: str
    agent: str


class MisbehavingServer:
    """A wiki over `graph` (title -> titles it links to); titles that are no key are missing pages.

    Args:
        graph: Pages and their links.
        faults: Title -> fault.
        redirects: The wiki's own redirects, title -> title.
        per_answer: Links in one answer before it has to be continued.
        disambiguations: Titles of pages that are marked as such.
        namespaces: Number of every namespace but the articles', by the name before the colon.
    """

    def __init__(
        self,
        graph: Mapping[str, list[str]],
        faults: Mapping[str, Fault] | None = None,
        redirects: Mapping[str, str] | None = None,
        per_answer: int = 500,
        disambiguations: Collection[str] = (),
        namespaces: Mapping[str, int] | None = None,
    ) -> None:
        self.graph = graph
        self.faults = dict(faults or {})
        self.redirects = dict(redirects or {})
        self.per_answer = per_answer
        self.disambiguations = set(disambiguations)
        self.namespaces = dict(namespaces or {})
        self.variants: dict[str, str] = {}  # titles in another script, converted on request only
        self.arrivals: list[Arrival] = []
        self.bytes_sent: dict[str, int] = {}  # of a huge answer, by title
        self.foreign = "http://localhost:9/"  # where the fault `foreign` redirects to
        self.closing = threading.Event()
        self._strikes: dict[str, int] = {}
        self._lock = threading.Lock()
        server = self

        class Handler(_Handler):
            wiki = server

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.api = f"http://127.0.0.1:{self._server.server_port}/w/api.php"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    @contextmanager
    def running(self) -> Iterator[MisbehavingServer]:
        self._thread.start()
        try:
            yield self
        finally:
            self.closing.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()

    def times_of(self, title: str) -> list[float]:
        """Arrival times [s] of the requests for one title."""
        return [arrival.time for arrival in self.arrivals if arrival.title == title]

    def strike(self, title: str) -> Fault | None:
        """The fault that this request for a title meets, if any."""
        fault = self.faults.get(title)
        with self._lock:
            self._strikes[title] = self._strikes.get(title, 0) + 1
            return fault if fault is not None and self._strikes[title] <= fault.times else None


class _Handler(BaseHTTPRequestHandler):
    wiki: MisbehavingServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together: the kernel would hold back a second small packet

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def handle(self) -> None:
        with suppress(OSError):  # the client left: what an impatient client does
            super().handle()

    def finish(self) -> None:
        with suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        now = time.monotonic()
        query = {
            name: values[0]
            for name, values in parse_qs(urlsplit(self.path).query, keep_blank_values=True).items()
        }
        title = query.get("titles", "")
        agent = self.headers.get("User-Agent", "")
        self.wiki.arrivals.append(Arrival(now, self.path, title, agent))
        fault = self.wiki.strike(title) if title else None
        if fault is not None:
            getattr(self, f"_fault_{fault.kind}")(fault, title)
        elif urlsplit(self.path).path != "/w/api.php":
            self._send(404, b"<html>nothing here</html>", {"Content-Type": "text/html"})
        else:
            self._send_json(self._answer(query))

    # -- behaving ------------------------------------------------------------------------------

    def _answer(self, query: Mapping[str, str]) -> dict[str, Any]:
        if query.get("meta") == "siteinfo":
            text, _, url = LICENCE.rstrip(")").partition(" (")
            return {
                "batchcomplete": True,
                "query": {"rightsinfo": {"text": text, "url": url}},
            }
        asked = query.get("titles", "")
        if query.get("converttitles"):
            asked = self.wiki.variants.get(asked, asked)
        title, redirects = self._resolve(asked)
        if query.get("generator") == "links":
            return self._links(title, int(query.get("gplcontinue", "0")))
        found: dict[str, Any] = {"pages": [self._page(title)]}
        if "extracts" in query.get("prop", ""):
            found["pages"][0]["extract"] = f"{title} is a page."
        if redirects:
            found["redirects"] = redirects
        return {"batchcomplete": True, "query": found}

    def _resolve(self, title: str) -> tuple[str, list[dict[str, str]]]:
        title = " ".join(title.replace("_", " ").split())
        if title[:1].isascii():  # other letters have no capital here, whatever Unicode says
            title = title[:1].upper() + title[1:]
        target = self.wiki.redirects.get(title)
        return (title, []) if target is None else (target, [{"from": title, "to": target}])

    def _page(self, title: str) -> dict[str, Any]:
        page: dict[str, Any] = {
            "ns": self.wiki.namespaces.get(title.partition(":")[0], 0),
            "title": title,
        }
        if title not in self.wiki.graph:
            return {**page, "missing": True}
        if title in self.wiki.disambiguations:
            page["pageprops"] = {"disambiguation": ""}
        number = list(self.wiki.graph).index(title) + 1
        return {**page, "pageid": number, "lastrevid": number * 10}

    def _links(self, title: str, start: int) -> dict[str, Any]:
        links = self.wiki.graph.get(title, [])
        end = start + self.wiki.per_answer
        targets = dict.fromkeys(self._resolve(link)[0] for link in links[start:end])
        answer: dict[str, Any] = {"query": {"pages": [self._page(link) for link in targets]}}
        if end < len(links):
            answer["continue"] = {"gplcontinue": str(end), "continue": "gplcontinue||"}
        return answer

    def _send_json(self, answer: Any, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(answer).encode()
        self._send(200, body, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    # -- misbehaving ---------------------------------------------------------------------------

    def _fault_too_many(self, fault: Fault, title: str) -> None:
        self._send(429, b"slow down", {"Retry-After": f"{fault.number:g}"})

    def _fault_too_many_until(self, fault: Fault, title: str) -> None:
        until = formatdate(time.time() + fault.number, usegmt=True)
        self._send(429, b"slow down", {"Retry-After": until})

    def _fault_unavailable(self, fault: Fault, title: str) -> None:
        headers = {"Retry-After": f"{fault.number:g}"} if fault.number else {}
        self._send(503, b"out of order", headers)

    def _fault_forbidden(self, fault: Fault, title: str) -> None:
        self._send(403, b"go away", {})

    def _fault_gone(self, fault: Fault, title: str) -> None:
        self._send(410, b"gone", {})

    def _fault_silence(self, fault: Fault, title: str) -> None:
        self.wiki.closing.wait(fault.number)
        self.close_connection = True

    def _fault_drip(self, fault: Fault, title: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while not self.wiki.closing.wait(fault.number):
            self.wfile.write(b" ")
            self.wfile.flush()

    def _fault_truncated(self, fault: Fault, title: str) -> None:
        whole = json.dumps(self._answer({"titles": title})).encode()
        self._send(200, whole[: len(whole) // 2], {"Content-Type": "application/json"})

    def _fault_disconnect(self, fault: Fault, title: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"query": ')
        self.close_connection = True

    def _fault_html(self, fault: Fault, title: str) -> None:
        self._send(200, b"<!DOCTYPE html><p>Please log in", {"Content-Type": "text/html"})

    def _fault_list(self, fault: Fault, title: str) -> None:
        self._send_json(["not", "an", "object"])

    def _fault_strange(self, fault: Fault, title: str) -> None:
        self._send_json({"query": {"pages": {"1": "one"}}})

    def _fault_half_page(self, fault: Fault, title: str) -> None:
        self._send_json({"query": {"pages": [{"ns": 0, "title": title, "pageid": "7"}]}})

    def _fault_loop(self, fault: Fault, title: str) -> None:
        self._send(302, b"", {"Location": self.path})

    def _fault_long_way(self, fault: Fault, title: str) -> None:
        self._send(302, b"", {"Location": self.path + "&again=1"})

    def _fault_foreign(self, fault: Fault, title: str) -> None:
        self._send(301, b"", {"Location": self.wiki.foreign})

    def _fault_moved(self, fault: Fault, title: str) -> None:
        self._send(307, b"", {"Location": self.path + "&moved=1"})

    def _fault_huge(self, fault: Fault, title: str) -> None:
        """Announces nothing, so that only counting helps."""
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        self.wiki.bytes_sent[title] = 0
        while self.wiki.bytes_sent[title] < fault.number:
            self.wiki.bytes_sent[title] += self.wfile.write(b" " * 65536)

    def _fault_huge_announced(self, fault: Fault, title: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", f"{fault.number:.0f}")
        self.end_headers()
        self.close_connection = True

    def _fault_bomb(self, fault: Fault, title: str) -> None:
        body = gzip.compress(b" " * int(fault.number))
        self._send(200, body, {"Content-Encoding": "gzip"})

    def _fault_lagged(self, fault: Fault, title: str) -> None:
        error = {"code": "maxlag", "info": "Waiting for a database: 7 seconds lagged.", "lag": 7}
        self._send_json({"error": error}, {"Retry-After": f"{fault.number:g}"})

    def _fault_api_error(self, fault: Fault, title: str) -> None:
        self._send_json({"error": {"code": "badvalue", "info": "no such value"}})

    def _fault_blocked(self, fault: Fault, title: str) -> None:
        self._send_json({"error": {"code": "blocked", "info": "you are blocked"}})

    def _fault_endless(self, fault: Fault, title: str) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        answer = self._answer(query)
        if "generator" in query:
            step = str(int(query.get("gplcontinue", "0")) + (0 if fault.number else 1))
            answer["continue"] = {"gplcontinue": step, "continue": "gplcontinue||"}
        self._send_json(answer)
