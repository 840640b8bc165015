"""From gradient to step: what is kept, what is projected, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from train_lm.bank.bank import LearnerBank
from train_lm.model import ModelConfig, build_model
from train_lm.trainer import Trainer, TrainerConfig
from train_lm.updates import FULL, Updates, basis_of, kept, lowered, truncate

VOCAB = 40
TINY = ModelConfig(width=16, layers=1, context=8)
RULES = [
    Updates("topk", share=0.1),
    Updates("topk", share=0.1, scope="tensor", feedback=True),
    Updates("topk", share=0.02, feedback=True),
    Updates("lowrank", rank=2, refresh=3, scale=0.5),
]
AS_FULL = [
    Updates("topk", share=1.0),
    Updates("topk", share=1.0, scope="tensor", feedback=True),
    Updates("lowrank", rank=16),
]


def config(updates: Updates = FULL, **more: object) -> TrainerConfig:
    return TrainerConfig(batch=4, learning_rate=1e-2, updates=updates, **more)  # type: ignore[arg-type]


def model(seed: int = 0) -> torch.nn.Module:
    return build_model(ModelConfig(width=16, layers=1, context=8, seed=seed), VOCAB)


def trainer(updates: Updates = FULL) -> Trainer:
    return Trainer(model(), config(updates), "cpu")


def windows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (n, 9))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def weights(snapshot: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in snapshot.items() if k.startswith("model.")}


def test_the_largest_of_a_row_or_of_each_tensor_are_kept() -> None:
    rows = torch.tensor([[3.0, -9.0, 1.0, 0.5, -0.7, 0.1], [0.0, 0.1, -0.2, 8.0, 7.0, -6.0]])
    everywhere = kept(rows, [2, 4], Updates("topk", share=0.5))
    assert everywhere.int().tolist() == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]
    each = kept(rows, [2, 4], Updates("topk", share=0.5, scope="tensor"))
    assert each.int().tolist() == [[0, 1, 1, 0, 1, 0], [0, 1, 0, 1, 1, 0]]


def test_what_is_left_out_comes_back_with_feedback() -> None:
    residual = torch.zeros(1, 4)
    rule = Updates("topk", share=0.25, feedback=True)
    first, _ = truncate(torch.tensor([[4.0, 3.0, 1.0, -2.0]]), residual, [4], rule)
    assert first.tolist() == [[4.0, 0.0, 0.0, 0.0]]
    assert residual.tolist() == [[0.0, 3.0, 1.0, -2.0]]
    second, _ = truncate(torch.tensor([[4.0, 3.0, 1.0, -2.0]]), residual, [4], rule)
    assert second.tolist() == [[0.0, 6.0, 0.0, 0.0]]
    assert residual.tolist() == [[4.0, 0.0, 2.0, -4.0]]


@pytest.mark.parametrize("rule", AS_FULL, ids=str)
def test_all_numbers_and_full_rank_are_the_plain_step_bit_for_bit(rule: Updates) -> None:
    for make in (trainer, lambda u: LearnerBank([model()], config(u), "cpu")):
        ends = []
        for updates in (FULL, rule):
            one = make(updates)
            one.begin_phase(12, decay=True)
            text = windows(48)
            one.train(text if isinstance(one, Trainer) else text[None])
            ends.append(one.snapshot() if isinstance(one, Trainer) else one.snapshot(0))
        plain, found = ends
        assert all(torch.equal(plain[k], found[k]) for k in plain)


@pytest.mark.parametrize(("scope", "share"), [("global", 0.05), ("tensor", 0.05)])
def test_an_update_touches_its_share_of_the_weights_and_no_other(scope: str, share: float) -> None:
    one = trainer(Updates("topk", share=share, scope=scope))
    one.begin_phase(9, decay=False)
    one.train(windows(16))
    before = one.snapshot()
    one.train(windows(4, 1))
    after = one.snapshot()
    changed = {k: int((before[k] != after[k]).sum()) for k in before if k.startswith("model.")}
    allowed = {k: max(1, round(share * before[k].numel())) for k in changed}
    total = round(share * one.n_parameters)
    assert sum(changed.values()) >= 0.8 * total  # a rounded step may leave a number as it was
    if scope == "global":
        assert sum(changed.values()) <= total
    assert scope == "global" or all(changed[k] <= allowed[k] for k in changed)
    moments = [k for k in before if k.startswith("exp_avg.")]
    assert sum(int((before[k] != after[k]).sum()) for k in moments) <= sum(allowed.values())


def galore(gradients: Tensor, weight: Tensor, rule: Updates, rate: float) -> Tensor:
    """GaLore-AdamW of one matrix, after algorithm 2 of arXiv 2403.03507, in double precision.

    The moments stay as they are when the projection changes.
    """
    m, n = weight.shape
    low = (m, rule.rank) if m >= n else (rule.rank, n)
    mean, square = torch.zeros(low).double(), torch.zeros(low).double()
    for t, gradient in enumerate(gradients.double()):
        if t % rule.refresh == 0:
            u, _, v = torch.linalg.svd(gradient.float(), full_matrices=False)
            p = (v[: rule.rank].T if m >= n else u[:, : rule.rank]).double()
        r = gradient @ p if m >= n else p.T @ gradient
        mean = 0.9 * mean + 0.1 * r
        square = 0.95 * square + 0.05 * r**2
        step = (mean / (1 - 0.9 ** (t + 1))) / ((square / (1 - 0.95 ** (t + 1))).sqrt() + 1e-8)
        weight = weight - rate * rule.scale * (step @ p.T if m >= n else p @ step)
    return weight


@pytest.mark.parametrize("shape", [(12, 7), (7, 12), (9, 9)])
def test_a_rank_reduced_step_is_that_of_the_paper(shape: tuple[int, int]) -> None:
    from train_lm.updates import build_steps

    generator = torch.Generator().manual_seed(0)
    rule = Updates("lowrank", rank=3, refresh=4, scale=0.25)
    weight = torch.randn(shape, generator=generator)
    gradients = torch.randn(10, *shape, generator=generator)
    parameter = torch.nn.Parameter(weight.clone())
    steps = build_steps([("w", parameter)], config(rule, weight_decay=0.0))
    for gradient in gradients:
        parameter.grad = gradient.clone()
        steps.step(0.01)
    expected = galore(gradients, weight.double(), rule, 0.01)
    assert torch.allclose(parameter.double(), expected, atol=1e-5)
    assert steps.state_of("w")["exp_avg"].numel() == 3 * max(shape)


def test_a_projection_keeps_what_a_gradient_of_its_rank_says() -> None:
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(9, 2, generator=generator), torch.randn(2, 6, generator=generator)
    rule = Updates("lowrank", rank=2)
    for gradient in (left @ right, (left @ right).T.contiguous()):
        basis = basis_of(gradient, rule)
        low = lowered(gradient, basis)
        back = low @ basis if gradient.shape[0] >= gradient.shape[1] else basis @ low
        assert torch.allclose(back, gradient, atol=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_rule_goes_on_from_a_snapshot_bit_for_bit(rule: Updates) -> None:
    one, fresh = trainer(rule), trainer(rule)
    one.begin_phase(20, decay=True)
    one.train(windows(20))
    middle = one.snapshot()
    fresh.restore(middle)
    assert one.train(windows(20, 1)) == fresh.train(windows(20, 1))
    assert same(one.snapshot(), fresh.snapshot())


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_a_bank_follows_its_trainers_under_every_rule_and_moves_between_them(rule: Updates) -> None:
    trainers = [Trainer(model(i), config(rule), "cpu") for i in range(3)]
    bank = LearnerBank([model(i) for i in range(3)], config(rule), "cpu", chunk=2)
    for one in (*trainers, bank):
        one.begin_phase(10, decay=True)
    for step in range(6):
        text = np.stack([windows(4, 10 * step + i) for i in range(3)])
        expected = [t.update(text[i]) for i, t in enumerate(trainers)]
        assert bank.train(text).tolist() == pytest.approx(expected, rel=1e-5)
    expected_state = trainers[1].snapshot()
    found = bank.snapshot(1)
    assert found.keys() == expected_state.keys()
    bank.restore(1, expected_state)
    assert same(bank.snapshot(1), expected_state)
    trainers[1].restore(bank.snapshot(1))
    before = bank.snapshot(0)
    bank.train(windows(4, 99)[None], [1])
    assert same(bank.snapshot(0), before), "another learner moved"


def test_a_snapshot_of_another_rule_is_refused_and_changes_nothing() -> None:
    for rule in (RULES[1], RULES[3]):
        one = trainer(rule)
        bank = LearnerBank([model()], config(rule), "cpu")
        before = one.snapshot()
        with pytest.raises(ValueError, match="another optimiser"):
            one.restore(trainer().snapshot())
        with pytest.raises(ValueError, match="another optimiser"):
            bank.restore(0, trainer().snapshot())
        assert same(one.snapshot(), before)


def test_impossible_rules_are_refused() -> None:
    for wrong in (
        {"rule": "some"},
        {"scope": "row"},
        {"share": 0.0},
        {"share": 1.5},
        {"rank": 0},
        {"refresh": 0},
        {"scale": 0.0},
    ):
        with pytest.raises(ValueError, match="expected"):
            Updates(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="optimizer adamw"):
        config(Updates("topk"), optimizer="muon")
    with pytest.raises(ValueError, match="one update rule"):
        LearnerBank([model()] * 2, [config(), config(Updates("topk"))], "cpu")
