"""A model trained in a recorded order: exact, resumable, and opened by transformers."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kncl_env.world.world import World
from train_lm import training_text
from train_lm.checked import model_folder
from train_lm.checked.model_folder import note_model
from train_lm.cli import main
from train_lm.curriculum import read_curriculum
from train_lm.curriculum_run import Machine, RunConfig, run_curriculum
from train_lm.files import read_json
from train_lm.tokenizer import END_OF_TEXT
from train_lm.trainer import Trainer

CONFIG = RunConfig(model="xxs", batch=4)
MACHINE = Machine(cpu=True, save_every=2)


def write(file: Path, world: World, steps: int = 6, of: str | None = None) -> Path:
    header = {"format": "kncl-curriculum", "version": 1, "world": of or world.hash}
    rows = [
        {"topics": [t], "passages": world.passages_of(t).tolist(), "tokens": 300}
        for t in range(steps)
    ]
    file.write_text("".join(json.dumps(r) + "\n" for r in [header, *rows]))
    return file


@pytest.fixture
def curriculum(small_world: World, tmp_path: Path) -> Path:
    return write(tmp_path / "c.jsonl", small_world)


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


def metrics(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def gpt2_directory(folder: Path, texts: list[str], vocabulary: int = 400) -> Path:
    """A model of another family, with dropout and a tokenizer of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=390,
            special_tokens=["<stop>"],
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    own = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<stop>")
    own.save_pretrained(folder)
    stop = own.eos_token_id
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=48,
            n_embd=32,
            n_layer=1,
            n_head=2,
            bos_token_id=stop,
            eos_token_id=stop,
        )
    ).save_pretrained(folder)
    return folder


def test_a_run_that_was_stopped_ends_with_the_same_bytes(
    small_world: World, curriculum: Path, tmp_path: Path
) -> None:
    run_curriculum(small_world.path, curriculum, tmp_path / "whole", CONFIG, MACHINE)

    class StoppedError(Exception):
        pass

    def stop(line: dict[str, Any]) -> None:
        if line["update"] == 5:
            raise StoppedError

    cut = tmp_path / "cut"
    threads = threading.active_count()
    with pytest.raises(StoppedError):
        run_curriculum(small_world.path, curriculum, cut, CONFIG, MACHINE, stop)
    assert threading.active_count() == threads  # what writes events is one
    run_curriculum(small_world.path, curriculum, cut, CONFIG, MACHINE)
    assert weights(cut) == weights(tmp_path / "whole")
    assert metrics(cut) == metrics(tmp_path / "whole")
    assert [line["update"] for line in metrics(cut)] == list(range(1, 15))


def test_a_run_on_a_model_goes_on_only_with_the_one_that_it_was_begun_with(
    small_world: World, curriculum: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = run_curriculum(small_world.path, curriculum, tmp_path / "base", CONFIG, MACHINE)
    hashed: list[str] = []
    whole = model_folder.note_files

    def noted(place: Path, *more: Any) -> str:
        hashed.append(str(place))
        return whole(place, *more)

    monkeypatch.setattr(model_folder, "note_files", noted)
    config, out = replace(CONFIG, model=str(model)), tmp_path / "run"
    run_curriculum(small_world.path, curriculum, out, config, MACHINE)
    assert hashed == [str(model)]  # it may be large: once
    settings = json.loads((out / "config.json").read_text())
    assert settings["model_sha256"] == note_model(str(model))
    made = weights(out)
    changed = bytearray((model / "model.safetensors").read_bytes())
    changed[-3] ^= 1
    (model / "model.safetensors").write_bytes(changed)
    with pytest.raises(ValueError, match=r"model_sha256.*name another --out") as refusal:
        run_curriculum(small_world.path, curriculum, out, config, MACHINE)
    assert "\n" not in str(refusal.value)
    assert weights(out) == made


def test_a_curriculum_that_an_editor_marked_as_utf_8_is_read_as_it_was(
    curriculum: Path, tmp_path: Path
) -> None:
    marked = tmp_path / "marked.jsonl"
    marked.write_bytes(b"\xef\xbb\xbf" + curriculum.read_bytes())
    before, after = read_curriculum(curriculum), read_curriculum(marked)
    assert after.world == before.world
    assert [s.passages.tolist() for s in after.steps] == [s.passages.tolist() for s in before.steps]


def test_the_rate_warms_up_and_decays_over_the_whole_budget(
    small_world: World, tmp_path: Path
) -> None:
    curriculum = write(tmp_path / "c.jsonl", small_world, steps=16)
    config = RunConfig(model="xxs", batch=1, learning_rate=1.0e-3)
    run_curriculum(small_world.path, curriculum, tmp_path / "run", config, MACHINE)
    rates = [line["learning_rate"] for line in metrics(tmp_path / "run")]
    assert len(rates) == 16 * 300 // 32
    assert rates[:4] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3])
    assert rates[-1] < 1e-5


