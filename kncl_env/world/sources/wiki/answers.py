"""Reading what a MediaWiki API sends: an answer, an error in some disguise, or a redirect.

Pure functions over status, headers and bytes; they know no connection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from kncl_env.world.sources.wiki.errors import (
    ApiError,
    ForeignRedirectError,
    HttpError,
    LaggedError,
    NotJsonError,
    RateLimitedError,
    RefusedError,
    ServerFailedError,
    TruncatedJsonError,
    UnexpectedAnswerError,
    WikiError,
)
from kncl_env.world.sources.wiki.etiquette import retry_after
from kncl_env.world.sources.wiki.page_cache import Absent

_DEFAULT_LAG_WAIT = 5.0  # [s], Manual:Maxlag parameter
_KEEPS_OUT = {"blocked", "autoblocked", "globalblocking", "readapidenied", "permissiondenied"}


def parse(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    wait = retry_after(headers)
    if status == 429:
        raise RateLimitedError("HTTP 429", wait=wait)
    if status >= 500:
        raise ServerFailedError(f"HTTP {status}", wait=wait)
    if status in (401, 403):
        raise RefusedError(f"HTTP {status}: see the wiki's rules for user agents and rates")
    if status != 200:
        raise HttpError(f"HTTP {status}", wait=wait)
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        start = body[:200].lstrip()
        if start[:1] in (b"{", b"["):
            raise TruncatedJsonError(f"{len(body)} bytes that end too early: {error}") from error
        kind = headers.get("content-type", "no content type")
        raise NotJsonError(f"{kind}, beginning {start[:40]!r}", wait=wait) from error
    if not isinstance(answer, dict):
        raise UnexpectedAnswerError(f"expected an object, got {type(answer).__name__}")
    if "error" in answer:
        raise _api_error(answer["error"], wait)
    return answer


def _api_error(error: Any, wait: float | None) -> WikiError:
    fields = error if isinstance(error, dict) else {}
    code, info = str(fields.get("code", error)), str(fields.get("info", ""))[:200]
    if code == "maxlag":
        return LaggedError(info, wait=_DEFAULT_LAG_WAIT if wait is None else wait)
    if code == "ratelimited":
        return RateLimitedError(info, wait=wait)
    if code == "readonly" or code.startswith("internal_api_error"):
        return ServerFailedError(f"{code}: {info}", wait=wait)
    if code in _KEEPS_OUT:
        return RefusedError(f"{code}: {info}")
    return ApiError(f"{code}: {info}", wait=wait)


def next_address(url: str, location: str) -> str:
    """Where a redirect leads, if that is the same host, and no step back from https.

    Raises:
        ForeignRedirectError: It leads elsewhere, or nowhere, or would have us log in.
    """
    old = urlsplit(url)
    try:
        target = urljoin(url, location)
        new = urlsplit(target)
    except ValueError:  # brackets that are no address
        raise ForeignRedirectError(f"from {old.netloc} to {location!r}") from None
    upgraded = old.scheme == "http" and new.scheme == "https"
    same = old.hostname == new.hostname and (
        (old.scheme == new.scheme and _port(old) == _port(new))
        or (upgraded and (_port(old), _port(new)) == (80, 443))
    )
    if not location or not same or "@" in new.netloc or not target.isprintable():
        raise ForeignRedirectError(f"from {old.netloc} to {target or 'nowhere'}")
    return target


def _port(parts: SplitResult) -> int | None:
    try:
        return parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:  # not a number
        return None


def records(query: Any, name: str) -> list[dict[str, Any]]:
    found = query.get(name, []) if isinstance(query, dict) else None
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise UnexpectedAnswerError(f"expected a list of {name}, got {str(found)[:80]!r}")
    return found


def title_of(record: Mapping[str, Any]) -> str:
    title = record.get("title")
    if not isinstance(title, str) or not title.strip() or _is_broken(title):
        raise UnexpectedAnswerError(f"expected the title of a page, got {title!r}")
    return title


def text_of(record: Mapping[str, Any]) -> str | None:
    """Lead text; None where the wiki has none to give."""
    text = record.get("extract")
    return text if isinstance(text, str) and text.strip() and not _is_broken(text) else None


def _is_broken(text: str) -> bool:
    """Whether JSON's escapes smuggled in half a character, which no file could hold."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def position_of(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Where a long answer goes on, as it is to be asked for; empty at its end."""
    position = answer.get("continue", {})
    if not isinstance(position, dict) or any(
        not isinstance(part, str | int) or _is_broken(f"{name}{part}")
        for name, part in position.items()
    ):
        raise UnexpectedAnswerError(f"expected a position, got {position!r}")
    return position


def number_of(record: Mapping[str, Any], name: str) -> int:
    number = record.get(name)
    if type(number) is not int or number < 0:
        raise UnexpectedAnswerError(f"expected {name} of a page, got {number!r}")
    return number


def absence(asked: str, record: Mapping[str, Any]) -> Absent | None:
    """Why a record stands for no article; None where it stands for one.

    What a namespace is called is the wiki's own affair: it writes the name before the first colon
    of the title, whatever name, alias or language it was asked in.
    """
    if record.get("invalid"):
        return Absent(asked, "invalid_title", str(record.get("invalidreason", "no title at all")))
    if record.get("ns", 0) != 0:
        title = title_of(record)
        return Absent(
            asked,
            "other_namespace",
            f"expected an article, got {title} of the namespace {title.partition(':')[0]}: walks "
            "begin at articles and stay among them",
        )
    if record.get("missing"):
        return Absent(asked, "missing", f"the wiki has no page {record.get('title')}")
    return None


def is_disambiguation(record: Mapping[str, Any]) -> bool:
    """Whether the wiki itself marks a page as one that lists what its title may mean."""
    marks = record.get("pageprops")
    return isinstance(marks, dict) and "disambiguation" in marks


def leads_nowhere(title: str, query: Any) -> Absent:
    if isinstance(query, dict) and query.get("redirects"):
        return Absent(title, "redirect_loop", "the wiki's own redirects lead in a circle")
    if isinstance(query, dict) and query.get("interwiki"):
        return Absent(title, "other_wiki", "the title belongs to another wiki")
    return Absent(title, "invalid_title", "the wiki knows no page for this title")
