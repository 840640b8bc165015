"""Where target topics lie in space that no visible text tells of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kncl_env.world.embedding import TextSpace, unit_rows
from kncl_env.world.world import title_text


def place_unseen(
    vectors: NDArray[np.float32],
    seen: NDArray[np.int64],
    unseen: NDArray[np.int64],
    titles: Sequence[str],
    space: TextSpace,
) -> None:
    """Put target topics without visible text between their title and the sample's centroid, in
    place.

    On Wikispeedia that lies nearer to where all of a topic's text would put it (mean cosine 0.75
    of biology, 0.78 of technology) than the title alone (0.53, 0.59), the centroid alone (0.54,
    0.58), or the mean of what is linked with it outside of the target (0.43, 0.57). Adding the
    linked topics to it brings at most 0.01, and they are known by links that hidden text has.

    Args:
        vectors: (N, D) of all topics; those of `seen` topics are of their visible text.
        seen, unseen: Target topics with and without visible text.
        titles: (N,) of all topics.
        space: Of the vectors.
    """
    if not len(unseen):
        return
    middle = unit_rows(vectors[seen].mean(0, dtype=np.float64, keepdims=True))
    own = space([title_text(titles[topic]) for topic in unseen.tolist()])
    vectors[unseen] = unit_rows(own.astype(np.float64) + middle)
