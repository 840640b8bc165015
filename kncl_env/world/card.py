"""The card of a world: what it states, and the check that it states it still."""

from __future__ import annotations

import hashlib
from pathlib import Path

from train_lm.checked.digests import unsealed
from train_lm.checked.inside import check_links, is_plain
from train_lm.checked.records import Fields, is_number, parse_json
from train_lm.files import Json, hash_json, read_json
from train_lm.inputs import SHOWN, note_input
from train_lm.plain_text import visible

WORLD_FORMAT = 1

# What the card of every world states.
CARD = ("source", "licence", "corpus_hash", "settings", "scenario", "counts", "hash", "files")

# Parts of a card that tell what made a world other than a build.
REWIRED, GROWN = "rewired", "grown"

# Time and memory of each stage of the build: they differ from run to run, so no hash covers them.
BUILD_LOG = "build.json"

ADVICE = "rebuild the world"


def world_hash(card: Json) -> str:
    """Identity of a world: every file of it, its target and its settings."""
    return hash_json({k: card[k] for k in ("format", "files", "settings", "scenario")})


def read_card(world: Path) -> Json:
    """The card of a world directory, without its seal.

    Raises:
        FileNotFoundError: No world there.
        ValueError: Another format, the card is damaged or edited, or a link leads out of it.
    """
    file = world / "world.json"
    if not file.is_file():
        raise FileNotFoundError(
            f"expected a world directory at {world}, found no world.json there: "
            "make one with `kncl-env build`"
        )
    check_links(world)
    content = file.read_bytes()
    card = parse_json(content, file)
    found = card.get("format") if isinstance(card, dict) else "something else"
    if type(found) is not int or found != WORLD_FORMAT:
        raise ValueError(
            f"expected world format {WORLD_FORMAT} in {world}, got {found}: "
            "rebuild it with this version"
        )
    missing = [key for key in CARD if key not in card]
    if missing:
        raise ValueError(
            f"expected {', '.join(missing)} in {file}, found none: "
            "the card was edited, rebuild the world"
        )
    _check(Fields.of(card, file, ADVICE))
    card = unsealed(card, file)
    if world_hash(card) != card["hash"]:
        raise ValueError(
            f"expected {file} as it was built, got another: the card was edited, {ADVICE}"
        )
    digest = hashlib.sha256(content).hexdigest()
    note_input(world, digest, str(card["hash"])[:SHOWN], checked=True)
    return card


def _check(card: Fields) -> None:
    for name in ("source", "licence", "corpus_hash", "hash"):
        card.text(name)
    for name in ("citation", "source_sha256"):
        if name in card:
            card.text(name)
    for name in ("counts", "source_counts"):
        counts = card.inner(name) if name in card else ()
        for key in counts:
            if not is_number(0)(card.values[name][key]):
                raise card.inner(name).wrong(key, "a count of 0 or more")
    for name in ("embedder", "index", "target"):
        if name in card:
            card.inner(name)
    if "grown" in card:
        card.inner("grown").text("of")
        card.inner("grown").whole("topics_before")
        card.inner("grown").texts("worlds")
    card.inner("settings")
    scenario = card.inner("scenario")
    scenario.text("name")
    scenario.or_none("region", scenario.text)
    scenario.texts("transfer_regions")
    files = card.inner("files")
    for name in files:
        if not is_plain(name):
            raise ValueError(
                f"expected plain names of files in {card.place}, got {name!r}, which leads "
                f"elsewhere: {ADVICE}"
            )
        files.text(name)


def told_build(world: Path) -> str:
    """How long the build of a world took, its longest stage and its memory; empty if unknown.

    Nothing covers that file by a hash, and nothing depends on it: a damaged one tells nothing.
    """
    try:
        stages = Fields.of(read_json(world / BUILD_LOG), world / BUILD_LOG).inners("stages")
        took = {stage.text("stage"): stage.number("seconds", 0) for stage in stages}
        peak = max(stage.number("peak_bytes", 0) for stage in stages)
        longest = max(took, key=lambda name: took[name])
    except (OSError, ValueError):
        return ""
    return (
        f"{sum(took.values()):,.0f} s, {took[longest]:,.0f} of them {visible(longest)}; "
        f"{peak / 2**30:.2f} GiB at most"
    )
