"""A real MediaWiki on loopback for the length of a test session, with pages made to be awkward.

PHP's own server answers on a free port from Debian's MediaWiki (`.ci/install-mediawiki` brings
both) over a SQLite database in a temporary folder. Its router logs every request, so that tests can
count them from the server's side. Without PHP or MediaWiki the fixture skips and says why.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

import pytest

LICENCE = "Loopback Test Licence 1.0"
LICENCE_URL = "https://licence.invalid/1.0"
HUB = "List of everything"
N_STUBS = 530  # with the other links more than the 500 that one API answer holds
DISAMBIGUATION = "Mercury"
MISSING = "No such page"

AWKWARD_TITLES = (
    "PageRank",
    "AC/DC",
    "Client/server model/2 tiers",
    '"Heroes" (album)',
    "Rock 'n' Roll",
    "Émile Zola",
    "北京",
    "Müller–Lyer illusion",  # noqa: RUF001
    "Ελλάδα",
    "العربية",
    "R&B",
    "C++",
    "What Is Life?",
    "Dune: Part Two",
    "100% cotton",
    "Semi; colon, comma",
    "A = B",
    "Back\\slash",
    "Zero (0)",
    "Éclair ☕ 🦉",
)
# Unicode has had capitals for these letters since 2018, which Georgian does not begin words with.
GEORGIAN = ("საქართველო", "თბილისი", "ქართული ანბანი")
MERCURIES = ("Mercury (planet)", "Mercury (element)", "Mercury (mythology)")
PLAIN_TITLES = tuple(f"Plain topic {number}" for number in range(40))
REDIRECTS = {
    "PR algorithm": "PageRank",
    "Old name of PR": "PR algorithm",  # a double redirect
    "Peking": "北京",
    "Zola": "Émile Zola",
    "Freddie's planet": "Mercury (planet)",
    "Circle A": "Circle B",
    "Circle B": "Circle A",
}
ALIASES = tuple(REDIRECTS)[:5]  # those that end at an article


def prose(n: int = 200) -> dict[str, str]:
    """Title -> wikitext of pages with text enough to learn from, which link to each other alone."""
    rng = random.Random(0)
    syllables = ["ba", "ke", "li", "mo", "nu", "ra", "si", "to", "ve", "za"]

    def sentence() -> str:
        return " ".join("".join(rng.choices(syllables, k=3)) for _ in range(18)) + "."

    pages = {}
    for i in range(n):
        links = [f"[[prose {(i + step) % n}|{syllables[step % 10]}]]" for step in (1, 2, 5, 19, 67)]
        links += [f"[[Old prose {(i + 31) % n}]]", f"[[{MISSING}]]", "[[Category:Things]]"]
        parts = [f"{sentence()} {link}<ref>{sentence()}</ref>" for link in links]
        parts += ["{{Box|" + sentence() + "}}", "== Section ==", *(sentence() for _ in range(8))]
        pages[f"Prose {i}"] = "\n\n".join(parts) + "\n"
        if i % 40 == 31:
            pages[f"Old prose {i}"] = f"#REDIRECT [[Prose {i}]]"
    return pages


def wikitexts() -> dict[str, str]:
    """Title -> wikitext of every page that is imported."""
    titles = AWKWARD_TITLES + MERCURIES + PLAIN_TITLES
    pages: dict[str, str] = {}
    for number, title in enumerate(titles):
        near = [titles[(number + step) % len(titles)] for step in (1, 2, 3, 7, 19)]
        links = " ".join(f"[[:{other}|x]]" for other in near)
        pages[title] = (
            f"'''Lead''' of page {number}. {links} [[{MISSING}]] [[{MISSING} {number}|red]] "
            f"[[{ALIASES[number % len(ALIASES)]}]] [[{title}|itself]] [[{HUB}]] "
            f"[[Category:Things]] [[Talk:{HUB}]] [[Help:Contents]] [https://a.invalid out]\n\n"
            f"== Section ==\nMore of page {number}, [[plain topic {number % 40}|first letter]].\n"
        )
    pages[DISAMBIGUATION] = "'''Mercury''' may refer to:\n" + "".join(
        f"* [[{title}]]\n" for title in MERCURIES
    )
    stubs = [f"Stub {number:03}" for number in range(N_STUBS)]
    for stub in stubs:
        pages[stub] = f"A stub. [[{HUB}]] [[{DISAMBIGUATION}]]"
    pages[HUB] = "Everything.\n" + "".join(
        f"* [[:{title}]]\n" for title in [*titles, DISAMBIGUATION, *REDIRECTS, *stubs]
    )
    for title, following in zip(GEORGIAN, (*GEORGIAN[1:], GEORGIAN[0]), strict=True):
        pages[title] = f"[[{following}]] [[{MISSING}]]"
    pages |= prose()
    pages["Dead end"] = "No link leads on. [[No such page]]"
    pages["Category:Things"] = "A category."
    for source, target in REDIRECTS.items():
        pages[source] = f"#REDIRECT [[:{target}]]"
    return pages


def resolve(title: str) -> str:
    """The article that a title leads to, as the import wrote it."""
    while title in REDIRECTS and title not in ("Circle A", "Circle B"):
        title = REDIRECTS[title]
    return title


@dataclass(frozen=True)
class LoopbackWiki:
    """A running wiki.

    Attributes:
        api: Address of its `api.php`.
        log: File with one `time<TAB>query string` line per request to the API.
        pages: Title -> wikitext of every imported page.
    """

    api: str
    log: Path
    pages: dict[str, str] = field(default_factory=dict)

    def requests(self) -> list[tuple[float, str]]:
        """(time [s], query string) of every request so far."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(float(line.split("\t")[0]), line.split("\t")[1]) for line in lines]

    def forget_requests(self) -> None:
        self.log.unlink(missing_ok=True)

    def repeated_requests(self) -> list[str]:
        """Query strings that were asked more than once."""
        counts = Counter(query for _, query in self.requests())
        return [query for query, count in counts.items() if count > 1]

    def asked(self, parameter: str) -> list[str]:
        """Every value that a parameter of the query strings had."""
        return [
            value
            for _, query in self.requests()
            for value in parse_qs(query, keep_blank_values=True).get(parameter, [])
        ]


