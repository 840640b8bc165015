"""Adapters as folders, and several of them as one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from train_lm.adapters import (
    MERGES,
    Adapter,
    AdapterConfig,
    arrow_model,
    base_digest,
    merge_adapters,
    with_adapter,
    with_merged,
)
from train_lm.bank.bank import LearnerBank
from train_lm.composing.adapter_files import open_adapter, save_adapter
from train_lm.composing.agreement import adapter_agreement, agreement, nearest
from train_lm.inputs import forget_inputs, told_inputs
from train_lm.model import ModelConfig, build_model
from train_lm.trainer import Trainer, TrainerConfig, nll_of

VOCAB = 40
LORA = AdapterConfig(rank=3, alpha=6)
CONFIG = TrainerConfig(batch=4, learning_rate=1e-2)
CPU = torch.device("cpu")


def model(seed: int = 0, width: int = 16) -> nn.Module:
    return build_model(ModelConfig(width=width, layers=1, context=8, seed=seed), VOCAB)


def windows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (n, 9))


def trained(seed: int = 0, shape: AdapterConfig = LORA, of: nn.Module | None = None) -> Trainer:
    found = Trainer(model() if of is None else of, CONFIG, "cpu", adapter=shape)
    found.begin_phase(10, decay=False)
    found.train(windows(20, seed))
    return found


@pytest.fixture(scope="module")
def three() -> list[Adapter]:
    return [trained(seed).take_adapter() for seed in range(3)]


def test_a_saved_adapter_opens_with_plain_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    one = trained()
    folder = save_adapter(tmp_path / "a", one.take_adapter(), {"title": "Dinosaur"})
    peft = PeftModel.from_pretrained(model(), folder)
    assert nll_of(peft, windows(5), CPU).tolist() == one.nll(windows(5)).tolist()
    ours = open_adapter(folder, base_digest(model()))
    assert ours.about == {"title": "Dinosaur"}
    fresh = Trainer(model(), CONFIG, "cpu", adapter=LORA)
    fresh.put_adapter(ours)
    assert fresh.nll(windows(5)).tolist() == one.nll(windows(5)).tolist()
    bank = LearnerBank([model()] * 2, CONFIG, "cpu", adapter=LORA)
    bank.put_adapter(1, ours)
    assert bank.nll(windows(5)[None], [1])[0] == pytest.approx(one.nll(windows(5)), rel=1e-5)
    assert bank.take_adapter(1).base == ours.base
    with pytest.raises(OSError, match=str(folder)):
        save_adapter(folder, ours)


def test_an_adapter_of_plain_peft_is_opened_with_its_shapes_checked(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    shape = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"])
    peft = get_peft_model(model(), shape)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    peft.save_pretrained(tmp_path / "theirs")
    forget_inputs()
    found = open_adapter(tmp_path / "theirs", base_digest(model()))
    assert found.base == ""
    (told,) = told_inputs()
    assert told.startswith(f"read {tmp_path / 'theirs'}: an adapter, sha256 ")
    assert found.config.targets == (
        "model.layers.0.mlp.down_proj",
        "model.layers.0.self_attn.q_proj",
    )
    one = Trainer(model(), CONFIG, "cpu", adapter=found.config)
    one.put_adapter(found)
    assert one.nll(windows(5)).tolist() == nll_of(peft, windows(5), CPU).tolist()


def edited(folder: Path, what: str) -> None:
    """Do to a saved adapter what must not go unnoticed."""
    settings, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    found, numbers = json.loads(settings.read_text()), load_file(weights)
    name = next(n for n in numbers if "lora_B" in n)
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif what == "number":
        numbers[name][0, 0] += 1.0
    elif what == "nan":
        numbers[name][0, 0] = torch.nan
    elif what == "missing":
        del numbers[name]
    elif what == "rank":
        found["r"] = 5
    elif what == "alpha":
        found["lora_alpha"] *= 2
    elif what == "dora":
        found["use_dora"] = True
    elif what == "kind":
        found["peft_type"] = "IA3"
    elif what == "pickle":
        weights.rename(folder / "adapter_model.bin")
    elif what == "card":
        card = folder / "kncl_adapter.json"
        card.write_text(card.read_text().replace('"base": "', '"base": "00'))
    if what in ("number", "nan", "missing"):
        save_file(numbers, weights)
    settings.write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("truncated", "the adapter is damaged"),
        ("number", "edited or damaged"),
        ("nan", "not finite"),
        ("missing", "expected A and B"),
        ("rank", "of rank 5"),
        ("alpha", "expected an alpha of 6"),
        ("dora", "plain LoRA"),
        ("kind", "expected a LoRA"),
        ("pickle", "a pickle may run code"),
        ("card", "edited or damaged"),
    ],
)
def test_a_damaged_or_edited_adapter_is_one_clear_line(
    what: str, told: str, three: list[Adapter], tmp_path: Path
) -> None:
    folder = save_adapter(tmp_path / "a", three[0])
    edited(folder, what)
    with pytest.raises(ValueError, match=told) as raised:
        open_adapter(folder)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


def test_an_adapter_of_another_base_rank_or_shape_is_one_clear_line(
    three: list[Adapter], tmp_path: Path
) -> None:
    folder = save_adapter(tmp_path / "a", three[0])
    with pytest.raises(ValueError, match="open it on the model it was trained on"):
        open_adapter(folder, base_digest(model(1)))
    for other, told in (
        (Trainer(model(1), CONFIG, "cpu", adapter=LORA), "an adapter of the base"),
        (Trainer(model(), CONFIG, "cpu", adapter=AdapterConfig(rank=2)), "of rank 2"),
    ):
        before = other.nll(windows(3)).tolist()
        with pytest.raises(ValueError, match=told) as raised:
            other.put_adapter(three[0])
        assert "\n" not in str(raised.value)
        assert other.nll(windows(3)).tolist() == before
    foreign = Adapter(three[0].config, three[0].weights)  # as of peft: no base is stated
    wide = Trainer(model(0, 32), CONFIG, "cpu", adapter=LORA)
    with pytest.raises(ValueError, match="of another base or stands beside other layers"):
        wide.put_adapter(foreign)
    with pytest.raises(ValueError, match="another base"):
        with_merged(model(0, 32), foreign)
    with pytest.raises(FileNotFoundError, match="expected the folder"):
        open_adapter(tmp_path / "none")


def summed(adapters: list[Adapter], weights: list[float]) -> dict[str, torch.Tensor]:
    """What the adapters add to each layer, weighted."""
    found: dict[str, torch.Tensor] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for layer, (down, up) in adapter.deltas().items():
            found[layer] = found.get(layer, torch.zeros(())) + weight * (up @ down)
    return found


def test_exact_ways_of_merging_give_the_weighted_sum(three: list[Adapter]) -> None:
    weights = [0.5, 0.3, 0.2]
    expected = summed(three, weights)
    cat = merge_adapters(model(), three, weights, "cat")
    assert cat.config.rank == 9
    for layer, (down, up) in cat.deltas().items():
        assert torch.allclose(up @ down, expected[layer], atol=1e-6)
    svd = merge_adapters(model(), three, weights, "svd")
    assert svd.config.rank == 3
    for layer, (down, up) in svd.deltas().items():
        u, s, v = torch.linalg.svd(expected[layer])
        best = u[:, :3] @ torch.diag(s[:3]) @ v[:3]
        assert torch.allclose(up @ down, best, atol=1e-5)


@pytest.mark.parametrize("how", MERGES)
def test_every_way_of_merging_gives_an_adapter_that_can_be_used(
    how: str, three: list[Adapter], tmp_path: Path
) -> None:
    base = model()
    before = {n: p.detach().clone() for n, p in base.named_parameters()}
    found, again = (merge_adapters(base, three, [1 / 3] * 3, how, seed=5) for _ in range(2))
    assert all(torch.equal(found.weights[n], again.weights[n]) for n in found.weights)
    assert all(torch.equal(before[n], p) and p.requires_grad for n, p in base.named_parameters())
    opened = open_adapter(save_adapter(tmp_path / "m", found), base_digest(base))
    beside = nll_of(with_adapter(base, opened), windows(5), CPU)
    assert beside.tolist() != nll_of(base, windows(5), CPU).tolist()
    inside = Trainer(model(), CONFIG, "cpu")
    inside.adopt(with_merged(base, opened))
    assert inside.nll(windows(5)) == pytest.approx(beside, rel=1e-5)


def test_one_adapter_with_weight_one_merges_into_itself(three: list[Adapter]) -> None:
    expected = three[0].deltas()
    for how in ("linear", "cat", "svd"):
        found = merge_adapters(model(), three[:1], [1.0], how).deltas()
        for layer, (down, up) in found.items():
            assert torch.allclose(up @ down, expected[layer][1] @ expected[layer][0], atol=1e-6)


def test_merges_without_sense_are_one_clear_line(three: list[Adapter]) -> None:
    other_rank = trained(0, AdapterConfig(rank=2)).take_adapter()
    other_base = trained(0, LORA, model(1)).take_adapter()
    other_layers = trained(0, AdapterConfig(rank=3, alpha=6, targets=("q_proj",))).take_adapter()
    for adapters, how, told in (
        ([three[0], other_rank], "linear", "one rank"),
        ([three[0], other_base], "cat", "one base"),
        ([three[0], other_layers], "cat", "one shape"),
        (three[:2], "average", "a way of merging"),
        (three, "cat", "a weight for each"),
    ):
        with pytest.raises(ValueError, match=told) as raised:
            merge_adapters(model(), adapters, [0.5, 0.5], how)
        assert "\n" not in str(raised.value)
    assert merge_adapters(model(), [three[0], other_rank], [0.5, 0.5], "cat").config.rank == 5


def test_arrow_mixes_saved_adapters_and_of_equal_ones_makes_that_one(
    three: list[Adapter], tmp_path: Path
) -> None:
    folders = [save_adapter(tmp_path / str(i), adapter) for i, adapter in enumerate(three)]
    base = model()
    mixed = nll_of(arrow_model(base, folders, top=2), windows(5), CPU)
    alone = [nll_of(with_adapter(base, a), windows(5), CPU) for a in three]
    assert all(mixed.tolist() != one.tolist() for one in alone)
    equal = nll_of(arrow_model(base, [folders[0]] * 3), windows(5), CPU)
    assert equal == pytest.approx(alone[0], rel=1e-5)
    assert all(p.requires_grad for p in base.parameters())
    again = nll_of(arrow_model(base, folders, top=2), windows(5), CPU)
    assert again.tolist() == mixed.tolist()


def test_agreement_is_the_cosine_of_what_is_added(three: list[Adapter]) -> None:
    found = adapter_agreement([*three, three[0]])
    flat = [torch.cat([d.flatten() for d in summed([a], [1.0]).values()]) for a in three]
    for i in range(3):
        for j in range(3):
            expected = torch.cosine_similarity(flat[i], flat[j], 0)
            assert found[i, j] == pytest.approx(float(expected), abs=1e-5)
    assert found[0, 3] == pytest.approx(1)
    assert found == pytest.approx(found.T)


def test_early_gradients_of_like_text_agree_more() -> None:
    one, bank = Trainer(model(), CONFIG, "cpu"), LearnerBank([model()] * 2, CONFIG, "cpu")
    low = np.random.default_rng(0).integers(0, 10, (2, 70, 9))
    high = np.random.default_rng(1).integers(30, 40, (70, 9))
    gradients = [one.gradient(text) for text in (*low, high)]
    found = agreement(gradients)
    assert found.diagonal() == pytest.approx(1)
    assert found[0, 1] > 0.5 > found[0, 2]
    in_bank = bank.gradient(1, high)
    assert all(torch.allclose(in_bank[n], gradients[2][n], atol=1e-6) for n in in_bank)
    assert agreement([one.weights(), {n: -v for n, v in one.weights().items()}])[0, 1] == -1
    with pytest.raises(ValueError, match="one model"):
        agreement([gradients[0], {}])


def test_a_text_goes_to_the_neighbourhood_of_its_direction() -> None:
    keys = np.array([[2.0, 0.0], [0.0, 0.1], [-1.0, -1.0]])
    texts = np.array([[0.9, 0.1], [0.1, 5.0], [-3.0, -2.0], [1.0, 0.9]])
    assert nearest(texts, keys).tolist() == [0, 1, 2, 0]
    with pytest.raises(ValueError, match="expected vectors"):
        nearest(texts, keys[:, :1])
