"""`kncl-policy record`, `surrogate`, `taste`, `train`: what is learned from reward."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from policies.cli.runs import begin, check_region, warm_up
from train_lm.command_line import claim_output


def record_parser(verbs: Any, with_settings: bool) -> None:
    verb = verbs.add_parser("record", help="play episodes and write down what a surrogate needs")
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument("--policy", nargs="+", required=True, help="arms: as for evaluate")
    verb.add_argument("--episodes", type=int, default=4, help="episodes of each (4)")
    verb.add_argument("--out", type=Path, required=True, metavar="F.jsonl")
    verb.add_argument(
        "--extra-probes", type=int, default=32, help="more topics probed per step (32)"
    )
    verb.add_argument("--learners", type=int, default=4, help="episodes played at once (4)")
    verb.add_argument("--seed", type=int, default=0, help="seed of the first episode (0)")
    verb.set_defaults(action=_record)
    if with_settings:
        from policies.cli.settings import add_settings

        add_settings(verb)


def surrogate_parser(verbs: Any) -> None:
    verb = verbs.add_parser("surrogate", help="fit a formula for the learner to recorded episodes")
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument("--episodes", type=Path, nargs="+", required=True, metavar="F.jsonl")
    verb.add_argument("--out", type=Path, required=True, metavar="S.json")
    verb.add_argument("--force", action="store_true")
    verb.set_defaults(action=_surrogate)


def taste_parser(verbs: Any, with_settings: bool) -> None:
    verb = verbs.add_parser("taste", help="learn from reward which passages are worth reading")
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument("--out", type=Path, required=True, metavar="T.json")
    verb.add_argument("--episodes", type=int, default=32, help="episodes of random tastes (32)")
    verb.add_argument(
        "--trials", type=int, default=4, help="episodes at each share of the text to read (4)"
    )
    verb.add_argument(
        "--policy", default="random", help="chooses the topics of the trials: an arm (random)"
    )
    verb.add_argument("--learners", type=int, default=4, help="episodes played at once (4)")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument(
        "--force", action="store_true", help="replace T.json; the episodes beside it are used again"
    )
    verb.set_defaults(action=_taste)
    if with_settings:
        from policies.cli.settings import add_settings

        add_settings(verb)


def train_parser(verbs: Any, with_settings: bool) -> None:
    verb = verbs.add_parser("train", help="train a policy by reward in the environment")
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument("--init", type=Path, metavar="POLICY", help="start from this policy")
    verb.add_argument("--out", type=Path, required=True, metavar="POLICY")
    verb.add_argument("--iterations", type=int, default=20, help="rollouts (20)")
    verb.add_argument("--episodes", type=int, default=4, help="episodes per rollout (4)")
    verb.add_argument("--learners", type=int, default=4, help="episodes played at once (4)")
    verb.add_argument("--policy-learning-rate", type=float, default=3e-4, help="(3e-4)")
    verb.add_argument(
        "--sharpen", type=float, default=4.0, help="factor on the scores of --init (4)"
    )
    verb.add_argument("--entropy", type=float, default=0.01, help="entropy bonus (0.01)")
    verb.add_argument(
        "--leash", type=float, default=0.0, help="weight of the divergence from the start (0)"
    )
    verb.add_argument(
        "--potentials",
        nargs="+",
        default=(),
        metavar="NAME:WEIGHT",
        help="intrinsic terms: learning-progress, novelty, information-gap, compression-progress",
    )
    verb.add_argument(
        "--practice", type=Path, metavar="S.json", help="begin in this surrogate of the learner"
    )
    verb.add_argument(
        "--taste", type=Path, metavar="T.json", help="read only what is to this taste (--init's)"
    )
    verb.add_argument("--practice-iterations", type=int, default=100, help="rollouts there (100)")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--force", action="store_true", help="begin again")
    verb.set_defaults(action=_train)
    if with_settings:
        from policies.cli.settings import add_settings

        add_settings(verb)


def _record(args: argparse.Namespace) -> int:
    import torch
    from rich.progress import Progress

    from kncl_env.stage import Setup
    from kncl_env.vector import side_by_side, worth_compiling
    from kncl_env.world.world import World
    from policies.cli.settings import settings_of
    from policies.play.recording import RECORD_SEED, record

    torch.set_num_threads(1)
    world = World.open(args.world)
    settings = settings_of(args)
    setup = Setup.from_settings(settings)
    updates = len(args.policy) * args.episodes * setup.steps * setup.updates_per_step
    together = side_by_side(
        world, args.learners, compile=worth_compiling(updates), progress=True, **settings
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with Progress(transient=True) as bar:
        task = bar.add_task("episodes", total=len(args.policy) * args.episodes)
        record(
            world,
            together,
            args.policy,
            args.episodes,
            args.out,
            args.extra_probes,
            RECORD_SEED + args.seed,
            lambda _: bar.advance(task),
        )
    print(f"{args.out}: {args.episodes} episodes of {', '.join(args.policy)}")
    return 0


def _surrogate(args: argparse.Namespace) -> int:
    from kncl_env.surrogate import Transfer
    from kncl_env.world.world import World
    from policies.learn.surrogate_fit import fit
    from policies.play.recording import read_episodes

    claim_output(args.out, args.force)
    world = World.open(args.world)
    header, episodes = read_episodes(args.episodes)
    if header["world"] != world.hash:
        raise ValueError(
            f"expected episodes of world {world.hash[:12]}, got {header['world'][:12]}'s: "
            "name the world they were recorded in"
        )
    transfer = Transfer(world.graph, world.topic_vectors)
    target = world.target_topics(header["settings"]["region"])
    found = fit(header, episodes, target, transfer)
    found.save(args.out)
    print(json.dumps({"dynamics": vars(found.dynamics), "error": found.error}, indent=1))
    return 0


def _taste(args: argparse.Namespace) -> int:
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from kncl_env.passage_traits import TRAITS
    from kncl_env.retrieval import NeighbourhoodRetriever
    from kncl_env.stage import Setup
    from kncl_env.vector import side_by_side, worth_compiling
    from kncl_env.world.world import World
    from policies.cli.settings import settings_of
    from policies.learn.tasting import SHARES, learn_taste

    torch.set_num_threads(1)
    claim_output(args.out, args.force)
    world = World.open(args.world)
    settings = settings_of(args)
    setup = Setup.from_settings(settings)
    check_region(world, setup.region)
    episodes = args.episodes + args.trials * len(SHARES)
    updates = episodes * setup.steps * setup.updates_per_step
    together = side_by_side(
        world, args.learners, compile=worth_compiling(updates), progress=True, **settings
    )
    retriever = together.envs[0].retriever
    assert isinstance(retriever, NeighbourhoodRetriever)
    with Console(stderr=True).status("measuring the passages, once for this world"):
        retriever.traits.levels  # noqa: B018
    with Progress(transient=True) as bar:
        task = bar.add_task("episodes", total=episodes)
        found = learn_taste(
            world,
            together,
            args.out,
            episodes=args.episodes,
            trials=args.trials,
            arm=args.policy,
            seed=args.seed,
            on_episode=lambda: bar.advance(task),
        )
    print("worth of each trait's levels, low to high [thousandths of the reducible loss a step]")
    for name, row in zip(TRAITS, found["taste"]["worth"], strict=True):
        print(f"  {name:20s} " + " ".join(f"{1000 * x:+6.1f}" for x in row))
    print(f"R² of rewards held out: {found['reward_r2']:.2f}")
    for share, value in found["returns"].items():
        print(f"  reading {float(share):4.0%} of the text: return {value:.4f}")
    print(f"{args.out}: reads the best {found['taste']['share']:.0%}, {found['tokens']:,} tokens")
    return 0


def _train(args: argparse.Namespace) -> int:
    import torch

    from kncl_env.stage import Setup
    from kncl_env.surrogate import Surrogate
    from kncl_env.taste import load_taste
    from kncl_env.vector import worth_compiling
    from kncl_env.world.world import World
    from policies.cli.settings import settings_of
    from policies.curiosity import CuriosityConfig, CuriosityPolicy
    from policies.learn.potentials import parse_potentials
    from policies.learn.ppo import PPOConfig, Start, starting_network, train_ppo
    from policies.learn.vec_env import make_practice_env, make_vec_env
    from train_lm.files import hash_file

    torch.set_num_threads(1)
    config = PPOConfig(
        iterations=args.iterations,
        episodes=args.episodes,
        learners=args.learners,
        learning_rate=args.policy_learning_rate,
        entropy=args.entropy,
        sharpen=args.sharpen,
        leash=args.leash,
        potentials=parse_potentials(args.potentials),
        seed=args.seed,
    )
    init = CuriosityPolicy.load(args.init) if args.init else None
    taste = load_taste(args.taste) if args.taste else init.taste if init else None
    world = World.open(args.world)
    settings = settings_of(args)
    setup = Setup.from_settings(settings)
    check_region(world, setup.region)
    begin(
        args.out, args.force, [p for p in (args.world, args.init, args.practice, args.taste) if p]
    )
    surrogate = Surrogate.load(args.practice) if args.practice else None
    if surrogate and args.practice_iterations < 1:
        raise ValueError(f"expected --practice-iterations >= 1, got {args.practice_iterations}")
    warm_up(world.path, settings)
    provenance = {
        "made_by": "ppo",
        "world": world.hash,
        "settings": settings,
        "init": str(args.init) if args.init else None,
        "surrogate": hash_file(args.practice) if surrogate else None,
    }
    noise = world.passage_is_noise[world.windows(setup.context).document]

    updates = config.iterations * config.episodes * setup.steps * setup.updates_per_step

    def train(
        out: Path, config: PPOConfig, practice: Surrogate | None, **start: Any
    ) -> CuriosityPolicy:
        shared = config.learners, dict(config.potentials), config.gamma, taste
        env = (
            make_practice_env(practice, world, *shared, **settings)
            if practice
            else make_vec_env(world, *shared, compile=worth_compiling(updates), **settings)
        )
        try:
            return train_ppo(
                env,
                setup.steps,
                out,
                config,
                Start(taste=taste, provenance=provenance, **start),
                noise,
                _teller("practice" if practice else "iteration", config.iterations),
            )
        finally:
            env.close()

    if surrogate:
        print(f"practice in a surrogate, off by {json.dumps(surrogate.error)}")
        # The leash holds to what practice started from, through both.
        shape = init.network.config if init else CuriosityConfig(seed=config.seed)
        anchor = starting_network(shape, init, config.sharpen)
        rehearsal = replace(config, iterations=args.practice_iterations)
        init = train(args.out / "practice", rehearsal, surrogate, init=init)
        train(args.out, replace(config, sharpen=1.0), None, init=init, anchor=anchor)
    else:
        train(args.out, config, None, init=init)
    print(f"{args.out}: trained on {config.iterations * config.episodes} episodes")
    return 0


def _teller(label: str, total: int) -> Callable[[dict[str, float]], None]:
    """Prints a line per iteration, with an ETA."""
    began = time.monotonic()
    first: list[int] = []

    def tell(figures: dict[str, float]) -> None:
        done = int(figures["iteration"])
        first.append(done)
        pace = (time.monotonic() - began) / (done - first[0] + 1)
        print(
            f"{label} {done}/{total}: return {figures['return']:.4f}, "
            f"{figures['steps_per_second']:.1f} steps/s, "
            f"{figures['learner_share']:.0%} of the time in the learner, "
            f"{pace * (total - done) / 60:.1f} min left",
            flush=True,
        )

    return tell