ROUTER = """<?php
$path = parse_url($_SERVER['REQUEST_URI'], PHP_URL_PATH);
if ($path !== '/api.php' && $path !== '/w/api.php') { http_response_code(404); exit; }
$line = microtime(true) . "\\t" . ($_SERVER['QUERY_STRING'] ?? '') . "\\n";
file_put_contents(getenv('WIKI_LOG'), $line, FILE_APPEND | LOCK_EX);
$_SERVER['SCRIPT_NAME'] = $_SERVER['PHP_SELF'] = '/api.php';
chdir(getenv('WIKI_ROOT'));
require getenv('WIKI_ROOT') . '/api.php';
"""


def mediawiki_root() -> Path:
    """Where MediaWiki is unpacked; skips the calling test where PHP or MediaWiki is missing."""
    default = Path(__file__).resolve().parent.parent / "build" / "mediawiki"
    root = Path(os.environ.get("KNCL_MEDIAWIKI", default))
    if shutil.which("php") is None:
        pytest.skip("no PHP on this machine: .ci/install-mediawiki brings it")
    loaded = subprocess.run(["php", "-m"], capture_output=True, text=True).stdout.split()
    if missing := {"pdo_sqlite", "mbstring", "xml", "intl", "apcu"} - set(loaded):
        pytest.skip(f"PHP lacks {sorted(missing)}: .ci/install-mediawiki brings them")
    if not (root / "api.php").exists():
        pytest.skip(f"no MediaWiki in {root}: .ci/install-mediawiki brings it")
    return root


