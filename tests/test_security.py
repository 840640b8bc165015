"""What SECURITY.md promises of the whole source: who may ask a host, and who may run code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("train_lm", "kncl_env", "rabbit_holes", "policies")

# What can reach another machine, and the files that may.
NETWORK = {
    "urllib.request": {"kncl_env/world/sources/archive.py"},
    "http.client": {"kncl_env/world/sources/archive.py"},
    "httpx": {"kncl_env/world/sources/wiki/wikipedia.py"},
    "wikipediaapi": {"kncl_env/world/sources/wiki/wikipedia.py"},
    "huggingface_hub": {"train_lm/checked/model_folder.py"},
    "socket": {"train_lm/crew/cluster.py"},  # knocks at the address that --ray names
    "ray": {"train_lm/crew/cluster.py"},
    **{name: set() for name in ("requests", "aiohttp", "ftplib", "smtplib", "xmlrpc")},
}
# What can run code that a name or a file brings, and the files that may.
CODE = {
    "subprocess": {"train_lm/provenance.py", "kncl_env/world/sources/pydoc/read.py"},
    **{name: set() for name in ("pickle", "dill", "marshal", "shelve", "runpy", "joblib")},
}
CALLS = {"eval", "exec", "__import__", "breakpoint", "torch.load", "os.system", "os.popen"}
IMPORTS = {
    "train_lm/command_line.py",  # our own commands
    "train_lm/crew/cluster.py",  # a module of Ray's
    "policies/arms/registry.py",
    "kncl_env/world/sources/pydoc/collect.py",
}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("doors", [NETWORK, CODE], ids=["network", "code"])
def test_few_files_can_ask_a_host_or_run_code(
    doors: dict[str, set[str]],
) -> None:
    used: dict[str, set[str]] = {name: set() for name in doors}
    for place, tree in sources():
        for module in imported(tree):
            for name in doors:
                if f"{module}.".startswith(f"{name}."):
                    used[name].add(place)
    assert used == doors


def test_nothing_is_evaluated_and_no_pickle_is_opened() -> None:
    imports = set()
    for place, tree in sources():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            assert called not in CALLS, f"{place}:{node.lineno} calls {called}"
            imports |= {place} if called.endswith("import_module") else set()
            for word in node.keywords:
                wanted = {"allow_pickle": False, "trust_remote_code": False, "shell": False}
                if word.arg in wanted:
                    assert ast.unparse(word.value) == "False", f"{place}:{node.lineno}"
            if called.endswith(".from_pretrained"):
                assert "**as_data" in ast.unparse(node), f"{place}:{node.lineno}: open it as data"
    assert imports <= IMPORTS


def test_the_page_on_security_names_tests_that_are_there() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    named = set(re.findall(r"test_\w+\.py", text))
    assert len(named) >= 6
    for name in named:
        assert (ROOT / "tests" / name).is_file(), name
    assert "@" not in text, "no address of anybody"
