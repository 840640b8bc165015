"""The commands that `faults.py` and `signals.py` disturb: every one that writes, as small as it is.

What they read is made beforehand, by our own commands, below a folder that is called `IN`.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

# An environment that takes a fraction of a second.
TINY = (
    "--nucleus-topics 4 --nucleus-updates 3 --steps 3 --updates-per-step 1 --batch 2 --breadth 8 "
    "--slots 4 --model xxs"
)
# Neighbourhoods of it.
PARTS = (
    "--neighbourhoods 2 --size 3 --stage-updates 2 --windows 4 --seeds 1 --nucleus-topics 3 "
    "--nucleus-updates 3 --batch 2 --model xxs"
)
SMALL = "--vocab-size 300 --passage-bytes 200"
MANNERS = "--contact you@example.org --rate 10000"

# What is small enough of commands whose size is fixed: Python, to be run before they begin.
TINY_CELL = """
from policies.benchmark import cells
cells.CELLS["tiny"] = cells.Cell(
    "tiny",
    cells.Recipe("synthetic", "broad", topics=24),
    {"model": "xxs", "nucleus_topics": 4, "nucleus_updates": 3, "steps": 3, "updates_per_step": 1,
     "slots": 4, "batch": 2, "breadth": 8},
    ("uniform", "random"),
    seeds=2,
    learners=2,
    points=3,
)
from dataclasses import replace
cells.CELLS["tiny-too"] = replace(cells.CELLS["tiny"], name="tiny-too", points=4)
"""
TINY_TABLE = """
from functools import partial
from kncl_env.settings import Settings
from kncl_env.table_world import recipe
recipe.TableRecipe = partial(recipe.TableRecipe, draws=1, settings=Settings.of(
    model="xxs", nucleus_topics=2, nucleus_updates=2, steps=1, updates_per_step=1, slots=2, batch=2,
    probes=2, breadth=8))
