"""The rules of the house: one straight line, no circle, one door per library, small rooms."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINE = ("train_lm", "kncl_env", "rabbit_holes", "policies")
COMMANDS = {
    "train-lm": "train_lm.cli",
    "kncl-env": "kncl_env.cli",
    "rabbit-holes": "rabbit_holes.cli",
    "kncl-policy": "policies.cli.main",
}

# Library -> the only files that may import it; where only its types are named, any file may.
DOORS = {
    "faiss": ("kncl_env/world/index.py",),
    "transformers": (
        "train_lm/model.py",
        "train_lm/tokenizer.py",
        "train_lm/pretrained/text_vectors.py",
        "rabbit_holes/walkers/language_model.py",
    ),
    "tokenizers": ("train_lm/tokenizer.py",),
    "peft": ("train_lm/adapters.py",),
    "ray": ("train_lm/crew/cluster.py",),
    "accelerate": ("train_lm/machine/parallel.py",),
    "stable_baselines3": (
        "policies/learn/ppo.py",
        "policies/learn/vec_env.py",
        "policies/learn/far_env.py",
        "policies/learn/ahead_env.py",
    ),
    "sb3_contrib": ("policies/learn/ppo.py",),
    "pyarrow": (
        "train_lm/training_text.py",
        "kncl_env/world/tables.py",
        "kncl_env/world/sources/parquet.py",
    ),
    "datasets": ("kncl_env/world/sources/hf.py",),
    "libzim": ("kncl_env/world/sources/zim.py",),
    "zstandard": ("kncl_env/world/sources/packed.py",),
    "sklearn": ("kncl_env/world/embedding.py", "kncl_env/world/text/names.py"),
}
HEAVY = (
    "numpy",
    "scipy",
    "torch",
    "transformers",
    "faiss",
    "stable_baselines3",
    "sklearn",
    "matplotlib",
)

FOLDER = 24  # [files] of a folder, at most, `__init__.py` aside
TOP = 8  # [files] at the tops of rabbit_holes and policies, at most
LINES = 90  # of a function, at most
PARAMETERS = 7  # of a function, at most
ANY = 8  # `Any` in 1,000 lines of policies: fewer


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def files_of(root: Path, packages: tuple[str, ...] = LINE) -> dict[str, Path]:
    """Dotted name of each module of the packages, and its file."""
    return {
        ".".join(f.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): f
        for package in packages
        for f in sorted((root / package).rglob("*.py"))
    }


def named(file: Path, root: Path, *, types: bool = True) -> Iterator[tuple[str, str]]:
    """(module, name imported from it or '') of every import statement, wherever it stands.

    Args:
        types: Whether to read `if TYPE_CHECKING:` as well.
    """
    waiting: list[ast.AST] = [tree_of(file)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) and not types:
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = file.relative_to(root).parts[: -node.level]
                module = ".".join([*package, *([module] if module else [])])
            yield from ((module, alias.name) for alias in node.names)


def needs(root: Path, packages: tuple[str, ...] = LINE) -> dict[str, set[str]]:
    """Which modules of the packages each of them imports, at any time and for any reason."""
    modules = files_of(root, packages)
    found: dict[str, set[str]] = {}
    for name, file in modules.items():
        found[name] = set()
        for module, part in named(file, root):
            full = f"{module}.{part}" if part else module
            # `from package import module` needs the module; `from module import thing` the module.
            found[name] |= {full if full in modules else module} & set(modules)
    return found


def circles(graph: dict[str, set[str]]) -> list[str]:
    """A circle through every module that lies on one, as `a -> b -> a`, each once."""
    found: dict[frozenset[str], str] = {}
    for start in graph:
        came_from: dict[str, str] = {}
        waiting = [start]
        while waiting and start not in came_from:  # breadth first: the shortest
            module = waiting.pop(0)
            for other in sorted(graph[module]):
                if other not in came_from:
                    came_from[other] = module
                    waiting.append(other)
        if start in came_from:
            path = [start]
            while len(path) == 1 or path[-1] != start:
                path.append(came_from[path[-1]])
            found.setdefault(frozenset(path), " -> ".join(reversed(path)))
    return list(found.values())


@pytest.mark.parametrize("package", LINE)
def test_a_package_imports_only_packages_to_its_left(package: str) -> None:
    allowed = set(LINE[: LINE.index(package) + 1])
    files = files_of(ROOT, (package,))
    assert files
    for file in files.values():
        wrong = {module.split(".")[0] for module, _ in named(file, ROOT)} & set(LINE) - allowed
        assert not wrong, f"{file.relative_to(ROOT)} imports {sorted(wrong)}"


def test_no_module_imports_itself_in_a_circle() -> None:
    assert circles(needs(ROOT)) == []


def test_circles_of_lazy_of_typing_and_of_relative_imports_are_found(tmp_path: Path) -> None:
    files = {
        "house/__init__.py": "",
        # A circle that closes in a function, through `from package import module`.
        "house/world.py": "def index():\n    from house import retrieval\n",
        "house/retrieval.py": "from house.taste import Taste\n",
        # ... and for a type checker alone.
        "house/taste.py": (
            "from typing import TYPE_CHECKING\n"
            "if TYPE_CHECKING:\n    from house.world import World\n"
        ),
        # A command and its part, relative and absolute.
        "house/cli/__init__.py": "",
        "house/cli/main.py": "def demo():\n    from . import demo\n    from .free import x\n",
        "house/cli/demo.py": "def run():\n    import house.cli.main\n",
        "house/cli/free.py": "from ..loner import x\nimport json\n",
        # The package's own file counts where its own names are asked for, and not on the way.
        "house/loner.py": "import house.cli\nfrom house.cli import __doc__ as x\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    graph = needs(tmp_path, ("house",))
    assert graph["house.cli.free"] == {"house.loner"}
    assert graph["house.loner"] == {"house.cli"}
    assert circles(graph) == [
        "house.cli.demo -> house.cli.main -> house.cli.demo",
        "house.retrieval -> house.taste -> house.world -> house.retrieval",
    ]


@pytest.mark.parametrize("library", DOORS)
def test_one_door_per_heavy_library(library: str) -> None:
    for file in files_of(ROOT).values():
        place = file.relative_to(ROOT).as_posix()
        loads = {module.split(".")[0] for module, _ in named(file, ROOT, types=False)}
        assert library not in loads or place in DOORS[library], (
            f"{place} imports {library}: go through {', '.join(DOORS[library])}"
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_verb_is_free_of_heavy_imports(command: str) -> None:
    # The verbs are asked of the parser itself, so that no verb is forgotten here.
    code = f"""
