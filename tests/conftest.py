"""Fixtures that several test files share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One thread per process: on two shared cores more threads only wait for each other.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytest_plugins = ["mediawiki"]


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nucleus phases of tests are cached for the session and never in the user's own cache."""
    os.environ["KNCL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; skips where it is missing."""
    place = Path(os.environ.get("KNCL_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (place / "wikispeedia").is_dir():
        pytest.skip(f"no real data at {place}: set KNCL_DATA to a folder that holds wikispeedia/")
    return place


@pytest.fixture(scope="session")
def wikispeedia_dir(shared_data: Path) -> Path:
    return shared_data / "wikispeedia"


@pytest.fixture(scope="session")
def small_corpus():  # type: ignore[no-untyped-def]
    from fakes import corpus_of

    return corpus_of(n_topics=40, seed=0)


@pytest.fixture(scope="session")
def small_world(small_corpus, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A focused world of 40 topics in 4 regions, built once; opened, never written to."""
    from kncl_env.world.build import BuildConfig, build_world

    out = tmp_path_factory.mktemp("worlds") / "small"
    config = BuildConfig(scenario="focused", region="region.3", vocab_size=300, passage_bytes=200)
    return build_world(small_corpus, out, config)
