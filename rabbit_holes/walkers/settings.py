"""What walks over a world can be asked for: plain values, so that `--help` needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass

# Simulated ones.
WALKERS = ("random", "similar", "wayfinder")
# How a language model walks.
MODES = ("choose", "associate")


@dataclass(frozen=True)
class GenerationSettings:
    """What decides the walks, beside the world and the model.

    Attributes:
        mode: `choose` or `associate`.
        walks: Number of walks.
        depth: [clicks] of a walk at most.
        temperature: 0 always takes the likeliest; higher wanders more.
        seed: Of starts, of links offered and of all draws.
        batch: [walks] that go side by side.
        offered: At most so many links of a page are offered, drawn evenly; 0 offers all.
        starts: Titles that walks begin at, in turn; none draws topics that link on.
        goals: Titles to look for, in turn; none wanders.
        similarity: [cosine] the least at which words match a topic.
        words: [tokens] of an answer in the model's own words at most.
    """

    mode: str = "choose"
    walks: int = 100
    depth: int = 10
    temperature: float = 1.0
    seed: int = 0
    batch: int = 64
    offered: int = 32
    starts: tuple[str, ...] = ()
    goals: tuple[str, ...] = ()
    similarity: float = 0.5
    words: int = 16

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"expected a mode among {MODES}, got {self.mode!r}")
        for name, least in (("walks", 1), ("depth", 1), ("batch", 1), ("words", 1), ("offered", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} >= {least}, got {getattr(self, name)}")
        if self.offered == 1:
            raise ValueError("expected 2 or more links offered, or 0 for all: 1 is no choice")
        if not 0 <= self.temperature < 100:
            raise ValueError(f"expected a temperature from 0 to 100, got {self.temperature}")
        if not 0 < self.similarity <= 1:
            raise ValueError(f"expected a similarity above 0, up to 1, got {self.similarity}")