"""

PROGRAMS = {
    "kncl-env": "kncl_env.cli",
    "kncl-policy": "policies.cli.main",
    "rabbit-holes": "rabbit_holes.cli",
    "train-lm": "train_lm.cli",
}


@dataclass(frozen=True)
class Case:
    """A command to disturb.

    Attributes:
        words: The command; below `OUT` it writes, below `IN` lies what was made beforehand.
        name: In the table, if not the command's verb.
        cache: Whether it fills a cache, so that a full one is another case.
        before: Name of what of `IN` lies at its output beforehand, if anything.
        first: Python that is run before it begins.
    """

    words: str
    name: str = ""
    cache: bool = False
    before: str = ""
    first: str = ""

    @property
    def title(self) -> str:
        return self.name or self.words.split()[1]

    @property
    def variants(self) -> tuple[bool, ...]:
        """With an empty cache, and with a full one where it fills one."""
        return (False, True) if self.cache else (False,)

    @property
    def program(self) -> str:
        """Module with the `main` of its first word."""
        return PROGRAMS[self.words.split()[0]]

    @property
    def has_workers(self) -> bool:
        return "--processes 2" in self.words


WORLD, FEW = "--world IN/world", f"--learners 2 {TINY}"


def cases(api: str) -> list[Case]:
    return [*_of_worlds(), *_of_walks(api), *_of_policies(), *_of_learners(), *_of_neighbourhoods()]


def _of_worlds() -> list[Case]:
    build = "kncl-env build synthetic --topics 30 --vocab-size 300 --out OUT/w"
    mine = f"kncl-env build jsonl IN/mine.jsonl {SMALL} --out OUT/w"
    return [
        Case(build),
        Case(f"{build} --force", name="build --force", before="world"),
        Case(mine, name="build jsonl"),
        Case(
            f"{mine} --scenario distant --target IN/target.jsonl --sample-kb 8",
            name="build --target",
        ),
        Case("kncl-env rewire IN/world --out OUT/w"),
        Case("kncl-env grow IN/live --run IN/growth --out OUT/w"),
        Case("kncl-env tabulate --out OUT/t.npz", cache=True, first=TINY_TABLE),
        Case(
            "kncl-env knowledge IN/world --model xxs --nucleated --items 20 --nucleus-topics 4 "
            "--nucleus-updates 3 --batch 2 --out OUT/k",
            cache=True,
        ),
    ]


def _of_walks(api: str) -> list[Case]:
    wiki = f"--walks 3 --depth 3 --api-url {api} {MANNERS}"
    return [
        Case("rabbit-holes import jsonl IN/damaged.jsonl --out OUT/i"),
        Case(f"rabbit-holes walk {WORLD} --walks 20 --out OUT/h"),
        Case(
            f"rabbit-holes generate {WORLD} --model IN/model --walks 4 --depth 2 --device cpu "
            "--out OUT/g"
        ),
        Case(f"rabbit-holes collect --seed P0 {wiki} --out OUT/c"),
        Case(
            f"kncl-policy walk --policy IN/policy --seed P0 {wiki} --out OUT/c",
            name="walk --policy",
        ),
        Case(f"rabbit-holes export IN/holes.jsonl {WORLD} --out OUT/e"),
        Case("rabbit-holes stats IN/holes.jsonl --html OUT/s.html"),
    ]


def _of_policies() -> list[Case]:
    train = f"kncl-policy train {WORLD} --episodes 2 --out OUT/l {FEW}"
    evaluate = f"kncl-policy evaluate {WORLD} --seeds 2 --out OUT/r {FEW} --policies"
    return [
        Case(
            f"kncl-policy pretrain {WORLD} --holes IN/holes.jsonl --epochs 1 --width 8 --slots 8 "
            "--out OUT/p"
        ),
        Case(
            f"kncl-policy record {WORLD} --policies uniform,random --episodes 1 --out OUT/r {FEW}",
            cache=True,
        ),
        Case(f"kncl-policy surrogate {WORLD} --episodes IN/episodes.jsonl --out OUT/s.json"),
        Case(
            f"kncl-policy taste {WORLD} --episodes 4 --trials 1 --out OUT/t.json {FEW}", cache=True
        ),
        Case(f"{train} --iterations 2", cache=True),
        Case(f"{train} --iterations 1 --processes 2", name="train, 2 processes"),
        Case(
            f"{train} --iterations 1 --practice IN/surrogate.json --practice-iterations 2",
            name="train --practice",
            cache=True,
        ),
        Case(f"{evaluate} uniform,random", cache=True),
        Case(f"{evaluate} uniform,random --processes 2", name="evaluate, 2 processes"),
        Case(
            f"{evaluate} uniform,coverage --subject coverage --knowledge 2 "
            "--controls shuffle,static-final,yoked,rewired",
            name="evaluate --controls",
        ),
        *(
            Case(
                f"kncl-policy benchmark --cells {cells} --out OUT/b --results OUT/s/results{more}",
                name=name,
                cache=cells == "tiny",
                first=TINY_CELL,
            )
            for name, cells, more in (
                ("benchmark", "tiny", ""),
                ("benchmark, 2 processes", "tiny*", " --processes 2"),
            )
        ),
    ]


def _of_learners() -> list[Case]:
    train_lm = (
        f"train-lm run {WORLD} --curriculum IN/curriculum.jsonl --batch 2 --save-every 1 --cpu "
        "--out OUT/m --model"
    )
    return [
        Case(
            f"kncl-policy run {WORLD} --policy rule --save-every 1 --threads 1 --out OUT/r {TINY}",
            cache=True,
        ),
        Case(f"{train_lm} xxs", name="train-lm run", cache=True),
        Case(f"{train_lm} IN/model --adapter lora --merge", name="train-lm run --adapter"),
    ]


def _of_neighbourhoods() -> list[Case]:
    stream = f"kncl-policy stream {WORLD} {PARTS} --rates 1 --out OUT/n"
    apart = f"kncl-policy neighbourhoods {WORLD} {PARTS} --rank 2 --out OUT/n --processes"
    return [
        Case(f"{stream} --methods none,lora-routed", cache=True),
        Case(f"{stream} --methods replay/2 --keep", name="stream --keep"),
        Case(f"{apart} 1", cache=True),
        Case(f"{apart} 2", name="neighbourhoods, 2 processes"),
    ]


# What some inputs are made of, besides the world.
MADE_OF = {
    "surrogate": "episodes",
    "model": "loop",
    "curriculum": "loop",
    "damaged": "holes",
    "policy": "holes",
    "growth": "live",
}


def make_inputs(inputs: Path, chosen: Sequence[Case], run: Callable[[str], None]) -> None:
    """What these commands read: a world, walks, a model, an order of reading, episodes and so on.

    Args:
        run: Runs a command to its end.
    """
    needs = {name for case in chosen for name in re.findall(r"\bIN/(\w+)", case.words)} | {"world"}
    for name, of in MADE_OF.items():
        needs |= {of} if name in needs else set()
    few = f"--policies uniform,random --episodes 4 --learners 2 {TINY}"
    pretrain = "kncl-policy pretrain --holes IN/holes.jsonl --epochs 1 --width 8 --slots 8"
    for name, words in {
        "world": "kncl-env build synthetic --topics 30 --vocab-size 300 --seed 1",
        "holes.jsonl": f"rabbit-holes walk {WORLD} --walks 60",
        "episodes.jsonl": f"kncl-policy record {WORLD} {few}",
        "surrogate.json": f"kncl-policy surrogate {WORLD} --episodes IN/episodes.jsonl",
        "loop": f"kncl-policy run {WORLD} --policy random --threads 1 {TINY}",
        "policy": f"{pretrain} {WORLD}",
    }.items():
        if name.split(".")[0] in needs:
            run(f"{words} --out IN/{name}")
    if "loop" in needs:
        shutil.copytree(inputs / "loop" / "model", inputs / "model")
        shutil.copy(inputs / "loop" / "curriculum.jsonl", inputs / "curriculum.jsonl")
    if "damaged" in needs:
        lines = (inputs / "holes.jsonl").read_text().splitlines(keepends=True)
        lines[3] = "{\n"  # so that an import has something to complain about
        (inputs / "damaged.jsonl").write_text("".join(lines[:20]))
    if "live" in needs:
        _grow(run)
    for name, seed in (("mine", 1), ("target", 2)):
        if name in needs:
            _write_documents(inputs / f"{name}.jsonl", seed)


def _grow(run: Callable[[str], None]) -> None:
    """A world of a few articles of a wiki, and a run that it grew in."""
    from mediawiki import prose
    from text_wiki import TextWiki

    with TextWiki(prose(40)).running() as wiki:
        words = f"--titles Prose_0 --articles 12 --api-url {wiki.api} {MANNERS} {SMALL}"
        run(f"kncl-env build live {words} --out IN/live")
        run(
            f"kncl-policy run --world IN/live --live {MANNERS} --reach 3 --policy random "
            f"--threads 1 {TINY} --out IN/growth"
        )


def _write_documents(file: Path, seed: int) -> None:
    from corpus_files import rows_of, write_jsonl

    from kncl_env.world.sources.synthetic import SyntheticConfig, read_synthetic

    made = read_synthetic(SyntheticConfig(n_topics=30, n_communities=2, seed=seed))
    write_jsonl(file, rows_of([replace(article, labels=()) for article in made.articles]))
