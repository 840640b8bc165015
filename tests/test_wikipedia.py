from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import wikipediaapi
from misbehaving_server import Fault, MisbehavingServer

from kncl_env.world.sources.wiki.answers import next_address, position_of
from kncl_env.world.sources.wiki.errors import (
    ForeignRedirectError,
    RefusedError,
    ServerFailedError,
    StoppedError,
    UnexpectedAnswerError,
    UnreachableError,
    WikiError,
)
from kncl_env.world.sources.wiki.etiquette import Etiquette, Gate, retry_after
from kncl_env.world.sources.wiki.page_cache import Absent, Library, Links, Page, PageCache
from kncl_env.world.sources.wiki.wikipedia import PoliteWikipedia, api_of, check_api

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
        assert head == Page("A", page_id=1, revision_id=10, links=(), disambiguation=False)
        assert wiki.fetch_links("A") == Links(("B", "C"))


def test_a_list_of_links_is_continued_to_its_end() -> None:
    with wiki_with(per_answer=1) as (server, wiki):
        assert wiki.fetch_links("A") == Links(("B", "C"))
        assert len(server.arrivals) == len(GRAPH["A"])


@pytest.mark.parametrize(
    ("typed", "written"),
    [
        ("ada_Lovelace", "Ada Lovelace"),
        ("  ada   Lovelace ", "Ada Lovelace"),
        ("საქართველო", "საქართველო"),  # str.upper knows a capital for it, and no wiki uses it
        ("ßa", "ßa"),
        ("北京", "北京"),
    ],
)
def test_a_title_goes_out_as_given_and_comes_back_as_the_wiki_writes_it(
    typed: str, written: str
) -> None:
    with MisbehavingServer({written: []}).running() as server:
        wiki = client(server)
        head = wiki.fetch_head(typed)
        wiki.close()
        assert isinstance(head, Page)
        assert head.title == written
        assert [arrival.title for arrival in server.arrivals] == [typed]


def test_a_title_in_the_other_script_of_a_language_leads_to_the_page() -> None:
    with MisbehavingServer({"计算机": []}).running() as server:
        server.variants = {"計算機": "计算机"}
        wiki = client(server)
        head = wiki.fetch_head("計算機")
        wiki.close()
    assert isinstance(head, Page)
    assert head.title == "计算机"


def test_pages_of_other_namespaces_are_no_articles_and_the_wiki_names_the_namespace() -> None:
    graph = {"A": ["კატეგორია:A", "Dune: Part Two"], "Dune: Part Two": [], "კატეგორია:A": []}
    namespaces = {"კატეგორია": 14, "Talk": 1, "Special": -1}
    with MisbehavingServer(graph, namespaces=namespaces).running() as server:
        wiki = client(server)
        for title in ("კატეგორია:A", "Talk:Nobody wrote this", "Special:Random"):
            absent = wiki.fetch_head(title)
            assert isinstance(absent, Absent)
            assert absent.reason == "other_namespace"
            assert f"the namespace {title.partition(':')[0]}:" in absent.detail
        assert isinstance(wiki.fetch_head("Dune: Part Two"), Page)
        assert wiki.fetch_links("A") == Links(("Dune: Part Two",))
        wiki.close()


def test_disambiguation_pages_are_known_by_the_mark_of_the_wiki() -> None:
    graph = {"A": ["B", "Mercury"], "B": [], "Mercury": ["A"]}
    with MisbehavingServer(graph, disambiguations=["Mercury"]).running() as server:
        wiki = client(server)
        marks = {}
        for title in graph:
            head = wiki.fetch_head(title)
            assert isinstance(head, Page)
            marks[title] = head.disambiguation
        assert marks == {"A": False, "B": False, "Mercury": True}
        assert wiki.fetch_links("A") == Links(("B", "Mercury"), ("Mercury",))
        wiki.close()


def test_the_lead_text_comes_on_request() -> None:
    with wiki_with(etiquette={}) as (server, _):
        wiki = PoliteWikipedia(Etiquette(CONTACT), Gate(500), server.api, needs_text=True)
        head = wiki.fetch_head("B")
        wiki.close()
        assert isinstance(head, Page)
        assert (head.text, head.has_text) == ("B is a page.", True)


def test_every_request_names_the_contact_and_is_patient() -> None:
    with wiki_with() as (server, wiki):
        wiki.fetch_licence()
        wiki.fetch_head("A")
        wiki.fetch_links("A")
        assert len(server.arrivals) == 3
        assert all(CONTACT in arrival.agent for arrival in server.arrivals)
        assert all("maxlag=5" in arrival.target for arrival in server.arrivals)


