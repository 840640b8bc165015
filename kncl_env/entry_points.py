"""What `gym.make` and `gym.make_vec` call: from flat settings to an environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kncl_env.env import RENDER_MODES, TopicExpansionEnv
from kncl_env.settings import Settings
from kncl_env.stage import open_stage
from kncl_env.vector import TopicExpansionVectorEnv, side_by_side
from kncl_env.world.world import World


def topic_expansion(
    world: str | Path | World,
    render_mode: str | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> TopicExpansionEnv:
    """Entry point of `kncl_env/TopicExpansion-v0`.

    Args:
        world: A world or its directory.
        render_mode: `human`, `rgb_array` or None.
        progress: Whether a first nucleus phase shows a progress bar; where a terminal is, if None.
        settings: Flat names of `Settings`, such as `nucleus_updates`.

    Raises:
        TypeError: An unknown setting.
        ValueError: A setting out of its range, or one that does not fit the world.
    """
    parsed = _parsed("topic_expansion", render_mode, settings)
    stage = open_stage(world, parsed, progress)
    return TopicExpansionEnv(stage, stage.learner(), render_mode)


def topic_expansions(
    world: str | Path | World,
    num_envs: int = 1,
    compile: bool = False,
    render_mode: str | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> TopicExpansionVectorEnv:
    """Vector entry point of `kncl_env/TopicExpansion-v0`: the learners of N episodes are one bank.

    Args:
        compile: Whether the learners' program is compiled; see `kncl_env.vector.worth_compiling`.
    """
    parsed = _parsed("topic_expansions", render_mode, settings)
    if num_envs < 1:
        raise ValueError(f"expected at least one environment, got {num_envs}")
    stage = open_stage(world, parsed, progress)
    together = side_by_side(stage, num_envs, compile=compile, render_mode=render_mode)
    return TopicExpansionVectorEnv(together, render_mode)


# `gym.make` reads off an entry point which modes it can wrap (`rgb_array_list`).
topic_expansion.metadata = TopicExpansionEnv.metadata  # type: ignore[attr-defined]


def _parsed(function: str, render_mode: str | None, settings: dict[str, Any]) -> Settings:
    if render_mode not in (None, *RENDER_MODES):
        raise ValueError(
            f"expected render_mode among {', '.join(RENDER_MODES)}, got {render_mode!r}"
        )
    try:
        return Settings.of(**settings)
    except TypeError as error:
        raise TypeError(f"{function}() {error}") from None
