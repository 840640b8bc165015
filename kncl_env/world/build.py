"""From a corpus to a world directory: cut, split, (set a target aside, add noise,) tokenise, embed,
link, index.

Each stage reads files and writes files, in a folder beside the world's place; none holds the text.
A build that was killed goes on with the stage that was under way. The world is hashed once, at the
end, and moved to its place whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.blocks import embed, through, tokenise
from kncl_env.world.build_config import BuildConfig
from kncl_env.world.card import BUILD_LOG, GROWN, REWIRED, WORLD_FORMAT, world_hash
from kncl_env.world.corpus import Corpus
from kncl_env.world.cut import together
from kncl_env.world.drafting import (
    PASSAGES,
    Draft,
    prove_apart,
    read_articles,
    set_target_aside,
    write_passages,
)
from kncl_env.world.embedding import Embedder
from kncl_env.world.graph import TopicGraph
from kncl_env.world.index import PassageIndex
from kncl_env.world.stages import Say, Stages, clear, finished_by, stages_of
from kncl_env.world.tables import read_texts, write_topics
from kncl_env.world.target.documents import with_target
from kncl_env.world.target.links import join_documents, links_of
from kncl_env.world.target.vectors import place_unseen
from kncl_env.world.text.gathered import gathered
from kncl_env.world.text.spaces import embedder_digest, fit_space, load_space
from kncl_env.world.topics import (
    check_target,
    cluster_labels,
    connected,
    farthest_region,
    fitting_regions,
    regions_of,
    target_of,
    transfer_regions,
)
from kncl_env.world.world import World
from train_lm.checked.digests import sealed
from train_lm.checked.rows import RowFile, RowWriter
from train_lm.crew.hands import ALONE, Hands
from train_lm.files import Json, hash_file, hash_json, read_json, write_json
from train_lm.outputs import alone, holds_json
from train_lm.token_files import TRAIN, TokenWriter
from train_lm.tokenizer import bytes_per_token, load_tokenizer, train_tokenizer

TOKENIZER_BYTES = 20_000_000  # of text, about, that the tokenizer is trained on
EMBEDDER_BYTES = 200_000_000  # of text, about, that the embedder is fitted on
# Texts that are tokenised together, at most, and characters, about.
TOKENISED, TOKENISED_CHARACTERS = 4096, 4_000_000
# Texts that are embedded together, at most, and characters, about.
EMBEDDED, EMBEDDED_CHARACTERS = 1024, 8_000_000

VECTORS = "vectors.npy"  # (training passages, D); the index keeps them in its own form

# Raised whenever a stage would leave other files: a build is not gone on with by another version.
BUILD_VERSION = 2
LIBRARIES = ("kncl", "numpy", "pyarrow", "scikit-learn", "scipy", "tokenizers")


def build_world(
    corpus: Corpus,
    out: Path,
    config: BuildConfig,
    say: Say = lambda _: None,
    target: Corpus | None = None,
    hands: Hands = ALONE,
) -> World:
    """Write a world directory; it appears whole or not at all.

    A build that was killed, or that ran out of disk or patience after a minute or more, leaves its
    finished stages in `.NAME.building` beside `out`: the same call goes on there to the same bytes.

    Args:
        say: Told about each stage as it begins, and of what is left out.
        target: Documents of one's own that are a distant world's target.
        hands: Who hashes words, tokenises and embeds; the bytes are the same.

    Raises:
        ValueError: The corpus is too small, the region is unknown, or the target cannot be one.
        ValueError, ConnectionError, ChildProcessError: As of `Hands.played`.
        FileExistsError: `out` is a file, or the folder that we stand in.
    """
    if (target is None) != (config.target is None):
        raise ValueError(
            f"expected documents as the target where the settings name some, got {config.target}"
        )
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"expected a place for a directory, got the file {out}: name another")
    if out.exists() and out.samefile("."):
        raise FileExistsError(
            f"expected another place than the current folder, got {out}: it would be replaced"
        )
    made_from = hash_json(
        {
            "build": BUILD_VERSION,
            "libraries": {name: _version(name) for name in LIBRARIES},
            "settings": asdict(config),
            "embedder": embedder_digest(config),
            "corpus": [corpus.source, corpus.licence, corpus.citation, corpus.fingerprint],
            **({} if target is None else {"target": [target.source, target.fingerprint]}),
        }
    )
    with alone(out):
        identity = finished_by(out, made_from)
        if identity is not None and holds_json(out / "world.json", hash=identity):
            clear(out)
        else:
            with stages_of(out, made_from, say) as stages:
                corpus = gathered(corpus, config, say)
                corpus = corpus if target is None else with_target(corpus, target)
                card = _build(corpus, config, stages, say, hands)
                stages.finish(out, card["hash"])
    return World.open(out)


def _build(corpus: Corpus, config: BuildConfig, stages: Stages, say: Say, hands: Hands) -> Json:
    """Do every stage; returns the card."""
    draft = Draft(stages.world, stages.scratch)
    before = stages.found("cutting and splitting")
    if before is not None and not corpus.fingerprint and corpus.sha256 != before["sha256"]:
        say("the corpus is another than that of the build before: from the beginning")
        stages.forget(None)
    read = stages.run(
        "cutting and splitting", lambda: read_articles(corpus, config, stages.scratch, say)
    )
    aside: Json = {}
    if config.scenario == "distant":
        aside = stages.run(
            "setting the target aside", lambda: set_target_aside(corpus, config, draft, say)
        )
    proof = stages.run(
        "proving splits apart", lambda: prove_apart(corpus, config, draft, say, hands)
    )
    mixing = "mixing in noise" if config.scenario == "noisy" else "writing passages"
    text = stages.run(mixing, lambda: write_passages(config, draft))
    stages.run("training the tokenizer", lambda: _train_tokenizer(draft, text, config))
    tokens = stages.run("tokenising", lambda: _tokenise(draft, hands))
    fitted = stages.run("fitting the embedder", lambda: _fit_embedder(draft, text, config))
    stages.run("embedding", lambda: _embed(draft, hands))
    scenario = stages.run("linking", lambda: _link(draft, corpus, config, say))
    index = stages.run("indexing", lambda: _index(draft, text["corpus_hash"]))

    def write_card() -> Json:
        card: Json = {
            "format": WORLD_FORMAT,
            "source": corpus.source,
            "licence": corpus.licence,
            "citation": corpus.citation,
            "source_sha256": read["sha256"],
            "corpus_hash": text["corpus_hash"],
            "settings": config.to_json(),
            "scenario": scenario["scenario"],
            "counts": {
                "topics": draft.n_topics,
                "links": scenario["links"],
                "passages": sum(text["splits"].values()),
                "bytes": text["bytes"],
                "tokens": tokens["tokens"],
                "bytes_per_token": round(tokens["bytes_per_token"], 4),
                **{f"{s}_passages": n for s, n in text["splits"].items()},
                "overlapping_held_out_passages_dropped": proof["dropped"],
                "noise_passages": text["noise"],
            },
            "source_counts": read["counts"],
            "graph": scenario["graph"],
            **({"target": aside | proof["target"] | scenario["target"]} if aside else {}),
            **fitted,
            **index,
            "hash": "",
        }
        for name, value in corpus.beside.items():
            write_json(stages.world / name, value)
        card["files"] = {f.name: hash_file(f) for f in sorted(stages.world.iterdir())}
        card["hash"] = world_hash(card)
        write_json(stages.world / "world.json", sealed(card))
        return {"hash": card["hash"]}

    found = stages.run("hashing", write_card)
    write_json(stages.world / BUILD_LOG, {"stages": stages.log})
    return found


def is_world(path: Path, made: str | None = None) -> bool:
    """Whether a folder is a world that was built, or was `REWIRED` or `GROWN` as asked.

    It holds nothing else.
    """
    if not holds_json(path / "world.json", format=WORLD_FORMAT):
        return False
    card = read_json(path / "world.json")
    files, known = card.get("files"), {"world.json", BUILD_LOG}
    alone = isinstance(files, dict) and {f.name for f in path.iterdir()} <= {*files, *known}
    # A world that grew may be rewired; one that was rewired and grew is no random copy any more.
    return alone and next((how for how in (REWIRED, GROWN) if how in card), None) == made


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def _train_tokenizer(draft: Draft, text: Json, config: BuildConfig) -> Json:
    # Whole passages up to about a limit: byte pairs need no more, and it bounds the time.
    wanted = draft.split == TRAIN
    if text["train_characters"] > TOKENIZER_BYTES:
        share = TOKENIZER_BYTES / text["train_characters"]
        wanted[wanted] = np.random.default_rng(config.seed).random(wanted.sum()) < share
    texts = (t for group in read_texts(draft.world / PASSAGES, wanted) for t in group)
    train_tokenizer(texts, config.vocab_size).save(str(draft.world / "tokenizer.json"))
    return {}


def _tokenise(draft: Draft, hands: Hands) -> Json:
    """Number of tokens, and bytes per token."""
    file = draft.world / "tokenizer.json"
    sizes = bytes_per_token(load_tokenizer(file))
    counts = np.zeros(len(sizes), dtype=np.int64)
    texts = (text for group in read_texts(draft.world / PASSAGES) for text in group)
    blocks = together(texts, TOKENISED, TOKENISED_CHARACTERS)
    with TokenWriter(draft.world) as writer:
        for ids, lengths in through(file, blocks, tokenise, hands):
            writer.append_all(ids, lengths)
            counts += np.bincount(ids, minlength=len(sizes))
    per_token = float((counts * sizes).sum() / counts.sum())
    return {"tokens": int(counts.sum()), "bytes_per_token": per_token}


def _topic_texts(draft: Draft, wanted: NDArray[np.bool_] | None = None) -> Iterator[str]:
    """Title and text of each topic, or of the wanted ones: what is trained on, or visible."""
    told = draft.told if wanted is None else draft.told & wanted[draft.topic]
    rows = zip(
        draft.topic[told].tolist(),
        (t for group in read_texts(draft.world / PASSAGES, told) for t in group),
        strict=True,
    )
    row = next(rows, None)
    for topic, title in enumerate(draft.titles):
        parts = []
        while row is not None and row[0] == topic:
            parts.append(row[1])
            row = next(rows, None)
        if wanted is None or wanted[topic]:
            yield f"{title}\n" + "\n".join(parts)


def _fit_embedder(draft: Draft, text: Json, config: BuildConfig) -> Json:
    """The embedder sees training text alone, and a target's visible sample; and of much text a
    sample of the topics."""
    wanted, said = None, {}
    if text["train_bytes"] > EMBEDDER_BYTES:
        rng = np.random.default_rng([config.seed, 1])
        wanted = rng.random(draft.n_topics) < EMBEDDER_BYTES / text["train_bytes"]
        said = {"fitted_on_topics": int(wanted.sum()), "of_topics": draft.n_topics}
    if len(draft.unseen):
        wanted = np.ones(draft.n_topics, dtype=bool) if wanted is None else wanted
        wanted[draft.unseen] = False
    texts = list(_topic_texts(draft, wanted))
    embedder = fit_space(texts, config)
    embedder.save(draft.world / "embedder.npz")
    return {"embedder": {**embedder.stated, **said}}


def _embed(draft: Draft, hands: Hands) -> Json:
    """Vectors of the topics and of the training passages."""
    space = draft.world / "embedder.npz"
    embedder = load_space(space)
    # A pretrained model's last bits depend on the number of threads, and on the machine's kernels.
    hands = hands if isinstance(embedder, Embedder) else ALONE
    files = read_texts(draft.world / PASSAGES, draft.split == TRAIN)
    passages = (text for group in files for text in group)
    blocks = (
        block
        for texts in (_topic_texts(draft), passages)
        for block in together(texts, EMBEDDED, EMBEDDED_CHARACTERS)
    )
    found = through(space, blocks, embed, hands)
    with RowWriter(draft.world / "topic_vectors.npy", embedder.dimensions) as topics:
        while topics.rows < draft.n_topics:
            topics.append(next(found))
    with RowWriter(draft.scratch / VECTORS, embedder.dimensions) as trained:
        for vectors in found:
            trained.append(vectors)
    if len(draft.unseen):
        vectors = np.load(draft.world / "topic_vectors.npy")
        seen = np.setdiff1d(draft.target, draft.unseen)
        place_unseen(vectors, seen, draft.unseen, draft.titles, embedder)
        np.save(draft.world / "topic_vectors.npy", vectors)
    return {}


def _link(draft: Draft, corpus: Corpus, config: BuildConfig, say: Say) -> Json:
    """The graph, the target; a corpus without links or labels gets them by likeness."""
    vectors: NDArray[np.float32] = np.load(draft.world / "topic_vectors.npy")
    told = _Told(draft, draft.told)
    graph = draft.graph(say)
    own = draft.target if config.target is not None else draft.target[:0]
    n = draft.n_topics - len(own)  # documents of one's own come last, and have a label
    connect = config.connect
    if len(own) and not graph.indptr[n]:  # what they state does not link the corpus
        connect = connect or ("links", "mentions", "similar")
    graph = connected(graph, draft.titles, vectors, told, replace(config, connect=connect))
    if len(own):
        visible = _Told(draft, draft.told & np.isin(draft.topic, own))
        graph = join_documents(graph, own, draft.titles, vectors, visible, config.neighbours)
    shape, labels = graph.shape(), draft.labels
    say(f"  {shape}")
    if shape.warning:
        say(f"  warning: {shape.warning}")
    if not any(labels[:n]):
        of_corpus = _Told(draft, draft.told & (draft.topic < n))
        labels = cluster_labels(vectors[:n], of_corpus, config.seed) + labels[n:]
    graph.save(draft.world / "graph.npz")
    is_noise = draft.is_noise.tolist()
    write_topics(draft.world / "topics.parquet", draft.titles, labels, is_noise)
    scenario = _scenario(draft, labels, graph, vectors, corpus, config)
    found = {"links": graph.n_edges, "scenario": scenario, "graph": shape.to_json()}
    if draft.aside is not None:
        seen = len(draft.target) - len(draft.unseen)
        found["target"] = {"topics_seen": seen, **links_of(graph, draft.target)}
    return found


@dataclass(frozen=True, eq=False)
class _Told:
    """`(topic, text)` of some passages, read anew each time."""

    draft: Draft
    passages: NDArray[np.bool_]

    def __iter__(self) -> Iterator[tuple[int, str]]:
        file, wanted = self.draft.world / PASSAGES, self.passages
        texts = (text for group in read_texts(file, wanted) for text in group)
        return zip(self.draft.topic[wanted].tolist(), texts, strict=True)


def _index(draft: Draft, corpus_hash: str) -> Json:
    index = PassageIndex.build(
        RowFile(draft.scratch / VECTORS),
        np.flatnonzero(draft.split == TRAIN),
        corpus_hash,
        RowFile(draft.world / "topic_vectors.npy"),
    )
    index.save(draft.world)
    return {} if index.made_as is None else {"index": index.made_as}


def _scenario(
    draft: Draft,
    labels: list[tuple[str, ...]],
    graph: TopicGraph,
    vectors: NDArray[np.float32],
    corpus: Corpus,
    config: BuildConfig,
) -> dict[str, Any]:
    """What counts, and on which regions no policy may be trained."""
    regions, usable = regions_of(labels), draft.usable()
    fitting = fitting_regions(regions, usable)
    region, target = None, np.zeros(0, dtype=np.int64)
    if config.scenario == "focused":
        check_target(regions, usable, config.region, corpus.source)
        has_training = np.zeros(draft.n_topics, dtype=bool)
        has_training[draft.topic[draft.split == TRAIN]] = True
        region = config.region or farthest_region(fitting, graph, vectors, has_training)
        target_of(regions, usable, region, corpus.source)
        target = regions[region]
    elif draft.aside is not None:
        region, target = draft.aside.region, draft.target
    return {
        "name": config.scenario,
        "region": region,
        "transfer_regions": transfer_regions(fitting, target, config.seed),
    }
