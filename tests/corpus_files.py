"""One corpus in every format that a source reads, as their own tools would write it."""

from __future__ import annotations

import bz2
import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kncl_env.world.corpus import Article, Corpus
from kncl_env.world.sources.documents import Wanted
from kncl_env.world.sources.folder import read_folder
from kncl_env.world.sources.hf import read_hf
from kncl_env.world.sources.jsonl import read_jsonl
from kncl_env.world.sources.mediawiki import read_mediawiki
from kncl_env.world.sources.parquet import read_parquet
from kncl_env.world.sources.rows import Columns
from kncl_env.world.sources.zim import read_zim

SITE = (
    "<siteinfo><sitename>Made up</sitename><base>https://wiki.example.org/Main</base>"
    "<case>first-letter</case><namespaces><namespace key='0' /><namespace key='6'>File</namespace>"
    "<namespace key='14'>Category</namespace></namespaces></siteinfo>"
)

Rows = Sequence[Mapping[str, object]]


def rows_of(articles: Sequence[Article]) -> list[dict[str, object]]:
    return [
        {
            "id": f"n{i}",
            "title": a.title,
            "text": "\n\n".join(a.paragraphs),
            "links": [title for title, _ in a.links],
            "labels": list(a.labels),
        }
        for i, a in enumerate(articles)
    ]


def with_links(article: Article, shown: Callable[[str, str], str]) -> list[str]:
    """Paragraphs whose last words are the article's links, in reading order."""
    *paragraphs, last = article.paragraphs
    words = last.split(" ")
    first = len(words) - len(article.links)
    for i, (title, _) in enumerate(article.links, start=first):
        words[i] = shown(title, words[i])
    return [*paragraphs, " ".join(words)]


def write_jsonl(file: Path, rows: Rows) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_parquet(file: Path, rows: Rows, **options: object) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(rows)), file, **options)
    return file


def page(title: str, text: str, space: int = 0, more: str = "") -> str:
    return (
        f"<page><title>{html.escape(title)}</title><ns>{space}</ns>{more}<revision>"
        f"<model>wikitext</model><text>{html.escape(text)}</text></revision></page>"
    )


def write_dump(file: Path, pages: Sequence[str]) -> Path:
    text = "\n".join([f"<mediawiki>{SITE}", *pages, "</mediawiki>\n"])
    file.write_bytes(bz2.compress(text.encode()) if file.suffix == ".bz2" else text.encode())
    return file


def write_zim(
    file: Path,
    pages: Mapping[str, tuple[str, str]],
    redirects: Mapping[str, str] | None = None,
    kind: str = "text/html",
) -> Path:
    """Args: pages: path -> (title, HTML)."""
    from libzim.writer import Creator, Hint, Item, StringProvider

    class Page(Item):
        def __init__(self, path: str, title: str, text: str) -> None:
            super().__init__()
            self.path, self.title, self.text = path, title, text

        def get_path(self) -> str:
            return self.path

        def get_title(self) -> str:
            return self.title

        def get_mimetype(self) -> str:
            return kind

        def get_contentprovider(self) -> StringProvider:
            return StringProvider(self.text)

        def get_hints(self) -> dict[Hint, int]:
            return {Hint.FRONT_ARTICLE: 1}

    with Creator(file).config_indexing(False, "eng").config_verbose(False) as archive:
        for path, (title, text) in pages.items():
            archive.add_item(Page(path, title, text))
        for path, target in (redirects or {}).items():
            archive.add_redirection(path, path, target, {})
        archive.add_metadata("License", "CC BY-SA")
    return file


def every_format(folder: Path, articles: Sequence[Article]) -> dict[str, Corpus]:
    """The articles, which bear no labels, as read from each format; titles in ascending order."""
    import datasets

    rows = [{**row, "labels": None} for row in rows_of(articles)]
    for row in rows:
        del row["labels"]
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).save_to_disk(str(folder / "saved"))
    wiki = [
        page(
            a.title,
            "{{Box|a={{b}}}}\n"
            + "\n\n".join(with_links(a, lambda t, w: f"[[{t.replace(' ', '_')}|{w}]]"))
            + "\n\n== References ==\n{{reflist}}\n[[File:x.png|thumb|A [[Bee]].]]<!-- no -->",
        )
        for a in articles
    ]
    site = {
        a.title.replace(" ", "_"): (
            a.title,
            f"<h1>{a.title}</h1><table class='infobox'><tr><td>no</td></tr></table>"
            + "".join(
                f"<p>{p}</p>"
                for p in with_links(a, lambda t, w: f"<a href='{t.replace(' ', '_')}'>{w}</a>")
            )
            + "<h2>References</h2><ol class='references'><li>no</li></ol>",
        )
        for a in articles
    }
    notes = folder / "notes"
    notes.mkdir()
    for a in articles:
        text = with_links(a, lambda t, w: f"[{w}]({t.replace(' ', '%20')}.md)")
        (notes / f"{a.title}.md").write_text(f"# {a.title}\n\n" + "\n\n".join(text) + "\n")
    columns, wanted = Columns(), Wanted()
    return {
        "jsonl": read_jsonl(write_jsonl(folder / "a.jsonl", rows), columns, wanted),
        "parquet": read_parquet(write_parquet(folder / "a.parquet", rows), columns, wanted),
        "hf": read_hf(str(folder / "saved"), columns, wanted),
        "zim": read_zim(write_zim(folder / "a.zim", site), wanted),
        "mediawiki": read_mediawiki(write_dump(folder / "a.xml.bz2", wiki), wanted),
        "folder": read_folder(notes, wanted),
    }
