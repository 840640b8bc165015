"""PPO for the curiosity function: sb3-contrib's MaskablePPO around our network.

Training goes in iterations of whole episodes. Each begins from fresh episodes with seeds of its
own, so a run that was stopped goes on from the last iteration with the same bytes.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableMultiInputActorCriticPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv
from torch import Tensor, nn

from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from train_lm.checkpoint import claim_run
from train_lm.files import hash_json, read_json, replacing, write_json

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PPOConfig:
    """How PPO trains. Defaults suit episodes of tens of expensive steps.

    Attributes:
        iterations: Rollouts, each followed by an update.
        episodes: Episodes per rollout, over all workers.
        workers: Processes that play episodes side by side; 1 plays in this process.
        learning_rate: Falls linearly to a tenth over the iterations.
        epochs: Passes over each rollout.
        batch: Steps per update.
        gamma: Discount. Replay pays an expansion back over the next tens of steps.
        gae_lambda: Of generalised advantage estimation (Schulman et al. 2016).
        clip: Clip range of the policy ratio.
        entropy: Weight of the entropy bonus.
        target_kl: Stop an update's epochs beyond this divergence from the rollout's policy.
        critic_iterations: First iterations that fit the value alone: at the hand-over from
            cloning the critic is untrained and would pull the actor anywhere.
        sharpen: Factor on the scores of the policy that training starts from. Walkers err and
            wander, and a clone samples as they do; how far to trust its ranking is a choice.
        seed: Seed of everything.
    """

    iterations: int = 20
    episodes: int = 4
    workers: int = 2
    learning_rate: float = 3e-4
    epochs: int = 8
    batch: int = 64
    gamma: float = 0.95
    gae_lambda: float = 0.95
    clip: float = 0.2
    entropy: float = 0.01
    target_kl: float = 0.03
    critic_iterations: int = 1
    sharpen: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "episodes", "workers", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")
        if self.episodes % self.workers:
            raise ValueError(
                f"expected episodes that {self.workers} workers share evenly, got {self.episodes}"
            )


# Training episodes take their seeds from here on; evaluations play 0, 1, 2, ….
FIRST_SEED = 1_000_000


class BudgetEnds(gym.Wrapper[Any, Any, Any, Any]):
    """Reports a spent budget to SB3 as the end of the task.

    SB3 bootstraps a truncated episode with the value of its last state. Here the budget is a part
    of the task and of the observation, and nothing can be earned after it.
    """

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated or truncated, False, info

    def action_masks(self) -> Any:
        return self.env.unwrapped.action_masks()  # type: ignore[attr-defined]


class _Flat(BaseFeaturesExtractor):
    """SB3 wants one vector per observation: candidates row by row, then the context."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        size = sum(int(np.prod(space.shape or ())) for space in observation_space.values())
        super().__init__(observation_space, size)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        return torch.cat([observations["candidates"].flatten(1), observations["context"]], 1)


class _Scorer(nn.Module):
    """Our network in the place of SB3's `mlp_extractor`; its latents are logits and value."""

    def __init__(self, network: CuriosityNetwork, slots: int, n_context: int) -> None:
        super().__init__()
        self.network = network
        self.slots, self.n_context = slots, n_context
        self.latent_dim_pi, self.latent_dim_vf = slots + 1, 1

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        candidates = features[:, : -self.n_context].view(len(features), self.slots, -1)
        logits, value = self.network(candidates, features[:, -self.n_context :])
        return logits, value

    def forward_actor(self, features: Tensor) -> Tensor:
        return self(features)[0]

    def forward_critic(self, features: Tensor) -> Tensor:
        return self(features)[1]


class CuriosityActorCritic(MaskableMultiInputActorCriticPolicy):
    """SB3's view of a `CuriosityNetwork`."""

    def __init__(self, *args: Any, network: CuriosityConfig, **kwargs: Any) -> None:
        self._network_config = network
        kwargs |= {"features_extractor_class": _Flat, "ortho_init": False}
        super().__init__(*args, **kwargs)

    def _build_mlp_extractor(self) -> None:
        space = self.observation_space
        assert isinstance(space, spaces.Dict)
        slots = (space["candidates"].shape or (0,))[0]
        n_context = (space["context"].shape or (0,))[0]
        self.mlp_extractor = _Scorer(  # type: ignore[assignment]
            CuriosityNetwork(self._network_config), slots, n_context
        )

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        super()._build(lr_schedule)
        self.action_net = nn.Identity()
        self.value_net = nn.Identity()  # type: ignore[assignment]
        # The optimiser was built over the two linear layers that have just been put away.
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    @property
    def network(self) -> CuriosityNetwork:
        return self.mlp_extractor.network  # type: ignore[return-value]


