"""How a user's own documents hang together with the corpus that they are the target of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.graph import LINK_TYPES, TopicGraph
from kncl_env.world.index import PassageIndex
from kncl_env.world.text.mentions import mentions


def join_documents(
    graph: TopicGraph,
    documents: NDArray[np.int64],
    titles: Sequence[str],
    vectors: NDArray[np.float32],
    visible: Iterable[tuple[int, str]],
    k: int,
) -> TopicGraph:
    """The graph, in which documents are linked with the corpus: after the links that they state,
    with the titles that their visible text mentions, and the nearest topics.

    Args:
        documents: Topics that are documents, ascending.
        titles: (N,) of all topics.
        vectors: (N, D) unit rows.
        visible: `(topic, text)` of the documents' visible passages.
        k: Nearest topics of the corpus that a document is linked with.
    """
    mention, similar = LINK_TYPES.index("mention"), LINK_TYPES.index("similar")
    rows = graph.rows()
    for row, mentioned in zip(rows, mentions(titles, visible), strict=True):
        row += [(target, mention) for target in mentioned]
    corpus = np.setdiff1d(np.flatnonzero(np.any(vectors, axis=1)), documents)
    index = PassageIndex.build(vectors[corpus], corpus, corpus_hash="")
    for topic, nearest in zip(documents.tolist(), index.search(vectors[documents], k), strict=True):
        rows[topic] += [(int(target), similar) for target in nearest]
    return TopicGraph.from_links(len(rows), rows)


PUBLIC = (
    "public: links that the corpus states stay, those of hidden text, too; links that are read off "
    "text come from what is visible"
)


def links_of(graph: TopicGraph, topics: NDArray[np.int64]) -> dict[str, int | str]:
    """Links that begin, and that end, at some topics: what a card tells of a target."""
    inside = np.zeros(len(graph), dtype=bool)
    inside[topics] = True
    return {
        "links_from": int(graph.out_degree[topics].sum()),
        "links_to": int(inside[graph.indices].sum()),
        "links": PUBLIC,
    }
