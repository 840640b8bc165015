"""Collects the standard library's documentation; run by `read.py` in a fresh interpreter.

It needs the standard library alone and knows nothing of corpora. Imports of its siblings are
relative because the fresh interpreter finds them without the package around them.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import json
import pkgutil
import pydoc
import sys
import types
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from .entries import Teller, blocks, paragraphs
from .modules import chapter_of, is_left_out
from .references import References, Topic

CLASS_TOPIC = 1_500  # [characters] a class that says more has its own topic, not its module's
TOPIC_AT_LEAST = 400  # [characters] what says less is no topic
PACKAGE_AT_LEAST = 8  # [topics] a package that holds fewer is no region

Members = dict[str, dict[str, Any]]  # module -> name -> class or routine


def main() -> None:
    """Print what `collect` gives as JSON."""
    sys.stdout.write(json.dumps(collect()))


def collect() -> dict[str, Any]:
    """Topics of the documentation as plain values.

    Returns:
        `articles`: one dict of `title`, `paragraphs`, `links` (title, type), `labels` per topic;
        `counts`: what was read and what was dropped, by reason;
        `first_dropped`: the first module or topic that was, by reason.
    """
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    modules = _imported(counts, first)
    members = _members(modules)
    teller = Teller(counts)
    topics = {topic.title: topic for topic in _module_topics(modules, members, teller)}
    for topic in _language_topics(teller):
        topics.setdefault(topic.title, topic)
    for title in [title for title, topic in topics.items() if topic.size < TOPIC_AT_LEAST]:
        del topics[title]
        counts["topics_with_too_little_text_dropped"] += 1
        first.setdefault("topics_with_too_little_text_dropped", title)
    references = References(topics, modules, members)
    sizes = Counter(topic.package for topic in topics.values() if topic.home)
    articles = []
    for title, topic in topics.items():
        labels = [f"chapter.{chapter_of(topic.home) if topic.home else 'reference'}"]
        if sizes[topic.package] >= PACKAGE_AT_LEAST:
            labels.append(f"package.{topic.package}")
        articles.append(
            {
                "title": title,
                "paragraphs": paragraphs(topic.entries),
                "links": references.of(topic),
                "labels": labels,
            }
        )
        kind = "class" if topic.is_class else "module" if topic.home else "language"
        counts[f"{kind}_topics"] += 1
    return {"articles": articles, "counts": counts, "first_dropped": first}


def _imported(counts: Counter[str], first: dict[str, str]) -> dict[str, types.ModuleType]:
    """Name -> module for every module that is documented, packages opened, in order of names."""
    modules: dict[str, types.ModuleType] = {}

    def visit(name: str) -> None:
        if is_left_out(name):
            counts["modules_left_out_by_rule"] += 1
            first.setdefault("modules_left_out_by_rule", name)
            return
        try:
            module = importlib.import_module(name)
        except ImportError:
            counts["modules_not_in_this_build"] += 1
            first.setdefault("modules_not_in_this_build", name)
            return
        modules[name] = module
        for below in sorted(e.name for e in pkgutil.iter_modules(getattr(module, "__path__", ()))):
            visit(f"{name}.{below}")

    # Some warn or print when imported; neither is of interest to who asked for a corpus.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for name in sorted(sys.stdlib_module_names):
            visit(name)
    counts["modules_read"] = len(modules)
    return modules


def _members(modules: dict[str, types.ModuleType]) -> Members:
    """Classes and routines, each at one place only: where it says it belongs.

    Packages show again what their modules hold (`asyncio.Queue` is of `asyncio.queues`).
    """
    places: dict[int, list[tuple[str, str, Any]]] = defaultdict(list)
    for module_name, module in modules.items():
        exported = getattr(module, "__all__", None)
        for name, thing in sorted(vars(module).items(), key=lambda item: item[0]):
            if not (inspect.isclass(thing) or inspect.isroutine(thing)):
                continue
            own = getattr(thing, "__module__", None) in (module_name, None)
            if (own or exported is not None) and pydoc.visiblename(name, exported, module):
                places[id(thing)].append((module_name, name, thing))
    members: Members = {name: {} for name in modules}
    for shown in places.values():
        thing = shown[0][2]
        home = (getattr(thing, "__module__", None), getattr(thing, "__name__", None))
        module_name, name, _ = max(shown, key=lambda p: (p[0] == home[0], p[1] == home[1]))
        members[module_name][name] = thing
    return members


def _module_topics(
    modules: dict[str, types.ModuleType], members: Members, teller: Teller
) -> Iterator[Topic]:
    """A module and its larger classes; all in one if else too little were left for the module."""
    for module_name, module in modules.items():
        own = teller.module_entries(module_name, module)
        whole = list(own)
        larger = []
        things = sorted(members[module_name].items())
        for name, thing in things:
            if inspect.isclass(thing):
                told = tuple(teller.class_entries(name, thing))
                topic = Topic(f"{module_name}.{name}", module_name, thing, told)
                if topic.size >= CLASS_TOPIC:
                    larger.append(topic)
                else:
                    own += told
                whole += told
        routines = [
            teller.routine_entry(n, thing) for n, thing in things if not inspect.isclass(thing)
        ]
        apart = Topic(module_name, module_name, module, (*own, *routines))
        if apart.size >= TOPIC_AT_LEAST:
            yield from (apart, *larger)
        else:
            yield Topic(module_name, module_name, module, (*whole, *routines))


def _language_topics(teller: Teller) -> Iterator[Topic]:
    """The chapters that `help()` shows for keywords and for `help("topics")`.

    Some contain others whole; the shorter ones come first, so that the longer keep what is theirs.
    """
    try:
        chapters = importlib.import_module("pydoc_data.topics").topics
    except ImportError:  # a Python that was packaged without them
        return
    for label, text in sorted(chapters.items(), key=lambda item: (len(item[1]), item[0])):
        heading = blocks(text)[0].split("\n")[0]
        told = teller.chapter_entries(text)
        yield Topic(heading.replace('"', ""), "", label, tuple(told))
