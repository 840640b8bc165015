"""The README tells the truth: its commands parse, its first snippet runs, its tree is complete."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PARSERS = {
    "kncl-env": "kncl_env.cli",
    "kncl-policy": "policies.cli.main",
    "rabbit-holes": "rabbit_holes.cli",
    "train-lm": "train_lm.cli",
}
TREE = re.search(r"\n    train_lm/ .*?\n\n", README, re.DOTALL)


def commands() -> list[str]:
    """Every command line in a table or a block of the README."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", README, re.DOTALL))
    (settings,) = re.findall(r'^SET="(.*)"$', blocks, re.MULTILINE)
    lines = [*blocks.splitlines(), *re.findall(r"^\|.*\| `([^`]+)` \|$", README, re.MULTILINE)]
    found = [line.replace("$SET", settings) for line in lines]
    torchrun = re.compile(r"torchrun .* -m train_lm.cli")
    found = [torchrun.sub("train-lm", line) for line in found]
    return [line for line in found if line.split(" ")[0] in PARSERS]


@pytest.mark.parametrize("line", commands())
def test_every_command_is_one_that_its_program_takes(line: str) -> None:
    program, *argv = shlex.split(line)
    parser = importlib.import_module(PARSERS[program])._parser()
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            parser.parse_args(argv)
    except SystemExit:
        pytest.fail(f"{line}\n{told.getvalue()}")


def test_every_verb_has_an_example() -> None:
    shown = {tuple(line.split(" ")[:2]) for line in commands()}
    for program, module in PARSERS.items():
        parser = importlib.import_module(module)._parser()
        (verbs,) = (a.choices for a in parser._actions if a.choices)
        missing = {verb for verb in verbs if (program, verb) not in shown} - {"demo"}
        assert missing == set(), program


def test_the_first_snippet_runs_on_the_world_that_is_built_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from kncl_env.cli import main

    monkeypatch.chdir(tmp_path)
    build = next(line for line in commands() if "worlds/toy" in line)
    assert main(shlex.split(build)[1:]) == 0
    code = re.search(r"```python\n(import gymnasium.*?)```", README, re.DOTALL)
    assert code is not None
    capsys.readouterr()
    exec(compile(code[1], "README.md", "exec"), {})
    assert "'loss_drop'" in capsys.readouterr().out


def test_the_tree_names_every_file() -> None:
    assert TREE is not None
    words = set(re.findall(r"\w+", TREE[0]))
    files = [
        f for package in PARSERS.values() for f in (ROOT / package.split(".")[0]).rglob("*.py")
    ]
    missing = {f.stem for f in files if f.name != "__init__.py"} - words
    assert missing == set()
    folders = {f.parent.name for f in files}
    assert folders - words == set()


def test_what_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
