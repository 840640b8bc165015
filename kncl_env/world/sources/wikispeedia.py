"""Wikispeedia: 4,604 school-encyclopaedia articles and their links, as SNAP distributes them.

It reads the directory that unpacking SNAP's two archives gives, and fetches that directory where it
is missing. It knows nothing of the games that people played on it (see `rabbit_holes`), of splits
or of tokens.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Collection, Iterator, Sequence
from difflib import SequenceMatcher
from pathlib import Path

from kncl_env.world.corpus import Article, Corpus, Tally
from kncl_env.world.sources.archive import Archive, Progress, fetch
from train_lm.checked.inside import checked, inside
from train_lm.checked.records import shown

GRAPH_DIR = "wikispeedia_paths-and-graph"
TEXT_DIR = "plaintext_articles"
LICENCE = "GNU Free Documentation License (Wikipedia, 2007 Schools Wikipedia Selection)"
CITATION = (
    "Robert West and Jure Leskovec: Human Wayfinding in Information Networks. WWW 2012. "
    "Robert West, Joelle Pineau, and Doina Precup: Wikispeedia: An Online Game for Inferring "
    "Semantic Distances between Concepts. IJCAI 2009."
)
N_TITLES = 4_604  # [titles] of SNAP's articles.tsv
N_LINKS = 119_882  # [links] of SNAP's links.tsv

# Forms and cards of the charity that made the selection: titles without an article behind them.
CHARITY_PAGES = frozenset(
    ["Directdebit", "Donation", "Friend_Directdebit", "Sponsorship_Directdebit", "Wowpurchase"]
)
LICENCE_PAGES = frozenset({"Wikipedia_Text_of_the_GNU_Free_Documentation_License"})

WRAP = 75  # [characters] a line was broken where its next word would have ended at or beyond this
SHORT = 60  # [characters] a block below this is a heading or a label, and heads what follows
BULLETS = frozenset("*+-o#@=")  # what the browser that made the texts put before items of lists
LARGEST = 2**26  # [bytes] of a file; the selection's own are below 4 MB
LABELS_AT_MOST = 200  # [characters] so many headings and labels may pile up on one paragraph

_BOILERPLATE = re.compile(
    r"This is a featured article\. Click here for more information\.|Spoiler warning:.*"
    r"|Spoilers end here\.|Image:.*|by The Map Library|supplied by The Map Library"
)
_IMAGE = re.compile(r"\[\S+\.(?:gif|png|jpe?g|svg)\]", re.IGNORECASE)
_BRACKETS = re.compile(r"\[[^\]]*\]")
# A link's own spacing stayed where its brackets and stops were set apart from it.
_SPACED = (
    ("( ", "("),
    (" )", ")"),
    ("[ ", "["),
    (" ]", "]"),
    (" ,", ","),
    (" ;", ";"),
    (" . ", ". "),
)

# SNAP publishes no checksums: what arrives is recorded beside it and its contents are counted.
ARCHIVES = (
    Archive(
        "https://snap.stanford.edu/data/wikispeedia/wikispeedia_paths-and-graph.tar.gz", GRAPH_DIR
    ),
    Archive(
        "https://snap.stanford.edu/data/wikispeedia/wikispeedia_articles_plaintext.tar.gz", TEXT_DIR
    ),
)


def read_wikispeedia(directory: Path) -> Corpus:
    """Read articles, links and categories; every article's labels are its categories.

    Titles come decoded, with spaces for underscores, in the order of `articles.tsv`. Links come in
    reading order, by the first mention of their target in the text: `links.tsv` is alphabetical.
    Hard wraps are undone; header (it names the categories), footer, doubled captions and notes to
    the reader are left out. A text without that header is an article as a whole. An article whose
    text equals an earlier one's bears `same_as`.

    `Corpus.counts` tells what was read and what was dropped, by reason, `first_dropped` the first.

    Raises:
        ValueError: A file is missing, is not UTF-8, lacks a column, names an unknown title or what
            lies outside of `directory`.
    """
    directory = Path(directory)
    for needed in (
        *(f"{GRAPH_DIR}/{name}.tsv" for name in ("articles", "links", "categories")),
        TEXT_DIR,
    ):
        if not (directory / needed).exists():
            raise ValueError(
                f"expected {needed} in {directory}, got none: name the directory that unpacking "
                f"SNAP's wikispeedia_paths-and-graph.tar.gz and wikispeedia_articles_plaintext"
                ".tar.gz gives, or download it (--download)"
            )
        checked(directory / needed, directory)
    counts = Tally()
    titles = directory / GRAPH_DIR / "articles.tsv"
    line_of = {row[0]: number for number, row in _rows(titles, 1)}
    counts["titles_read"] = len(line_of)
    texts: dict[str, tuple[str, ...]] = {}
    for name, line in line_of.items():
        if name in CHARITY_PAGES:
            counts.drop("charity_pages_dropped", name, f"{titles}:{line}")
        elif name in LICENCE_PAGES:
            counts.drop("licence_texts_dropped", name, f"{titles}:{line}")
        else:
            file = inside(directory / TEXT_DIR, f"{name}.txt", f"{titles}, line {line}")
            counts.place = str(file)
            text = _text(file)
            paragraphs = paragraphs_of(text, counts)
            if paragraphs:
                texts[name] = paragraphs
            else:
                counts.drop("articles_without_text_dropped", text)

    links: dict[str, list[tuple[str, str]]] = {name: [] for name in texts}
    path = directory / GRAPH_DIR / "links.tsv"
    for number, (source, target) in _known_rows(path, 2, line_of):
        counts["links_read"] += 1
        if source not in texts or target not in texts:
            reason = "links_of_dropped_articles_dropped"
            counts.drop(reason, f"{source} {target}", f"{path}:{number}")
        elif source == target:
            counts.drop("links_to_self_dropped", f"{source} {target}", f"{path}:{number}")
        else:
            links[source].append((_title(target), "link"))
    labels: dict[str, list[str]] = {name: [] for name in texts}
    path = directory / GRAPH_DIR / "categories.tsv"
    for number, (name, label) in _known_rows(path, 1, line_of):
        counts["categories_read"] += 1
        if name in texts:
            labels[name].append(label)
        else:
            reason = "categories_of_dropped_articles_dropped"
            counts.drop(reason, f"{name} {label}", f"{path}:{number}")

    first: dict[tuple[str, ...], str] = {}
    articles = []
    for name, paragraphs in texts.items():
        same_as = first.setdefault(paragraphs, name)
        counts["articles_same_as_earlier"] += same_as != name
        articles.append(
            Article(
                _title(name),
                paragraphs,
                in_reading_order(links[name], paragraphs),
                tuple(dict.fromkeys(labels[name])),
                same_as=None if same_as == name else _title(same_as),
            )
        )
    counts["articles"] = len(articles)
    return Corpus(tuple(articles), "wikispeedia", LICENCE, CITATION, dict(counts), counts.first)


def in_reading_order(
    links: Sequence[tuple[str, str]], paragraphs: Sequence[str]
) -> tuple[tuple[str, str], ...]:
    """Links sorted by where the text first mentions their target; the rest keep their order, last.

    A title is looked for without what stands in brackets, which running text leaves out.
    """
    text = "\n".join(paragraphs).lower()

    def mention(link: tuple[str, str]) -> int:
        found = text.find(link[0].split(" (")[0].lower())
        return found if found >= 0 else len(text)

    return tuple(sorted(links, key=mention))


def paragraphs_of(text: str, counts: Tally | None = None) -> tuple[str, ...]:
    """Turn one text file of the selection into clean paragraphs; empty if it holds no article."""
    counts = Tally() if counts is None else counts
    lines = [line.rstrip() for line in text.replace("\u200b", "").replace("\xa0", " ").split("\n")]
    lines = _without_captions(_body(lines, counts), counts)
    blocks: list[list[str]] = [[]]
    for line in lines:
        content = (_IMAGE.sub("", line) if "[" in line else line).strip()
        if not content:
            if line.strip():
                counts.drop("image_lines_dropped", line)
            blocks.append([])
        elif _BOILERPLATE.fullmatch(content):
            counts.drop("boilerplate_lines_dropped", line)
        elif not any(c.isalnum() for c in content):
            counts.drop("rules_dropped", line)
        elif not line.startswith(" "):  # a heading of the article
            blocks += [[line], []]
        else:
            blocks[-1].append(line)
    paragraphs: list[str] = []
    labels: list[str] = []
    for block in (_reflowed(b) for b in blocks if b):
        labels.append(block)
        if len(block) >= SHORT or sum(map(len, labels)) >= LABELS_AT_MOST:
            paragraphs.append("\n".join(labels))
            labels = []
    if labels:
        counts.drop("headings_without_text_dropped", labels[0])
    return tuple(paragraphs)


def _body(lines: Sequence[str], counts: Tally) -> Sequence[str]:
    """What stands between the line that names the categories, if there is one, and the footer."""
    start = next((i for i, line in enumerate(lines) if line.startswith("2007 Schools Wiki")), None)
    if start is None:
        counts["articles_without_header"] += 1
        start = 0
        if not any(line.startswith(" ") for line in lines):
            # Text of another hand: not every line of it is a heading.
            lines = [f" {line}" if line else line for line in lines]
    else:
        while start < len(lines) and lines[start]:  # it leaks the categories, and may be wrapped
            start += 1
    end = len(lines)
    for i in range(len(lines) - 1, start, -1):
        if lines[i].lstrip().startswith('Retrieved from "'):
            end = i
            break
    return lines[start:end]


def _without_captions(lines: Sequence[str], counts: Tally) -> list[str]:
    """Leave one copy of every caption, apart from the text around it.

    A picture became its alternative text, `Enlarge` and its caption, which are nearly the same.
    """
    kept: list[str] = []
    i = 0
    while i < len(lines):
        if lines[i].strip() != "Enlarge":
            kept.append(lines[i])
            i += 1
            continue
        before, after = _caption(kept[-14:], lines[i + 1 : i + 15])
        if before:
            del kept[len(kept) - before :]
            counts["captions_undoubled"] += 1
        else:
            counts["captions_unpaired"] += 1
        kept += ["", *lines[i + 1 : i + 1 + after], ""]
        i += 1 + after
    return kept


def _caption(before: Sequence[str], after: Sequence[str]) -> tuple[int, int]:
    """How many lines above and below `Enlarge` are its caption; (0, 0) if the two do not agree."""
    above, below = _squeezed_runs(before[::-1], backwards=True), _squeezed_runs(after)
    pairs = [(k, j) for k in range(1, len(above) + 1) for j in (k, k - 1, k + 1)]
    pairs = [(k, j) for k, j in pairs if 0 < j <= len(below)]
    for k, j in pairs:
        if above[k - 1] == below[j - 1]:
            return k, j
    best = (0.6, 0, 0)
    for k, j in pairs:  # spelling was made British in one of the two, or a note taken out
        matcher = SequenceMatcher(None, above[k - 1], below[j - 1], autojunk=False)
        if (
            matcher.real_quick_ratio() > best[0]
            and matcher.quick_ratio() > best[0]
            and (ratio := matcher.ratio()) > best[0]
        ):
            best = (ratio, k, j)
    return best[1:]


def _squeezed_runs(lines: Sequence[str], backwards: bool = False) -> list[str]:
    """Letters and digits of the first 1, 2, 3 ... lines, up to a blank one or 14 lines."""
    runs: list[str] = []
    taken: list[str] = []
    for line in lines[:14]:
        if not line:
            break
        taken.insert(0 if backwards else len(taken), line)
        runs.append(re.sub(r"\W+", "", _BRACKETS.sub("", " ".join(taken))).lower())
    return runs


def _reflowed(block: Sequence[str]) -> str:
    """Join lines that only the page width parted; keep the breaks of lists, tables and verse."""
    rows: list[list[str]] = []
    reach = 0  # [characters] where the line above ended
    margins: tuple[int, ...] = ()  # [characters] indents that a line which goes on may have
    for line in block:
        words = line.split()
        indent = len(line) - len(line.lstrip())
        bullet = indent > 3 and words[0] in BULLETS
        if bullet or indent not in margins or reach + 1 + len(words[0]) < WRAP:
            rows.append([])
        rows[-1] += words
        reach = len(line)
        margins = (indent, indent + 2) if bullet else (indent,)
    text = "\n".join(" ".join(words) for words in rows)
    for spaced, close in _SPACED:
        text = text.replace(spaced, close)
    return text


def _title(name: str) -> str:
    return urllib.parse.unquote(name, errors="strict").replace("_", " ")


def _text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise ValueError(f"expected a file at {path}, got something else")
        if path.stat().st_size > LARGEST:
            raise ValueError(
                f"expected at most {LARGEST:,} bytes in {path}, got {path.stat().st_size:,}: it is "
                "no file of Wikispeedia's"
            )
        raw = path.read_bytes()
        return raw.decode("utf-8-sig")  # some editors put a mark before the text
    except FileNotFoundError:
        raise ValueError(
            f"expected a text for every title of articles.tsv, got no {path}: "
            "unpack wikispeedia_articles_plaintext.tar.gz again"
        ) from None
    except UnicodeDecodeError as error:
        offset = error.start + len(raw) - len(error.object)
        raise ValueError(
            f"expected UTF-8 in {path}, got byte 0x{raw[offset]:02x} at offset "
            f"{offset}: the file is damaged, unpack it again"
        ) from None


def _rows(path: Path, n_columns: int) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and columns of a TSV file; comments start with `#`, a header there is none."""
    for number, line in enumerate(_text(path).split("\n"), start=1):
        line = line.rstrip("\r")
        if line.strip() and not line.startswith("#"):
            row = line.split("\t")
            if len(row) != n_columns or not all(row):
                raise ValueError(
                    f"expected {n_columns} columns in {path}, line {number}, got "
                    f"{sum(map(bool, row))}: the file is truncated, unpack it again"
                )
            yield number, row


