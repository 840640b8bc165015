"""PPO for the curiosity function: sb3-contrib's MaskablePPO around our network.

Training goes in iterations of whole episodes. Each begins from fresh episodes with seeds of its
own, so a run that was stopped goes on from the last iteration with the same bytes.
"""

from __future__ import annotations

import copy
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.policies import MaskableMultiInputActorCriticPolicy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor, nn

from kncl_env.memory import stored
from kncl_env.settings import Settings
from kncl_env.taste import Taste
from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
from policies.learn.behind import Behind
from policies.learn.potentials import Weights, checked_potentials
from policies.play.seeds import TRAINING
from policies.verdict.accounting import SPENT
from train_lm.checked.arrays import reason
from train_lm.checkpoint import Checkpoints, claim_run, cut_metrics
from train_lm.files import Json, append_line, hash_json, naming
from train_lm.plain_text import in_markdown

MADE_BY = "kncl-policy train"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PPOConfig:
    """How PPO trains. Defaults suit episodes of tens of expensive steps.

    Attributes:
        iterations: Rollouts, each followed by an update.
        episodes: Episodes per rollout, over all learners.
        learners: Episodes played side by side, their learners in one bank.
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
        leash: Weight of the divergence [nats] from the policy that training started from; 0 is
            off (Ziegler et al. 2019, arXiv:1909.08593).
        potentials: Intrinsic terms with their weights, as in `(("novelty", 0.1),)`; see
            `potentials.py`. Whoever builds the environments wraps them in `Shaped` with these.
        normalise: Divide rewards by the running deviation of their discounted return, so that
            the critic's targets are of one size in every world.
        seed: Seed of everything.
        lag: Updates that the weights which act are behind those which learn, where workers play
            by themselves while PPO learns; None plays in lockstep with it.
    """

    iterations: int = 20
    episodes: int = 4
    learners: int = 4
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
    leash: float = 0.0
    potentials: Weights = ()
    normalise: bool = True
    seed: int = 0
    lag: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "potentials", checked_potentials(self.potentials))
        if not self.leash >= 0:
            raise ValueError(f"expected a leash of 0 or more, got {self.leash}")
        for name in ("iterations", "episodes", "learners", "epochs", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} >= 1, got {getattr(self, name)}")
        if self.lag is not None and self.lag < 0:
            raise ValueError(f"expected a staleness of 0 updates or more, got {self.lag}")
        if self.episodes % self.learners:
            raise ValueError(
                f"expected episodes that {self.learners} learners share evenly, got {self.episodes}"
            )


# What an environment says of a step; SB3 and Gymnasium leave its values open.
Info = Json

# What SB3's running statistics of the discounted return consist of.
MOMENTS = ("mean", "var", "count")


# (B,) actions, (B, 1) values and (B,) log-probabilities.
Acted = tuple[Tensor, Tensor, Tensor]

