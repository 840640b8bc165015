import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from train_lm.model import PRESETS, ModelConfig, build_model, open_model, save_model
from train_lm.tokenizer import END_OF_TEXT, as_transformers, encode, train_tokenizer
from train_lm.trainer import Trainer, TrainerConfig

TEXT = "the cat sat on the mat"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows one text by heart, as a run writes it down."""
    tokenizer = train_tokenizer([TEXT] * 4, 300)
    model = build_model(PRESETS["xxs"], 300, tokenizer.token_to_id(END_OF_TEXT))
    (ids,) = encode(tokenizer, [TEXT])
    stream = np.tile(ids, 40).astype(np.int64)
    trainer = Trainer(model, TrainerConfig(learning_rate=1e-2, batch=4), "cpu")
    trainer.begin_phase(60, decay=True)
    trainer.train(np.stack([stream[i : i + 33] for i in np.arange(240) % len(ids)]))
    folder = tmp_path_factory.mktemp("exported") / "model"
    return save_model(folder, model, as_transformers(tokenizer, PRESETS["xxs"].context))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    first, second = (build_model(PRESETS["xxs"], 300) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_seed_gives_other_weights() -> None:
    first = build_model(ModelConfig(32, 1, 32, seed=0), 300).get_input_embeddings().weight
    second = build_model(ModelConfig(32, 1, 32, seed=1), 300).get_input_embeddings().weight
    assert not torch.equal(first, second)


def test_who_a_model_is_changes_none_of_its_weights() -> None:
    state = build_model(PRESETS["xxs"], 300).state_dict()
    for name, value in build_model(PRESETS["xxs"], 300, end_of_text=0).state_dict().items():
        assert torch.equal(value, state[name]), name
    assert state["model.embed_tokens.weight"][0].any()


def test_the_embedding_of_the_end_of_text_is_trained_in_a_model_that_was_exported(
    exported: Path,
) -> None:
    own = train_tokenizer([TEXT] * 4, 300)
    for model in (build_model(PRESETS["xxs"], 300, 0), open_model(str(exported), own, 0).model):
        embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
        embedding(torch.tensor([0])).sum().backward()
        assert embedding.weight.grad[0].any()


def test_an_exported_model_says_what_ends_begins_and_pads_its_text(exported: Path) -> None:
    config = json.loads((exported / "config.json").read_text())
    generation = json.loads((exported / "generation_config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"], config["use_cache"]) == (0, 0, True)
    assert {generation[f"{what}_token_id"] for what in ("bos", "eos", "pad")} == {0}
    assert generation.get("use_cache", True)


def test_the_end_of_text_is_not_assumed_to_be_the_first_token() -> None:
    model: Any = build_model(PRESETS["xxs"], 300, end_of_text=7)
    assert model.config.eos_token_id == model.generation_config.pad_token_id == 7


def test_an_exported_model_stops_at_the_end_of_text(exported: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(exported)
    tokenizer = AutoTokenizer.from_pretrained(exported)
    ids = tokenizer("the cat", return_tensors="pt").input_ids
    said = model.generate(input_ids=ids, do_sample=False, max_new_tokens=25)[0]
    assert tokenizer.decode(said) == TEXT + END_OF_TEXT
    # With nothing to go on from, it begins a text.
    begun = model.generate(do_sample=False, max_new_tokens=31)[0]
    assert tokenizer.decode(begun, skip_special_tokens=True) == TEXT
    assert begun[0] == begun[-1] == tokenizer.eos_token_id


def test_a_pipeline_opens_an_exported_model_without_a_warning(exported: Path) -> None:
    from transformers import pipeline

    said: list[str] = []
    listener = logging.Handler(logging.WARNING)
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(listener)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ask = pipeline("text-generation", model=str(exported), device="cpu")
            texts = ask(
                ["the cat", "the cat sat"], max_new_tokens=25, do_sample=False, batch_size=2
            )
    finally:
        logger.removeHandler(listener)
    assert not said
    assert [answer["generated_text"] for (answer,) in texts] == [TEXT, TEXT]


# As `model.py` promises, in millions.
PARAMETERS = {
    "xxs": (0.03, 0.27),
    "xs": (0.13, 0.62),
    "s": (3.2, 5.2),
    "m": (28.5, 32.4),
    "l": (115.9, 122.8),
}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_parameters_that_it_promises(preset: str) -> None:
    for vocabulary, millions in zip((512, 8192), PARAMETERS[preset], strict=True):
        with torch.device("meta"):
            model = build_model(PRESETS[preset], vocabulary)
        found = sum(p.numel() for p in model.parameters()) / 1e6
        assert round(found, 2 if found < 1 else 1) == millions


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed between 0 and"):
        ModelConfig(seed=seed)


def test_a_model_without_a_tokenizer_has_none_and_one_that_cannot_be_opened_says_why(
    exported: Path, tmp_path: Path
) -> None:
    own = train_tokenizer([TEXT] * 4, 300)
    folder = shutil.copytree(exported, tmp_path / "model")
    assert open_model(str(folder), own, 0).tokenizer is not None
    file = folder / "tokenizer.json"
    file.write_text(file.read_text()[:-200])
    with pytest.raises(ValueError, match=r"open the tokenizer in .*model, got JSONDecodeError"):
        open_model(str(folder), own, 0)
    file.unlink()
    with pytest.raises(ValueError, match=r"open the tokenizer in .*complete its files"):
        open_model(str(folder), own, 0)
    (folder / "tokenizer_config.json").unlink()
    assert open_model(str(folder), own, 0).tokenizer is None


def test_the_future_does_not_change_the_past() -> None:
    model = build_model(PRESETS["xxs"], 300).eval()
    ids = torch.arange(20)[None]
    changed = ids.clone()
    changed[0, 10:] = 7
    with torch.no_grad():
        assert torch.equal(model(ids).logits[0, :10], model(changed).logits[0, :10])


@pytest.mark.parametrize("width", [0, 24, -16])
def test_a_width_that_heads_cannot_share_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        ModelConfig(width=width)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="layers >= 1"):
        ModelConfig(layers=0)
