"""Settings, nested by who reads them, parsed once at the edge and passed on as values.

`gym.make`, command lines and files on disk know the flat names (`nucleus_updates=400`); the house
knows `settings.nucleus.updates`. `OPTIONS` joins the two, and is where `--help` takes its words
from. A new setting enters here, in the group of its reader, with its default: runs and caches of
before then mean what they meant.
"""

from __future__ import annotations

import math
from dataclasses import Field, dataclass, field, fields, replace
from numbers import Integral, Real
from typing import Any

from train_lm.model import PRESETS
from train_lm.steps.schedule import AVERAGES, SCHEDULES

ADAPTERS = ("none", "lora", "relora")
UPDATES = ("full", "topk", "lowrank")
MEMORIES = ("none", "replay", "ewc", "self")
CHOICES = ("expansions", "solid", "reservoir", "loss")


def _setting(default: Any, help: str, name: str = "") -> Any:
    """A field with its words for `--help`, and its flat name where it is not the field's own."""
    return field(default=default, metadata={"help": help, "name": name})


def _among(group: Any, name: str, known: tuple[str, ...]) -> None:
    said = next(one.metadata["name"] or one.name for one in fields(group) if one.name == name)
    if getattr(group, name) not in known:
        raise ValueError(f"expected {said} among {', '.join(known)}, got {getattr(group, name)!r}")


def _at_least(least: int, group: Any, *names: str) -> None:
    said = {one.name: one.metadata["name"] or one.name for one in fields(group)}
    for name in names:
        value = getattr(group, name)
        if not (math.isfinite(value) and value >= least):
            raise ValueError(f"expected {said[name]} >= {least}, got {value}")


@dataclass(frozen=True)
class Rules:
    """Rules of an episode; the environment reads them.

    Attributes:
        slots: Candidates K offered at a time.
        steps: Budget of an episode [expansions].
        updates_per_step: Learner updates per expansion.
        probes: Slots whose topic is probed per observation; the rest keep their last reading.
        noise_floor: Change of a probe loss that means nothing [bits per byte].
        watched: Solid topics whose neighbourhood's held-out loss is measured at each step.
        backward_weight: Weight of their loss drop in the reward.
    """

    slots: int = _setting(64, "candidates offered at a time [topics]")
    steps: int = _setting(60, "budget of an episode [expansions]")
    updates_per_step: int = _setting(10, "updates of the learner per expansion")
    probes: int = _setting(16, "candidates whose loss is measured at each step [topics]")
    noise_floor: float = _setting(
        0.02, "change of a topic's loss that means nothing [bits per byte]"
    )
    watched: int = _setting(
        0,
        "solid topics, half of them of the nucleus, whose neighbourhood's held-out loss is "
        "measured at each step, to tell what is forgotten; 0 measures none [topics]",
    )
    backward_weight: float = _setting(
        0.0, "weight in the reward of the loss drop of watched topics, as a share like the rest"
    )

    def __post_init__(self) -> None:
        _at_least(1, self, "slots", "steps", "updates_per_step", "probes")
        _at_least(0, self, "noise_floor", "watched", "backward_weight")
        if self.backward_weight and not self.watched:
            raise ValueError(
                f"expected watched >= 1 for a backward_weight of {self.backward_weight}, got 0: "
                "what is not measured cannot be paid"
            )