# (B, A) which actions are allowed; SB3 hands over either kind.
Mask = NDArray[np.bool_] | Tensor


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
    """SB3's view of a `CuriosityNetwork`, with a leash.

    SB3's loss has one place for a bonus that can be computed from the distribution: the entropy's.
    `evaluate_actions` fills it with `entropy * H(pi) - leash * KL(pi || pi_start)`, so MaskablePPO
    itself stays as it is. The divergence is that of the whole masked distribution, exact and
    differentiable; a penalty per sampled action on the reward would estimate the same with noise,
    and would be scaled and discounted with the rewards.

    Args:
        entropy: Weight of the entropy; SB3's own must be 1.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        lr_schedule: Callable[[float], float],
        network: CuriosityConfig,
        entropy: float = 0.0,
    ) -> None:
        self._network_config = network
        self._entropy = entropy
        # In a tuple, so that its weights are not the policy's: nothing may train or save them.
        self._leash: tuple[float, CuriosityNetwork | None] = (0.0, None)
        self.seen: list[tuple[float, float]] = []  # mean H and KL of each batch [nats]
        self._acted: Callable[[], Acted] | None = None
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            ortho_init=False,
            features_extractor_class=_Flat,
        )

    def hold(self, start: CuriosityNetwork, weight: float) -> None:
        """Lay the leash: the policy pays for leaving `start`."""
        self._leash = (weight, start.eval().requires_grad_(False))

    def follow(self, acted: Callable[[], Acted]) -> None:
        """Choose what was chosen elsewhere; `acted` tells of the step that comes next."""
        self._acted = acted

    def forward(
        self, obs: PyTorchObs, deterministic: bool = False, action_masks: Mask | None = None
    ) -> Acted:
        if self._acted is not None:
            return self._acted()
        return super().forward(obs, deterministic, action_masks)  # type: ignore[arg-type]

    def evaluate_actions(
        self, obs: PyTorchObs, actions: Tensor, action_masks: Mask | None = None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        assert isinstance(obs, dict)
        logits, values = self.mlp_extractor(self.extract_features(obs))
        distribution = self._get_action_dist_from_latent(logits)
        if action_masks is not None:
            distribution.apply_masking(action_masks)
        entropy = distribution.entropy()
        assert entropy is not None  # a masked categorical distribution always has one
        bonus: Tensor = self._entropy * entropy
        weight, start = self._leash
        kl = torch.zeros_like(entropy)
        if start is not None and weight > 0:
            with torch.no_grad():
                other = start(obs["candidates"], obs["context"])[0]
            kl = masked_kl(logits, other, action_masks)
            bonus = bonus - weight * kl
        self.seen.append((entropy.mean().item(), kl.mean().item()))
        return values, distribution.log_prob(actions), bonus

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


def masked_kl(logits: Tensor, other: Tensor, mask: Mask | None = None) -> Tensor:
    """(B,) KL divergence [nats] of softmax(logits) from softmax(other), over allowed actions.

    Args:
        logits, other: (B, A).
        mask: (B, A) what is allowed; everything, if None.
    """
    allowed = torch.ones_like(logits, dtype=torch.bool)
    if mask is not None:
        allowed = torch.as_tensor(mask, dtype=torch.bool, device=logits.device).view_as(logits)
    # Finite, and not -inf: 0 · inf would be NaN, in the gradient too.
    least = torch.finfo(logits.dtype).min
    p, q = (torch.log_softmax(x.masked_fill(~allowed, least), -1) for x in (logits, other))
    return torch.where(allowed, p.exp() * (p - q), 0.0).sum(-1)


class _Progress(BaseCallback):
    """Collects what the environment says of each step.

    Args:
        behind: Corrects a rollout for who acted in it, if that was not the policy that learns.
    """

    def __init__(self, behind: Behind | None) -> None:
        super().__init__()
        self.infos: list[Info] = []
        self._behind = behind

    def _on_step(self) -> bool:
        self.infos.extend(i for i in self.locals["infos"] if "reward" in i)
        return True

    def _on_rollout_end(self) -> None:
        if self._behind is not None:
            assert isinstance(self.model, MaskablePPO)
            self._behind.correct(self.model)
        self.model.policy.seen.clear()  # type: ignore[operator, union-attr]


@dataclass(frozen=True, eq=False)
class Start:
    """What training begins with.

    Attributes:
        init: Start from this policy's weights; its network's size is kept. A fresh network, if
            None.
        anchor: What the leash holds to; what training starts from, if None.
        taste: That of the episodes that are played; the trained policy keeps it.
        provenance: How the episodes came to be, ready for JSON; the run is claimed with it and the
            trained policy keeps it.
        spent: What the policy will have cost, ready for JSON; the trained policy keeps it.
    """

    init: CuriosityPolicy | None = None
    anchor: CuriosityNetwork | None = None
    taste: Taste | None = None
    provenance: Mapping[str, object] = field(default_factory=dict)
    spent: Sequence[Json] = ()


FRESH = Start()


def train_ppo(
    env: VecEnv,
    steps: int,
    out: Path,
    config: PPOConfig,
    start: Start = FRESH,
    noise: NDArray[np.bool_] | None = None,
    on_iteration: Callable[[dict[str, float]], None] = lambda _: None,
) -> CuriosityPolicy:
    """Train a policy; resumes from the last finished iteration in `out`.

    Args:
        env: Vectorised environment of `config.learners` members; with a lag, of
            `config.episodes` ones that are played ahead.
        steps: Steps of an episode; every episode is assumed to run its full budget.
        out: Run and policy directory.
        noise: (W,) truth about junk windows, for accounting only.
        on_iteration: Told the figures of each iteration.

    Raises:
        ValueError: `out` holds a run with other settings.
    """
    out.mkdir(parents=True, exist_ok=True)
    init = start.init
    shape = CuriosityConfig(seed=config.seed) if init is None else init.network.config
    started = {"ppo": asdict(config), "network": asdict(shape), **start.provenance}
    if start.taste is not None:
        started["taste"] = hash_json(start.taste.to_json())
    _claim(out, started, init)
    behind = None if config.lag is None else Behind(env, config.lag, config.iterations)  # type: ignore[arg-type]
    if config.normalise:
        env = VecNormalize(env, norm_obs=False, gamma=config.gamma)
    model = _model(env, steps, config, shape)
    policy: CuriosityActorCritic = model.policy  # type: ignore[assignment]
    policy.network.load_state_dict(starting_network(shape, init, config.sharpen).state_dict())
    anchor = policy.network if start.anchor is None else start.anchor
    policy.hold(copy.deepcopy(anchor), config.leash)
    if behind is not None:
        policy.follow(behind.env.acted)
    done = _load_checkpoint(out, policy, env, behind)
    if done:
        log.info("going on after iteration %d of %d", done, config.iterations)
    cut_metrics(out / "metrics.jsonl", done, "iteration")
    events = configure(str(out / "tensorboard"), ["tensorboard"])
    model.set_logger(events)
    try:
        for iteration in range(done, config.iterations):
            began = time.monotonic()
            only_critic = init is not None and iteration < config.critic_iterations
            for name, parameter in policy.network.named_parameters():
                parameter.requires_grad_(name.startswith("value") or not only_critic)
            infos = _iterate(model, steps, config, iteration, behind)
            at_once = getattr(env, "at_once", 1)  # plain vectors play one member after another
            figures = _figures(infos, config.episodes, time.monotonic() - began, at_once)
            figures["entropy"], figures["kl_to_start"] = np.mean(policy.seen, axis=0).tolist()
            figures |= {} if behind is None else behind.figures(iteration)
            if noise is not None and noise.any():
                read = np.concatenate([stored(info["windows"]) for info in infos])
                figures["noise_share"] = float(np.mean(noise[read]))
            figures["iteration"] = iteration + 1
            for key, value in figures.items():
                model.logger.record(f"kncl/{key}", value)
            model.logger.record("kncl/most_expanded", in_markdown(_most_expanded(infos)))
            with naming(out / "tensorboard"):
                model.logger.dump(model.num_timesteps)
            append_line(out / "metrics.jsonl", figures, durable=False)
            _save_checkpoint(out, policy, env, iteration + 1, behind)
            on_iteration(figures)
    finally:  # its writer is a thread
        with naming(out / "tensorboard"):
            events.close()
    provenance = {**started, "iterations": config.iterations}
    if start.spent:
        provenance[SPENT] = [*start.spent]
    trained = CuriosityPolicy(policy.network, provenance, taste=start.taste)
    trained.save(out)
    return trained


def _model(env: VecEnv, steps: int, config: PPOConfig, shape: CuriosityConfig) -> MaskablePPO:
    return MaskablePPO(
        CuriosityActorCritic,
        env,
        learning_rate=config.learning_rate,
        n_steps=config.episodes // env.num_envs * steps,
        batch_size=config.batch,
        n_epochs=config.epochs,
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
        clip_range=config.clip,
        ent_coef=1.0,  # weighted in `evaluate_actions`, beside the leash
        target_kl=config.target_kl,
        policy_kwargs={"network": shape, "entropy": config.entropy},
        seed=config.seed,
        device="cpu",
    )


def _iterate(
    model: MaskablePPO, steps: int, config: PPOConfig, iteration: int, behind: Behind | None
) -> list[Info]:
    """Play fresh episodes and learn from them; what the environment said of each step."""
    share = iteration / max(1, config.iterations)
    model.lr_schedule = _constant(config.learning_rate * (1 - 0.9 * share))
    # Seeds of this iteration: what comes next depends on nothing that a checkpoint does not hold.
    assert model.env is not None
    side = model.env.num_envs
    begin = TRAINING.first + config.seed * config.iterations * side
    firsts = range(begin, begin + config.iterations * side, side)
    if behind is not None:
        behind.before(iteration, model.policy.network, firsts)  # type: ignore[arg-type]
    model.set_random_seed(firsts[iteration])
    model._last_obs = None  # SB3 resets the environments where there is no last observation
    model.num_timesteps = iteration * config.episodes * steps
    progress = _Progress(behind)
    model.learn(config.episodes * steps, callback=progress, reset_num_timesteps=False)
    return progress.infos


def starting_network(
    shape: CuriosityConfig, init: CuriosityPolicy | None, sharpen: float
) -> CuriosityNetwork:
    """Where training begins: a fresh network, or a sharpened copy of `init`'s."""
    network = CuriosityNetwork(shape)
    if init is not None:
        network.load_state_dict(init.network.state_dict())
        network.sharpen(sharpen)
    return network


