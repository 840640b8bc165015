from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import wikipediaapi
from misbehaving_server import Fault, MisbehavingServer

from rabbit_holes.live.answers import next_address
from rabbit_holes.live.errors import (
    ForeignRedirectError,
    RefusedError,
    ServerFailedError,
    StoppedError,
    UnreachableError,
    WikiError,
)
from rabbit_holes.live.etiquette import Etiquette, Gate, retry_after
from rabbit_holes.live.page_cache import Absent, Library, Page, PageCache, Site, normal_title
from rabbit_holes.live.wikipedia import PoliteWikipedia, api_of, check_api

CONTACT = "walker@kncl.invalid"
GRAPH = {"A": ["B", "C", "A", "Gone", "Alias of C"], "B": ["A"], "C": []}
REDIRECTS = {"Alias of C": "C", "Alias of A": "A"}


def client(server: MisbehavingServer, **etiquette: Any) -> PoliteWikipedia:
    options = {"rate": 500.0, "backoff": 0.01, "retries": 3, "timeout": 2.0, **etiquette}
    manners = Etiquette(contact=CONTACT, **options)
    needs_text = bool(options.pop("needs_text", False))
    return PoliteWikipedia(manners, Gate(manners.rate), server.api, needs_text=needs_text)


@contextmanager
def wiki_with(
    *, per_answer: int = 500, etiquette: dict[str, Any] | None = None, **faults: Fault
) -> Iterator[tuple[MisbehavingServer, PoliteWikipedia]]:
    server = MisbehavingServer(GRAPH, faults, REDIRECTS, per_answer)
    with server.running():
        wiki = client(server, **(etiquette or {}))
        try:
            yield server, wiki
        finally:
            wiki.close()


# -- etiquette -------------------------------------------------------------------------------------


@pytest.mark.parametrize("contact", ["", "me", "me@home", "http://localhost", "@example.org"])
def test_without_a_contact_nothing_starts(contact: str) -> None:
    with pytest.raises(ValueError, match="--contact"):
        Etiquette(contact=contact)


@pytest.mark.parametrize(
    ("contact", "agent", "expected"),
    [
        ("a@b.org", "", "kncl-rabbit-holes/0.1 (a@b.org)"),
        ("https://b.org/bot", "mine/2", "mine/2 (https://b.org/bot)"),
        ("", "mine/2 (a@b.org)", "mine/2 (a@b.org)"),
        ("a@b.org", "mine/2; a@b.org", "mine/2; a@b.org"),
    ],
)
def test_the_user_agent_holds_the_contact_once(contact: str, agent: str, expected: str) -> None:
    assert Etiquette(contact=contact, user_agent=agent).agent == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"user_agent": "line\r\nbreak"},
        {"user_agent": "Zoë"},
        {"rate": 0.0},
        {"rate": float("nan")},
        {"concurrency": 0},
        {"concurrency": 1000},
        {"timeout": 0.0},
        {"retries": -1},
    ],
)
def test_manners_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Etiquette(contact=CONTACT, **wrong)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"Retry-After": " 0 "}, 0.0),
        ({"retry-after": "-7"}, None),
        ({"retry-after": "soon"}, None),
        ({}, None),
        # A date counts from the server's clock where it tells it, else from ours.
        (
            {
                "retry-after": "Sun, 06 Nov 1994 08:49:37 GMT",
                "date": "Sun, 06 Nov 1994 08:49:07 GMT",
            },
            30.0,
        ),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 60.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:01 GMT"}, 0.0),
    ],
)
def test_retry_after_is_read_as_number_and_as_date(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers, now=40.0) == seconds


def test_waits_double_with_jitter_and_are_never_shorter_than_asked() -> None:
    manners = Etiquette(contact=CONTACT, backoff=1.0)
    patient = ServerFailedError("x", wait=60.0)
    waits = [manners.wait_before(n, ServerFailedError("x"), 0.5) for n in (1, 2, 3)]
    assert waits == [1.0, 2.0, 4.0]
    assert manners.wait_before(1, ServerFailedError("x"), 0.0) == 0.5
    assert manners.wait_before(1, patient, 0.0) == 60.0


def test_threads_pass_the_gate_one_by_one_at_the_rate() -> None:
    gate = Gate(200.0)
    begun = time.monotonic()
    times: list[float] = []

    def pass_five(_: int) -> None:
        for _ in range(5):
            gate.enter()
            times.append(time.monotonic())

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(pass_five, range(6)))
    assert gate.passed == 30
    # From its making on, so that a program started again and again keeps to the rate too.
    assert max(times) - begun >= 30 / 200.0


