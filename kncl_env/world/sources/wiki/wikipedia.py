"""The polite client of a live MediaWiki, and the one door to the `wikipedia-api` library.

The library brings the session, the headers, the parameters and the request log; this subclass adds
what it lacks: any wiki's address, one shared gate, `maxlag`, `Retry-After` in both forms and on
every status, errors that the API reports in a 200 answer, and limits on size, time and redirects.
It knows no walk and no file.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import wikipediaapi

from kncl_env.world.sources.wiki.answers import (
    absence,
    is_disambiguation,
    leads_nowhere,
    next_address,
    number_of,
    parse,
    position_of,
    records,
    text_of,
    title_of,
)
from kncl_env.world.sources.wiki.errors import (
    DisconnectedError,
    ForeignRedirectError,
    RedirectLoopError,
    RefusedError,
    TimedOutError,
    TooLargeError,
    UnexpectedAnswerError,
    UnreachableError,
    WikiError,
)
from kncl_env.world.sources.wiki.etiquette import Etiquette, Gate
from kncl_env.world.sources.wiki.page_cache import Absent, Links, Page
from kncl_env.world.sources.wikitext import Namespaces
from train_lm.inputs import note_input

logger = logging.getLogger(__name__)

_MOST_REDIRECTS = 5
_MOST_ANSWERS = 200  # of one list: 100,000 links, more than any page has
_ELSEWHERE = -100  # stands for another wiki where a namespace's number would
# The wiki marks its disambiguation pages; where it does not, nobody but a reader knows them.
_MARKS = {"ppprop": "disambiguation"}
_LANGUAGE = re.compile(r"[a-z]{2,}(-[a-z0-9]+)*")


def api_of(language: str) -> str:
    """Address of the API of a language's Wikipedia.

    Raises:
        ValueError: If that is no language code.
    """
    if not _LANGUAGE.fullmatch(language):
        raise ValueError(f"expected a language code such as en or zh-yue, got {language!r}")
    return f"https://{language}.wikipedia.org/w/api.php"


def check_api(address: str) -> str:
    """The address of an `api.php`, as given.

    Raises:
        ValueError: If it is no plain http(s) address of one.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"expected a http or https address, got {address!r}")
    if "@" in parts.netloc:  # not quoted: what is printed ends in logs
        raise ValueError(
            f"expected the address of an api.php of {parts.hostname} without name and password, "
            "got one with them: requests here are made without an account"
        )
    if parts.query or parts.fragment or not parts.path.endswith("/api.php"):
        raise ValueError(
            f"expected the bare address of a wiki's api.php, got {address!r}: "
            "Special:Version of the wiki names it"
        )
    return address


@dataclass(frozen=True)
class Text:
    """An article as it is written.

    Attributes:
        title: Redirects followed.
        revision_id: The revision that was current when it was asked for.
        wikitext: Its source.
    """

    title: str
    revision_id: int
    wikitext: str


def _led(title: str, leads: Mapping[str, str]) -> str:
    """Where the wiki's own notes on an answer lead from a title."""
    been: set[str] = set()
    while title in leads and title not in been:
        been.add(title)
        title = leads[title]
    return title


def _text(asked: str, record: dict[str, Any] | None) -> Text | Absent:
    if record is None:
        return Absent(asked, "invalid_title", "the wiki knows no page for this title")
    if (absent := absence(asked, record)) is not None:
        return absent
    if is_disambiguation(record):
        return Absent(asked, "disambiguation", "it only lists what its name may mean")
    revision = next(iter(records(record, "revisions")), {})
    slots = revision.get("slots")
    main = slots.get("main") if isinstance(slots, dict) else None
    content = main.get("content") if isinstance(main, dict) else None
    model = main.get("contentmodel", "wikitext") if isinstance(main, dict) else None
    if not isinstance(content, str) or model != "wikitext":
        return Absent(asked, "no_text", "the wiki gives no wikitext of it")
    # JSON's escapes may smuggle in half a character, which no file could hold.
    whole = content.encode("utf-8", "replace").decode()
    return Text(title_of(record), number_of(record, "lastrevid"), whole)


class _Answers:
    """What came, in whatever order threads asked for it."""

    def __init__(self) -> None:
        self._sum, self.n = 0, 0
        self._lock = threading.Lock()

    def add(self, body: bytes) -> None:
        own = int.from_bytes(hashlib.sha256(body).digest())
        with self._lock:
            self._sum, self.n = (self._sum + own) % 2**256, self.n + 1

    @property
    def digest(self) -> str:
        return f"{self._sum:064x}"


