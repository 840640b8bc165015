"""Weights that training is held to, how much each matters, and what an update rule costs."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from train_lm.bank.bank import LearnerBank
from train_lm.model import ModelConfig, build_model
from train_lm.steps.anchors import Anchor
from train_lm.steps.costs import effective_rank
from train_lm.trainer import Trainer, TrainerConfig
from train_lm.updates import FULL, Updates

VOCAB = 40


def model(seed: int = 0) -> nn.Module:
    return build_model(ModelConfig(width=16, layers=1, context=8, seed=seed), VOCAB)


def config(updates: Updates = FULL) -> TrainerConfig:
    return TrainerConfig(batch=4, learning_rate=1e-2, updates=updates)


def trainer(updates: Updates = FULL) -> Trainer:
    found = Trainer(model(), config(updates), "cpu")
    found.begin_phase(30, decay=True)
    return found


def windows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (n, 9))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


class Unigram(nn.Module):
    """Says of every token the same."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def test_the_importance_of_a_unigrams_logits_is_p_times_1_minus_p() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    p = logits.softmax(0)
    one = Trainer(Unigram(logits.clone()), TrainerConfig(), "cpu")
    text = np.zeros((800, 9), dtype=np.int64)
    found = one.importance(text)["logits"]
    assert torch.allclose(found, p * (1 - p), rtol=0.25)
    # The text's own labels: token 0 alone, so every window has one and the same gradient.
    empirical = one.importance(text[:3], labels="data")["logits"]
    gradient = p - torch.tensor([1.0, 0, 0, 0])
    assert torch.allclose(empirical, 8 * gradient.square(), rtol=1e-5)
    assert one.model.logits.grad is None


def test_the_same_seed_draws_the_same_importance() -> None:
    one = trainer()
    first, again, other = (one.importance(windows(5), seed=s) for s in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)
    assert one.weights().keys() == first.keys()


def test_a_bank_measures_the_importance_that_a_trainer_does() -> None:
    one, bank = trainer(), LearnerBank([model(1), model(0)], config(), "cpu")
    for labels in ("model", "data"):
        expected = one.importance(windows(6), labels)
        found = bank.importance(1, windows(6), labels)
        assert found.keys() == expected.keys()
        assert all(torch.allclose(found[k], expected[k], rtol=1e-3, atol=1e-8) for k in found)


def test_an_anchor_adds_its_force_to_the_gradient() -> None:
    logits = torch.zeros(4)
    held = Trainer(Unigram(logits.clone()), TrainerConfig(batch=1, clip=1e9), "cpu")
    held.begin_phase(5, decay=False)
    weight, matters = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 0.5, 0.0, 2.0])
    held.anchor(Anchor({"logits": weight}, {"logits": matters}, strength=10.0))
    seen: list[Tensor] = []
    step = held._steps.step
    held._steps.step = lambda rate: (seen.append(held.model.logits.grad.clone()), step(rate))  # type: ignore[method-assign]
    loss = held.update(np.zeros((1, 9), dtype=np.int64))
    of_text = torch.full((4,), 0.25) - torch.tensor([1.0, 0, 0, 0])
    assert torch.allclose(seen[0], of_text + 10 * matters * (0 - weight), atol=1e-6)
    assert loss == pytest.approx(np.log(4)), "the loss that is told is the text's alone"


def test_no_force_is_no_anchor_bit_for_bit() -> None:
    plain, held = trainer(), trainer()
    bank, held_bank = (LearnerBank([model(), model(1)], config(), "cpu") for _ in range(2))
    anchor = Anchor(held.weights(), held.importance(windows(4)), strength=0.0)
    held.anchor(anchor)
    held_bank.anchor(0, anchor)
    text = windows(16)
    assert plain.train(text) == held.train(text)
    assert same(plain.snapshot(), held.snapshot())
    for b in (bank, held_bank):
        b.begin_phase(30, decay=True)
        b.train(np.stack([text, text]))
    assert same(bank.snapshot(0), held_bank.snapshot(0))


