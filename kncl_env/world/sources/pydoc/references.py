"""Which topics of the documentation a topic refers to, and by what kind of link.

It reads bases, import statements and names in texts; it neither makes topics nor their texts.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import pydoc
import re
import tokenize
import types
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_DOTTED = re.compile(r"\b[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_NAMED = re.compile(
    r"\b(?:[Mm]odules?|[Pp]ackage|[Ss]ee(?: also)?(?: the)?) [`'\"]*([a-z]\w*)\b"
    r"|[`'\"]*\b([a-z]\w*)[`'\"]* (?:module|package)\b"
)
_CAPITAL = re.compile(r"\b[A-Z][A-Za-z0-9]*[a-z][A-Za-z0-9]*\b")
_STATEMENT = re.compile(r"['\"]?\b([a-z]+)\b['\"]? (?:statement|clause)s?\b")
# One module, two names: the documentation speaks of the left one, help() shows the right one.
_ALIASES = {"os.path": "posixpath"}


@dataclass(frozen=True)
class Topic:
    """A topic of the documentation.

    Attributes:
        title: Dotted name of a module or class, or the heading of a chapter on the language.
        home: The module that the topic is or that defines it; '' for a chapter.
        thing: The module or class; for a chapter the label by which `help()` finds it.
        entries: What is told, in reading order.
    """

    title: str
    home: str
    thing: Any
    entries: tuple[str, ...]

    @property
    def size(self) -> int:
        """[characters]."""
        return sum(map(len, self.entries))

    @property
    def package(self) -> str:
        return self.home.partition(".")[0]

    @property
    def is_class(self) -> bool:
        return self.home != "" and self.title != self.home


class References:
    """Resolves names to topics.

    Args:
        topics: Title -> topic.
        modules: Name -> module, for every module that was read, topic or not.
        members: Module -> name -> class or routine that is told there.
    """

    def __init__(
        self,
        topics: dict[str, Topic],
        modules: dict[str, types.ModuleType],
        members: dict[str, dict[str, Any]],
    ) -> None:
        self._topics = topics
        self._modules = modules
        self._members = members
        # A class or routine -> the title of the topic that tells of it.
        self._told_in = {
            id(thing): title if (title := f"{module}.{name}") in topics else module
            for module, things in members.items()
            for name, thing in things.items()
        }
        self._above = {title: self._around(title) for title in topics}
        self._below: dict[str, list[str]] = defaultdict(list)
        for title, above in self._above.items():
            self._below[above].append(title)
        self._classes: dict[str, list[Topic]] = defaultdict(list)
        for topic in topics.values():
            if topic.is_class:
                self._classes[topic.title.rpartition(".")[2]].append(topic)
        chapters = {topic.thing: title for title, topic in topics.items() if not topic.home}
        self._keywords = _keywords(chapters)
        self._related = _related(chapters)
        headings = sorted((h for h in chapters.values() if " " in h), key=lambda h: (-len(h), h))
        self._heading = re.compile("|".join(map(re.escape, headings)) or r"(?!)")

    def of(self, topic: Topic) -> tuple[tuple[str, str], ...]:
        """`(title, type)`, each target once: what the source states, then what the text names."""
        found: dict[str, str] = {}
        for target, kind in (*self._stated(topic), *self._mentioned(topic)):
            if target in self._topics and target != topic.title:
                found.setdefault(target, kind)
        return tuple(found.items())

    def _bases(self, topic: Topic) -> Iterator[str]:
        """The topics that tell of the bases of the classes that this one tells of."""
        things = [topic.thing] if topic.is_class else self._members[topic.home].values()
        for thing in things:
            if isinstance(thing, type) and self._told_in[id(thing)] == topic.title:
                for base in thing.__bases__:
                    if base is not object:
                        yield self._told_in.get(id(base), "")

    def _around(self, title: str) -> str:
        """The nearest package or module around a topic that is a topic itself, else ''."""
        above = title.rpartition(".")[0]
        return above if above in self._topics or not above else self._around(above)

    def _stated(self, topic: Topic) -> Iterator[tuple[str, str]]:
        if not topic.home:
            for name in self._related.get(topic.thing, ()):
                yield self._keywords.get(name) or self._resolved(name, topic), "link"
            return
        for base in self._bases(topic):
            if base in self._topics and self._topics[base].home != topic.home:
                yield base, "base"
        for title in (self._above[topic.title], *self._below[topic.title]):
            yield title, "member"
        if topic.is_class:
            return
        for name in _imports(topic.thing):
            yield self._resolved(name, topic), "import"

    def _mentioned(self, topic: Topic) -> Iterator[tuple[str, str]]:
        text = "\n".join(topic.entries)
        hits = [(m.start(), self._resolved(m.group(), topic)) for m in _DOTTED.finditer(text)]
        hits += [(m.start(), m.group(1) or m.group(2)) for m in _NAMED.finditer(text)]
        hits += [(m.start(), self._class(m.group(), topic)) for m in _CAPITAL.finditer(text)]
        hits += [(m.start(), m.group()) for m in self._heading.finditer(text)]
        hits += [(m.start(), self._keywords.get(m.group(1), "")) for m in _STATEMENT.finditer(text)]
        for _, target in sorted(hits):
            yield target, "link"

    def _class(self, name: str, topic: Topic) -> str:
        """A bare class name: the one of this package, or one that no prose word resembles."""
        if name in self._members.get(topic.home, ()):
            return self._told_in[id(self._members[topic.home][name])]
        bearers = self._classes.get(name, [])
        near = [other for other in bearers if other.package == topic.package]
        if len(near) == 1:
            return near[0].title
        return bearers[0].title if len(bearers) == 1 and not name.istitle() else ""

    def _resolved(self, dotted: str, topic: Topic) -> str:
        """The topic that tells of a dotted name; '' if it names nothing that is documented."""
        for alias, name in _ALIASES.items():
            if dotted == alias or dotted.startswith(alias + "."):
                dotted = name + dotted[len(alias) :]
        parts = dotted.split(".")
        for n in range(len(parts), 0, -1):
            module = self._modules.get(".".join(parts[:n]))
            if module is not None:
                if n == len(parts):
                    return module.__name__
                thing = getattr(module, parts[n], None)
                return "" if thing is None else self._told_in.get(id(thing), module.__name__)
        builtin = getattr(builtins, parts[0], None)
        return self._class(parts[0], topic) or self._told_in.get(id(builtin), "")


def _keywords(chapters: dict[str, str]) -> dict[str, str]:
    """Word that `help()` takes (`for`, `LOOPING`) -> heading of the chapter that it shows."""
    entries = pydoc.Helper.keywords | pydoc.Helper.topics
    found = {}
    for word in entries:
        entry = entries[word]
        while isinstance(entry, str) and entry:  # a word that stands for another one
            entry = entries.get(entry, "")
        if entry and entry[0] in chapters:
            found[word] = chapters[entry[0]]
    return found


def _related(chapters: dict[str, str]) -> dict[str, list[str]]:
    """Label of a chapter -> the words under "Related help topics"."""
    related: dict[str, list[str]] = defaultdict(list)
    for entry in (*pydoc.Helper.topics.values(), *pydoc.Helper.keywords.values()):
        if not isinstance(entry, str) and entry[0] in chapters:
            related[entry[0]] += entry[1].split()
    return related


def _imports(module: types.ModuleType) -> Iterator[str]:
    """Dotted names that the import statements of a module's source name.

    The source is asked, not the namespace: it is the same whatever this process has imported.
    """
    path = getattr(module, "__file__", None) or ""
    if not path.endswith(".py"):
        return
    with tokenize.open(path) as file:
        tree = ast.parse(file.read())
    package = module.__name__ if hasattr(module, "__path__") else module.__name__.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            name = importlib.util.resolve_name(origin, package) if node.level else origin
            yield from (f"{name}.{alias.name}" for alias in node.names)
