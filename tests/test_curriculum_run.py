"""A model trained in a recorded order: exact, resumable, and opened by transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kncl_env.world import World
from train_lm.cli import main
from train_lm.curriculum_run import RunConfig, run_curriculum

CONFIG = RunConfig(model="xxs", batch=4, save_every=2)


def write(file: Path, world: World, steps: int = 6, of: str | None = None) -> Path:
    header = {"format": "kncl-curriculum", "version": 1, "world": of or world.hash}
    rows = [
        {"topics": [t], "passages": world.passages_of(t).tolist(), "tokens": 300}
        for t in range(steps)
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in [header, *rows]))
    return file


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    small_world: World, tmp_path: Path
) -> None:
    curriculum = write(tmp_path / "c.jsonl", small_world)
    run_curriculum(small_world.path, curriculum, tmp_path / "whole", CONFIG)

    class StoppedError(Exception):
        pass

    def stop(step: int, steps: int, loss: float) -> None:
        if step == 5:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_curriculum(small_world.path, curriculum, tmp_path / "cut", CONFIG, stop)
    run_curriculum(small_world.path, curriculum, tmp_path / "cut", CONFIG)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    logs = [(tmp_path / d / "metrics.jsonl").read_text() for d in ("whole", "cut")]
    assert logs[0] == logs[1]


def test_the_result_opens_with_transformers_and_knows_the_text(
    small_world: World, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    curriculum = write(tmp_path / "c.jsonl", small_world)
    options = ["--model", "xxs", "--batch", "4", "--learning-rate", "0.01"]
    place = ["--world", str(small_world.path), "--curriculum", str(curriculum)]
    assert main(["run", *place, "--out", str(tmp_path / "run"), *options]) == 0
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    text = small_world.passage_text(int(small_world.passages_of(2)[0]))
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :32]
    assert tokenizer.decode(ids[0]) == text[: len(tokenizer.decode(ids[0]))]
    loss = float(model(input_ids=ids, labels=ids).loss.detach())
    assert loss < np.log(small_world.tokenizer.get_vocab_size()) - 0.3


@pytest.mark.parametrize("fault", ["world", "held-out", "json", "empty", "model", "budget"])
def test_what_cannot_be_trained_is_one_clear_line(
    small_world: World, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "c.jsonl", small_world)
    model, batch = "xxs", "4"
    if fault == "world":
        write(file, small_world, of="another")
    elif fault == "held-out":
        secret = int(small_world.passages_of(3, "test")[0])
        row = {"topics": [3], "passages": [secret], "tokens": 300}
        file.write_text(file.read_text() + json.dumps(row) + "\n")
    elif fault == "json":
        file.write_text(file.read_text() + '{"topics": [')
    elif fault == "empty":
        write(file, small_world, steps=0)
    elif fault == "model":
        model = "huge"
    else:
        batch = "4000"
    expected = {
        "world": "one of world another",
        "held-out": "held out or unknown",
        "json": "c.jsonl:8:",
        "empty": "expected steps",
        "model": "model preset",
        "budget": "smaller model or batch",
    }[fault]
    argv = ["run", "--world", str(small_world.path), "--curriculum", str(file)]
    argv += ["--out", str(tmp_path / "run"), "--model", model, "--batch", batch]
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert expected in error[0]