import argparse, sys
from {COMMANDS[command]} import main

parsers, parse_known_args = [], argparse.ArgumentParser.parse_known_args

def remember(parser, *args, **kwargs):
    parsers.append(parser)
    return parse_known_args(parser, *args, **kwargs)

argparse.ArgumentParser.parse_known_args = remember

def told(words):
    parsers.clear()
    try:
        main([*words, "--help"])
    except SystemExit as stop:
        assert not stop.code, words
    heavy = set({HEAVY}) & set(sys.modules)
    assert not heavy, f"{command} {{' '.join(words)}} --help imports {{sorted(heavy)}}"
    for action in parsers[-1]._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices:
                told([*words, verb])

told([])
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    verbs = result.stdout.count("usage:") - 1
    assert verbs >= 1


def test_no_folder_is_crowded() -> None:
    held = Counter(
        f.parent.relative_to(ROOT).as_posix()
        for f in files_of(ROOT).values()
        if f.name != "__init__.py"
    )
    most = {"rabbit_holes": TOP, "policies": TOP}
    crowded = {folder: n for folder, n in held.items() if n > most.get(folder, FOLDER)}
    assert not crowded


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for file in files_of(ROOT).values():
        for node in ast.walk(tree_of(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{file.relative_to(ROOT)}:{node.lineno} {node.name}", node


def test_no_function_is_longer_than_a_page() -> None:
    lengths = {place: (f.end_lineno or 0) - f.lineno + 1 for place, f in functions()}
    assert {place: n for place, n in lengths.items() if n > LINES} == {}


def test_no_function_takes_a_bag_of_parameters() -> None:
    counts = {}
    for place, f in functions():
        own = {"self", "cls"}
        every = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
        # A constructor may: settings are stated somewhere.
        if f.name != "__init__":
            counts[place] = sum(a.arg not in own for a in every)
    assert {place: n for place, n in counts.items() if n > PARAMETERS} == {}


def test_policies_seldom_leave_a_type_open() -> None:
    texts = [f.read_text() for f in files_of(ROOT, ("policies",)).values()]
    lines = sum(text.count("\n") for text in texts)
    found = sum(len(re.findall(r"\bAny\b", text)) for text in texts)
    assert 1000 * found < ANY * lines