class PoliteWikipedia(wikipediaapi.Wikipedia):
    """Asks one wiki for articles, through one gate. Usable from several threads.

    Args:
        etiquette: How to behave.
        gate: Passed by every request, redirects and further attempts included.
        api: Address of `api.php`.
        language: The library's name for the wiki; it does not change the address.
        needs_text: Whether to ask for the lead text of every page.
    """

    def __init__(
        self,
        etiquette: Etiquette,
        gate: Gate,
        api: str,
        *,
        language: str = "en",
        needs_text: bool = False,
    ) -> None:
        self.etiquette = etiquette
        self.gate = gate
        self.api = check_api(api)
        self.needs_text = needs_text
        self._answers = _Answers()
        super().__init__(
            user_agent=etiquette.agent,
            language=language,
            max_retries=0,
            extra_api_params={"maxlag": etiquette.maxlag},
            timeout=etiquette.timeout,
            follow_redirects=False,
        )

    # -- what a collection asks for ------------------------------------------------------------

    def fetch_head(self, title: str) -> Page | Absent:
        """The article that a title leads to, its links left empty. One request.

        The title goes out as it was given: capitals, underscores, script and redirects are the
        wiki's to judge, and the answer has the page's own name.

        Raises:
            WikiError: If the wiki gave no usable answer.
        """
        if "|" in title or not title.strip():  # to the API a list of titles
            return Absent(title, "invalid_title", "no title is empty or holds |")
        wanted: dict[str, Any] = {"action": "query", "titles": title, "prop": "info|pageprops"}
        wanted |= {**_MARKS, "converttitles": 1}  # from the script it is written in to the wiki's
        if self.needs_text:
            wanted["prop"] += "|extracts"
            wanted |= {"exintro": 1, "explaintext": 1, "exlimit": 1}
        query = self._ask(title, wanted).get("query", {})
        pages = records(query, "pages")
        if not pages:
            return leads_nowhere(title, query)
        record = pages[0]
        if (absent := absence(title, record)) is not None:
            return absent
        return Page(
            title=title_of(record),
            page_id=number_of(record, "pageid"),
            revision_id=number_of(record, "lastrevid"),
            links=(),
            text=text_of(record) if self.needs_text else None,
            has_text=self.needs_text,
            disambiguation=is_disambiguation(record),
        )

    def fetch_links(self, title: str) -> Links:
        """Existing articles that an article links to, redirects followed. A request per 500.

        As a generator, and not with the library's own `links`, because only so does the wiki say
        which targets exist and where those that are redirects lead.

        Raises:
            WikiError: If the wiki gave no usable answer.
        """
        wanted: dict[str, Any] = {
            "action": "query",
            "titles": title,
            "prop": "info|pageprops",
            **_MARKS,
            "generator": "links",
            "gplnamespace": 0,
            "gpllimit": "max",
        }
        found: set[str] = set()
        marked: set[str] = set()
        position: dict[str, Any] = {}
        for _ in range(_MOST_ANSWERS):
            answer = self._ask(title, {**wanted, **position})
            for record in records(answer.get("query", {}), "pages"):
                if absence(title, record) is None:
                    found.add(title_of(record))
                    if is_disambiguation(record):
                        marked.add(title_of(record))
            before, position = position, position_of(answer)
            if not position:
                return Links(tuple(sorted(found - {title})), tuple(sorted(marked - {title})))
            if position == before:
                break
        raise UnexpectedAnswerError(f"the list of links of {title!r} does not end")

    def fetch_texts(self, titles: Sequence[str]) -> list[Text | Absent]:
        """Wikitext of the articles that titles lead to, redirects followed, in their order.

        One request, or a few where texts are long: ask for 50 titles at most.

        Raises:
            WikiError: If the wiki gave no usable answer.
        """
        asked = [t for t in dict.fromkeys(titles) if "|" not in t and t.strip()]
        leads: dict[str, str] = {}
        found: dict[str, dict[str, Any]] = {}
        for answer in self._texts(asked) if asked else ():
            query = answer.get("query", {})
            for step in ("normalized", "converted", "redirects"):
                for one in records(query, step):
                    leads[str(one.get("from"))] = str(one.get("to"))
            for record in records(query, "pages"):
                kept = found.setdefault(title_of(record), {})
                kept |= {k: v for k, v in record.items() if k != "revisions" or v}
        return [_text(title, found.get(_led(title, leads))) for title in titles]

    def _texts(self, asked: Sequence[str]) -> Iterator[dict[str, Any]]:
        wanted: dict[str, Any] = {
            "action": "query",
            "titles": "|".join(asked),
            "prop": "info|pageprops|revisions",
            "rvprop": "ids|content|contentmodel",
            "rvslots": "main",
            "redirects": 1,
            "converttitles": 1,
            **_MARKS,
        }
        position: dict[str, Any] = {}
        for _ in range(_MOST_ANSWERS):
            answer = self._ask(asked[0], {**wanted, **position})
            yield answer
            before, position = position, position_of(answer)
            if not position:
                return
            if position == before:
                break
        raise UnexpectedAnswerError(f"the answer about {asked[0]!r} and others does not end")

    def fetch_namespaces(self) -> Namespaces:
        """What tells a link to an article from other links, and how titles begin. One request.

        Raises:
            WikiError: If the wiki gave no usable answer.
        """
        wanted = {
            "action": "query",
            "meta": "siteinfo",
            "siprop": "general|namespaces|namespacealiases|interwikimap",
        }
        query = self._ask("", wanted).get("query", {})
        general = query.get("general") if isinstance(query, dict) else None
        spaces = query.get("namespaces") if isinstance(query, dict) else None
        if not isinstance(general, dict) or not isinstance(spaces, dict):
            raise UnexpectedAnswerError("expected what the site is, got something else")
        numbers = {
            str(one.get("prefix")).lower(): _ELSEWHERE
            for one in records(query, "interwikimap")
            if not one.get("language")  # those stand in no sentence; who reads wikitext knows them
        }
        for space in [*spaces.values(), *records(query, "namespacealiases")]:
            number = space.get("id") if isinstance(space, dict) else None
            if type(number) is not int or not number:
                continue
            for key in ("name", "canonical", "alias"):
                if name := " ".join(str(space.get(key) or "").lower().split()):
                    numbers[name] = number
        return Namespaces(numbers, first_letter=general.get("case") != "case-sensitive")

    def fetch_licence(self) -> str | None:
        """Licence of the wiki's text; None where it does not say. One request.

        Raises:
            WikiError: If the wiki gave no usable answer.
        """
        wanted = {"action": "query", "meta": "siteinfo", "siprop": "rightsinfo"}
        query = self._ask("", wanted).get("query", {})
        rights = query.get("rightsinfo") if isinstance(query, dict) else None
        rights = rights if isinstance(rights, dict) else {}
        text, url = (str(rights.get(name) or "").strip() for name in ("text", "url"))
        return f"{text} ({url})" if text and url else text or url or None

    def close(self) -> None:
        if self._answers.n:
            note_input(self.api, self._answers.digest, f"{self._answers.n:,} answers")
        self._client.close()

    def _ask(self, title: str, wanted: dict[str, Any]) -> dict[str, Any]:
        # Not for all requests: what the library itself asks for, it reads in format version 1.
        params = self._construct_params(self.page(title), {"formatversion": 2, **wanted})
        return self._get(self.language, params)

    # -- the library's hooks -------------------------------------------------------------------

    def _build_url(self, language: str) -> str:
        return self.api

    def _get(self, language: str, params: dict[str, Any]) -> dict[str, Any]:
        """One answer, with further attempts where one may succeed; everyone waits meanwhile."""
        attempt = 0
        while True:
            try:
                return self._do_get(self._build_url(language), params)
            except WikiError as error:
                attempt += 1
                wait = self.etiquette.wait_before(attempt, error, random.random())
                if error.wait is not None and wait > self.etiquette.longest_wait:
                    self.gate.hold(wait)
                    raise RefusedError(f"the wiki asks to wait {wait:.0f} s ({error})") from error
                if not error.retry or attempt > self.etiquette.retries:
                    if error.wait is not None:
                        self.gate.hold(wait)
                    raise
                logger.info("attempt %d failed (%s), waiting %.1f s", attempt, error, wait)
                self.gate.hold(wait)

    def _do_get(self, url: str, params: dict[str, Any]) -> dict[str, Any]:
        """One attempt; follows redirects within the host, each as a request of its own."""
        been: set[str] = set()
        query: dict[str, Any] | None = params
        while True:
            status, headers, body = self._receive(url, query)
            if status not in (301, 302, 303, 307, 308):
                found = parse(status, headers, body)
                self._answers.add(body)
                return found
            been.add(str(httpx.URL(url, params=query)) if query is not None else url)
            url, query = next_address(url, headers.get("location", "")), None
            if url in been or len(been) > _MOST_REDIRECTS:
                raise RedirectLoopError(f"{len(been)} redirects, the last to {url}")

    def _receive(
        self, url: str, params: dict[str, Any] | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one request; the body only of a 200."""
        self.gate.enter()
        largest = self.etiquette.largest_answer
        latest = time.monotonic() + self.etiquette.deadline
        body = bytearray()
        try:
            with self._client.stream("GET", url, params=params) as response:
                if response.status_code != 200:
                    return response.status_code, response.headers, b""
                announced = response.headers.get("content-length", "")
                if announced.isdecimal() and int(announced) > largest:
                    raise TooLargeError(f"{announced} bytes announced, at most {largest} accepted")
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > largest:
                        raise TooLargeError(f"more than {largest} bytes")
                    if time.monotonic() > latest:
                        raise TimedOutError(f"not complete after {self.etiquette.deadline:g} s")
                return 200, response.headers, bytes(body)
        except httpx.TimeoutException as error:
            raise TimedOutError(
                f"{type(error).__name__} after {self.etiquette.timeout:g} s"
            ) from error
        except httpx.InvalidURL as error:  # of a redirect; our own addresses are sound
            raise ForeignRedirectError(f"to an address that is none: {error}") from error
        except httpx.ConnectError as error:
            raise UnreachableError(f"{urlsplit(url).netloc}: {error}") from error
        except (httpx.RequestError, httpx.StreamError) as error:
            raise DisconnectedError(f"{type(error).__name__}: {error}") from error
