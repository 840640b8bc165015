"""What `help()` tells about a class or a routine, as clean entries of text, each told once.

It knows objects and their doc strings; which of them are topics it does not know.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import pydoc
import re
import sys
import sysconfig
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

PARAGRAPH = 800  # [characters] a longer entry is parted at its blank lines, or else at any
TOGETHER = 150  # [characters] shorter entries share a paragraph

_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_UNDERLINE = re.compile(r"(?m)^[ \t]*[*=~^-]{3,}[ \t]*\n?")
_BOILERPLATE = re.compile(
    r"Alias for field number \d+|See PEP 585|list of weak references to the object.*"
    r"|dictionary for instance variables.*|Create and return a new object.*"
)


class Teller:
    """Tells every doc string once; what was told already, or what all classes say, is dropped.

    Args:
        counts: Gains what was dropped, by reason.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._told: set[str] = set()

    def module_entries(self, name: str, module: Any) -> list[str]:
        """The NAME and DESCRIPTION sections of a module's help."""
        synopsis, description = pydoc.splitdoc(self._doc(module))
        return ([f"{name} - {synopsis}"] if synopsis else []) + blocks(description)

    def class_entries(self, name: str, cls: type) -> Iterator[str]:
        """A class's head, then what it defines itself, in the order of its source."""
        bases = ", ".join(pydoc.classname(base, cls.__module__) for base in cls.__bases__)
        head = f"class {name}({bases})" if cls.__bases__ != (object,) else f"class {name}"
        signature = _signature(cls)
        doc = self._doc(cls)
        if signature not in ("", "()") and not doc.startswith(f"{name}("):
            head += f"\n{name}{signature}"
        yield f"{head}\n{doc}".rstrip()
        for attribute, raw in vars(cls).items():
            if not pydoc.visiblename(attribute, None, cls):
                continue
            special = attribute.startswith("__")
            value = raw.__func__ if isinstance(raw, (classmethod, staticmethod)) else raw
            if inspect.isroutine(value):
                entry, doc = self._routine(attribute, value)
                # Without a doc string, help() repeats that of the base's method.
                inherited = any(hasattr(base, attribute) for base in cls.__bases__)
                if doc or not (special or inherited):
                    yield entry
            elif inspect.isdatadescriptor(value) and not special:
                doc = self._doc(value)
                if doc:
                    yield f"{attribute}\n{doc}"

    def routine_entry(self, name: str, thing: Any) -> str:
        """A function's signature and what it says."""
        return self._routine(name, thing)[0]

    def chapter_entries(self, text: str) -> list[str]:
        """The blocks of a chapter, its heading aside, that no earlier one holds."""
        return [textwrap.dedent(block) for block in self._new_blocks(blocks(text)[1:])]

    def _routine(self, name: str, thing: Any) -> tuple[str, str]:
        doc = self._doc(thing, name)
        if doc.startswith(f"{name}("):  # C code without a signature states it in its doc string
            return doc, doc
        kind = "async " if inspect.iscoroutinefunction(thing) else ""
        return f"{kind}{name}{_signature(thing) or '(...)'}\n{doc}".rstrip(), doc

    def _doc(self, thing: Any, name: str = "") -> str:
        """The thing's own doc string, not its type's or its base's; '' if dropped."""
        doc = getattr(thing, "__doc__", None)
        if not isinstance(doc, str) or (not isinstance(thing, type) and doc == type(thing).__doc__):
            return ""
        doc = _UNDERLINE.sub("", _ADDRESS.sub("", inspect.cleandoc(doc)))
        special = name.startswith("__")
        if _BOILERPLATE.fullmatch(doc) or (special and doc in _special_docs()):
            self._counts["boilerplate_docs_dropped"] += 1
            return ""
        doc = "\n".join(line.rstrip() for line in doc.split("\n"))
        return "\n\n".join(self._new_blocks(blocks(doc)))

    def _new_blocks(self, candidates: Iterable[str]) -> Iterator[str]:
        for block in candidates:
            key = " ".join(block.split())
            if key in self._told:
                self._counts["repeated_blocks_dropped"] += 1
            else:
                self._told.add(key)
                yield block


def blocks(text: str) -> list[str]:
    """The runs of lines between blank ones, without underlines of headings."""
    parts = re.split(r"\n[ \t]*\n", _UNDERLINE.sub("", text))
    return [part.strip("\n") for part in parts if part.strip()]


def paragraphs(entries: Iterable[str]) -> tuple[str, ...]:
    """Part long entries at blank lines, let short ones share a paragraph."""
    done: list[str] = []
    short: list[str] = []

    def flush() -> None:
        text = "\n".join(short)
        if len(text) < TOGETHER // 2 and done:
            done[-1] += f"\n{text}" if text else ""
        else:
            done.append(text)
        short.clear()

    for entry in entries:
        if len(entry) < TOGETHER and "\n\n" not in entry:
            if sum(map(len, short)) + len(entry) > PARAGRAPH // 2:
                flush()
            short.append(entry)
            continue
        if short:
            flush()
        piece = ""
        for block in _parted(entry):
            if piece and len(piece) + len(block) > PARAGRAPH:
                done.append(piece)
                piece = ""
            piece = f"{piece}\n{block}" if piece else block
        done.append(piece)
    if short:
        flush()
    return tuple(done)


def _parted(entry: str) -> Iterator[str]:
    """The blocks of an entry; one of many lines (a table, a long list) in several."""
    for block in blocks(entry):
        if len(block) <= 2 * PARAGRAPH:
            yield block
            continue
        lines: list[str] = []
        for line in block.split("\n"):
            if sum(map(len, lines)) + len(line) > PARAGRAPH and lines:
                yield "\n".join(lines)
                lines = []
            lines.append(line)
        yield "\n".join(lines)


def _signature(thing: Any) -> str:
    try:
        signature = _ADDRESS.sub("", str(inspect.signature(thing)))
    except Exception:  # some code in C states a signature that Python cannot evaluate
        return ""
    for value, expression in _machine_values():
        signature = signature.replace(value, expression)
    return signature


@functools.cache
def _machine_values() -> tuple[tuple[str, str], ...]:
    """Default values that were computed on this machine, and the expressions they come from."""
    return (
        (str(sys.maxsize), "sys.maxsize"),
        (repr(sys.executable), "sys.executable"),
        (repr(sysconfig.get_default_scheme()), "get_default_scheme()"),
    )


@functools.cache
def _special_docs() -> frozenset[str]:
    """What built-in types say of `__add__` and the like: every class written in C repeats it."""
    return frozenset(
        inspect.cleandoc(value.__doc__)
        for cls in (object, *(t for t in vars(builtins).values() if isinstance(t, type)))
        for name, value in vars(cls).items()
        if name.startswith("__") and isinstance(getattr(value, "__doc__", None), str)
    )