class _Progress(BaseCallback):
    """Collects what the environment says of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.infos: list[dict[str, Any]] = []

    def _on_step(self) -> bool:
        self.infos.extend(i for i in self.locals["infos"] if "reward" in i)
        return True


def make_vec_env(env_id: str, settings: dict[str, Any], workers: int) -> VecEnv:
    """SB3 environments, one process each; several in one process where `workers` is 1."""

    def make() -> gym.Env[Any, Any]:
        import kncl_env  # noqa: F401  # registers the id in a fresh process

        torch.set_num_threads(1)
        return BudgetEnds(gym.make(env_id, disable_env_checker=True, **settings))

    if workers == 1:
        return DummyVecEnv([make])
    return SubprocVecEnv([make] * workers, start_method="forkserver")


def train_ppo(
    env: VecEnv,
    steps: int,
    out: Path,
    config: PPOConfig,
    init: CuriosityPolicy | None = None,
    network: CuriosityConfig | None = None,
    provenance: dict[str, Any] | None = None,
    on_iteration: Callable[[dict[str, float]], None] = lambda _: None,
) -> CuriosityPolicy:
    """Train a policy; resumes from the last finished iteration in `out`.

    Args:
        env: Vectorised environment of `config.workers` members.
        steps: Steps of an episode; every episode is assumed to run its full budget.
        out: Run and policy directory.
        init: Start from this policy's weights; its network's size is kept.
        on_iteration: Told the figures of each iteration.

    Raises:
        ValueError: `out` holds a run with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    shape = (
        init.network.config if init is not None else network or CuriosityConfig(seed=config.seed)
    )
    started = {"ppo": asdict(config), "network": asdict(shape), **(provenance or {})}
    _claim(out, started, init)
    model = MaskablePPO(
        CuriosityActorCritic,
        env,
        learning_rate=config.learning_rate,
        n_steps=config.episodes // config.workers * steps,
        batch_size=config.batch,
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip,
        ent_coef=config.entropy,
        target_kl=config.target_kl,
        policy_kwargs={"network": shape},
        seed=config.seed,
        device="cpu",
    )
    policy: CuriosityActorCritic = model.policy  # type: ignore[assignment]
    done = 0
    if (out / "checkpoint.json").is_file():
        done = _load_checkpoint(out, policy)
        log.info("going on after iteration %d of %d", done, config.iterations)
    elif init is not None:
        policy.network.load_state_dict(init.network.state_dict())
        policy.network.sharpen(config.sharpen)
    model.set_logger(configure(str(out / "tensorboard"), ["tensorboard"]))
    for iteration in range(done, config.iterations):
        began = time.monotonic()
        share = iteration / max(1, config.iterations)
        rate = config.learning_rate * (1 - 0.9 * share)
        model.lr_schedule = _constant(rate)
        only_critic = init is not None and iteration < config.critic_iterations
        for name, parameter in policy.network.named_parameters():
            parameter.requires_grad_(name.startswith("value") or not only_critic)
        # Fresh episodes with seeds of this iteration: what comes next depends on nothing that a
        # checkpoint does not hold.
        # Far from the small seeds that evaluations play.
        first = FIRST_SEED + (config.seed * config.iterations + iteration) * config.workers
        model.set_random_seed(first)
        model._last_obs = None  # SB3 resets the environments where there is no last observation
        model.num_timesteps = iteration * config.episodes * steps
        seen = _Progress()
        model.learn(config.episodes * steps, callback=seen, reset_num_timesteps=False)
        figures = _figures(seen.infos, config.episodes, time.monotonic() - began)
        figures["iteration"] = iteration + 1
        for key, value in figures.items():
            model.logger.record(f"kncl/{key}", value)
        model.logger.dump(model.num_timesteps)
        _save_checkpoint(out, policy, iteration + 1)
        with (out / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(figures) + "\n")
        on_iteration(figures)
    trained = CuriosityPolicy(policy.network, {**started, "iterations": config.iterations})
    trained.save(out)
    return trained


def _constant(rate: float) -> Callable[[float], float]:
    return lambda _: rate


def _figures(infos: list[dict[str, Any]], episodes: int, seconds: float) -> dict[str, float]:
    rewards = [i["reward"]["total"] for i in infos]
    return {
        "return": float(np.sum(rewards)) / episodes,
        "loss_drop": float(np.sum([i["reward"]["loss_drop"] for i in infos])) / episodes,
        "consolidations": float(np.mean([i["topic"] < 0 for i in infos])),
        "topics": float(len({i["topic"] for i in infos})),
        "steps_per_second": len(infos) / seconds,
    }


def _claim(out: Path, started: dict[str, Any], init: CuriosityPolicy | None) -> None:
    """Write the run's settings, or check that the run found here has the same."""
    weights = None
    if init is not None:
        weights = hash_json(
            {k: v.numpy().tobytes().hex() for k, v in init.network.state_dict().items()}
        )
    claim_run(out, {**started, "init": weights})


def _save_checkpoint(out: Path, policy: CuriosityActorCritic, iteration: int) -> None:
    """Network and Adam as safetensors; the JSON that names them is written last."""
    from safetensors.torch import save_file

    arrays = {f"network.{k}": v for k, v in policy.network.state_dict().items()}
    for i, entry in policy.optimizer.state_dict()["state"].items():
        arrays |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in entry.items()}
    file = out / f"checkpoint-{iteration:05d}.safetensors"
    with replacing(file) as temporary:
        save_file({k: v.contiguous() for k, v in arrays.items()}, temporary)
    write_json(out / "checkpoint.json", {"iteration": iteration, "file": file.name})
    for old in out.glob("checkpoint-*.safetensors"):
        if old != file:
            old.unlink()


def _load_checkpoint(out: Path, policy: CuriosityActorCritic) -> int:
    from safetensors.torch import load_file

    card = read_json(out / "checkpoint.json")
    arrays = load_file(out / card["file"])
    policy.network.load_state_dict(
        {k.removeprefix("network."): v for k, v in arrays.items() if k.startswith("network.")}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in arrays.items():
        if key.startswith("adam."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    whole = policy.optimizer.state_dict()
    policy.optimizer.load_state_dict({**whole, "state": state})
    return int(card["iteration"])