def test_an_anchor_keeps_what_it_holds_and_a_bank_has_it_too() -> None:
    free, held = trainer(), trainer()
    bank = LearnerBank([model(), model()], config(), "cpu", chunk=2)
    bank.begin_phase(30, decay=True)
    before = held.weights()
    even = {name: torch.ones_like(value) for name, value in before.items()}
    anchor = Anchor(before, even, strength=3.0)
    held.anchor(anchor)
    bank.anchor(1, anchor)
    for step in range(10):
        text = windows(4, step)
        losses = [free.update(text), held.update(text)]
        assert bank.train(np.stack([text, text])).tolist() == pytest.approx(losses, rel=1e-5)

    def moved(one: Trainer) -> float:
        return float(sum((v - before[n]).square().sum() for n, v in one.weights().items()))

    assert moved(held) < 0.5 * moved(free)
    held.anchor(None)
    bank.anchor(1, None)
    text = windows(4, 99)
    assert bank.train(text[None], [1])[0] == pytest.approx(held.update(text), rel=1e-5)


def test_an_anchor_of_another_model_or_without_sense_is_refused() -> None:
    one = trainer()
    weights, matters = one.weights(), one.importance(windows(2))
    name = next(iter(weights))
    with pytest.raises(ValueError, match="importance of every weight"):
        Anchor(weights, {}, 1.0)
    with pytest.raises(ValueError, match="at least 0"):
        Anchor(weights, matters, -1.0)
    with pytest.raises(ValueError, match="another model"):
        one.anchor(Anchor({name: weights[name]}, {name: matters[name]}, 1.0))
    with pytest.raises(ValueError, match="among"):
        one.importance(windows(2), labels="both")
    with pytest.raises(ValueError, match="at least one window"):
        one.importance(windows(0))


@pytest.mark.parametrize("rule", [FULL, Updates("topk", feedback=True), Updates("lowrank", rank=2)])
def test_every_rule_begins_where_plain_training_stood(rule: Updates) -> None:
    plain, one = trainer(), trainer(rule)
    bank = LearnerBank([model()], config(rule), "cpu")
    plain.train(windows(20))
    stood = plain.snapshot()
    one.train(windows(4, 5))
    one.adopt(stood)
    bank.adopt(0, stood)
    assert same(one.weights(), plain.weights())
    assert one.learning_rate() == plain.learning_rate()
    if rule.rule == "full":
        assert same(one.snapshot(), stood)
    moments = {k: v for k, v in one.snapshot().items() if k.startswith("exp_avg.")}
    kept = all(torch.equal(v, stood[k]) for k, v in moments.items() if k in stood)
    assert kept == (rule.rule != "lowrank")
    text = windows(8, 1)
    assert bank.train(text[None])[0] == pytest.approx(one.train(text), rel=1e-5)


def test_the_effective_rank_counts_equal_singular_values() -> None:
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(4, 7)) == pytest.approx(1, abs=1e-4)
    # Shares 3/4 and 1/4: the exponential of their entropy.
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert effective_rank(torch.diag(torch.tensor([3.0, 1.0]))) == pytest.approx(expected)


def test_a_cost_is_counted_and_measured() -> None:
    before = trainer().merged()
    costs = {}
    for name, rule in {
        "full": FULL,
        "topk": Updates("topk", share=0.05),
        "feedback": Updates("topk", share=0.05, feedback=True),
        "lowrank": Updates("lowrank", rank=2),
    }.items():
        one = trainer(rule)
        bank = LearnerBank([model(), model()], config(rule), "cpu")
        bank.begin_phase(30, decay=True)
        one.train(windows(4))
        bank.train(windows(8).reshape(2, 4, 9))
        costs[name] = one.cost(before)
        assert one.cost().parameters_changed is None
        assert bank.cost(0, before).parameters_changed == costs[name].parameters_changed
    n = one.n_parameters
    tensors = len(before)
    assert costs["full"].optimizer_bytes == 8 * n + 4 * tensors
    assert costs["feedback"].optimizer_bytes == 12 * n + 4 * tensors
    assert costs["lowrank"].optimizer_bytes < 0.7 * costs["full"].optimizer_bytes
    assert costs["full"].parameters_changed > 0.9 * n  # type: ignore[operator]
    assert 0 < costs["topk"].parameters_changed <= round(0.05 * n)  # type: ignore[operator]
    assert costs["full"].trained == costs["full"].parameters == n
    projected = [n for n in before if "proj" in n]
    ranks = costs["lowrank"].effective_ranks
    # The step has two directions; the decay of the whole matrix is small beside it.
    assert all(ranks[n.removeprefix("model.")] < 3 for n in projected)
    with pytest.raises(ValueError, match="another model"):
        one.cost({"model.x": torch.zeros(1)})