def _known_rows(
    path: Path, n_titles: int, known: Collection[str]
) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and rows of two columns; the first `n_titles` must be titles of articles.tsv."""
    for number, row in _rows(path, 2):
        for name in row[:n_titles]:
            if name not in known:
                raise ValueError(
                    f"expected a title of articles.tsv in {path}, line {number}, got "
                    f"{shown(name)}: the file is truncated or of another version, unpack it again"
                )
        yield number, row


def download_wikispeedia(
    into: Path,
    archives: Sequence[Archive] = ARCHIVES,
    *,
    n_titles: int = N_TITLES,
    n_links: int = N_LINKS,
    progress: Progress | None = None,
) -> Path:
    """Fetch and unpack the archives; call it again to go on where a broken download stopped.

    A folder that is there already is not fetched again; `downloads.json` records what came.

    Args:
        into: Directory for the unpacked folders; made if missing.
        archives: What to fetch, with size and SHA-256 where they are known.
        n_titles: [titles] that `articles.tsv` must hold afterwards.
        n_links: [links] that `links.tsv` must hold afterwards.
        progress: Called with the archive's name, bytes so far and bytes in all (if known).

    Returns:
        `into`, ready for `read_wikispeedia`.

    Raises:
        ValueError: The server cannot be reached, or what came differs from what is expected.
    """
    into = Path(into)
    for archive in archives:
        fetch(archive, into, progress)
    for name, n_columns, n_expected in (("articles", 1, n_titles), ("links", 2, n_links)):
        path = into / GRAPH_DIR / f"{name}.tsv"
        n = sum(1 for _ in _rows(path, n_columns))
        if n != n_expected:
            raise ValueError(
                f"expected {n_expected:,} rows in {path}, got {n:,}: SNAP's files have changed; "
                f"remove {into / GRAPH_DIR} to fetch them again"
            )
    return into
