"""Runs along a curriculum that train a part of a model: adapters, and updates of few numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_curriculum_run import CONFIG, MACHINE, metrics, weights, write

from kncl_env.world.world import World
from train_lm.cli import main
from train_lm.curriculum_run import RunConfig, merge_places, run_curriculum
from train_lm.files import read_json, write_json
from train_lm.trainer import nll_of

CPU = torch.device("cpu")


class StoppedError(Exception):
    pass


def stop(line: dict[str, Any]) -> None:
    if line["update"] == 5:
        raise StoppedError


@pytest.fixture(scope="module")
def curriculum(small_world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("curriculum") / "c.jsonl", small_world)


@pytest.fixture(scope="module")
def base(small_world: World, curriculum: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of this house, a little trained."""
    out = tmp_path_factory.mktemp("base") / "run"
    return run_curriculum(small_world.path, curriculum, out, CONFIG, MACHINE)


def ran(world: World, curriculum: Path, out: Path, config: RunConfig) -> Path:
    """The run's result, after it was stopped once and had gone on."""
    with pytest.raises(StoppedError):
        run_curriculum(world.path, curriculum, out, config, MACHINE, stop)
    return run_curriculum(world.path, curriculum, out, config, MACHINE)


def test_an_adapter_run_ends_with_a_folder_of_peft_and_if_asked_a_whole_model(
    small_world: World, curriculum: Path, base: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    options = ["--model", str(base), "--batch", "4", "--learning-rate", "0.01", "--cpu"]
    options += ["--adapter", "lora", "--adapter-rank", "2", "--merge", "--save-every", "2"]
    place = ["--world", str(small_world.path), "--curriculum", str(curriculum)]
    out = tmp_path / "run"
    assert main(["run", *place, "--out", str(out), *options]) == 0
    beside = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(out / "model")
    before = AutoModelForCausalLM.from_pretrained(base)
    text = np.random.default_rng(0).integers(0, 300, (4, 25))
    expected = nll_of(beside, text, CPU)
    assert nll_of(merged, text, CPU) == pytest.approx(expected, rel=1e-5)
    assert nll_of(before, text, CPU) != pytest.approx(expected, rel=1e-4)
    assert merged.config.use_cache
    card = read_json(out / "adapter" / "kncl_adapter.json")
    assert card["about"] == {"model": str(base)}
    # Stopped in the midst and gone on with, it is the same bytes.
    config = RunConfig(
        str(base), batch=4, learning_rate=0.01, adapter="lora", adapter_rank=2, merge=True
    )
    ran(small_world, curriculum, tmp_path / "cut", config)
    file = Path("adapter") / "adapter_model.safetensors"
    assert (tmp_path / "cut" / file).read_bytes() == (out / file).read_bytes()
    assert weights(tmp_path / "cut") == weights(out)


def test_relora_merges_at_the_bounds_of_steps_and_goes_on_exactly(
    small_world: World, curriculum: Path, base: Path, tmp_path: Path
) -> None:
    # 300 tokens a step, 128 an update: steps 2 and 4 end with updates 4 and 9.
    assert merge_places([300] * 6, 128, 2) == {4, 9, 14}
    config = RunConfig(str(base), batch=4, adapter="relora", adapter_rank=2, merge_every=2)
    whole = run_curriculum(small_world.path, curriculum, tmp_path / "whole", config, MACHINE)
    assert whole.name == "model"
    ran(small_world, curriculum, tmp_path / "cut", config)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "whole")
    once = replace(config, merge_every=100)
    run_curriculum(small_world.path, curriculum, tmp_path / "once", once, MACHINE)
    lora = replace(config, adapter="lora", merge=True)
    run_curriculum(small_world.path, curriculum, tmp_path / "lora", lora, MACHINE)
    assert weights(tmp_path / "once") == weights(tmp_path / "lora") != weights(tmp_path / "whole")


@pytest.mark.parametrize(
    "rule",
    [
        {"updates_rule": "topk", "updates_share": 0.1, "updates_feedback": True},
        {"updates_rule": "lowrank", "updates_rank": 2, "updates_refresh": 4},
    ],
)
def test_runs_with_other_updates_go_on_exactly(
    rule: dict[str, Any], small_world: World, curriculum: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, **rule)
    run_curriculum(small_world.path, curriculum, tmp_path / "whole", config, MACHINE)
    ran(small_world, curriculum, tmp_path / "cut", config)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_run_of_before_there_were_adapters_goes_on(
    small_world: World, curriculum: Path, tmp_path: Path
) -> None:
    out = tmp_path / "old"
    with pytest.raises(StoppedError):
        run_curriculum(small_world.path, curriculum, out, CONFIG, MACHINE, stop)
    settings = read_json(out / "config.json")
    new = ("adapter", "merge", "updates_")
    write_json(out / "config.json", {k: v for k, v in settings.items() if not k.startswith(new)})
    run_curriculum(small_world.path, curriculum, out, CONFIG, MACHINE)
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["update"] == 14
    topk = replace(CONFIG, updates_rule="topk")
    with pytest.raises(ValueError, match="updates_rule"):
        run_curriculum(small_world.path, curriculum, out, topk, MACHINE)


def test_an_adapter_on_fresh_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="a trained model under an adapter"):
        replace(CONFIG, adapter="lora")
    with pytest.raises(ValueError, match="an adapter among"):
        replace(CONFIG, adapter="dora")
