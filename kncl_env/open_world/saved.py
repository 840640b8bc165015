"""A world that grew, as a directory: an ordinary world, which anybody may open and play in.

A run in an open world leaves the articles that it fetched and the topics that it expanded, in
order. That is enough to let the world grow again, to the last byte, and to write it. Runs that grew
out of the same world can be joined: the articles of the first come first, as that run had them,
then those of the next that are not there yet.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from kncl_env.open_world.articles import ArticleJournal, Fetched, JournalSource
from kncl_env.open_world.grown import GrownWorld
from kncl_env.open_world.growth import OpenWorld
from kncl_env.open_world.outward import OUTWARD, Outward
from kncl_env.world.card import GROWN, REWIRED, world_hash
from kncl_env.world.corpus import add_texts, new_hash
from kncl_env.world.splits import SPLITS, Passage
from kncl_env.world.tables import PassageWriter, write_topics
from kncl_env.world.world import World
from train_lm.checked.digests import sealed
from train_lm.checked.records import Fields
from train_lm.curriculum import read_curriculum
from train_lm.files import Json, hash_file, read_json, replacing, replacing_folder, write_json
from train_lm.outputs import SETTINGS, alone
from train_lm.token_files import TokenWriter

ARTICLES, CURRICULUM = "articles.jsonl", "curriculum.jsonl"  # of a run
COPIED = ("tokenizer.json", "embedder.npz")
# Of the card of the world that it began with: said anew, or no longer true.
DROPPED = ("files", "hash", "index", "source_sha256", REWIRED)


@dataclass(frozen=True, eq=False)
class Growth:
    """What a run let a world grow into.

    Attributes:
        source: Of what joined.
        world: As it was after the last step.
        came: What each expansion brought, in order.
        hashes: Of the world as it was built, and after each expansion that brought something.
    """

    source: OpenWorld
    world: GrownWorld
    came: tuple[list[Fetched], ...]
    hashes: tuple[str, ...]

    def with_articles(self, came: list[Fetched]) -> Growth:
        """The same, after an expansion that brought these."""
        world = self.source.joined(self.world, came)
        return replace(
            self, world=world, came=(*self.came, came), hashes=(*self.hashes, world.hash)
        )


def replay_growth(base: World, run: Path) -> Growth:
    """Let a world grow as it did in a run, from what the run kept; no wiki is asked.

    Args:
        base: As it was built.
        run: Folder of `kncl-policy run --live`, finished or as far as its last checkpoint.

    Raises:
        FileNotFoundError: A file of the run is missing.
        ValueError: The run is of another world, or a file of it is damaged or does not fit.
        SourceError: An article is not among those that the run kept.
    """
    for name in (SETTINGS, ARTICLES, CURRICULUM):
        if not (run / name).is_file():
            raise FileNotFoundError(
                f"expected {name} in {run}, found none: name the folder of a `kncl-policy run "
                "--live` that has kept a checkpoint"
            )
    settings = Fields.of(read_json(run / SETTINGS), run / SETTINGS)
    if settings.text("world") != base.hash:
        raise ValueError(
            f"expected a run in world {base.hash[:12]} ({base.path}), got {run}, which is of world "
            f"{settings.text('world')[:12]}: name the world that it began with"
        )
    journal = ArticleJournal(run / ARTICLES, {"api": Outward.of(base).api}, read_only=True)
    source = OpenWorld(base, journal, JournalSource(journal), settings.whole("reach", 1))
    found = Growth(source, source.start, (), (base.hash,))
    curriculum = read_curriculum(run / CURRICULUM)
    for step in curriculum.steps:
        for topic in step.topics:
            if topic >= found.world.n_topics:
                raise ValueError(
                    f"expected a topic of the world as it was at {curriculum.file}:{step.line}, "
                    f"got {topic} of {found.world.n_topics}: it is of another run"
                )
            if asked := source.asked_by(found.world, topic):
                found = found.with_articles(source.fetch(asked))
    if found.world.hash != curriculum.world:
        raise ValueError(
            f"expected the world that {curriculum.file} was written in, {curriculum.world[:12]}, "
            f"got {found.world.hash[:12]}: its articles are those of another run"
        )
    return found


def together(growths: Sequence[Growth]) -> Growth:
    """The first growth, and what the others bring besides."""
    found, *others = growths
    for came in (came for other in others for came in other.came):
        if fresh := [one for one in came if one.asked not in found.world.known.topic_of]:
            found = found.with_articles(fresh)
    return found


def save_grown(growth: Growth, out: Path) -> World:
    """Write a world that grew; it appears whole or not at all.

    Topics and passages have the numbers that they had in the (first) run. What came has no labels:
    the regions are those of the world as it was built. In the broad scenario every topic counts,
    those that came among them. It can grow again.

    Raises:
        ValueError: A file of the world that it began with is not as it was built.
        FileExistsError: `out` is a file.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"expected a place for a directory, got the file {out}: name another")
    with alone(out), replacing_folder(out, over=True) as part:
        card = _write(growth, part)
        card["files"] = {file.name: hash_file(file) for file in sorted(part.iterdir())}
        card["hash"] = world_hash(card)
        write_json(part / "world.json", sealed(card))
    return World.open(out)


