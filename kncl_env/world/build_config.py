"""How a corpus becomes a world: settings, checked before any work; light, so that help is, too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SCENARIOS = ("broad", "focused", "noisy", "distant")
OF_A_REGION = ("focused", "distant")

# Where links come from: the corpus itself, titles in the text, nearest neighbours.
CONNECTIONS = ("links", "mentions", "similar")

TFIDF = "tfidf"  # the embedder that is fitted on the corpus; others are model directories
AUTO = "auto"

VOCABULARY = (257, 2**20)  # [token ids] all bytes and the end of text, and what no text needs
MOST_NOISE = 0.9

# [kB] of a target's visible sample: where none is asked for, if a third of the target is that much,
# and at least. The least is some thirty windows of 64 tokens, which a policy's reward is told by.
SAMPLE_KB, LEAST_SAMPLE_KB = 200, 4


@dataclass(frozen=True)
class BuildConfig:
    """How a corpus becomes a world.

    Attributes:
        scenario: `broad`: every topic counts alike; `focused`: one region far from the nucleus
            counts; `noisy`: as broad, with unlabelled junk in the training text; `distant`: a
            region or documents of one's own count, none of whose text is trained on.
        region: Target region, focused or distant; the farthest fitting one, if not named.
        vocab_size: Token ids of the world's tokenizer.
        passage_bytes: Size of a passage [bytes], about.
        held_out: Share of a topic's passages in each of the three held-out splits.
        dimensions: Size D of topic vectors, at most.
        max_terms: Terms of the embedding's vocabulary, at most.
        noise_share: Share of the training bytes that is junk in the noisy scenario.
        seed: Seed of splits, noise, vectors and clusters.
        connect: Where links come from, among `CONNECTIONS`; if empty, the corpus's own links, and
            where it has none, mentions and nearest neighbours.
        neighbours: Nearest neighbours that a topic is linked with, where it is.
        clusters: Topics that the articles are gathered into by likeness: a number, or `auto`; each
            article is a topic, if None.
        embedder: `tfidf`, or the directory of a model of transformers or sentence-transformers.
        target: Where one's own documents lie that are the target of a distant world, if any.
        sample_kb: Size of the target's visible sample [kB], in a distant world; 200, or a third of
            the target where that is less, if None.
    """

    scenario: str = "broad"
    region: str | None = None
    vocab_size: int = 512
    passage_bytes: int = 600
    held_out: float = 0.05
    dimensions: int = 128
    max_terms: int = 30_000
    noise_share: float = 0.3
    seed: int = 0
    connect: tuple[str, ...] = ()
    neighbours: int = 10
    clusters: int | str | None = None
    embedder: str = TFIDF
    target: str | None = None
    sample_kb: int | None = None

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise ValueError(f"expected a scenario among {SCENARIOS}, got {self.scenario!r}")
        if self.region is not None and self.scenario not in OF_A_REGION:
            raise ValueError(
                f"expected no region in the {self.scenario} scenario, got {self.region!r}: "
                f"use --scenario {' or '.join(OF_A_REGION)}"
            )
        self._check_distant()
        if self.noise_share != BuildConfig.noise_share and self.scenario != "noisy":
            raise ValueError(
                f"expected no share of noise in the {self.scenario} scenario, got "
                f"{self.noise_share}: use --scenario noisy"
            )
        low, high = VOCABULARY
        if not low <= self.vocab_size <= high:
            raise ValueError(
                f"expected a vocabulary of {low} (all bytes) to {high:,} token ids, got "
                f"{self.vocab_size}"
            )
        if self.passage_bytes < 50:
            raise ValueError(f"expected passages of at least 50 bytes, got {self.passage_bytes}")
        if not 0 < self.held_out <= 1 / 6:
            raise ValueError(f"expected 0 < held_out <= 1/6, got {self.held_out}")
        if not 0 < self.noise_share <= MOST_NOISE:
            raise ValueError(f"expected 0 < noise_share <= {MOST_NOISE}, got {self.noise_share}")
        object.__setattr__(self, "connect", tuple(self.connect))
        unknown = [kind for kind in self.connect if kind not in CONNECTIONS]
        if unknown or len(set(self.connect)) < len(self.connect):
            raise ValueError(
                f"expected each of {', '.join(CONNECTIONS)} once, or none, to connect topics by, "
                f"got {','.join(self.connect)}"
            )
        counted = type(self.clusters) is int and self.clusters > 1
        if not counted and self.clusters not in (None, AUTO):
            raise ValueError(f"expected 2 or more clusters, or {AUTO}, got {self.clusters}")
        if not self.embedder.strip():
            raise ValueError(
                f"expected {TFIDF} or a model directory as embedder, got an empty name"
            )
        for name in ("dimensions", "max_terms", "neighbours"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"expected a seed of 0 to {2**32 - 1}, got {self.seed}")

    def _check_distant(self) -> None:
        for name, value in (("target", self.target), ("sample-kb", self.sample_kb)):
            if value is not None and self.scenario != "distant":
                raise ValueError(
                    f"expected no --{name} in the {self.scenario} scenario, got {value}: use "
                    "--scenario distant"
                )
        if self.target is not None and self.region is not None:
            raise ValueError(
                f"expected a region or documents as the target, got both ({self.region}; "
                f"{self.target}): leave --region or --target out"
            )
        if self.sample_kb is not None and self.sample_kb < LEAST_SAMPLE_KB:
            raise ValueError(
                f"expected a visible sample of {LEAST_SAMPLE_KB} kB or more, got {self.sample_kb}: "
                "no reward could be told by it, raise --sample-kb"
            )
        if self.scenario == "distant" and self.clusters is not None and self.target is None:
            raise ValueError(
                "expected topics that are articles in a distant world of a region, got --clusters: "
                "they gather a region's documents with others; name the documents by --target"
            )

    def to_json(self) -> dict[str, Any]:
        """What a card states and a world's hash covers.

        Settings that came later stand there where they are not as before they came: worlds of then
        keep their hash. A model directory and documents stand by their name, not by where they lie.
        """
        found = asdict(self)
        for name in LATER:
            if found[name] == getattr(BuildConfig, name):
                del found[name]
        if self.embedder != TFIDF:
            found["embedder"] = Path(self.embedder).resolve().name
        if self.target is not None:
            found["target"] = Path(self.target).resolve().name
        return found


LATER = ("connect", "neighbours", "clusters", "embedder", "target", "sample_kb")
