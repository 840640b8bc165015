"""How a corpus becomes a world: settings, checked before any work; light, so that help is, too."""

from __future__ import annotations

from dataclasses import dataclass

SCENARIOS = ("broad", "focused", "noisy")

VOCABULARY = (257, 2**20)  # [token ids] all bytes and the end of text, and what no text needs
MOST_NOISE = 0.9


@dataclass(frozen=True)
class BuildConfig:
    """How a corpus becomes a world.

    Attributes:
        scenario: `broad`: every topic counts alike; `focused`: one region far from the nucleus
            counts; `noisy`: as broad, with unlabelled junk in the training text.
        region: Target region of the focused scenario; the farthest fitting one, if not named.
        vocab_size: Token ids of the world's tokenizer.
        passage_bytes: Size of a passage [bytes], about.
        held_out: Share of a topic's passages in each of the three held-out splits.
        dimensions: Size D of topic vectors, at most.
        max_terms: Terms of the embedding's vocabulary, at most.
        noise_share: Share of the training bytes that is junk in the noisy scenario.
        seed: Seed of splits, noise and vectors.
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

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise ValueError(f"expected a scenario among {SCENARIOS}, got {self.scenario!r}")
        if self.region is not None and self.scenario != "focused":
            raise ValueError(
                f"expected no region in the {self.scenario} scenario, got {self.region!r}: "
                "use --scenario focused"
            )
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
        for name in ("dimensions", "max_terms"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"expected a seed of 0 to {2**32 - 1}, got {self.seed}")