def _constant(rate: float) -> Callable[[float], float]:
    return lambda _: rate


def _figures(infos: list[Info], episodes: int, seconds: float, at_once: int) -> dict[str, float]:
    """Figures of one iteration; sums over steps are per episode."""
    found = {
        "return": float(np.sum([i["reward"]["total"] for i in infos])) / episodes,
        "loss_drop": float(np.sum([i["reward"]["loss_drop"] for i in infos])) / episodes,
        "held_out_loss": float(np.mean([i["reward"]["after"] for i in infos])),
        "consolidations": float(np.mean([i["topic"] < 0 for i in infos])),
        "topics": float(len({i["topic"] for i in infos})),
        "steps_per_second": len(infos) / seconds,
        "seconds": seconds,
    }
    found |= _memory_figures(infos, episodes)
    for name in infos[0].get("shaping", {}):
        found[f"shaping/{name}"] = float(np.sum([i["shaping"][name] for i in infos])) / episodes
    if "learner_seconds" in infos[0]:
        spent = float(np.sum([i["learner_seconds"] for i in infos]))
        found["learner_share"] = spent / at_once / seconds
    return found


def _memory_figures(infos: list[Info], episodes: int) -> dict[str, float]:
    """What became of watched topics by the end of an episode, and what the learner wrote itself."""
    found: dict[str, float] = {}
    if infos[0]["memory"]["watched"]:
        ends = [i["memory"] for i in infos if "terminal_observation" in i]
        for name in ("backward_transfer", "forgetting") if ends else ():
            found[f"memory/{name}"] = float(np.mean([end[name] for end in ends]))
    if any(i["memory"]["own_tokens"] for i in infos):
        written = sum(i["memory"]["own_tokens"] for i in infos)
        found["memory/own_tokens"] = float(written) / episodes
    return found