def test_a_held_gate_lets_nobody_pass() -> None:
    gate = Gate(1000.0)
    waiting = threading.Thread(target=gate.enter)
    gate.hold(0.3)
    gate.hold(0.1)
    begun = time.monotonic()
    waiting.start()
    gate.enter()
    waiting.join()
    assert time.monotonic() - begun >= 0.29


def test_closing_the_gate_frees_those_who_wait() -> None:
    gate = Gate(0.01)
    turned_away: list[bool] = []

    def enter() -> None:
        with pytest.raises(StoppedError):
            gate.enter()
        turned_away.append(True)

    threads = [threading.Thread(target=enter) for _ in range(3)]
    for thread in threads:
        thread.start()
    gate.close()
    for thread in threads:
        thread.join(5)
    assert len(turned_away) == 3


# -- the client ------------------------------------------------------------------------------------


def test_the_library_still_has_the_hooks_that_the_client_overrides() -> None:
    for hook in ("_build_url", "_get", "_do_get", "_construct_params", "page"):
        assert callable(getattr(wikipediaapi.Wikipedia, hook))


def test_the_client_hides_nothing_of_the_library_but_those_hooks() -> None:
    shared = set(vars(PoliteWikipedia)) & set(dir(wikipediaapi.Wikipedia))
    ours = {name for name in shared if not name.startswith(("__", "_abc"))}
    assert ours == {"_build_url", "_get", "_do_get"}


def test_a_page_comes_with_ids_and_the_links_that_exist_redirects_followed() -> None:
    with wiki_with() as (_, wiki):
        head = wiki.fetch_head("Alias of A")
        assert head == Page(title="A", page_id=1, revision_id=10, links=())
        assert wiki.fetch_links("A") == ("B", "C")


def test_a_list_of_links_is_continued_to_its_end() -> None:
    with wiki_with(per_answer=1) as (server, wiki):
        assert wiki.fetch_links("A") == ("B", "C")
        assert len(server.arrivals) == len(GRAPH["A"])


def test_the_lead_text_comes_on_request() -> None:
    with wiki_with(etiquette={}) as (server, _):
        wiki = PoliteWikipedia(Etiquette(CONTACT), Gate(500), server.api, needs_text=True)
        head = wiki.fetch_head("B")
        wiki.close()
        assert isinstance(head, Page)
        assert (head.text, head.has_text) == ("B is a page.", True)


def test_every_request_names_the_contact_and_is_patient() -> None:
    with wiki_with() as (server, wiki):
        wiki.fetch_site()
        wiki.fetch_head("A")
        wiki.fetch_links("A")
        assert len(server.arrivals) == 3
        assert all(CONTACT in arrival.agent for arrival in server.arrivals)
        assert all("maxlag=5" in arrival.target for arrival in server.arrivals)


def test_the_licence_is_what_the_wiki_says() -> None:
    with wiki_with() as (_, wiki):
        assert wiki.fetch_site() == Site(
            "Loopback", "Loopback Licence (https://licence.invalid/)", True
        )


def test_titles_that_lead_to_no_article_are_absent_with_a_reason() -> None:
    with wiki_with() as (server, wiki):
        missing = wiki.fetch_head("Gone")
        assert isinstance(missing, Absent)
        assert missing.reason == "missing"
        asked = len(server.arrivals)
        for title in ("A|B", " "):
            absent = wiki.fetch_head(title)
            assert isinstance(absent, Absent)
            assert absent.reason == "invalid_title"
        assert len(server.arrivals) == asked


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault("too_many", number=0), "rate_limited"),
        (Fault("unavailable"), "server_error"),
        (Fault("silence", number=1.0), "timeout"),
        (Fault("drip", number=0.05), "timeout"),
        (Fault("truncated"), "truncated_json"),
        (Fault("disconnect"), "disconnected"),
        (Fault("html"), "not_json"),
        (Fault("list"), "unexpected_answer"),
        (Fault("strange"), "unexpected_answer"),
        (Fault("half_page"), "unexpected_answer"),
        (Fault("loop"), "redirect_loop"),
        (Fault("long_way"), "redirect_loop"),
        (Fault("foreign"), "foreign_redirect"),
        (Fault("huge", number=50e6), "too_large"),
        (Fault("huge_announced", number=50e6), "too_large"),
        (Fault("bomb", number=50e6), "too_large"),
        (Fault("lagged", number=0), "lagged"),
        (Fault("api_error"), "api_error"),
        (Fault("gone"), "http_error"),
        (Fault("forbidden"), "refused"),
        (Fault("blocked"), "refused"),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else value,
)
def test_each_way_to_misbehave_has_its_name(fault: Fault, reason: str) -> None:
    manners: dict[str, Any] = {"retries": 1}
    if reason == "timeout":
        manners |= {"timeout": 0.3, "deadline": 0.4}
    with wiki_with(etiquette=manners, A=fault) as (server, wiki):
        with pytest.raises(WikiError) as caught:
            wiki.fetch_head("A")
        assert caught.value.reason == reason
        assert isinstance(
            wiki.fetch_head("B"), Page
        )  # and the next page comes as if nothing had been
        expected = {"loop": 1, "long_way": 6}.get(fault.kind, 2 if caught.value.retry else 1)
        assert len(server.times_of("A")) == expected