def start_mediawiki(root: Path, place: Path) -> tuple[subprocess.Popen[bytes], LoopbackWiki]:
    """Set up a wiki with all pages in `place` and serve it; the caller stops the process group."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    (place / "db").mkdir()

    def maintain(script: str, *arguments: str) -> None:
        done = subprocess.run(
            ["php", str(root / "maintenance" / script), *arguments],
            env={**os.environ, "MW_CONFIG_FILE": str(place / "LocalSettings.php")},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{script}: {done.stdout[-2000:]} {done.stderr[-2000:]}"

    maintain(
        "install.php",
        *("--dbtype", "sqlite", "--dbname", "wikidb", "--dbpath", str(place / "db")),
        *("--server", address, "--scriptpath", "", "--pass", "loopback-Wiki-1"),
        *("--confpath", str(place), "Loopback Wiki", "Admin"),
    )
    with open(place / "LocalSettings.php", "a") as settings:
        settings.write(
            "wfLoadExtension('TextExtracts');\n"
            "$wgMainCacheType = CACHE_ACCEL; $wgJobRunRate = 0;\n"
            f"$wgRightsText = '{LICENCE}'; $wgRightsUrl = '{LICENCE_URL}';\n"
            f"$wgCacheDirectory = '{place}';\n"
            # What the wikis of Wikimedia set, too: PHP would capitalise as Unicode does.
            f"$wgOverrideUcfirstCharacters = [ {_uncapitalised()} ];\n"
            # A throw-away database need not survive a power cut: seconds instead of a minute.
            "$wgDBservers = [ [ 'type' => 'sqlite', 'host' => '', 'dbname' => 'wikidb', 'user' => "
            "'', 'password' => '', 'load' => 1, 'variables' => [ 'synchronous' => 'OFF' ] ] ];\n"
        )
    pages = wikitexts()
    (place / "pages.xml").write_text(_export(pages))
    maintain("importDump.php", "--no-updates", str(place / "pages.xml"))
    maintain("refreshLinks.php")  # imported pages know their links only after this
    _mark_as_disambiguation(place / "db" / "wikidb.sqlite", DISAMBIGUATION)
    (place / "router.php").write_text(ROUTER)
    log = place / "requests.tsv"
    server = subprocess.Popen(
        ["php", "-S", f"127.0.0.1:{port}", "-t", str(place), str(place / "router.php")],
        env={
            **os.environ,
            "MW_CONFIG_FILE": str(place / "LocalSettings.php"),
            "PHP_CLI_SERVER_WORKERS": "2",
            "WIKI_LOG": str(log),
            "WIKI_ROOT": str(root),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return server, LoopbackWiki(f"{address}/w/api.php", log, pages)


def _uncapitalised() -> str:
    return ", ".join(f"'{title[0]}' => '{title[0]}'" for title in GEORGIAN)


def _mark_as_disambiguation(database: Path, title: str) -> None:
    """What the extension Disambiguator, which Debian's MediaWiki lacks, does on saving a page."""
    base = sqlite3.connect(database)
    with base:
        inserted = base.execute(
            "INSERT INTO page_props (pp_page, pp_propname, pp_value) "
            "SELECT page_id, 'disambiguation', '' FROM page "
            "WHERE page_namespace = 0 AND page_title = ?",
            (title,),
        )
        assert inserted.rowcount == 1
    base.close()


def _export(pages: dict[str, str]) -> str:
    """MediaWiki's own XML export form, which takes titles that no file name could hold."""
    records = (
        f"<page><title>{escape(title)}</title><ns>{14 if title.startswith('Category:') else 0}</ns>"
        f"<id>{number}</id><revision><id>{number}</id><timestamp>2020-01-01T00:00:00Z</timestamp>"
        "<contributor><username>Admin</username><id>1</id></contributor>"
        "<model>wikitext</model><format>text/x-wiki</format>"
        f'<text xml:space="preserve">{escape(text)}</text></revision></page>'
        for number, (title, text) in enumerate(pages.items(), start=1)
    )
    name = "http://www.mediawiki.org/xml/export-0.11/"
    return f'<mediawiki xmlns="{name}" version="0.11" xml:lang="en">{"".join(records)}</mediawiki>'


def _await_answer(server: subprocess.Popen[bytes], wiki: LoopbackWiki) -> None:
    deadline = time.monotonic() + 30
    while True:
        assert server.poll() is None, f"PHP's server ended with {server.returncode}"
        try:
            urllib.request.urlopen(f"{wiki.api}?action=query&format=json", timeout=10).close()
            return
        except OSError:
            assert time.monotonic() < deadline, "PHP's server does not answer"
            time.sleep(0.05)


@pytest.fixture(scope="session")
def loopback_wiki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackWiki]:
    """A real wiki with the pages of `wikitexts`, or a skip with its reason."""
    server, wiki = start_mediawiki(mediawiki_root(), tmp_path_factory.mktemp("wiki"))
    try:
        _await_answer(server, wiki)
        yield wiki
    finally:
        # The group: its workers outlive the master.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
