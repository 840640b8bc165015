"""Version and commit of the source that runs, wherever it was put."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from train_lm import provenance

NOTED = "0123456789abcdef0123456789abcdef01234567"
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="no git")


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    asked = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


def source(folder: Path) -> Path:
    """The package as it would lie there, with nothing but this file."""
    package = folder / "train_lm"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    shutil.copy(provenance.__file__, package)
    return package


def repository(folder: Path) -> str:
    """Commit what is there; returns the commit's short name."""
    folder.mkdir(exist_ok=True)
    (folder / "README").write_text("a project")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "all of it")
    return git(folder, "rev-parse", "--short", "HEAD")


def installed(folder: Path, direct_url: dict[str, object] | None) -> None:
    """What an installer writes beside the package."""
    about = folder / "kncl-9.8.7.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: kncl\nVersion: 9.8.7\n")
    if direct_url is not None:
        (about / "direct_url.json").write_text(json.dumps(direct_url))


def asked(path: Path, elsewhere: Path, **variables: str) -> tuple[str, str]:
    """Version and commit as a Python finds them that has only this folder to import from."""
    code = "from train_lm.provenance import commit, version; print(version(), commit())"
    env = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    said = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env=env,
        cwd=elsewhere,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    return said[0], said[1]


def test_a_checkout_names_its_own_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    source(checkout)
    head = repository(checkout)
    assert asked(checkout, tmp_path) == ("unknown", head)
    (checkout / "README").write_text("a changed project")
    assert asked(checkout, tmp_path) == ("unknown", f"{head}-dirty")


@pytest.mark.parametrize("ignored", [True, False])
def test_a_repository_around_the_virtual_environment_is_not_ours(
    tmp_path: Path, ignored: bool
) -> None:
    theirs = tmp_path / "theirs"
    repository(theirs)
    if ignored:
        (theirs / ".gitignore").write_text(".venv\n")
    packages = theirs / ".venv" / "site-packages"
    source(packages)
    installed(packages, None)
    assert asked(packages, theirs) == ("9.8.7", "unknown")


def test_an_installation_from_a_repository_names_the_commit_that_was_installed(
    tmp_path: Path,
) -> None:
    theirs = tmp_path / "theirs"
    repository(theirs)
    packages = theirs / ".venv" / "site-packages"
    source(packages)
    noted = {"url": "https://example.org/kncl", "vcs_info": {"vcs": "git", "commit_id": NOTED}}
    installed(packages, noted)
    assert asked(packages, theirs) == ("9.8.7", NOTED)


@pytest.mark.parametrize(
    "noted", [{"url": "file:///kncl", "dir_info": {}}, {"url": "", "vcs_info": None}, {}]
)
def test_an_installation_from_elsewhere_has_no_commit_to_name(
    tmp_path: Path, noted: dict[str, object]
) -> None:
    source(tmp_path / "packages")
    installed(tmp_path / "packages", noted)
    assert asked(tmp_path / "packages", tmp_path) == ("9.8.7", "unknown")


def test_an_installation_does_not_speak_for_a_copy_of_the_source(tmp_path: Path) -> None:
    copy, packages = tmp_path / "copy", tmp_path / "packages"
    source(copy)
    source(packages)
    installed(packages, {"url": "", "vcs_info": {"vcs": "git", "commit_id": NOTED}})
    both = f"{copy}{os.pathsep}{packages}"
    assert asked(Path(both), tmp_path)[1] == "unknown"


def test_a_hook_of_another_repository_does_not_mislead(tmp_path: Path) -> None:
    theirs, checkout = tmp_path / "theirs", tmp_path / "checkout"
    repository(theirs)
    source(checkout)
    head = repository(checkout)
    hook = {"GIT_DIR": str(theirs / ".git"), "GIT_WORK_TREE": str(theirs)}
    assert asked(checkout, theirs, **hook) == ("unknown", head)


def test_a_machine_without_git_knows_no_commit(tmp_path: Path) -> None:
    source(tmp_path / "checkout")
    repository(tmp_path / "checkout")
    assert asked(tmp_path / "checkout", tmp_path, PATH="") == ("unknown", "unknown")
