"""The house's one rule: train_lm <- kncl_env <- rabbit_holes <- policies, and free imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

LINE = ("train_lm", "kncl_env", "rabbit_holes", "policies")
COMMAND = {"policies": "policies.cli.main"}
ROOT = Path(__file__).parents[1]


def imported(file: Path) -> set[str]:
    """Packages of the house that a file imports, lazily or not; relative ones are its own."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module or "")
    return {name.split(".")[0] for name in names} & set(LINE)


@pytest.mark.parametrize("package", LINE)
def test_a_package_imports_only_packages_to_its_left(package: str) -> None:
    allowed = set(LINE[: LINE.index(package) + 1])
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        wrong = imported(file) - allowed
        assert not wrong, f"{file.relative_to(ROOT)} imports {sorted(wrong)}"


def test_no_module_imports_itself_in_a_circle() -> None:
    modules = {
        ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f
        for package in LINE
        for f in (ROOT / package).rglob("*.py")
    }
    needs: dict[str, set[str]] = {}
    for name, file in modules.items():
        found: set[str] = set()
        for node in ast.parse(file.read_text()).body:  # top level: what runs at import
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                full = [f"{node.module}.{a.name}" for a in node.names]
                found |= {m for m in (*full, node.module or "") if m in modules}
        needs[name] = found - {name}
    done: set[str] = set()
    while True:
        ready = {m for m in needs if m not in done and needs[m] <= done}
        if not ready:
            break
        done |= ready
    assert done == set(needs), f"import cycle among {sorted(set(needs) - done)}"


@pytest.mark.parametrize("package", LINE)
def test_help_is_free_of_heavy_imports(package: str) -> None:
    code = (
        "import sys\n"
        f"from {COMMAND.get(package, package + '.cli')} import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'faiss', 'stable_baselines3', 'sklearn', 'matplotlib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
    assert "usage:" in result.stdout


def test_one_door_per_heavy_library() -> None:
    doors = {"stable_baselines3": "policies", "sb3_contrib": "policies", "peft": "train_lm"}
    for package in LINE:
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text()
            for library, door in doors.items():
                if package != door:
                    assert f"import {library}" not in text, file
                    assert f"from {library}" not in text, file
