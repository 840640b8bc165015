"""`kncl-policy`: pretrain, train and evaluate curiosity policies. Parses and prints."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train_lm.command_line import again, claim_output, run

if TYPE_CHECKING:
    from rabbit_holes.path import Path as RabbitHole

# As in rabbit_holes/demonstrations.py, which a plain --help must not import.
GOALS = ("given", "withheld", "widened", "mixed")


def main(argv: list[str] | None = None) -> int:
    # Several processes play side by side; threads of one would only take cores from the others.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = _parser(argv if argv is not None else sys.argv[1:])
    args = parser.parse_args(argv)
    args.argv = sys.argv[1:] if argv is None else argv
    return run(lambda: args.action(args))


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kncl-policy",
        description="Learn which topic a language model should read next, and find out whether "
        "it helps: pretrain on rabbit holes, train by reward, evaluate against baselines.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    _pretrain_parser(verbs)
    _predict_parser(verbs)
    # The environment's options are read off its settings, which takes imports that the other
    # verbs and a plain --help can do without.
    wanted = argv[0] if argv else ""
    _record_parser(verbs, wanted == "record")
    _surrogate_parser(verbs)
    _taste_parser(verbs, wanted == "taste")
    _train_parser(verbs, wanted == "train")
    _evaluate_parser(verbs, wanted == "evaluate")
    _run_parser(verbs, wanted == "run")
    _walk_parser(verbs)
    demo = verbs.add_parser("demo", help="the whole story on the embedded default corpus")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"))
    demo.add_argument("--seeds", type=int, default=3)
    demo.set_defaults(action=_demo)
    return parser


def _pretrain_parser(verbs: Any) -> None:
    verb = verbs.add_parser("pretrain", help="clone the choices of recorded rabbit holes")
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument("--holes", type=Path, nargs="+", required=True, metavar="F.jsonl")
    verb.add_argument("--out", type=Path, required=True, metavar="POLICY")
    verb.add_argument("--paths", type=int, help="use this many paths, drawn evenly")
    verb.add_argument(
        "--goals",
        choices=GOALS,
        nargs="+",
        default=["mixed"],
        help="how a walker's goal is shown; each path once in every way named (mixed)",
    )
    verb.add_argument(
        "--frontier",
        action="store_true",
        help="offer the whole frontier at each click, as the environment does",
    )
    verb.add_argument(
        "--slots", type=int, default=32, help="candidates per click, the others by lot (32)"
    )
    verb.add_argument("--width", type=int, default=64, help="units of the network (64)")
    verb.add_argument("--epochs", type=int, default=9, help="passes at most (9)")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--force", action="store_true")
    verb.set_defaults(action=_pretrain)


def _predict_parser(verbs: Any) -> None:
    verb = verbs.add_parser("predict", help="next-click figures of a policy, as JSON")
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument("--policy", type=Path, required=True)
    verb.add_argument("--holes", type=Path, nargs="+", required=True, metavar="F.jsonl")
    verb.add_argument(
        "--split",
        choices=("all", "train", "select", "test"),
        default="test",
        help="pairs to measure on; pretrain never sees `test` (test)",
    )
    verb.add_argument(
        "--train",
        type=Path,
        nargs="+",
        default=[],
        metavar="F.jsonl",
        help="count transitions on the training pairs of these paths: a Markov rung",
    )
    verb.add_argument("--clicks", type=int, help="at most this many clicks")
    verb.add_argument("--seed", type=int, default=0)
    verb.set_defaults(action=_predict)


def _record_parser(verbs: Any, with_settings: bool) -> None:
    verb = verbs.add_parser("record", help="play episodes and write down what a surrogate needs")
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument(
        "--policy", nargs="+", required=True, help="arms: baselines and policy directories"
    )
    verb.add_argument("--episodes", type=int, default=4, help="episodes of each (4)")
    verb.add_argument("--out", type=Path, required=True, metavar="F.jsonl")
    verb.add_argument(
        "--extra-probes", type=int, default=32, help="more topics probed per step (32)"
    )
    verb.add_argument("--learners", type=int, default=4, help="episodes played at once (4)")
    verb.add_argument("--seed", type=int, default=0, help="seed of the first episode (0)")
    verb.set_defaults(action=_record)
    if with_settings:
        from policies.settings_args import add_settings

        add_settings(verb)


def _surrogate_parser(verbs: Any) -> None:
    verb = verbs.add_parser("surrogate", help="fit a formula for the learner to recorded episodes")
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument("--episodes", type=Path, nargs="+", required=True, metavar="F.jsonl")
    verb.add_argument("--out", type=Path, required=True, metavar="S.json")
    verb.add_argument("--force", action="store_true")
    verb.set_defaults(action=_surrogate)


def _taste_parser(verbs: Any, with_settings: bool) -> None:
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
    verb.add_argument("--force", action="store_true")
    verb.set_defaults(action=_taste)
    if with_settings:
        from policies.settings_args import add_settings

        add_settings(verb)


def _train_parser(verbs: Any, with_settings: bool) -> None:
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
        from policies.settings_args import add_settings

        add_settings(verb)


def _evaluate_parser(verbs: Any, with_settings: bool) -> None:
    verb = verbs.add_parser("evaluate", help="policies against baselines, with a report")
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument(
        "--policies",
        required=True,
        help="arms, by comma: baselines (uniform, proportional, random, breadth-first, nearest, "
        "degree, goal, rule, coverage, oracle), policy directories, and baselines with the taste "
        "of another place (random+POLICY)",
    )
    verb.add_argument("--seeds", type=int, default=5, help="paired seeds (5)")
    verb.add_argument("--inits", type=int, default=1, help="initial learners among them (1)")
    verb.add_argument("--out", type=Path, required=True, metavar="RUN")
    verb.add_argument("--learners", type=int, default=4, help="episodes played at once (4)")
    verb.add_argument("--force", action="store_true", help="begin again")
    verb.set_defaults(action=_evaluate)
    if with_settings:
        from policies.settings_args import add_settings

        add_settings(verb)


def _run_parser(verbs: Any, with_settings: bool) -> None:
    verb = verbs.add_parser(
        "run", help="close the loop: a policy decides while a larger model trains"
    )
    verb.add_argument("--world", type=Path, required=True)
    verb.add_argument("--policy", required=True, help="a policy directory, or a baseline's name")
    verb.add_argument("--out", type=Path, required=True, metavar="RUN")
    verb.add_argument("--save-every", type=int, default=5, help="steps between checkpoints (5)")
    verb.add_argument("--threads", type=int, default=os.cpu_count(), help="of the CPU (all)")
    verb.add_argument("--seed", type=int, default=0)
    verb.add_argument("--force", action="store_true", help="begin again")
    verb.set_defaults(action=_run_loop)
    if with_settings:
        from policies.settings_args import add_settings

        add_settings(verb, model="s", learning_rate=1e-3)


def _walk_parser(verbs: Any) -> None:
    from rabbit_holes.collect import add_collection_options

    verb = verbs.add_parser("walk", help="let a policy collect rabbit holes on a live wiki")
    verb.add_argument("--policy", type=Path, required=True)
    verb.add_argument("--temperature", type=float, default=1.0, help="0 takes the best link (1)")
    verb.add_argument("--goal", metavar="TITLE", help="page to look for")
    add_collection_options(verb)
    verb.set_defaults(action=_walk)


def _walk(args: argparse.Namespace) -> int:
    from policies.curiosity import CuriosityPolicy
    from policies.policy_walker import PolicyWalker
    from rabbit_holes.collect import run_collection
    from train_lm.files import hash_file

    policy = CuriosityPolicy.load(args.policy)
    walker = PolicyWalker(policy, args.policy.name, args.temperature, args.goal)
    weights = hash_file(args.policy / "policy.safetensors")
    options = {"policy": weights, "temperature": args.temperature, "goal": args.goal}
    return run_collection(args, walker, options)


def _holes(files: list[Path], dropped: Counter[str]) -> list[RabbitHole]:
    from rabbit_holes.path import read_paths

    def bad(reason: str) -> None:
        dropped["malformed lines"] += 1
        print(f"left out: {reason}", file=sys.stderr)

    return [path for file in files for path in read_paths(file, on_error=bad)]


def _pretrain(args: argparse.Namespace) -> int:
    import numpy as np
    import torch
    from rich.progress import Progress

    from kncl_env.world import World
    from policies.cloning import CloningConfig, clone
    from policies.curiosity import CuriosityConfig, CuriosityNetwork, CuriosityPolicy
    from rabbit_holes.demonstrations import demonstrate_in_parallel, joined, pair_split

    torch.set_num_threads(os.cpu_count() or 1)
    claim_output(args.out, args.force, marker="policy.json")
    began = time.monotonic()
    world = World.open(args.world)
    dropped: Counter[str] = Counter()
    rng = np.random.default_rng(args.seed)
    paths = _holes(args.holes, dropped)
    split = {name: [p for p in paths if pair_split(p) == name] for name in ("train", "select")}
    if args.paths is not None and args.paths < len(split["train"]):
        keep = np.sort(rng.choice(len(split["train"]), args.paths, replace=False))
        split["train"] = [split["train"][i] for i in keep]
    split["select"] = split["select"][: max(200, len(split["train"]) // 5)]
    seen = {}
    with Progress(transient=True) as bar:
        for i, (name, part) in enumerate(split.items()):
            rows = bar.add_task(f"{name} paths", total=len(part) * len(args.goals))
            seen[name] = joined(
                [
                    demonstrate_in_parallel(
                        part,
                        world,
                        args.seed + i,
                        on_chunk=partial(bar.advance, rows),
                        slots=args.slots,
                        goals=goals,
                        frontier=args.frontier,
                    )
                    for goals in args.goals
                ]
            )
    for name, clicks in seen.items():
        print(f"{name}: {len(split[name]):,} paths, {len(clicks):,} clicks")
        dropped.update(clicks.dropped)
    for reason, n in dropped.items():
        print(f"  dropped {n:,}: {reason}")
    network = CuriosityNetwork(CuriosityConfig(width=args.width, seed=args.seed))
    history = clone(
        network,
        seen["train"],
        seen["select"],
        CloningConfig(epochs=args.epochs, seed=args.seed),
        lambda epoch, a, b: print(f"epoch {epoch + 1}: train {a:.4f}, select {b:.4f} nats/click"),
    )
    policy = CuriosityPolicy(
        network,
        {
            "made_by": "cloning",
            "world": world.hash,
            "walkers": dict(Counter(p.walker for p in split["train"]).most_common(20)),
            "clicks": len(seen["train"]),
            "select_loss": min(h[1] for h in history),
            "goals": args.goals,
            "seconds": round(time.monotonic() - began, 1),
        },
    )
    policy.save(args.out)
    print(f"{args.out}: cloned in {time.monotonic() - began:.0f} s")
    return 0


def _predict(args: argparse.Namespace) -> int:
    import numpy as np

    from kncl_env.observation import TopicTable
    from kncl_env.world import World
    from policies.curiosity import CuriosityPolicy
    from policies.prediction import markov_places, predict
    from rabbit_holes.demonstrations import demonstrate, pair_split

    if args.train and args.split in ("all", "train"):
        raise ValueError(
            f"expected --split select or test with --train, got {args.split}: a chain that has "
            "counted a click would predict it"
        )
    policy = CuriosityPolicy.load(args.policy)
    world = World.open(args.world)
    table = TopicTable.of(world)
    dropped: Counter[str] = Counter()
    counted = [p for p in _holes(args.train, dropped) if pair_split(p) == "train"]
    paths = [
        p for p in _holes(args.holes, dropped) if args.split == "all" or pair_split(p) == args.split
    ]
    found: dict[str, Any] = {"world": world.hash, "split": args.split}
    for goals in ("given", "withheld"):
        rng = np.random.default_rng(args.seed)
        clicks = demonstrate(paths, world, table, rng, slots=None, goals=goals, limit=args.clicks)
        more = {"Markov": markov_places(counted, paths, world, len(clicks))} if counted else {}
        found[f"goal {goals}"] = predict(policy.network, clicks, rng, more)
    print(json.dumps(found, indent=1))
    return 0


def _record(args: argparse.Namespace) -> int:
    import torch
    from rich.progress import Progress

    from kncl_env.make import Setup
    from kncl_env.vector import side_by_side, worth_compiling
    from kncl_env.world import World
    from policies.recording import RECORD_SEED, record
    from policies.settings_args import settings_of

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
    from kncl_env.surrogate import Transfer, fit
    from kncl_env.world import World
    from policies.recording import read_episodes

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
    from rich.progress import Progress

    from kncl_env.make import Setup
    from kncl_env.taste import TRAITS
    from kncl_env.vector import side_by_side, worth_compiling
    from kncl_env.world import World
    from policies.settings_args import settings_of
    from policies.tasting import SHARES, learn_taste

    torch.set_num_threads(1)
    claim_output(args.out, args.force)
    world = World.open(args.world)
    settings = settings_of(args)
    setup = Setup.from_settings(settings)
    episodes = args.episodes + args.trials * len(SHARES)
    updates = episodes * setup.steps * setup.updates_per_step
    together = side_by_side(
        world, args.learners, compile=worth_compiling(updates), progress=True, **settings
    )
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

    from kncl_env.make import Setup
    from kncl_env.surrogate import Surrogate
    from kncl_env.vector import worth_compiling
    from kncl_env.world import World
    from policies.baselines import load_taste
    from policies.curiosity import CuriosityConfig, CuriosityPolicy
    from policies.potentials import parse_potentials
    from policies.ppo import PPOConfig, starting_network, train_ppo
    from policies.settings_args import settings_of
    from policies.vec_env import make_practice_env, make_vec_env
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
        potentials=tuple(args.potentials),
        seed=args.seed,
    )
    init = CuriosityPolicy.load(args.init) if args.init else None
    taste = load_taste(args.taste) if args.taste else init.taste if init else None
    world = World.open(args.world)
    settings = settings_of(args)
    setup = Setup.from_settings(settings)
    if setup.region in world.card["scenario"]["transfer_regions"]:
        raise ValueError(
            f"expected a region to train on, got {setup.region!r}, which this world keeps for "
            "measuring transfer: see scenario.transfer_regions in world.json"
        )
    _begin(
        args.out, args.force, [p for p in (args.world, args.init, args.practice, args.taste) if p]
    )
    surrogate = Surrogate.load(args.practice) if args.practice else None
    if surrogate and args.practice_iterations < 1:
        raise ValueError(f"expected --practice-iterations >= 1, got {args.practice_iterations}")
    _warm_up(world.path, settings)
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
        shared = config.learners, parse_potentials(config.potentials), config.gamma, taste
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
                provenance=provenance,
                on_iteration=_teller("practice" if practice else "iteration", config.iterations),
                noise=noise,
                taste=taste,
                **start,
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


def _warm_up(world: Path, settings: dict[str, Any]) -> None:
    """Do the nucleus phase once, with its progress bar, before several processes need it."""
    import kncl_env  # noqa: F401
    from kncl_env.make import topic_expansion

    topic_expansion(world, progress=True, **settings)


def _evaluate(args: argparse.Namespace) -> int:
    import torch

    from kncl_env.world import World
    from policies.evaluation import check_arms, evaluate
    from policies.settings_args import settings_of

    torch.set_num_threads(1)
    world = World.open(args.world)
    settings = settings_of(args)
    arms = [name.strip() for name in args.policies.split(",") if name.strip()]
    check_arms(arms)
    _begin(args.out, args.force, [args.world, *map(Path, arms)])
    learned = [Path(name).name for name in arms if Path(name).is_dir()]
    for i in range(args.inits):
        _warm_up(world.path, {**settings, "learner_seed": settings.get("learner_seed", 0) + i})
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task("episodes", total=len(arms) * args.seeds)
        summary = evaluate(
            world,
            settings,
            arms,
            range(args.seeds),
            args.out,
            inits=args.inits,
            learners=args.learners,
            subject=learned[-1] if learned else None,
            on_episode=lambda _: bar.advance(task),
        )
    print(table(summary))
    print(f"report: {args.out / 'report.html'}")
    return 0


def _run_loop(args: argparse.Namespace) -> int:
    import torch
    from rich.console import Console
    from rich.progress import Progress
    from transformers.utils.logging import disable_progress_bar

    from kncl_env.make import Setup
    from kncl_env.world import World
    from policies.closed_loop import run_closed_loop
    from policies.settings_args import settings_of
    from train_lm.checkpoint import last_checkpoint

    torch.set_num_threads(args.threads)
    disable_progress_bar()  # there is one already
    world = World.open(args.world)
    settings = settings_of(args)
    steps = Setup.from_settings(settings).steps
    _begin(args.out, args.force, [args.world, Path(args.policy)])
    # The bar begins with the first step: the nucleus phase has one of its own.
    quiet = not sys.stderr.isatty()
    bar = Progress(console=Console(stderr=True), transient=True, disable=quiet)

    def show(line: dict[str, Any]) -> None:
        if not bar.tasks:
            bar.add_task("", total=steps)
            bar.start()
        text = f"loss {line['loss']:.3f}, {line['title'] or 'no topic'}"
        bar.update(bar.task_ids[0], completed=line["step"], description=text)

    try:
        place = run_closed_loop(
            world,
            args.policy,
            settings,
            args.out,
            seed=args.seed,
            save_every=args.save_every,
            on_step=show,
        )
    except KeyboardInterrupt:
        how = f"{last_checkpoint(args.out)}; {again('kncl-policy', args.argv)}"
        raise KeyboardInterrupt(how) from None
    finally:
        bar.stop()
    print(f"{place}: open it with AutoModelForCausalLM.from_pretrained")
    print(f"{args.out / 'curriculum.jsonl'}: what it read, for `train-lm run`")
    return 0


def table(summary: dict[str, Any]) -> str:
    """The score table for a terminal; every figure with its interval."""
    lines = [
        f"{'arm':16s} {'test bits/byte':>24s} {'minus uniform':>28s} {'speed-up':>22s}  verdict"
    ]
    for name, arm in summary["arms"].items():
        test, speed, gap = arm["test"], arm["speed_up"], arm["difference"]
        lines.append(
            f"{name[:16]:16s} {_span(test, 'iqm'):>24s} "
            f"{_span(gap, 'mean', '+') if gap else '':>28s} "
            f"{_span(speed, 'iqm', digits=2):>22s}  {arm['verdict']}"
        )
    lines.append(
        f"{len(summary['seeds'])} paired seeds (slots and order of text; one training of each "
        f"policy), {summary['budget_tokens']:,.0f} tokens each; "
        "95 % intervals in brackets; speed-up: uniform's tokens / the arm's to uniform's final loss"
    )
    return "\n".join(lines)


def _span(found: dict[str, Any], centre: str, sign: str = "", digits: int = 4) -> str:
    if found[centre] is None:
        return "-"
    if found["low"] is None or found["high"] is None:
        return f"{found[centre]:{sign}.{digits}f}"
    low, high = (f"{found[side]:{sign}.{digits}f}" for side in ("low", "high"))
    return f"{found[centre]:{sign}.{digits}f} [{low}, {high}]"


def _begin(out: Path, force: bool, needed: Iterable[Path] = ()) -> None:
    """A run of ours is gone on with, or begun again with --force; nothing else is touched.

    Args:
        needed: Inputs of the run; they must not vanish with an old one.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not any((out / part / "config.json").is_file() for part in (".", "practice")):
        raise FileExistsError(
            f"expected a new place or a run to go on with for --out, got {out}: name another"
        )
    if force:
        inside = [p for p in needed if out.resolve() in (p.resolve(), *p.resolve().parents)]
        if inside:
            raise ValueError(
                f"expected inputs outside of {out}, which --force empties, got {inside[0]}: "
                "name another --out"
            )
        shutil.rmtree(out)


def _demo(args: argparse.Namespace) -> int:
    from policies.demo import demo

    return demo(args.out, args.seeds)
