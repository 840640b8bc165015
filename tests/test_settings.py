"""Settings: flat at the edge, nested inside, and the same thing both ways."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from kncl_env.settings import OPTIONS, Settings


def test_flat_names_lead_into_the_group_of_their_reader() -> None:
    found = Settings.of(slots=5, learner_seed=3, nucleus_updates=7, breadth=9, region="r")
    assert (found.rules.slots, found.learner.seed, found.nucleus.updates) == (5, 3, 7)
    assert (found.reading.breadth, found.region) == (9, "r")
    assert found.rules.steps == Settings().rules.steps


def test_what_is_written_is_what_was_said_and_reads_back() -> None:
    found = Settings.of(nucleus_titles=["A", "B, C"], learning_rate=1, probes=np.int64(3))
    written = found.to_json()
    assert list(written) == list(OPTIONS)
    assert written["nucleus_titles"] == ["A", "B, C"]
    assert Settings.from_json(written, "a file") == found


def test_a_setting_that_a_file_does_not_know_yet_is_what_it_is_by_default() -> None:
    written = Settings.of(slots=5).to_json()
    del written["probes"], written["region"]
    assert Settings.from_json(written, "a file") == Settings.of(slots=5)
    with pytest.raises(ValueError, match=r"settings in a file: .*'flavour'"):
        Settings.from_json({**written, "flavour": 1}, "a file")
    with pytest.raises(ValueError, match="settings in a file"):
        Settings.from_json([1], "a file")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"slots": 0}, "expected slots >= 1, got 0"),
        ({"probes": -1}, "expected probes >= 1, got -1"),
        ({"steps": 2.5}, "expected a whole number for steps, got 2.5"),
        ({"slots": True}, "expected a whole number for slots, got True"),
        ({"slots": "4"}, "expected a whole number for slots, got '4'"),
        ({"noise_floor": float("nan")}, "expected noise_floor >= 0, got nan"),
        ({"learning_rate": 0.0}, "expected a learning_rate above 0, got 0.0"),
        ({"learning_rate": float("inf")}, "expected a learning_rate above 0, got inf"),
        ({"replay": 1.0}, "replay share of 0 <= replay < 1, got 1.0"),
        ({"breadth": 0}, "expected breadth >= 1, got 0"),
        ({"nucleus_updates": 0}, "expected nucleus_updates >= 1, got 0"),
        ({"nucleus_titles": "Rome"}, "expected a list of titles for nucleus_titles, got 'Rome'"),
        ({"model": "huge"}, "expected a model preset among"),
        ({"learner_seed": -1}, "expected learner_seed >= 0, got -1"),
        ({"region": 3}, "expected a name for region, got 3"),
    ],
)
def test_a_value_that_means_nothing_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.of(**given)


def test_an_unknown_name_is_a_type_error_that_lists_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'stpes': .*, steps, "):
        Settings.of(stpes=3)


def test_a_step_and_an_episode_have_the_budget_that_follows_from_their_parts() -> None:
    found = Settings.of(model="xxs", updates_per_step=3, batch=4, steps=5)
    assert found.windows_per_step == 12
    assert found.tokens_per_step == 12 * 32
    assert found.tokens_per_episode == 5 * 12 * 32


def test_settings_need_no_numpy() -> None:
    code = "import sys, kncl_env.settings; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "order", ["import gymnasium, kncl_env", "import kncl_env, gymnasium", "import kncl_env"]
)
def test_the_environment_is_registered_whoever_is_imported_first(order: str) -> None:
    code = f"{order}\nimport gymnasium\ngymnasium.spec('kncl_env/TopicExpansion-v0')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
