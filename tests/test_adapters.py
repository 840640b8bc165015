"""Low-rank adapters on a frozen base: exact, mergeable, and readable by plain peft."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from train_lm.adapters import AdapterConfig, with_merged
from train_lm.bank.bank import LearnerBank
from train_lm.model import ModelConfig, build_model
from train_lm.steps.schedule import Schedule
from train_lm.trainer import Trainer, TrainerConfig

VOCAB = 40
LORA = AdapterConfig(rank=4, alpha=8)
CONFIG = TrainerConfig(batch=4, learning_rate=1e-2)


def model(seed: int = 0) -> nn.Module:
    return build_model(ModelConfig(width=16, layers=1, context=8, seed=seed), VOCAB)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"vocab_size": VOCAB, "n_positions": 8, "n_embd": 16, "n_layer": 1, "n_head": 2}
        dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        return GPT2LMHeadModel(GPT2Config(**shape, **dropouts))  # type: ignore[arg-type]


def trainer(adapter: AdapterConfig | None = LORA, of: nn.Module | None = None) -> Trainer:
    found = Trainer(model() if of is None else of, CONFIG, "cpu", adapter=adapter)
    found.begin_phase(40, decay=True)
    return found


def windows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (n, 9))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def plainly(weights: dict[str, Tensor], of: nn.Module | None = None) -> Trainer:
    """A trainer of the plain model with these weights."""
    found = trainer(None, of)
    found.model.load_state_dict(
        {n.removeprefix("model."): v for n, v in weights.items()}, strict=False
    )
    return found


def test_a_fresh_adapter_changes_nothing_bit_for_bit() -> None:
    text = windows(6)
    assert trainer().nll(text).tolist() == trainer(None).nll(text).tolist()
    assert same(trainer().merged(), trainer(None).merged())


def test_an_adapter_trains_alone_and_is_a_few_numbers() -> None:
    one, whole = trainer(), trainer(None)
    base = whole.merged()
    frozen = {n: p.detach().clone() for n, p in one.adapted.frozen.items()}  # type: ignore[union-attr]
    before = one.nll(windows(4)).sum()
    for _ in range(30):
        one.update(windows(4))
    assert one.nll(windows(4)).sum() < 0.97 * before
    assert all(torch.equal(frozen[n], p) for n, p in one.adapted.frozen.items())  # type: ignore[union-attr]
    # 4 (16 + 16) of each attention matrix, 4 (16 + 32) of each of the other three.
    assert one.n_trained == 4 * 4 * 32 + 3 * 4 * 48
    assert one.n_parameters == whole.n_parameters + one.n_trained
    assert one.flops_per_token == 4 * whole.n_parameters + 6 * one.n_trained
    assert whole.flops_per_token == 6 * whole.n_parameters
    cost = one.cost(base)
    assert cost.trained == one.n_trained
    assert cost.optimizer_bytes == 8 * one.n_trained + 4 * 14
    linear = 4 * 256 + 3 * 512
    assert 0.95 * linear < cost.parameters_changed <= linear  # type: ignore[operator]
    assert max(cost.effective_ranks.values()) <= 4.01


@pytest.mark.parametrize("build", [model, gpt2])
def test_merging_changes_outputs_by_less_than_a_hundred_thousandth(build) -> None:  # type: ignore[no-untyped-def]
    one = trainer(of=build())
    one.train(windows(40))
    merged = plainly(one.merged(), build())
    assert same(with_merged(build(), one.take_adapter()), one.merged())
    text = torch.from_numpy(windows(6)[:, :-1])
    with torch.no_grad():
        expected = one.model.eval()(input_ids=text).logits
        found = merged.model.eval()(input_ids=text).logits
    assert not torch.allclose(found, build()(input_ids=text).logits, rtol=1e-3)
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_an_adapter_goes_on_from_its_snapshot_bit_for_bit() -> None:
    one, fresh = trainer(), trainer()
    one.train(windows(20))
    middle = one.snapshot()
    assert sum(v.numel() for v in middle.values()) < 4 * one.n_trained, "the base was copied"
    fresh.restore(middle)
    assert one.train(windows(20, 1)) == fresh.train(windows(20, 1))
    assert same(one.snapshot(), fresh.snapshot())


def test_a_cycle_of_relora_is_an_adapter_merged() -> None:
    lora, relora = trainer(), trainer()
    for one in (lora, relora):
        one.train(windows(20))
    expected = lora.merged()
    relora.merge_and_reset()
    assert same(relora.merged(), expected)
    text = windows(6)
    assert relora.nll(text) == pytest.approx(plainly(expected).nll(text), rel=1e-6)


def test_a_merge_resets_every_moment_and_draws_a_fresh_adapter() -> None:
    one = trainer()
    one.train(windows(20))
    before = {n: p.detach().clone() for n, p in one.model.named_parameters() if p.requires_grad}
    states = [s for o in one.optimizers for s in o.state.values()]
    assert all(float(s["step"]) == 5 and s["exp_avg_sq"].any() for s in states)
    one.merge_and_reset(rewarm=4)
    states = [s for o in one.optimizers for s in o.state.values()]
    assert len(states) == 14
    for state in states:
        assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
        assert not any(value.any() for value in state.values())
    for name, parameter in one.model.named_parameters():
        if "lora_B" in name:
            assert not parameter.any()
        elif "lora_A" in name:
            assert (parameter != before[name]).any()
    assert one.updates == 5
    full = one.schedule.rate(5) * 4
    assert full == pytest.approx(trainer().schedule.rate(5))
    assert one.learning_rate() == pytest.approx(full / 4)


def test_the_rate_rises_anew_after_a_restart_and_then_follows_its_plan() -> None:
    plan = Schedule(peak=1.0, warmup=0.1, final=0.0, length=100, decays=True)
    again = plan.rewarmed(50, 5)
    assert [again.rate(u) for u in (0, 30, 49)] == [plan.rate(u) for u in (0, 30, 49)]
    rising = [again.rate(50 + i) for i in range(5)]
    assert rising == pytest.approx([plan.rate(50 + i) * (i + 1) / 5 for i in range(5)])
    assert again.rate(55) == plan.rate(55)
    assert plan.rewarmed(50, None).rewarm == 10


def test_relora_restores_both_sides_of_a_merge_bit_for_bit() -> None:
    one = trainer()
    one.train(windows(12))
    early = one.snapshot()
    one.merge_and_reset(rewarm=3)
    one.train(windows(12, 1))
    one.merge_and_reset(rewarm=3)
    one.train(windows(4, 2))
    late = one.snapshot()
    ends = []
    for start in (late, early, late):
        fresh = trainer()
        for learner in (one, fresh):
            learner.restore(start)
            ends.append((learner.train(windows(12, 3)), learner.snapshot(), learner.merged()))
    for a, b in ((0, 1), (2, 3), (4, 5), (0, 4)):
        assert ends[a][0] == ends[b][0]
        assert same(ends[a][1], ends[b][1])
        assert same(ends[a][2], ends[b][2])


def test_an_adapter_begins_on_what_plain_training_made() -> None:
    plain, one = trainer(None), trainer()
    plain.train(windows(20))
    one.train(windows(8))
    one.adopt(plain.snapshot())
    assert one.nll(windows(6)).tolist() == plain.nll(windows(6)).tolist()
    assert one.learning_rate() == plain.learning_rate()
    fresh = trainer(of=plain.model)
    fresh.restore(one.snapshot())  # the base has the digest of what it took over
    assert fresh.nll(windows(6)).tolist() == plain.nll(windows(6)).tolist()


def test_a_snapshot_of_another_base_is_refused_and_changes_nothing() -> None:
    one, other = trainer(), trainer(of=model(1))
    before = one.snapshot()
    with pytest.raises(ValueError, match="another base"):
        one.restore(other.snapshot())
    with pytest.raises(ValueError, match="another model"):
        one.restore(trainer(None).snapshot())
    with pytest.raises(ValueError, match="another model"):
        one.adopt(other.snapshot())
    assert same(before, one.snapshot())


def test_what_peft_cannot_target_is_told_in_one_line() -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = nn.Parameter(torch.zeros(VOCAB))

    for base, shape in (
        (Bare(), LORA),
        (model(), AdapterConfig(targets=("no_such_layer",))),
        (model(), AdapterConfig(targets=("embed_tokens",))),
        (model(), AdapterConfig(targets=("norm",))),
    ):
        with pytest.raises(ValueError, match="expected linear layers") as raised:
            Trainer(base, CONFIG, "cpu", adapter=shape)
        assert "\n" not in str(raised.value)
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}):
        with pytest.raises(ValueError, match="expected rank"):
            AdapterConfig(**wrong)  # type: ignore[arg-type]


def test_named_targets_alone_get_an_adapter() -> None:
    one = trainer(AdapterConfig(rank=2, targets=("q_proj", "v_proj")))
    assert [s.weight.split(".")[-2] for s in one.adapted.sites] == ["q_proj", "v_proj"]  # type: ignore[union-attr]
    assert one.n_trained == 2 * 2 * 32


# --- in a bank ------------------------------------------------------------------------------------


def bank_of(n: int, of: nn.Module | None = None, **how: object) -> LearnerBank:
    base = model() if of is None else of
    found = LearnerBank([base] * n, CONFIG, "cpu", adapter=LORA, **how)  # type: ignore[arg-type]
    found.begin_phase(40, decay=True)
    return found


@pytest.mark.parametrize("build", [model, gpt2])
def test_a_bank_of_one_adapter_follows_peft_for_40_updates(build) -> None:  # type: ignore[no-untyped-def]
    one, bank = trainer(of=build()), bank_of(1, build())
    assert bank.snapshot(0).keys() == one.snapshot().keys()
    assert same(bank.snapshot(0), one.snapshot())
    losses = []
    for step in range(40):
        losses.append(one.update(windows(4, step % 4)))
        assert bank.train(windows(4, step % 4)[None])[0] == pytest.approx(losses[-1], rel=1e-5)
    assert losses[-1] < 0.99 * losses[0], "nothing was learnt, so nothing was compared"
    assert bank.nll(windows(9)[None])[0] == pytest.approx(one.nll(windows(9)), rel=1e-5)
    expected, found = one.merged(), bank.merged(0)
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[n], expected[n], atol=1e-5) for n in found)


@pytest.mark.parametrize("chunk", [1, 2])
def test_adapters_of_a_bank_share_one_base_and_are_each_their_own(chunk: int) -> None:
    bank, alone = bank_of(3, chunk=chunk), [bank_of(1) for _ in range(3)]
    assert bank.n_parameters == trainer().n_parameters
    assert bank.flops_per_token == trainer().flops_per_token
    assert bank._bases is not None
    base = bank._bases.rows.clone()
    for step in range(6):
        text = np.stack([windows(4, 10 * step + i) for i in range(3)])
        expected = [float(b.train(text[i : i + 1])[0]) for i, b in enumerate(alone)]
        assert bank.train(text).tolist() == pytest.approx(expected, rel=1e-5)
    assert bank._bases.rows.shape == (1, base.shape[1])
    assert torch.equal(bank._bases.rows, base)
    assert len({float(v.sum()) for v in (bank.weights(i)[LORA_B] for i in range(3))}) == 3


LORA_B = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.default.weight"


def test_an_adapter_moves_between_a_trainer_and_a_bank_also_when_it_was_merged() -> None:
    one, bank = trainer(), bank_of(3, chunk=2)
    one.train(windows(12))
    one.merge_and_reset(rewarm=3)
    one.train(windows(4, 1))
    bank.restore(1, one.snapshot())
    assert same(bank.snapshot(1), one.snapshot())
    untouched = bank.snapshot(0)
    text = windows(8, 2)
    assert bank.train(text[None], [1])[0] == pytest.approx(one.train(text), rel=1e-5)
    bank.merge_and_reset(1, rewarm=2)
    one.merge_and_reset(rewarm=2)
    assert same(bank.snapshot(0), untouched)
    assert bank.train(text[None], [1])[0] == pytest.approx(one.train(text), rel=1e-5)
    one.restore(bank.snapshot(1))
    assert same(bank.snapshot(1), one.snapshot())
    assert same(bank.merged(1), one.merged())
    bank.restore(1, untouched)
    assert same(bank.snapshot(1), untouched)


def test_learners_that_begin_on_one_other_base_share_it() -> None:
    plain, bank = trainer(None), bank_of(3)
    plain.train(windows(8))
    bank.train(np.stack([windows(4)] * 3))
    for i in range(3):
        bank.adopt(i, plain.snapshot())
    assert bank._bases is not None
    assert len(bank._bases.rows) == 1
    one = trainer()
    one.adopt(plain.snapshot())
    assert same(bank.snapshot(2), one.snapshot())
    with pytest.raises(ValueError, match="another base"):
        bank.restore(0, trainer().snapshot())


def test_impossible_banks_of_adapters_are_refused() -> None:
    with pytest.raises(ValueError, match="one base"):
        LearnerBank([model(), model(1)], CONFIG, "cpu", adapter=LORA)
    with pytest.raises(ValueError, match="without dropout"):
        LearnerBank([model()], CONFIG, "cpu", adapter=AdapterConfig(dropout=0.1))
    with pytest.raises(RuntimeError, match="without adapters"):
        LearnerBank([model()], CONFIG, "cpu").take_adapter(0)


def test_a_models_own_weights_can_still_be_trained_after_it_was_a_banks_base() -> None:
    base = model()
    bank_of(2, base).train(np.stack([windows(4)] * 2))
    assert all(p.requires_grad for p in base.parameters())
    assert trainer(None, base).train(windows(4)) == trainer(None).train(windows(4))