@pytest.mark.parametrize("kind", ["silence", "truncated", "disconnect", "unavailable", "moved"])
def test_what_passes_is_tried_again(kind: str) -> None:
    number = 1.0 if kind == "silence" else 0.0
    with wiki_with(etiquette={"timeout": 0.3}, A=Fault(kind, 1, number)) as (server, wiki):
        assert isinstance(wiki.fetch_head("A"), Page)
        assert len(server.times_of("A")) == 2


@pytest.mark.parametrize("kind", ["too_many", "too_many_until", "unavailable", "lagged"])
def test_retry_after_is_obeyed_by_every_thread(kind: str) -> None:
    # A date has whole seconds only: 2 s ahead is at least 1 s.
    with wiki_with(A=Fault(kind, 1, 2.0 if kind == "too_many_until" else 1.0)) as (server, wiki):
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(wiki.fetch_head, "A")
            while not wiki.gate.held:
                time.sleep(0.001)
            pool.submit(wiki.fetch_head, "B").result()
            first.result()
        asked = server.times_of("A")[0]
        again = min(arrival.time for arrival in server.arrivals if arrival.time > asked)
        assert again - asked >= 0.99


def test_a_server_that_asks_for_too_long_a_wait_stops_the_collection() -> None:
    with wiki_with(etiquette={"longest_wait": 60.0}, A=Fault("too_many", 1, 3600)) as (_, wiki):
        with pytest.raises(RefusedError, match="3600 s"):
            wiki.fetch_head("A")
        assert wiki.gate.held > 3500


def test_an_endless_list_is_given_up() -> None:
    for stuck in (0.0, 1.0):
        with wiki_with(A=Fault("endless", number=stuck)) as (server, wiki):
            with pytest.raises(WikiError, match="does not end"):
                wiki.fetch_links("A")
            assert len(server.arrivals) <= 200


def test_another_host_is_never_asked() -> None:
    other = MisbehavingServer(GRAPH)
    with other.running(), wiki_with(A=Fault("foreign")) as (server, wiki):
        server.foreign = other.api + "?titles=A"
        with pytest.raises(WikiError) as caught:
            wiki.fetch_head("A")
        assert caught.value.reason == "foreign_redirect"
        assert other.arrivals == []


def test_nobody_at_home_is_unreachable() -> None:
    server = MisbehavingServer(GRAPH)
    with server.running():
        pass
    wiki = client(server, retries=1)
    with pytest.raises(UnreachableError):
        wiki.fetch_head("A")
    wiki.close()


@pytest.mark.parametrize(
    ("old", "location", "new"),
    [
        ("http://a.org/w/api.php", "https://a.org/w/api.php", "https://a.org/w/api.php"),
        ("http://a.org/w/api.php", "/api.php?x=1", "http://a.org/api.php?x=1"),
        ("https://a.org/w/api.php", "http://a.org/w/api.php", None),
        ("https://a.org/w/api.php", "https://b.org/w/api.php", None),
        ("https://a.org/w/api.php", "//b.org/w/api.php", None),
        ("http://a.org/w/api.php", "http://a.org:8080/w/api.php", None),
        ("http://a.org/w/api.php", "http://a.org:many/w/api.php", None),
        ("http://a.org/w/api.php", "file:///etc/passwd", None),
        ("http://a.org/w/api.php", "", None),
    ],
)
def test_redirects_stay_on_the_host(old: str, location: str, new: str | None) -> None:
    if new is None:
        with pytest.raises(ForeignRedirectError):
            next_address(old, location)
    else:
        assert next_address(old, location) == new


@pytest.mark.parametrize(
    "address",
    [
        "ftp://a.org/api.php",
        "a.org/api.php",
        "http://a.org/",
        "http://u:p@a.org/api.php",
        "http://a.org/api.php?action=query",
    ],
)
def test_an_address_that_is_no_api_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        check_api(address)


def test_a_language_names_its_wikipedia_and_nothing_else() -> None:
    assert api_of("zh-yue") == "https://zh-yue.wikipedia.org/w/api.php"
    for wrong in ("", "e", "en.evil.org/", "EN", "en/"):
        with pytest.raises(ValueError, match="language code"):
            api_of(wrong)