def test_the_licence_is_what_the_wiki_says() -> None:
    with wiki_with() as (_, wiki):
        assert wiki.fetch_licence() == "Loopback Licence (https://licence.invalid/)"


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
        ("http://a.org/w/api.php", "http://me:secret@a.org/w/api.php", None),
        ("http://a.org/w/api.php", "http://b.org\\@a.org/w/api.php", None),
        ("http://a.org/w/api.php", "http://a.org\\@b.org/w/api.php", None),
        ("http://a.org/w/api.php", "http://[::1/api.php", None),
        ("http://a.org/w/api.php", "/api.php\x7f", None),
        ("http://a.org/w/api.php", "/\\b.org/api.php", "http://a.org/\\b.org/api.php"),
        ("http://a.org/w/api.php", "javascript:alert(1)", None),
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
        "http://:p@a.org/api.php",
        "http://@a.org/api.php",
        "file:///w/api.php",
        "http://a.org/api.php?action=query",
    ],
)
def test_an_address_that_is_no_api_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        check_api(address)


def test_a_password_in_an_address_is_not_printed() -> None:
    with pytest.raises(ValueError, match="without name and password") as caught:
        check_api("https://me:secret@a.org/w/api.php")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "location", ["http://[::1/", "/\x7f", "/" + "x" * 70_000, "http://u:p@{}/"]
)
def test_a_redirect_to_no_address_costs_its_page_alone(location: str) -> None:
    with wiki_with(A=Fault("foreign")) as (server, wiki):
        server.foreign = location.format(server.api.split("/")[2])
        with pytest.raises(WikiError) as caught:
            wiki.fetch_head("A")
        assert caught.value.reason in ("foreign_redirect", "disconnected")
        assert wiki.fetch_head("B")


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
    page = Page('Say "ä/ö" 北京', 1, 2, ("B", "C'"), "lead", True, False, ("B",))
    first = PageCache(tmp_path, "http://wiki.invalid/api.php")
    first.put("An alias", page)
    first.put_licence("CC0")
    first.close()
    again = PageCache(tmp_path, "http://wiki.invalid/api.php")
    assert again.get("An alias") == again.get(page.title) == page
    assert again.get("Other") is None
    assert again.get_licence() == "CC0"
    again.close()


def test_a_name_that_has_become_a_page_of_its_own_no_longer_leads_elsewhere(
    cache: PageCache,
) -> None:
    cache.put("PR", Page("PageRank", 1, 1, ()))
    cache.put("PR", Page("PR", 2, 2, ()))
    assert cache.get("PR") == Page("PR", 2, 2, ())