def _write(growth: Growth, part: Path) -> Json:
    """All files but the card, which is returned without what depends on them."""
    grown = growth.world
    base = grown.base
    for name in COPIED:
        shutil.copyfile(base._whole(name), part / name)
    facts = _write_passages(grown, part)
    labels = [*base._topics["labels"], *[()] * (grown.n_topics - base.n_topics)]
    write_topics(part / "topics.parquet", grown.titles, labels, grown.topic_is_noise.tolist())
    tokens, starts = grown._token_files.tokens, grown._token_files.starts
    with TokenWriter(part) as writer:
        writer.append(tokens[a:b] for a, b in pairwise(starts.tolist()))
    with replacing(part / "topic_vectors.npy", durable=False) as file, file.open("wb") as stream:
        np.save(stream, grown.topic_vectors)
    graph = grown.graph
    graph.save(part / "graph.npz")
    index = grown.index
    index.save(part, facts["corpus_hash"])
    write_json(part / OUTWARD, _outward(grown).to_json())
    card = {name: value for name, value in base.card.items() if name not in DROPPED}
    return {
        **card,
        "corpus_hash": facts["corpus_hash"],
        "counts": {
            **base.card["counts"],
            **facts["counts"],
            "topics": grown.n_topics,
            "links": graph.n_edges,
            "tokens": len(tokens),
            "bytes_per_token": round(facts["counts"]["bytes"] / len(tokens), 4),
            "overlapping_held_out_passages_dropped": grown.left_out
            + base.card["counts"].get("overlapping_held_out_passages_dropped", 0),
        },
        "graph": graph.shape().to_json(),
        **({} if index.made_as is None else {"index": index.made_as}),
        GROWN: {
            "of": base.hash,
            "topics_before": base.n_topics,
            "worlds": [*base.card.get(GROWN, {}).get("worlds", ()), *growth.hashes],
        },
    }


def _write_passages(grown: GrownWorld, part: Path) -> Json:
    """Their hash, and what a card counts of them."""
    digest, n_bytes = new_hash(), 0
    with PassageWriter(part / "passages.parquet") as writer:
        for p in _passages(grown):
            add_texts(digest, (str(p.topic), p.split, p.text, p.noise))
            n_bytes += len(p.text.encode())
            writer.add(p)
    splits = np.bincount(grown.passage_split, minlength=len(SPLITS)).tolist()
    counts = {f"{split}_passages": n for split, n in zip(SPLITS, splits, strict=True)}
    return {
        "corpus_hash": digest.hexdigest(),
        "counts": {"passages": sum(splits), "bytes": n_bytes, **counts},
    }


def _passages(grown: GrownWorld) -> Iterator[Passage]:
    yield from grown.base.passage_rows()
    places = zip(grown.passage_topic.tolist(), grown.passage_split.tolist(), strict=True)
    n = len(grown.base.passage_topic)
    for (topic, split), text in zip(islice(places, n, None), grown.parts.came, strict=True):
        yield Passage(topic, SPLITS[split], text)


def _outward(grown: GrownWorld) -> Outward:
    """What leads out of it now."""
    known = grown.known.topic_of
    names = {name: grown.titles[topic] for name, topic in known.items() if topic >= 0}
    return Outward.of(grown.base).with_links(
        grown.known.rows,
        {name: title for name, title in names.items() if name != title},
        sorted(name for name, topic in known.items() if topic < 0),
    )