def _most_expanded(infos: list[Info], n: int = 10) -> str:
    bought = Counter(i["title"] or "(consolidate)" for i in infos)
    return ", ".join(f"{count} {title}" for title, count in bought.most_common(n))


def _claim(out: Path, started: Mapping[str, object], init: CuriosityPolicy | None) -> None:
    """Write the run's settings, or check that the run found here has the same."""
    weights = None
    if init is not None:
        weights = hash_json(
            {k: v.numpy().tobytes().hex() for k, v in init.network.state_dict().items()}
        )
    # A setting that an older run does not know is what it is by default.
    defaults = {"ppo": asdict(PPOConfig()), "settings": Settings().to_json()}
    settings = {**started, "init": weights}
    claim_run(out, settings, defaults if "settings" in started else None, made_by=MADE_BY)


def _save_checkpoint(
    out: Path, policy: CuriosityActorCritic, env: VecEnv, iteration: int, behind: Behind | None
) -> None:
    """Network and Adam, the running statistics of the rewards, and weights that have yet to act."""
    arrays = {f"network.{k}": v for k, v in policy.network.state_dict().items()}
    for i, entry in policy.optimizer.state_dict()["state"].items():
        arrays |= {f"adam.{i}.{k}": torch.as_tensor(v) for k, v in entry.items()}
    arrays |= {} if behind is None else behind.to_tensors()
    more: dict[str, object] = {}
    if isinstance(env, VecNormalize):
        # JSON keeps every bit of a double.
        more["returns"] = {k: float(v) for k, v in vars(env.ret_rms).items() if k in MOMENTS}
    Checkpoints(out, "iteration").keep(iteration, arrays, more=more)


def _load_checkpoint(
    out: Path, policy: CuriosityActorCritic, env: VecEnv, behind: Behind | None = None
) -> int:
    """Return to the last good checkpoint, if there is one; the iterations done."""
    kept = Checkpoints(out, "iteration")
    found = kept.newest()
    if found is None:
        return 0
    kept.forget_others()
    arrays = found.tensors
    state: dict[int, dict[str, Tensor]] = {}
    try:
        policy.network.load_state_dict(
            {k.removeprefix("network."): v for k, v in arrays.items() if k.startswith("network.")}
        )
        parameters = list(policy.parameters())
        for key, value in arrays.items():
            if key.startswith("adam."):
                _, index, name = key.split(".")
                if value.ndim and value.shape != parameters[int(index)].shape:
                    raise ValueError(f"{key} of shape {tuple(value.shape)}")
                state.setdefault(int(index), {})[name] = value
        whole = policy.optimizer.state_dict()
        policy.optimizer.load_state_dict({**whole, "state": state})
        if behind is not None:
            behind.load(arrays, found.done)
    except (RuntimeError, ValueError, LookupError, TypeError) as error:
        raise ValueError(
            f"expected a checkpoint of this run in {found.file}, got {reason(error)}: add --force "
            "to begin again"
        ) from None
    if isinstance(env, VecNormalize):
        moments = found.card.inner("returns")
        for name in MOMENTS:
            setattr(env.ret_rms, name, np.float64(moments.number(name)))
    return found.done
