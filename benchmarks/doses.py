r"""Arms that read the sample's nearest text in doses, for what `reading.py` can only correlate.

    kncl-policy evaluate --world worlds/distant --seeds 8 --inits 8 --out runs/doses \
        --policies uniform,benchmarks.doses:From1,benchmarks.doses:From33

Called in the folder that holds `benchmarks/`. `FromR` is the arm `knn` without the R - 1 nearest
passages of each passage of the sample: less close, and it covers less. `CornerD` is `knn` to a Dth
of the sample, the passages around one that is drawn anew each episode: about as close, but it
covers a corner. `From1` is `knn` itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kncl_env.env import TopicExpansionEnv
from kncl_env.stage import Stage
from policies.arms.arm import Ints, Player, Rng
from policies.arms.selection.chosen import budget_of, sample_vectors, selects
from policies.arms.selection.nearest import QUERIES, Vectors, _enough, _Found


class _Further(_Found):
    """Passages around queries, without the nearest of each."""

    def __init__(self, stage: Stage, queries: Vectors, skipped: int) -> None:
        super().__init__(stage, queries)
        self.skipped = skipped

    def up_to(self, k: int) -> Ints:
        return super().up_to(self.skipped + k)[:, self.skipped :]


@dataclass(frozen=True)
class Dose:
    """Reads passages by rounds, as `knn` does.

    Attributes:
        skipped: Passages around each of the sample that are left out.
        parts: What the sample is divided by; 1 for all of it.
    """

    skipped: int = 0
    parts: int = 1

    def begin(self, env: TopicExpansionEnv, rng: Rng) -> Player:
        return selects(self.choose)(env, rng)

    def choose(self, env: TopicExpansionEnv, rng: Rng) -> Ints:
        sample = sample_vectors(env.stage, QUERIES)
        if self.parts > 1:
            middle = sample[rng.integers(len(sample))]
            sample = sample[np.argsort(-(sample @ middle))[: max(1, len(sample) // self.parts)]]
        around = _Further(env.stage, sample, self.skipped)
        return _enough(env, around, budget_of(env), rng.permutation(len(sample)))


From1, From5, From33, From257 = (Dose(skipped=n) for n in (0, 4, 32, 256))
Corner2, Corner4, Corner16 = (Dose(parts=n) for n in (2, 4, 16))
