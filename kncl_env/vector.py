"""Several episodes side by side, whose learners are one bank: `gymnasium.make_vec`.

The environments are the ordinary ones. Each runs on a thread of its own, and whenever all of them
wait for their learner, the bank trains or measures all learners at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array
from numpy.typing import NDArray

from kncl_env.env import RENDER_MODES, TopicExpansionEnv
from kncl_env.learner import Learner
from kncl_env.settings import Settings
from kncl_env.stage import Stage

Result = TypeVar("Result")

# Updates of all learners together from which on compiling their program is taken to pay: it costs
# half a minute where nothing is cached, and a few seconds where it was compiled before.
WORTH_COMPILING = 4_000


def worth_compiling(updates: int) -> bool:
    """Whether so many learner updates should be compiled, where a compiler is found."""
    import torch

    from train_lm.machine.compiling import can_compile

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return updates >= WORTH_COMPILING and can_compile(device)


class Runner(Protocol):
    """Runs tasks, each of which uses a learner of its own."""

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """What the tasks return; the first one's error, after all have ended."""

    def close(self) -> None:
        """Nothing can be run any more."""


class InTurn:
    """One task after another: for learners that no bank can hold."""

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        results: list[Result] = []
        errors: list[Exception] = []
        for task in tasks:
            try:
                results.append(task())
            except Exception as error:  # the tasks after it have to end, too
                errors.append(error)
        if errors:
            raise errors[0]
        return results

    def close(self) -> None:
        pass


class SideBySide:
    """Environments of one stage whose learners train in lockstep, or in turn.

    Attributes:
        envs: N environments; use them within `run` alone.
    """

    def __init__(self, envs: Sequence[TopicExpansionEnv], runner: Runner) -> None:
        self.envs = list(envs)
        self._runner = runner

    def __len__(self) -> int:
        return len(self.envs)

    def run(self, tasks: Sequence[Callable[[], Result]]) -> list[Result]:
        """Run tasks at once, each of which uses an environment of its own."""
        return self._runner.run(tasks)

    def close(self) -> None:
        """Free the threads; nothing can be run any more."""
        self._runner.close()

    def each(self, task: Callable[[int], Result]) -> list[Result]:
        """`task(i)` for every environment's number, at once."""
        return self.run([partial(task, i) for i in range(len(self.envs))])


def fits_a_bank(settings: Settings) -> bool:
    """Whether one program can train learners with these settings.

    A bank trains its learners on text that it is given: it writes none.
    """
    return settings.memory.rule != "self"


def side_by_side(
    stage: Stage,
    n: int,
    *,
    compile: bool = False,
    render_mode: str | None = None,
    watch: Callable[[Learner], Learner] = lambda learner: learner,
) -> SideBySide:
    """N environments of one stage; their learners are one bank, where one can hold them.

    Args:
        compile: Whether the program of a bank is compiled; see `worth_compiling`.
        render_mode: Of each environment.
        watch: Wraps each learner, such as in a clock.

    Raises:
        ValueError: No environment asked for, or `compile` without a compiler.
    """
    from train_lm.bank.bank import LearnerBank
    from train_lm.bank.lockstep import Lockstep
    from train_lm.machine.cores import cores

    if n < 1:
        raise ValueError(f"expected at least one environment, got {n}")
    if not fits_a_bank(stage.settings):
        singles = [watch(stage.learner()) for _ in range(n)]
        return SideBySide([TopicExpansionEnv(stage, x, render_mode) for x in singles], InTurn())
    trainer = stage.trainer()
    adapter = stage.adapter
    bank = LearnerBank(
        # Adapters stand beside a model that has none yet.
        [trainer.model if adapter is None else stage.plain_trainer().model] * n,
        trainer.config,
        trainer.device,
        compile=compile,
        adapter=adapter,
        threads=cores(),
    )
    lockstep = Lockstep(bank)
    learners = [watch(stage.learner(member)) for member in lockstep.members]
    return SideBySide([TopicExpansionEnv(stage, x, render_mode) for x in learners], lockstep)


class TopicExpansionVectorEnv(gym.vector.VectorEnv[Any, Any, Any]):
    """`gymnasium.make_vec("kncl_env/TopicExpansion-v0", num_envs=N, world=...)`.

    Each member obeys the rules of `TopicExpansionEnv`. A member whose episode has ended is reset
    by the next step, whose action it ignores.

    Args:
        together: The members.
        render_mode: Theirs.
    """

    metadata = {  # noqa: RUF012
        "autoreset_mode": AutoresetMode.NEXT_STEP,
        "render_modes": list(RENDER_MODES),
    }

    def __init__(self, together: SideBySide, render_mode: str | None = None) -> None:
        self.together = together
        self.render_mode = render_mode
        self.num_envs = len(together)
        first = together.envs[0]
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, self.num_envs)
        self.action_space = batch_space(first.action_space, self.num_envs)
        self._over = np.zeros(self.num_envs, dtype=bool)
        self._options: dict[str, Any] | None = None

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Reset all members; member i of seed s takes seed s + i.

        The options hold for the episodes that follow by themselves, too.
        """
        n = self.num_envs
        seeds = [seed] * n if seed is None else seed
        if isinstance(seeds, int):
            seeds = [seeds + i for i in range(n)]
        if len(seeds) != n:
            raise ValueError(f"expected {n} seeds, one per member, got {len(seeds)}")
        self._options = options
        found = self.together.each(
            lambda i: self.together.envs[i].reset(seed=seeds[i], options=options)
        )
        self._over[:] = False
        return self._joined([f[0] for f in found]), self._infos([f[1] for f in found])

    def step(
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        if len(actions) != self.num_envs:
            raise ValueError(f"expected {self.num_envs} actions, got {len(actions)}")

        def one(i: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            env = self.together.envs[i]
            if self._over[i]:
                observation, info = env.reset(options=self._options)
                return observation, 0.0, False, False, info
            observation, reward, terminated, truncated, info = env.step(actions[i])
            return observation, float(reward), terminated, truncated, info

        observations, rewards, terminated, truncated, infos = zip(
            *self.together.each(one), strict=True
        )
        ends, cuts = np.array(terminated, dtype=bool), np.array(truncated, dtype=bool)
        self._over = ends | cuts
        return self._joined(observations), np.array(rewards), ends, cuts, self._infos(infos)

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """A method of every member called, or its attribute."""

        def one(i: int) -> Any:
            found = getattr(self.together.envs[i], name)
            return found(*args, **kwargs) if callable(found) else found

        return tuple(self.together.each(one))

    def render(self) -> tuple[Any, ...] | None:
        """One picture per member in the mode `rgb_array`, else None."""
        return self.call("render") if self.render_mode == "rgb_array" else None

    def close_extras(self, **kwargs: Any) -> None:
        """What `close` does beside gymnasium's own."""
        for env in self.together.envs:
            env.close()
        self.together.close()

    def _joined(self, observations: Sequence[Any]) -> Any:
        space = self.single_observation_space
        return concatenate(space, observations, create_empty_array(space, self.num_envs) or {})

    def _infos(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        joined: dict[str, Any] = {}
        for i, info in enumerate(infos):
            joined = self._add_info(joined, info, i)
        return joined
