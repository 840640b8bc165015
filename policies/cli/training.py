"""`kncl-policy record`, `surrogate`, `taste`, `train`: what is learned from reward."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from policies.cli.settings import add_learners, add_settings, add_world, settings_of
from train_lm.command_line import GOES_ON, Verbs, comma_separated, say, say_lines
from train_lm.crew.options import add_hands, hands_of
from train_lm.outputs import alone, holds_json
from train_lm.plain_text import in_json


def record_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "record",
        help="play episodes and write down what a surrogate needs",
        description="Play episodes and append each to a file: what was read at each step, and "
        "the losses measured after it. The same command goes on where it was stopped.",
        epilog="Example: kncl-policy record --world worlds/wiki --policies uniform,random,rule "
        "--episodes 4 --out runs/episodes.jsonl",
    )
    add_world(verb)
    verb.add_argument(
        "--policies",
        type=comma_separated,
        required=True,
        metavar="A,B",
        help="arms to play, by comma, as for evaluate",
    )
    verb.add_argument(
        "--episodes", type=int, default=4, metavar="N", help="episodes of each arm (4)"
    )
    verb.add_argument(
        "--out", type=Path, required=True, metavar="F.jsonl", help="file to append episodes to"
    )
    verb.add_argument(
        "--extra-probes",
        type=int,
        default=32,
        metavar="N",
        help="topics probed at each step beside the environment's own (32)",
    )
    add_learners(verb)
    add_hands(verb, "episodes")
    verb.add_argument("--seed", type=int, default=0, help="number of the first episode's seed (0)")
    verb.set_defaults(action=_record, **{GOES_ON: True})
    add_settings(verb)


def surrogate_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "surrogate",
        help="fit a formula for the learner to recorded episodes",
        description="Fit a formula that takes the learner's place in practice, and tell how far "
        "it is off on episodes that it was not fitted to.",
        epilog="Example: kncl-policy surrogate --world worlds/wiki "
        "--episodes runs/episodes.jsonl --out runs/surrogate.json",
    )
    add_world(verb)
    verb.add_argument(
        "--episodes",
        type=Path,
        nargs="+",
        required=True,
        metavar="F.jsonl",
        help="files of recorded episodes",
    )
    verb.add_argument(
        "--out", type=Path, required=True, metavar="S.json", help="file of the formula"
    )
    verb.add_argument("--force", action="store_true", help="replace S.json (refuse)")
    verb.set_defaults(action=_surrogate)


def taste_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "taste",
        help="learn from reward which passages are worth reading",
        description="Feed the learner steps of random tastes, regress their rewards on traits of "
        "what was read, and try the found taste at several shares of the text.",
        epilog="Example: kncl-policy taste --world worlds/wiki --policy coverage "
        "--out runs/taste.json",
    )
    add_world(verb)
    verb.add_argument("--out", type=Path, required=True, metavar="T.json", help="file of the taste")
    verb.add_argument(
        "--episodes", type=int, default=32, metavar="N", help="episodes of random tastes (32)"
    )
    verb.add_argument(
        "--trials",
        type=int,
        default=4,
        metavar="N",
        help="episodes at each share of the text that is tried (4)",
    )
    verb.add_argument(
        "--policy", default="random", help="arm that chooses the topics of the trials (random)"
    )
    add_learners(verb)
    add_hands(verb, "episodes")
    verb.add_argument("--seed", type=int, default=0, help="seed of everything (0)")
    verb.add_argument(
        "--force",
        action="store_true",
        help="replace T.json; the episodes beside it are used again (refuse)",
    )
    verb.set_defaults(action=_taste, **{GOES_ON: True})
    add_settings(verb)


def train_parser(verbs: Verbs) -> None:
    verb = verbs.add_parser(
        "train",
        help="train a policy by reward in the environment",
        description="Train a policy by PPO in the environment, after practice in a surrogate if "
        "one is named. The same command goes on where it was stopped.",
        epilog="Example: kncl-policy train --world worlds/wiki --init runs/cloned "
        "--iterations 20 --out runs/learned",
    )
    add_world(verb)
    verb.add_argument(
        "--init", type=Path, metavar="POLICY", help="policy to start from (fresh weights)"
    )
    verb.add_argument(
        "--out", type=Path, required=True, metavar="POLICY", help="directory of the policy"
    )
    verb.add_argument("--iterations", type=int, default=20, metavar="N", help="rollouts (20)")
    verb.add_argument(
        "--episodes", type=int, default=4, metavar="N", help="episodes per rollout (4)"
    )
    add_learners(verb)
    add_hands(verb, "episodes")
    verb.add_argument(
        "--collect",
        choices=("lockstep", "async"),
        default="lockstep",
        help="lockstep: every step waits for the policy; async: workers choose by themselves, "
        "and play on while the policy learns, with weights --staleness updates old (lockstep)",
    )
    verb.add_argument(
        "--staleness",
        type=int,
        metavar="N",
        help="updates that the acting weights are behind, exactly, with --collect async (1)",
    )
    verb.add_argument(
        "--policy-learning-rate", type=float, default=3e-4, help="of the policy, at first (3e-4)"
    )
    verb.add_argument(
        "--sharpen", type=float, default=4.0, help="factor on the scores of --init (4)"
    )
    verb.add_argument(
        "--entropy", type=float, default=0.01, help="weight of the entropy bonus (0.01)"
    )
    verb.add_argument(
        "--leash", type=float, default=0.0, help="weight of the divergence from the start (0)"
    )
    verb.add_argument(
        "--potentials",
        type=comma_separated,
        default=[],
        metavar="NAME:WEIGHT,…",
        help="intrinsic terms by comma: learning-progress, novelty, information-gap, "
        "compression-progress, each with its weight (none)",
    )
    verb.add_argument(
        "--practice",
        type=Path,
        metavar="S.json",
        help="begin in this surrogate of the learner (none)",
    )
    verb.add_argument(
        "--practice-iterations", type=int, default=100, metavar="N", help="rollouts there (100)"
    )
    verb.add_argument(
        "--taste",
        type=Path,
        metavar="T.json",
        help="read only what is to this taste (that of --init)",
    )
    verb.add_argument("--seed", type=int, default=0, help="seed of everything (0)")
    verb.add_argument(
        "--force", action="store_true", help="begin again: empty POLICY first (go on with it)"
    )
    verb.set_defaults(action=_train, **{GOES_ON: True})
    add_settings(verb)


def _record(args: argparse.Namespace) -> int:
    import torch
    from rich.progress import Progress

    from kncl_env.stage import open_stage
    from kncl_env.world.world import World
    from policies.arms.registry import arm_of
    from policies.play.recording import RecordingPlan, record

    torch.set_num_threads(1)
    settings = settings_of(args)
    plan = RecordingPlan(
        args.policies, args.episodes, args.seed, args.extra_probes, args.learners, hands_of(args)
    )
    for arm in plan.arms:
        arm_of(arm)
    world = World.open(args.world)
    with alone(args.out) as hold:
        hold.go_on()
        open_stage(world, settings)  # the nucleus phase has a progress bar of its own
        with Progress(transient=True) as bar:
            task = bar.add_task("episodes", total=len(plan.arms) * plan.episodes)
            record(world, settings, plan, args.out, lambda _: bar.advance(task))
    say(f"{args.out}: {args.episodes} episodes of {', '.join(args.policies)}")
    return 0


def _surrogate(args: argparse.Namespace) -> int:
    from kncl_env.settings import Settings
    from kncl_env.surrogate import FORMAT, Transfer
    from kncl_env.world.world import World
    from policies.learn.surrogate_fit import fit
    from policies.play.recording import read_episodes

    with alone(args.out) as hold:
        hold.begin_anew(args.force, partial(holds_json, **FORMAT), [args.world, *args.episodes])
        world = World.open(args.world)
        header, episodes = read_episodes(args.episodes)
        if header["world"] != world.hash:
            raise ValueError(
                f"expected episodes of world {world.hash[:12]}, got {header['world'][:12]}'s: "
                "name the world they were recorded in"
            )
        transfer = Transfer(world.graph, world.topic_vectors)
        settings = Settings.from_json(header["settings"], args.episodes[0])
        found = fit(header, episodes, world.target_topics(settings.region), transfer)
        found.save(args.out)
    say_lines(in_json({"dynamics": vars(found.dynamics), "error": found.error}))
    return 0


def _taste(args: argparse.Namespace) -> int:
    import torch
    from rich.console import Console
    from rich.progress import Progress

    from kncl_env.retrieval import NeighbourhoodRetriever
    from kncl_env.stage import open_stage
    from kncl_env.taste import TASTE_FORMAT, TRAITS
    from kncl_env.world.world import World
    from policies.arms.registry import arm_of, places_of
    from policies.learn.tasting import TastingPlan, learn_taste
    from policies.learn.training import check_region

    torch.set_num_threads(1)
    settings = settings_of(args)
    plan = TastingPlan(
        args.episodes, args.trials, args.policy, args.seed, args.learners, hands_of(args)
    )
    arm_of(args.policy)
    with alone(args.out) as hold:
        mine = partial(holds_json, format=TASTE_FORMAT)
        hold.begin_anew(args.force, mine, [args.world, *places_of(args.policy)])
        world = World.open(args.world)
        check_region(world, settings.region)
        retriever = open_stage(world, settings).retriever
        assert isinstance(retriever, NeighbourhoodRetriever)
        with Console(stderr=True).status("measuring the passages, once for this world"):
            retriever.traits.levels  # noqa: B018
        with Progress(transient=True) as bar:
            task = bar.add_task("episodes", total=plan.n_episodes)
            found = learn_taste(world, settings, plan, args.out, lambda: bar.advance(task))
    say("worth of each trait's levels, low to high [thousandths of the reducible loss a step]")
    for name, row in zip(TRAITS, found["taste"]["worth"], strict=True):
        say(f"  {name:20s} " + " ".join(f"{1000 * x:+6.1f}" for x in row))
    say(f"R² of rewards held out: {found['reward_r2']:.2f}")
    for share, value in found["returns"].items():
        say(f"  reading {float(share):4.0%} of the text: return {value:.4f}")
    say(f"{args.out}: reads the best {found['taste']['share']:.0%}, {found['tokens']:,} tokens")
    return 0


def _train(args: argparse.Namespace) -> int:
    import torch

    from kncl_env.surrogate import Surrogate
    from kncl_env.taste import load_taste
    from kncl_env.world.world import World
    from policies.curiosity import CuriosityPolicy
    from policies.learn.potentials import parse_potentials
    from policies.learn.ppo import MADE_BY, PPOConfig
    from policies.learn.training import TrainingPlan, train_policy
    from policies.play.spending import tokens_of_taste

    torch.set_num_threads(1)
    if args.collect == "lockstep" and args.staleness is not None:
        raise ValueError("expected --staleness with --collect async, got it without: add that")
    lag = 1 if args.staleness is None else args.staleness
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
        lag=lag if args.collect == "async" else None,
    )
    taste = load_taste(args.taste) if args.taste else None
    paid = tokens_of_taste(args.taste) if args.taste else 0
    plan = TrainingPlan(
        config,
        args.init,
        taste,
        args.practice,
        args.practice_iterations,
        taste_tokens=paid,
        hands=hands_of(args),
    )
    settings = settings_of(args)
    world = World.open(args.world)
    if args.init:
        CuriosityPolicy.load(args.init)
    if args.practice:
        error = Surrogate.load(args.practice).error
        say(f"practice in a surrogate, off by {json.dumps(error)}")
    with alone(args.out) as hold:
        hold.begin_run(MADE_BY, args.force, [args.world, args.init, args.practice, args.taste])
        train_policy(world, settings, plan, args.out, _Teller())
    behind = "" if config.lag is None else f", staleness {config.lag} at most"
    say(f"{args.out}: trained on {config.iterations * config.episodes} episodes{behind}")
    return 0


class _Teller:
    """Prints a line per iteration, with an ETA."""

    def __init__(self) -> None:
        self.part = ""
        self.seconds: list[float] = []

    def __call__(self, part: str, iterations: int, figures: Mapping[str, float]) -> None:
        if part != self.part:
            self.part, self.seconds = part, []
        self.seconds.append(figures["seconds"])
        done = int(figures["iteration"])
        left = (iterations - done) * sum(self.seconds) / len(self.seconds)
        how = f"{figures['learner_share']:.0%} of the time in the learner"
        if "staleness" in figures:
            # Learners trained during the updates before, too: no share of this time is theirs.
            how = f"staleness {figures['staleness']:g}"
        say(
            f"{part} {done}/{iterations}: return {figures['return']:.4f}, "
            f"{figures['steps_per_second']:.1f} steps/s, "
            f"{how}, "
            f"{left / 60:.1f} min left",
            flush=True,
        )
