"""`train-lm` explains itself, at once."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from train_lm.cli import _parser
from train_lm.curriculum_run import Machine, RunConfig

HEAVY = {"torch", "transformers", "tokenizers", "numpy", "scipy", "pyarrow", "safetensors"}


def verbs() -> dict[str, argparse.ArgumentParser]:
    parser = _parser()
    (chosen,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    return {"": parser, **chosen.choices}


def options() -> Iterator[argparse.Action]:
    for parser in verbs().values():
        for action in parser._actions:
            if action.option_strings and action.dest not in ("help", "version"):
                yield action


@pytest.mark.parametrize("verb", list(verbs()))
def test_help_answers_without_heavy_imports_and_with_an_example(verb: str) -> None:
    code = (
        "import sys\nfrom train_lm.cli import main\n"
        f"try:\n    main({[verb, '--help'] if verb else ['--help']})\n"
        "except SystemExit as left:\n    assert left.code == 0\n"
        f"found = {HEAVY} & set(sys.modules)\nassert not found, found\n"
    )
    root = Path(__file__).parents[1]
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert said.returncode == 0, said.stderr
    assert "usage: train-lm" in said.stdout
    assert "Example: train-lm run" in said.stdout


@pytest.mark.parametrize("option", list(options()), ids=lambda o: o.dest)
def test_every_option_says_what_it_means_and_its_default(option: argparse.Action) -> None:
    text = option.help or ""
    assert len(text.split()) > 3, text
    if option.required:
        assert text.endswith("required")
        return
    told = re.search(r"\(default: ([^,)]+)", text)
    assert told is not None, text
    if isinstance(option.default, int | float) and not isinstance(option.default, bool):
        assert float(told[1]) == option.default
    elif isinstance(option.default, str):
        assert told[1] == option.default


def test_the_defaults_of_the_command_are_those_of_the_library() -> None:
    found = {option.dest: option.default for option in options()}
    found["precision"] = found.pop("dtype")
    for defaults in (RunConfig(), Machine()):
        for field in fields(defaults):
            assert found[field.name] == getattr(defaults, field.name), field.name
