"""A loopback wiki that hands out wikitext, many titles a request, and notes who asked for what.

It speaks what `fetch_texts`, `fetch_namespaces` and `fetch_licence` ask of MediaWiki's API. A
process of its own may be killed while it asks: the server is in none of them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

REDIRECT = "#REDIRECT [["
SITE = {
    "general": {"case": "first-letter"},
    "namespaces": {"0": {"id": 0, "name": ""}, "14": {"id": 14, "name": "Category"}},
    "namespacealiases": [],
    "interwikimap": [],
    "rightsinfo": {"text": "Loopback Licence", "url": ""},
}


class TextWiki:
    """A wiki of the given pages.

    Attributes:
        asked: Titles of each request for text, in order.
    """

    def __init__(self, pages: Mapping[str, str], latency: float = 0.0) -> None:
        self.pages, self.latency = pages, latency  # [s] before each answer
        self.asked: list[list[str]] = []
        wiki = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

            def do_GET(self) -> None:
                query = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
                body = json.dumps({"batchcomplete": True, "query": wiki.answer(query)}).encode()
                try:
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:  # who asked was killed
                    self.close_connection = True

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.api = f"http://127.0.0.1:{self._server.server_port}/w/api.php"

    @contextmanager
    def running(self) -> Iterator[TextWiki]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()

    def answer(self, query: Mapping[str, str]) -> Any:
        if query.get("meta") == "siteinfo":
            return SITE
        titles = query["titles"].split("|")
        self.asked.append(titles)
        time.sleep(self.latency)
        names = {t: t[:1].upper() + t[1:].replace("_", " ") for t in titles}
        normalized = [{"from": a, "to": b} for a, b in names.items() if a != b]
        leads = {t: self.pages.get(t, "") for t in names.values()}
        redirects = {t: x[len(REDIRECT) :].rstrip("]") for t, x in leads.items() if REDIRECT in x}
        pages = dict.fromkeys(redirects.get(t, t) for t in names.values())
        return {
            "normalized": normalized,
            "redirects": [{"from": a, "to": b} for a, b in redirects.items()],
            "pages": [self._page(title) for title in pages],
        }

    def _page(self, title: str) -> Any:
        if title not in self.pages:
            return {"ns": 0, "title": title, "missing": True}
        number = 1 + list(self.pages).index(title)
        main = {"contentmodel": "wikitext", "content": self.pages[title]}
        revision = {"revid": number, "slots": {"main": main}}
        head = {"pageid": number, "ns": 0, "title": title, "lastrevid": number}
        return {**head, "length": len(self.pages[title]), "revisions": [revision]}
