import pytest
import torch

from train_lm.model import PRESETS, ModelConfig, build_model


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


@pytest.mark.parametrize(("preset", "millions"), [("s", 5), ("m", 30), ("l", 125)])
def test_a_preset_has_about_the_parameters_that_it_promises(preset: str, millions: int) -> None:
    with torch.device("meta"):
        model = build_model(PRESETS[preset], 8192)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(millions * 1e6, rel=0.1)


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
