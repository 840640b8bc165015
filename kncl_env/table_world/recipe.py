"""What the table is of: a small generated world, the rules of its episodes, and how many of them.

Everything that a rebuild needs is here; the file of the table names its digest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from kncl_env.settings import Settings
from kncl_env.world.build import BuildConfig, build_world
from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic
from kncl_env.world.stages import clear
from kncl_env.world.world import World
from train_lm.files import Json, cache_folder, hash_json
from train_lm.outputs import alone

TABLE_VERSION = 1  # raised whenever a rebuild would come out otherwise

CORPUS = SyntheticConfig(
    n_topics=16,
    n_communities=2,
    links_within=1,
    links_between=1,
    noise_share=0.13,
    redundant_share=0.13,
    seed=3,
)
BUILD = BuildConfig(scenario="focused", region="community.0", passage_bytes=300, vocab_size=300)
RULES = Settings.of(
    model="xxs",
    nucleus_topics=3,
    nucleus_updates=60,
    steps=4,
    updates_per_step=6,
    slots=4,
    batch=8,
    probes=16,
    noise_floor=0.05,
    breadth=24,
)


@dataclass(frozen=True)
class TableRecipe:
    """A world of which everything is measured.

    Attributes:
        corpus: Two communities; some topics are noise, some tell another's facts again.
        build: A region of it is the target.
        settings: Rules, learner and nucleus; an episode is as deep as the table.
        draws: Episodes, each with slots and an order of text of its own.
    """

    corpus: SyntheticConfig = CORPUS
    build: BuildConfig = BUILD
    settings: Settings = RULES
    draws: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= 127:
            raise ValueError(f"expected 1 to 127 draws, got {self.draws}")

    @property
    def digest(self) -> str:
        """Of what is not usual: a setting that joins with its default voids no table."""
        corpus = _unusual(asdict(self.corpus), asdict(SyntheticConfig()))
        build = _unusual(asdict(self.build), asdict(BuildConfig()))
        settings = _unusual(self.settings.to_json(), Settings().to_json())
        parts = {"corpus": corpus, "build": build, "settings": settings}
        return hash_json({"version": TABLE_VERSION, "draws": self.draws, **parts})

    def world(self) -> World:
        """The world, built once for this user's cache; that takes seconds."""
        place = cache_folder() / f"table-world-{self.digest[:16]}"
        place.parent.mkdir(parents=True, exist_ok=True)
        with alone(place, wait=True):  # two commands may want it for the first time
            if _is_whole(place):
                clear(place)
                return World.open(place)
            return build_world(read_synthetic(self.corpus), place, self.build)


def _unusual(found: Json, usual: Json) -> Json:
    return {name: value for name, value in found.items() if value != usual[name]}


def _is_whole(place: Path) -> bool:
    return (place / "world.json").is_file()