def test_a_damaged_index_leads_no_name_to_the_page_of_another(
    cache: PageCache, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(3):
        cache.put(f"name {n}", Page(f"Page {n}", n, n, ()))
    cache.close()
    whole = cache.file.read_bytes()
    # In rows and index both; only the index is read on the way to a row.
    *_, last = (n for n in range(len(whole)) if whole.startswith(b"name 1", n))
    found = bytearray(whole)
    found[last + 5] = ord("3")
    cache.file.write_bytes(found)
    again = PageCache(cache.file.parent, "http://wiki.invalid/api.php")
    assert again.file == cache.file
    assert again.get("name 3") is None
    assert "asked for again: 'name 3'" in caplog.text
    assert again.get("name 0") == Page("Page 0", 0, 0, ())
    again.close()


def fill_as_version_1(file: Path) -> None:
    """What an earlier release left of the pages A and B, of a missing page and of the licence."""
    records = {
        "A": {"title": "A", "page_id": 1, "revision_id": 10, "links": ["B", "C"], "text": None},
        "B": {"title": "B", "page_id": 2, "revision_id": 19, "links": ["Old"], "text": None},
        "C": {"title": "C", "reason": "missing", "detail": "C is missing"},
    }
    site = {"name": "Loopback", "licence": "unknown", "first_letter": True}
    base = sqlite3.connect(file)
    with base:
        for title, record in records.items():
            more = {} if "reason" in record else {"has_text": False}
            base.execute("INSERT INTO page VALUES (?, ?)", (title, json.dumps(record | more)))
        base.execute("DROP TABLE name")
        base.execute("CREATE TABLE alias (asked TEXT PRIMARY KEY, key TEXT)")
        base.execute("INSERT INTO alias VALUES ('Alias of A', 'A'), (x'00', 'A'), ('Of nobody', 7)")
        base.execute("INSERT INTO site VALUES ('site', ?)", (json.dumps(site),))
        base.execute("PRAGMA user_version = 1")
    base.close()


def test_a_cache_of_version_1_gives_its_pages_and_learns_what_it_lacks(tmp_path: Path) -> None:
    with wiki_with() as (server, wiki):
        PageCache(tmp_path, wiki.api).close()
        (file,) = tmp_path.glob("*.sqlite")
        fill_as_version_1(file)
        cache = PageCache(tmp_path, wiki.api)
        assert cache.get("Alias of A") == cache.get("A") == Page("A", 1, 10, ("B", "C"))
        assert cache.get_licence() is None  # the wiki may have made up its mind
        PageCache(tmp_path, wiki.api).close()  # there is nothing to take over any more
        library = Library(cache, wiki)
        for title, links in {"A": ("B", "C"), "B": ("A",), "C": ()}.items():
            page = library.get(title)
            assert isinstance(page, Page)
            assert (page.links, page.disambiguation) == (links, False)
        # A's links are as old as its revision and were not asked for; B has changed, C was missing.
        assert [arrival.title for arrival in server.arrivals] == ["A", "B", "B", "C", "C"]
        cache.close()


def test_two_wikis_on_one_host_do_not_share_pages(tmp_path: Path) -> None:
    one, two = (PageCache(tmp_path, f"http://h.invalid/{name}/api.php") for name in "ab")
    one.put("A", Page("A", 1, 1, ()))
    assert two.get("A") is None
    one.close()
    two.close()


def test_a_file_that_is_no_cache_is_set_aside_as_it_is_and_a_new_one_begun(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for n in (1, 2):
        cache = PageCache(tmp_path, "http://wiki.invalid/api.php")
        cache.put("A", Page("A", 1, 1, ()))
        cache.close()
        cache.file.write_bytes(b"something else" * 100 * n)
        cache = PageCache(tmp_path, "http://wiki.invalid/api.php")
        assert cache.get("A") is None
        cache.close()
        aside = tmp_path / f"{cache.file.name}.damaged-{n}"
        assert aside.read_bytes() == b"something else" * 100 * n
        assert str(cache.file) in caplog.text


@pytest.mark.parametrize("wrong", [["more"], {"gplcontinue": "\ud800"}, {"\udfff": 1}, {"a": {}}])
def test_a_position_that_cannot_be_asked_for_is_no_answer(wrong: object) -> None:
    assert position_of({}) == {}
    assert position_of({"continue": {"a": "b", "n": 3}}) == {"a": "b", "n": 3}
    with pytest.raises(UnexpectedAnswerError, match="expected a position"):
        position_of({"continue": wrong})


def test_a_damaged_schema_whose_error_is_no_text_is_set_aside(tmp_path: Path) -> None:
    cache = PageCache(tmp_path, "http://wiki.invalid/api.php")
    cache.put("A", Page("A", 1, 1, ()))
    cache.close()
    whole = cache.file.read_bytes()
    assert b"CREATE TABLE page" in whole
    cache.file.write_bytes(whole.replace(b"CREATE TABLE page", b"CREATE TABL\xe5 page"))
    cache = PageCache(tmp_path, "http://wiki.invalid/api.php")
    assert cache.get("A") is None
    cache.put("A", Page("A", 1, 1, ()))
    assert cache.get("A") is not None
    cache.close()
    assert (tmp_path / f"{cache.file.name}.damaged-1").is_file()


def test_a_record_that_was_changed_is_asked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = PageCache(tmp_path, "http://wiki.invalid/api.php")
    page = Page("A", 1, 1, ("B", "C"), "Text.", True, False)
    cache.put("a", page)
    cache.put_licence("CC0")
    assert cache.get("a") == cache.get("A") == page
    with cache._base:
        cache._base.execute("UPDATE page SET record = replace(record, '\"C\"', '\"D\"')")
        cache._base.execute("UPDATE site SET record = replace(record, 'CC0', 'CC1')")
    assert cache.get("a") is None
    assert cache.get_licence() is None
    assert "as it was written" in caplog.text
    cache.put("a", page)
    assert cache.get("a") == page
    # Caches of before there were seals are read.
    with cache._base:
        cache._base.execute("UPDATE page SET record = json_remove(record, '$.seal')")
    assert cache.get("a") == page
    for wrong in ("[1]", "[" * 9999, '{"title": "A", "page_id": true, "revision_id": 1}', "{"):
        with cache._base:
            cache._base.execute("UPDATE page SET record = ?", (wrong,))
        assert cache.get("a") is None
    cache.close()


def test_a_cache_of_another_version_is_refused(tmp_path: Path) -> None:
    cache = PageCache(tmp_path, "http://wiki.invalid/api.php")
    cache.close()
    base = sqlite3.connect(cache.file)
    base.execute("PRAGMA user_version = 99")
    base.close()
    with pytest.raises(ValueError, match=r"version 3 .*got 99"):
        PageCache(tmp_path, "http://wiki.invalid/api.php")


def test_a_page_that_many_threads_want_is_fetched_once(cache: PageCache) -> None:
    with wiki_with() as (server, wiki):
        library = Library(cache, wiki)
        with ThreadPoolExecutor(8) as pool:
            pages = list(pool.map(library.get, ["A", "a", "_A", "A "] * 4))
        assert set(pages) == {Page("A", 1, 10, ("B", "C"), disambiguation=False)}
        # Each name once, since only the wiki knows that they are one; the links once in all.
        titles = Counter(arrival.title for arrival in server.arrivals)
        assert titles == {"A": 2, "a": 1, "_A": 1, "A ": 1}
        assert library.from_cache == 12


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
        page = Library(cache, wiki).get("A")
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


def test_an_absence_is_remembered_for_the_run_only(cache: PageCache) -> None:
    graph: dict[str, list[str]] = {}
    with MisbehavingServer(graph).running() as server:
        wiki = client(server)
        library = Library(cache, wiki)
        for _ in range(3):
            absent = library.get("Gone")
            assert isinstance(absent, Absent)
        assert len(server.arrivals) == 1
        graph["Gone"] = []  # somebody writes it
        assert isinstance(Library(cache, wiki).get("Gone"), Page)
        wiki.close()