def test_the_result_opens_with_transformers_and_knows_the_text(
    small_world: World, curriculum: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(tmp_path)
    (tmp_path / "xxs").mkdir()  # a folder of a preset's name is not its model
    (tmp_path / "xxs" / "config.json").write_text("{}")
    options = ["--model", "xxs", "--batch", "4", "--learning-rate", "0.01", "--cpu"]
    place = ["--world", str(small_world.path), "--curriculum", str(curriculum)]
    assert main(["run", *place, "--out", str(tmp_path / "run"), *options]) == 0
    assert "model_sha256" not in json.loads((tmp_path / "run" / "config.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    text = small_world.passage_text(int(small_world.passages_of(2)[0]))
    ids = tokenizer(text, return_tensors="pt").input_ids[:, :32]
    assert tokenizer.decode(ids[0]) == text[: len(tokenizer.decode(ids[0]))]
    loss = float(model(input_ids=ids, labels=ids).loss.detach())
    assert loss < np.log(small_world.tokenizer.get_vocab_size()) - 0.3
    assert (tokenizer.model_max_length, model.config.use_cache) == (32, True)
    end = small_world.tokenizer.token_to_id(END_OF_TEXT)
    assert {model.config.eos_token_id, model.generation_config.eos_token_id} == {end}
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))
    assert not [p for p in (tmp_path / "run").rglob("*") if p.suffix in (".pt", ".bin", ".pkl")]


def test_a_model_of_another_family_trains_in_its_own_tokens_and_goes_on_exactly(
    small_world: World, curriculum: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    texts = [small_world.passage_text(int(p)) for p in range(20)]
    config = RunConfig(model=str(gpt2_directory(tmp_path / "gpt2", texts)), batch=4, context=24)
    run_curriculum(small_world.path, curriculum, tmp_path / "whole", config, MACHINE)
    # Tokenised once: what is cached is found by world and tokenizer.
    monkeypatch.setattr(training_text, "_write", None)

    def stop(line: dict[str, Any]) -> None:
        if line["update"] == 7:
            raise KeyboardInterrupt

    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        run_curriculum(small_world.path, curriculum, cut, config, MACHINE, stop)
    torch.manual_seed(99)  # dropout must come from the checkpoint's generator
    run_curriculum(small_world.path, curriculum, cut, config, MACHINE)
    assert weights(cut) == weights(tmp_path / "whole")
    model = AutoModelForCausalLM.from_pretrained(cut / "model")
    assert model.config.model_type == "gpt2"
    for name in ("config.json", "generation_config.json"):
        assert read_json(cut / "model" / name) == read_json(tmp_path / "gpt2" / name)
    tokenizer = AutoTokenizer.from_pretrained(cut / "model")
    assert tokenizer.eos_token == "<stop>"
    assert tokenizer(texts[0]) == AutoTokenizer.from_pretrained(tmp_path / "gpt2")(texts[0])


def test_a_model_of_this_house_is_trained_further_in_the_worlds_own_tokens(
    small_world: World, curriculum: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_curriculum(small_world.path, curriculum, tmp_path / "first", CONFIG, MACHINE)
    further = RunConfig(model=str(tmp_path / "first" / "model"), batch=4)
    monkeypatch.setattr(training_text, "_write", None)  # the world's own are cached by now
    run_curriculum(small_world.path, curriculum, tmp_path / "second", further, MACHINE)
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        first, second = (tmp_path / run / "model" / name for run in ("first", "second"))
        assert read_json(first) == read_json(second)


def test_recomputing_activations_changes_nothing_but_memory(
    small_world: World, curriculum: Path, tmp_path: Path
) -> None:
    saving = Machine(cpu=True, gradient_checkpointing=True)
    for name, machine in (("plain", MACHINE), ("saving", saving)):
        run_curriculum(small_world.path, curriculum, tmp_path / name, CONFIG, machine)
    a, b = ([line["loss"] for line in metrics(tmp_path / n)] for n in ("plain", "saving"))
    assert a == pytest.approx(b, rel=1e-6)


@pytest.mark.parametrize("fault", ["nan", "memory"])
def test_a_batch_that_fails_keeps_the_last_good_checkpoint_and_the_run_goes_on_from_it(
    small_world: World,
    curriculum: Path,
    tmp_path: Path,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    argv = ["run", "--world", str(small_world.path), "--curriculum", str(curriculum), "--cpu"]
    argv += ["--model", "xxs", "--batch", "4", "--save-every", "2", "--out"]
    assert main([*argv, str(tmp_path / "whole")]) == 0
    real = Trainer._backward

    def fails_at_the_sixth(trainer: Trainer, windows: Any) -> float:
        loss = real(trainer, windows)
        if trainer.updates == 5:
            if fault == "memory":
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 10 TB")
            return float("nan")
        return loss

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_backward", fails_at_the_sixth)
        capsys.readouterr()
        assert main([*argv, str(out)]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert {"nan": "finite loss", "memory": "4 windows of 32 tokens"}[fault] in error[0]
    assert str(out / "checkpoint-0000004.safetensors") in error[0]
    assert (out / "checkpoint-0000004.safetensors").is_file()
    assert main([*argv, str(out)]) == 0
    assert weights(out) == weights(tmp_path / "whole")


def test_an_interrupted_run_says_how_to_go_on(
    small_world: World,
    curriculum: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = Trainer.update

    def interrupted(trainer: Trainer, windows: Any) -> float:
        if trainer.updates == 5:
            raise KeyboardInterrupt
        return real(trainer, windows)

    out = tmp_path / "a run"
    argv = ["run", "--world", str(small_world.path), "--curriculum", str(curriculum), "--cpu"]
    argv += ["--model", "xxs", "--batch", "4", "--save-every", "2", "--out", str(out), "--force"]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", interrupted)
        assert main(argv) == 130
    said = capsys.readouterr().err.strip()
    assert "checkpoint-0000004" in said
    assert said.endswith(f"--out '{out}'")  # without --force, which would begin again
    assert main(argv[:-1]) == 0
    assert [line["update"] for line in metrics(out)] == list(range(1, 15))


FAULTS = {
    "world": "one of world 000000000000",
    "half a world": "expected a SHA-256, 64 hexadecimal digits as world",
    "held-out": "c.jsonl:8: expected training passages only",
    "json": "c.jsonl:8, got",
    "fraction": "c.jsonl:8, got",
    "large number": "c.jsonl:8, got",
    "large budget": "c.jsonl:8, got",
    "large seed": "expected a seed between",
    "empty": "expected steps",
    "no curriculum": "c.jsonl",
    "model": "model preset",
    "damaged model": "expected a causal language model",
    "damaged tokenizer": "JSONDecodeError",
    "tokenizer without a vocabulary": "Couldn't instantiate the backend tokenizer",
    "other vocabulary": "the vocabulary does not match",
    "small vocabulary": "the vocabulary does not match",
    "long": "at most 32 tokens",
    "budget": "smaller model or batch",
    "shard": "torchrun",
    "foreign": "expected a new place",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_trained_is_one_clear_line(
    small_world: World, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "c.jsonl", small_world)
    texts = [small_world.passage_text(int(p)) for p in range(20)]
    options = {"--model": "xxs", "--batch": "4"}
    out = tmp_path / "run"
    if fault == "world":
        write(file, small_world, of="0" * 64)
    elif fault == "half a world":
        write(file, small_world, of=small_world.hash[:-1])
    elif fault == "held-out":
        secret = int(small_world.passages_of(3, "test")[0])
        row = {"topics": [3], "passages": [secret], "tokens": 300}
        file.write_text(file.read_text() + json.dumps(row) + "\n")
    elif fault == "json":
        file.write_text(file.read_text() + '{"topics": [')
    elif fault == "fraction":
        file.write_text(file.read_text() + '{"passages": [1.5], "tokens": 300}\n')
    elif fault == "large number":
        file.write_text(file.read_text() + f'{{"passages": [{2**63}], "tokens": 300}}\n')
    elif fault == "large budget":
        file.write_text(file.read_text() + f'{{"passages": [1], "tokens": {2**63}}}\n')
    elif fault == "large seed":
        options["--seed"] = str(2**32)
    elif fault == "empty":
        write(file, small_world, steps=0)
    elif fault == "no curriculum":
        file.unlink()
    elif fault == "model":
        options["--model"] = "huge"
    elif fault == "damaged model":
        options["--model"] = str(gpt2_directory(tmp_path / "m", texts))
        damaged = tmp_path / "m" / "model.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:5000])
    elif fault == "damaged tokenizer":
        options["--model"] = str(gpt2_directory(tmp_path / "m", texts))
        damaged = tmp_path / "m" / "tokenizer.json"
        damaged.write_text(damaged.read_text()[:500])
    elif fault == "tokenizer without a vocabulary":
        options["--model"] = str(gpt2_directory(tmp_path / "m", texts))
        (tmp_path / "m" / "tokenizer.json").unlink()
    elif fault == "other vocabulary":
        options["--model"] = str(gpt2_directory(tmp_path / "m", texts))
        (tmp_path / "m" / "tokenizer.json").unlink()
        (tmp_path / "m" / "tokenizer_config.json").unlink()
    elif fault == "small vocabulary":
        options["--model"] = str(gpt2_directory(tmp_path / "m", texts, vocabulary=300))
    elif fault == "long":
        options["--context"] = "33"
    elif fault == "shard":
        options["--shard"] = ""
    elif fault == "foreign":
        out.mkdir()
        (out / "thesis.txt").write_text("all of it")
        options["--force"] = ""
    else:
        options["--batch"] = "4000"
    capsys.readouterr()
    argv = ["run", "--world", str(small_world.path), "--curriculum", str(file), "--cpu"]
    argv += ["--out", str(out), *(part for o in options.items() for part in o if part)]
    assert main(argv) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1, error
    assert FAULTS[fault] in error[0]
    assert ("add the model's own tokenizer files" in error[0]) == (fault == "other vocabulary")
    assert ".part" not in error[0]
    assert "Errno" not in error[0]
    assert fault != "foreign" or (out / "thesis.txt").is_file()


def test_other_settings_are_refused_and_force_begins_again(
    small_world: World, curriculum: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    run_curriculum(small_world.path, curriculum, out, CONFIG, MACHINE)
    other = RunConfig(model="xxs", batch=4, seed=1)
    with pytest.raises(ValueError, match=r"others \(seed is 0 there, 1 here\)"):
        run_curriculum(small_world.path, curriculum, out, other, MACHINE)
    before = weights(out)
    own = RunConfig(model=str(out / "model"), batch=4)
    with pytest.raises(ValueError, match="inputs outside"):
        run_curriculum(small_world.path, curriculum, out, own, MACHINE, force=True)
    assert weights(out) == before
    run_curriculum(small_world.path, curriculum, out, other, MACHINE, force=True)
    assert weights(out) != before
