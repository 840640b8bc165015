"""A folder of text and Markdown files, a topic each; folders in it are its regions."""

from __future__ import annotations

import posixpath
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

from kncl_env.world.corpus import Corpus, Tally
from kncl_env.world.sources.documents import (
    LARGEST,
    Document,
    Moved,
    Origin,
    Wanted,
    Watch,
    corpus_of,
)
from kncl_env.world.sources.markdown import links_of, read_markdown
from kncl_env.world.sources.names import Head, Place
from kncl_env.world.sources.packed import files_of
from kncl_env.world.sources.paragraphs import one_line, paragraphs_of

MARKDOWN = (".md", ".markdown")
TEXT = (".txt", ".text")
MOST_BYTES = 4 * LARGEST  # of a file: letters take four at most


def read_folder(place: Path, wanted: Wanted, watch: Watch | None = None) -> Corpus:
    """Articles of the files in a folder and its folders, in the order of their paths.

    A file's id is its path in the folder; its title the first heading of Markdown, or its name.
    Links are relative paths, with or without ending, or names of files as notes have them. Labels
    are the folders that a file lies in.

    Raises:
        ValueError: It is no folder, or holds no such file; later, while reading: one is no UTF-8.
    """
    return corpus_of(FolderShelf(place), Origin("folder", place), wanted, watch)


class FolderShelf:
    """The files of a folder."""

    def __init__(self, place: Path) -> None:
        if not place.is_dir():
            raise ValueError(f"expected a folder at {place}, found none")
        self._root = place
        self._files = files_of(place, (*MARKDOWN, *TEXT), "text or Markdown files")
        self._paths = {file.relative_to(place).as_posix() for file in self._files}
        # A note names another by its file's name alone; of several, the first one counts.
        self._notes: dict[str, str] = {}
        for path in sorted(self._paths):
            self._notes.setdefault(posixpath.splitext(posixpath.basename(path))[0].lower(), path)
        self.size = sum(file.stat().st_size for file in self._files)

    def heads(self, moved: Moved) -> Iterator[Head]:
        for document in self.documents(Tally(), moved):
            yield Head(document.title, document.place, self._path(Path(document.place.file)))

    def documents(self, tally: Tally, moved: Moved) -> Iterator[Document]:
        done = 0
        for file in self._files:
            yield self._document(file)
            done += file.stat().st_size
            moved(done)

    def _path(self, file: Path) -> str:
        return file.relative_to(self._root).as_posix()

    def _document(self, file: Path) -> Document:
        place, path = Place(str(file)), self._path(file)
        if file.stat().st_size > MOST_BYTES:
            return Document(one_line(file.stem.replace("_", " ")), place, (), is_too_large=True)
        text = _text(file)
        if file.suffix.lower() in MARKDOWN:
            found = read_markdown(text)
            title, paragraphs, links = found.title, found.paragraphs, found.links
        else:
            title, paragraphs, links = "", paragraphs_of(text), links_of(text)
        folders = [part.replace(".", " ") for part in Path(path).parts[:-1]]
        return Document(
            title or one_line(file.stem.replace("_", " ")),
            place,
            paragraphs,
            [target for link in links if (target := self._target(link, path))],
            [".".join(folders)] if folders else [],
        )

    def _target(self, link: str, path: str) -> str:
        """The path of the file that a link names, or the link where there is none; or nothing."""
        try:
            parts = urllib.parse.urlsplit(link)
        except ValueError:
            return link
        if parts.scheme or parts.netloc or not parts.path:
            return ""
        asked = urllib.parse.unquote(parts.path)
        base = "" if asked.startswith("/") else posixpath.dirname(path)
        joined = posixpath.normpath(posixpath.join(base, asked.lstrip("/")))
        ways = (joined, *(joined + ending for ending in (*MARKDOWN, *TEXT)))
        found = next((way for way in ways if way in self._paths), None)
        return found or self._notes.get(asked.lower(), asked)


def _text(file: Path) -> str:
    """Raises: ValueError naming file and line, where it is no UTF-8."""
    raw = file.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + len(raw) - len(error.object)
        line = raw.count(b"\n", 0, at) + 1
        raise ValueError(
            f"expected UTF-8 in {file}:{line}, got byte {raw[at]:#04x}: save the file as UTF-8"
        ) from None