# -- the cache -------------------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[PageCache]:
    cache = PageCache(tmp_path, "http://wiki.invalid/api.php")
    yield cache
    cache.close()


def test_what_is_put_in_is_there_when_the_cache_is_opened_again(tmp_path: Path) -> None:
    page = Page('Say "ä/ö" 北京', 1, 2, ("B", "C'"), "lead", True)
    absent = Absent("Gone", "missing", "no such page")
    first = PageCache(tmp_path, "http://wiki.invalid/api.php")
    first.put("An alias", page)
    first.put("Gone", absent)
    first.put_site(Site("W", "CC0"))
    first.close()
    again = PageCache(tmp_path, "http://wiki.invalid/api.php")
    assert again.get("An alias") == again.get(page.title) == page
    assert again.get("Gone") == absent
    assert again.get("Other") is None
    assert again.get_site() == Site("W", "CC0")
    again.close()


def test_two_wikis_on_one_host_do_not_share_pages(tmp_path: Path) -> None:
    one, two = (PageCache(tmp_path, f"http://h.invalid/{name}/api.php") for name in "ab")
    one.put("A", Page("A", 1, 1, ()))
    assert two.get("A") is None
    one.close()
    two.close()


def test_a_file_that_is_no_cache_is_refused_and_left_alone(tmp_path: Path) -> None:
    cache = PageCache(tmp_path, "http://wiki.invalid/api.php")
    cache.close()
    cache.file.write_bytes(b"something else" * 100)
    with pytest.raises(ValueError, match="expected a page cache in"):
        PageCache(tmp_path, "http://wiki.invalid/api.php")
    assert cache.file.read_bytes().startswith(b"something else")


def test_a_cache_of_another_version_is_refused(tmp_path: Path) -> None:
    import sqlite3

    cache = PageCache(tmp_path, "http://wiki.invalid/api.php")
    cache.close()
    base = sqlite3.connect(cache.file)
    base.execute("PRAGMA user_version = 99")
    base.close()
    with pytest.raises(ValueError, match=r"version 1 .*got 99"):
        PageCache(tmp_path, "http://wiki.invalid/api.php")


@pytest.mark.parametrize(
    ("typed", "normal"),
    [
        ("ada_Lovelace", "Ada Lovelace"),
        ("  a  b ", "A b"),
        ("e\u0301mile", "Émile"),
        ("ßa", "ßa"),
        ("", ""),
        ("北京", "北京"),
    ],
)
def test_titles_are_written_as_the_wiki_writes_them(typed: str, normal: str) -> None:
    assert normal_title(typed) == normal


def test_a_case_sensitive_wiki_keeps_the_first_letter() -> None:
    assert normal_title("iPod_x", first_letter=False) == "iPod x"


def test_a_page_that_many_threads_want_is_fetched_once(cache: PageCache) -> None:
    with wiki_with() as (server, wiki):
        library = Library(cache, wiki)
        with ThreadPoolExecutor(8) as pool:
            pages = list(pool.map(library.get, ["A", "a", "_A", "A "] * 4))
        assert set(pages) == {Page("A", 1, 10, ("B", "C"))}
        assert len(server.arrivals) == 2
        assert (library.fetched, library.from_cache) == (1, 15)


def test_the_links_of_a_page_known_under_another_name_are_not_fetched_again(
    cache: PageCache,
) -> None:
    with wiki_with() as (server, wiki):
        library = Library(cache, wiki)
        assert library.get("A") == library.get("Alias of A")
        assert [arrival.title for arrival in server.arrivals] == ["A", "A", "Alias of A"]


def test_a_page_cached_without_its_lead_text_is_completed_on_request(cache: PageCache) -> None:
    with wiki_with() as (server, wiki):
        Library(cache, wiki).get("A")
        wiki.needs_text = True
        page = Library(cache, wiki, needs_text=True).get("A")
        assert isinstance(page, Page)
        assert page.text == "A is a page."
        assert page.links == ("B", "C")
        assert len(server.arrivals) == 3  # the links did not change with the revision


def test_a_failure_is_remembered_for_the_run_only(cache: PageCache) -> None:
    with wiki_with(etiquette={"retries": 0}, A=Fault("html", 1)) as (server, wiki):
        library = Library(cache, wiki)
        for _ in range(3):
            with pytest.raises(WikiError, match="not_json"):
                library.get("A")
        assert len(server.arrivals) == 1
        assert isinstance(Library(cache, wiki).get("A"), Page)


def test_an_absence_is_cached(cache: PageCache) -> None:
    with wiki_with() as (server, wiki):
        for _ in range(2):
            absent = Library(cache, wiki).get("Gone")
            assert isinstance(absent, Absent)
        assert len(server.arrivals) == 1