@dataclass(frozen=True)
class LearnerSettings:
    """The learner: what is trained, and how.

    Attributes:
        model: Preset of its architecture, which says the context, too.
        learning_rate: Peak learning rate of nucleus phase and episode.
        seed: Seed of its initial weights and of its nucleus phase.
        batch: Windows per update.
        schedule: Learning rate of an episode after its warm-up: `decayed` to 0 at its end by a
            cosine, or `constant`. The nucleus phase has a constant one.
        averaging: Which average of an episode's weights is measured in their place: `none`, `ema`
            or `tail`; see `train_lm/steps/schedule.py`.
    """

    model: str = _setting("xs", f"preset of the learner: {', '.join(PRESETS)}")
    learning_rate: float = _setting(3e-3, "peak learning rate of the learner")
    seed: int = _setting(0, "seed of the learner's weights and nucleus phase", "learner_seed")
    batch: int = _setting(16, "windows per update")
    schedule: str = _setting(
        "decayed", f"learning rate of an episode after its warm-up: {', '.join(SCHEDULES)}"
    )
    averaging: str = _setting(
        "none",
        "average of an episode's weights that is measured in their place, for constant rates: "
        f"{', '.join(AVERAGES)}",
    )

    def __post_init__(self) -> None:
        if self.model not in PRESETS:
            raise ValueError(f"expected a model preset among {list(PRESETS)}, got {self.model!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"expected a learning_rate above 0, got {self.learning_rate}")
        _at_least(0, self, "seed")
        _at_least(1, self, "batch")
        _among(self, "schedule", SCHEDULES)
        _among(self, "averaging", AVERAGES)

    @property
    def context(self) -> int:
        """Tokens T per window."""
        return PRESETS[self.model].context


@dataclass(frozen=True)
class NucleusSettings:
    """The nucleus phase: where the learner's knowledge begins.

    Attributes:
        topics: Number of seeds; a thirtieth of the topics, 8 to 150, if 0.
        titles: Seeds by title, in the place of a number.
        text: What the seeds are about, phrases by comma; the topics nearest to each.
        updates: Learner updates of the phase.
    """

    topics: int = _setting(
        0, "seeds of the nucleus; 0 takes a thirtieth of the topics, 8 to 150", "nucleus_topics"
    )
    titles: tuple[str, ...] = _setting(
        (), "seeds of the nucleus by title, in the place of a number", "nucleus_titles"
    )
    text: str = _setting(
        "",
        "what the nucleus is about, phrases by comma: its seeds are the topics nearest to each",
        "nucleus_text",
    )
    updates: int = _setting(2000, "updates of the learner in its nucleus phase", "nucleus_updates")

    def __post_init__(self) -> None:
        object.__setattr__(self, "titles", tuple(self.titles))
        _at_least(0, self, "topics")
        _at_least(1, self, "updates")
        if self.titles and self.text:
            raise ValueError(
                f"expected nucleus_titles or nucleus_text, got both ({', '.join(self.titles)}; "
                f"{self.text}): leave one out"
            )


@dataclass(frozen=True)
class ChangeSettings:
    """Which numbers of the learner an episode changes, and how; the nucleus phase changes all.

    Attributes:
        adapter: `none`, `lora`: weights of low rank beside the learner's own, which stay (Hu et
            al. 2021), or `relora`: a LoRA that is merged into them, and begun anew, every few
            expansions (Lialin et al. 2023).
        adapter_rank, adapter_alpha: Rank of an adapter, and the numerator of its scale alpha/rank.
        merge_every: Steps between two mergings of `relora`.
        updates: Which part of a gradient becomes a step: `full`, `topk` or `lowrank`.
        updates_share: Share of the numbers that `topk` changes.
        updates_rank: Rank of the gradients of `lowrank`.
    """

    adapter: str = _setting("none", f"what an episode trains: {', '.join(ADAPTERS)}")
    adapter_rank: int = _setting(8, "rank of an adapter")
    adapter_alpha: float = _setting(16.0, "scale of an adapter, times its rank")
    merge_every: int = _setting(10, "steps after which relora merges its adapter")
    updates: str = _setting("full", f"what becomes of a gradient: {', '.join(UPDATES)}")
    updates_share: float = _setting(0.05, "share of the learner's numbers that topk changes")
    updates_rank: int = _setting(8, "rank of the gradients of lowrank")

    def __post_init__(self) -> None:
        _among(self, "adapter", ADAPTERS)
        _among(self, "updates", UPDATES)
        _at_least(1, self, "adapter_rank", "merge_every", "updates_rank")
        for name, most in (("adapter_alpha", math.inf), ("updates_share", 1.0)):
            value = getattr(self, name)
            if not (0 < value <= most and math.isfinite(value)):
                raise ValueError(f"expected {name} above 0, at most {most:g}, got {value}")
        if self.adapter != "none" and self.updates != "full":
            raise ValueError(
                f"expected full updates of an adapter, got {self.updates}: take --adapter "
                f"{self.adapter} or --updates {self.updates}"
            )


@dataclass(frozen=True)
class MemorySettings:
    """What keeps earlier text alive while new text is read.

    Attributes:
        rule: `none`, `replay`: old text is read beside the new; `ewc`: the weights are held where
            the nucleus needs them; `self`: the learner writes the old text itself.
        choice: Which old text is replayed; see `kncl_env/memory.py`.
        buffer: Windows that `reservoir` keeps.
        strength: With which `ewc` holds the weights.
    """

    rule: str = _setting(
        "replay", f"what keeps earlier text alive: {', '.join(MEMORIES)}", "memory"
    )
    choice: str = _setting(
        "expansions", f"which old text is replayed: {', '.join(CHOICES)}", "replay_choice"
    )
    buffer: int = _setting(512, "windows that a reservoir keeps", "replay_buffer")
    strength: float = _setting(10.0, "strength of ewc's hold on the weights", "ewc_strength")

    def __post_init__(self) -> None:
        _among(self, "rule", MEMORIES)
        _among(self, "choice", CHOICES)
        _at_least(1, self, "buffer")
        _at_least(0, self, "strength")
        if self.choice != "expansions" and self.rule != "replay":
            raise ValueError(
                f"expected memory replay for a replay_choice of {self.choice}, got {self.rule}: "
                "nothing is replayed there"
            )


@dataclass(frozen=True)
class ReadingSettings:
    """What an expansion reads.

    Attributes:
        breadth: Passages per retrieved neighbourhood.
        replay: Share of an expansion's windows that is old text, where the memory has any.
        queue: Topics whose neighbourhood is retrieved ahead while the learner trains; what is read
            does not depend on it.
    """

    breadth: int = _setting(512, "passages per retrieved neighbourhood")
    replay: float = _setting(0.5, "share of an expansion that is old text (replay, self), 0 to 1")
    queue: int = _setting(
        0, "likely next topics that are retrieved while the learner trains; changes no result"
    )

    def __post_init__(self) -> None:
        _at_least(1, self, "breadth")
        _at_least(0, self, "queue")
        if not 0 <= self.replay < 1:
            raise ValueError(f"expected a replay share of 0 <= replay < 1, got {self.replay}")


@dataclass(frozen=True)
class Settings:
    """All settings of an environment but its world.

    Attributes:
        region: Another target region than the world's own.
    """

    rules: Rules = Rules()
    learner: LearnerSettings = LearnerSettings()
    nucleus: NucleusSettings = NucleusSettings()
    reading: ReadingSettings = ReadingSettings()
    change: ChangeSettings = ChangeSettings()
    memory: MemorySettings = MemorySettings()
    region: str | None = _setting(None, "another target region than the world's own")

    def __post_init__(self) -> None:
        if self.learner.averaging != "none" and self.change.adapter != "none":
            raise ValueError(
                f"expected no averaging with an adapter, got {self.learner.averaging} and "
                f"{self.change.adapter}: the mean of its two factors is not the mean of their "
                "products"
            )
        if self.memory.rule == "ewc" and self.change.adapter != "none":
            raise ValueError(
                f"expected no adapter with memory ewc, got {self.change.adapter}: an adapter's "
                "base stays as it is, and needs no hold"
            )

    @classmethod
    def of(cls, **flat: Any) -> Settings:
        """From flat names, those of `OPTIONS`; what is not named keeps its default.

        Raises:
            TypeError: An unknown name, as of any function.
            ValueError: A value out of its range.
        """
        unknown = sorted(set(flat) - set(OPTIONS))
        if unknown:
            raise TypeError(
                f"got an unexpected keyword argument {unknown[0]!r}: expected settings among "
                f"{', '.join(sorted(OPTIONS))}"
            )
        groups: dict[str, dict[str, Any]] = {}
        for name, value in flat.items():
            option = OPTIONS[name]
            _check_kind(name, value, option.default)
            groups.setdefault(option.group, {})[option.field] = value
        top = groups.pop("", {})
        nested = {group: replace(getattr(cls(), group), **own) for group, own in groups.items()}
        return cls(**nested, **top)

    @classmethod
    def from_json(cls, found: Any, place: object) -> Settings:
        """From what `to_json` gave, perhaps by a version with fewer settings.

        Args:
            place: Where it was read, for the message.

        Raises:
            ValueError: Not settings, or a setting that this version does not know.
        """
        try:
            return cls.of(**found)
        except (TypeError, ValueError) as error:
            raise ValueError(f"expected settings in {place}: {error}") from None

    def to_json(self) -> dict[str, Any]:
        """Flat, as `gym.make` takes them."""
        return {name: _jsonable(self[name]) for name in OPTIONS}

    def __getitem__(self, name: str) -> Any:
        """A setting by its flat name."""
        option = OPTIONS[name]
        return getattr(getattr(self, option.group) if option.group else self, option.field)

    def with_learner_seed(self, seed: int) -> Settings:
        return replace(self, learner=replace(self.learner, seed=seed))

    @property
    def replay_share(self) -> float:
        """Share of an expansion's windows that is old text."""
        return self.reading.replay if self.memory.rule in ("replay", "self") else 0.0

    @property
    def merge_every_updates(self) -> int:
        """Updates of the learner between two mergings of its adapter; 0 where none is merged."""
        merges = self.change.adapter == "relora"
        return self.change.merge_every * self.rules.updates_per_step if merges else 0

    @property
    def windows_per_step(self) -> int:
        return self.rules.updates_per_step * self.learner.batch

    @property
    def tokens_per_step(self) -> int:
        """Token budget of a step."""
        return self.windows_per_step * self.learner.context

    @property
    def tokens_per_episode(self) -> int:
        """Token budget of an episode."""
        return self.rules.steps * self.tokens_per_step


@dataclass(frozen=True)
class Option:
    """Where a flat name leads.

    Attributes:
        group: Field of `Settings` that holds the group; empty for its own fields.
        field: Field of the group.
        default: What holds where nothing is said.
        help: Meaning and unit.
    """

    group: str
    field: str
    default: Any
    help: str


def _options() -> dict[str, Option]:
    found: dict[str, Option] = {}

    def add(group: str, one: Field[Any]) -> None:
        name = one.metadata["name"] or one.name
        found[name] = Option(group, one.name, one.default, one.metadata["help"])

    for top in fields(Settings):
        if top.metadata:
            add("", top)
        else:
            for one in fields(type(top.default)):  # type: ignore[arg-type]
                add(top.name, one)
    return found


OPTIONS = _options()


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _check_kind(name: str, value: Any, default: Any) -> None:
    """Raises: ValueError where a value is of another kind than the default's."""
    if isinstance(default, int):
        fits, kind = isinstance(value, Integral) and not isinstance(value, bool), "a whole number"
    elif isinstance(default, float):
        fits, kind = isinstance(value, Real) and not isinstance(value, bool), "a number"
    elif isinstance(default, tuple):
        fits = isinstance(value, list | tuple) and all(isinstance(t, str) for t in value)
        kind = "a list of titles"
    else:
        fits, kind = isinstance(value, str) or (default is None and value is None), "a name"
    if not fits:
        raise ValueError(f"expected {kind} for {name}, got {value!r}")
