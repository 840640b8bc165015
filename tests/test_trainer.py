import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from train_lm.bank.bank import LearnerBank
from train_lm.model import ModelConfig, build_model
from train_lm.steps.schedule import Schedule
from train_lm.trainer import Trainer, TrainerConfig, load_snapshot, save_snapshot

VOCAB = 40
TINY = ModelConfig(width=16, layers=1, context=8)


class Constant(nn.Module):
    """Says of every token the same; what it says is its one parameter."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def tiny_trainer(**config: object) -> Trainer:
    config = {"batch": 4, **config}
    return Trainer(build_model(TINY, VOCAB), TrainerConfig(**config), device="cpu")  # type: ignore[arg-type]


def windows(n: int, seed: int = 0, context: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (n, context + 1))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_uniform_logits_cost_log_v_per_token() -> None:
    trainer = Trainer(Constant(torch.zeros(VOCAB)), TrainerConfig(), device="cpu")
    assert trainer.nll(windows(5)) == pytest.approx(np.full(5, 8 * math.log(VOCAB)))
    trainer.begin_phase(1, decay=False)
    assert trainer.update(windows(16)) == pytest.approx(math.log(VOCAB))


def test_the_loss_of_no_window_is_nothing() -> None:
    assert len(tiny_trainer().nll(windows(0))) == 0


def test_measuring_in_pieces_changes_nothing_but_rounding() -> None:
    trainer = tiny_trainer()
    held_out = windows(70)  # more than are measured at once
    one_by_one = [float(trainer.nll(held_out[i : i + 1])[0]) for i in range(70)]
    assert trainer.nll(held_out) == pytest.approx(one_by_one, rel=1e-6)


def test_training_lowers_the_loss_on_what_is_read() -> None:
    trainer = tiny_trainer(learning_rate=1e-2)
    text = windows(4)
    before = trainer.nll(text).sum()
    trainer.begin_phase(30, decay=True)
    for _ in range(30):
        trainer.update(text)
    assert trainer.nll(text).sum() < 0.7 * before


def test_after_a_restore_training_goes_on_bit_for_bit() -> None:
    trainer = tiny_trainer()
    trainer.begin_phase(10, decay=True)
    trainer.train(windows(12))
    middle = trainer.snapshot()
    kept = {k: v.clone() for k, v in middle.items()}
    first = [trainer.train(windows(12, seed=1)), trainer.snapshot()]
    assert same(middle, kept), "training changed a snapshot"
    trainer.restore(middle)
    second = [trainer.train(windows(12, seed=1)), trainer.snapshot()]
    assert first[0] == second[0]
    assert same(first[1], second[1])  # type: ignore[arg-type]


def test_a_snapshot_moves_to_a_fresh_trainer_with_its_schedule() -> None:
    trainer, fresh = tiny_trainer(), tiny_trainer(learning_rate=2e-3)
    trainer.begin_phase(10, decay=True)
    trainer.train(windows(20))
    fresh.restore(trainer.snapshot())
    assert fresh.learning_rate() == trainer.learning_rate()
    assert fresh.train(windows(8, 1)) == trainer.train(windows(8, 1))
    assert same(fresh.snapshot(), trainer.snapshot())


def test_a_snapshot_survives_its_file(tmp_path) -> None:
    trainer = tiny_trainer()
    save_snapshot(trainer.snapshot(), tmp_path / "a.safetensors")
    assert same(load_snapshot(tmp_path / "a.safetensors"), trainer.snapshot())


def test_a_truncated_snapshot_file_is_named(tmp_path) -> None:
    file = tmp_path / "a.safetensors"
    save_snapshot(tiny_trainer().snapshot(), file)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        load_snapshot(file)


def test_a_snapshot_of_another_model_is_refused_and_changes_nothing() -> None:
    trainer = tiny_trainer()
    other = Trainer(build_model(ModelConfig(32, 1, 8), VOCAB), TrainerConfig(), device="cpu")
    before = trainer.snapshot()
    with pytest.raises(ValueError, match="another model"):
        trainer.restore(other.snapshot())
    assert same(before, trainer.snapshot())


def test_a_snapshot_of_another_optimiser_is_refused_and_changes_nothing() -> None:
    trainer, muon = tiny_trainer(), tiny_trainer(optimizer="muon")
    before = muon.snapshot()
    with pytest.raises(ValueError, match="another optimiser"):
        muon.restore(trainer.snapshot())
    assert same(before, muon.snapshot())


def test_a_loss_that_is_not_finite_leaves_the_weights_and_says_so_in_one_line() -> None:
    logits = torch.zeros(VOCAB)
    logits[3] = -math.inf
    trainer = Trainer(Constant(logits), TrainerConfig(), device="cpu")
    trainer.begin_phase(5, decay=True)
    with pytest.raises(FloatingPointError, match="finite loss") as raised:
        trainer.update(np.full((16, 9), 3))
    assert "\n" not in str(raised.value)
    assert torch.equal(trainer.model.logits, logits)
    assert trainer.updates == 0
    assert trainer.model.logits.grad is None


def test_a_gradient_that_is_not_finite_leaves_the_weights() -> None:
    class Steep(Constant):
        def forward(self, input_ids: torch.Tensor) -> SimpleNamespace:
            # The loss is finite, its slope at 0 is not.
            return SimpleNamespace(logits=super().forward(input_ids).logits.abs().sqrt())

    trainer = Trainer(Steep(torch.zeros(VOCAB)), TrainerConfig(), device="cpu")
    trainer.begin_phase(5, decay=True)
    with pytest.raises(FloatingPointError, match="finite loss and gradient"):
        trainer.update(windows(16))
    assert torch.equal(trainer.model.logits, torch.zeros(VOCAB))


def test_a_batch_too_large_for_the_memory_is_one_line_and_leaves_the_weights(monkeypatch) -> None:
    trainer = tiny_trainer()
    trainer.begin_phase(5, decay=True)
    before = trainer.snapshot()

    def no_memory(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 10 TB")

    monkeypatch.setattr(trainer, "_mean_loss", no_memory)
    with pytest.raises(MemoryError, match="4 windows of 8 tokens") as raised:
        trainer.update(windows(4))
    assert "\n" not in str(raised.value)
    assert same(before, trainer.snapshot())


def test_a_window_longer_than_the_model_is_refused() -> None:
    trainer = tiny_trainer()
    trainer.begin_phase(5, decay=True)
    with pytest.raises(ValueError, match="at most 8 tokens"):
        trainer.update(windows(4, context=9))
    with pytest.raises(ValueError, match="at most 8 tokens"):
        trainer.nll(windows(4, context=9))


def test_an_update_before_any_phase_is_our_own_fault() -> None:
    with pytest.raises(RuntimeError, match="begin_phase"):
        tiny_trainer().update(windows(4))


def test_gradients_are_clipped_to_the_stated_norm() -> None:
    # With a gradient far below AdamW's epsilon, a step is proportional to the gradient; there a
    # tenth of the norm is a tenth of the step.
    moved = []
    for clip in (1e-11, 1e-12):
        trainer = tiny_trainer(clip=clip, weight_decay=0.0)
        before = trainer.snapshot()
        trainer.begin_phase(1, decay=False)
        trainer.update(windows(4))
        after = trainer.snapshot()
        names = [k for k in before if k.startswith("model.")]
        moved.append(float(sum((after[k] - before[k]).double().square().sum() for k in names)))
    assert math.sqrt(moved[0] / moved[1]) == pytest.approx(10, rel=0.2)


def test_pieces_of_a_batch_add_up_to_its_gradient() -> None:
    trainers = [tiny_trainer(accumulate=n) for n in (1, 4)]
    for trainer in trainers:
        trainer.begin_phase(5, decay=True)
    losses = [t.train(windows(20)) for t in trainers]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    whole, pieces = (t.snapshot() for t in trainers)
    assert all(torch.allclose(whole[k], pieces[k], atol=1e-6) for k in whole)


def test_muon_trains_hidden_matrices_and_restores_exactly() -> None:
    trainer = tiny_trainer(optimizer="muon")
    trainer.begin_phase(20, decay=True)
    trainer.train(windows(8))
    middle = trainer.snapshot()
    assert any(k.startswith("momentum_buffer.") and "q_proj" in k for k in middle)
    first = trainer.train(windows(8, 1)), trainer.snapshot()
    trainer.restore(middle)
    second = trainer.train(windows(8, 1)), trainer.snapshot()
    assert first[0] == second[0]
    assert same(first[1], second[1])


def test_bfloat16_is_near_and_keeps_the_weights_in_full() -> None:
    full, half = tiny_trainer(), tiny_trainer(precision="bf16")
    assert half.nll(windows(6)) == pytest.approx(full.nll(windows(6)), rel=0.02)
    half.begin_phase(3, decay=True)
    half.train(windows(12))
    assert all(p.dtype == torch.float32 for p in half.model.parameters())


def test_the_rate_rises_then_falls_to_its_end_over_the_whole_budget() -> None:
    schedule = Schedule(peak=2.0, warmup=0.1, final=0.25, start=7, length=100, decays=True)
    rates = [schedule.rate(7 + i) for i in range(101)]
    assert rates[:10] == pytest.approx([2.0 * (i + 1) / 10 for i in range(10)])
    assert rates[10] == 2.0
    assert rates[55] == pytest.approx(2.0 * (0.25 + 0.75 / 2))  # half-way down the cosine
    assert rates[100] == pytest.approx(0.5)
    assert np.all(np.diff(rates[10:]) < 0)
    assert schedule.rate(7 + 500) == pytest.approx(0.5)


def test_without_decay_the_rate_stays_at_its_peak() -> None:
    schedule = Schedule(peak=2.0, warmup=0.1, final=0.0, length=100)
    assert schedule.rate(10) == schedule.rate(10**6) == 2.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"batch": 0},
        {"warmup": 1.0},
        {"batch": 6, "accumulate": 4},
        {"precision": "fp8"},
        {"optimizer": "sgd"},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        TrainerConfig(**wrong)  # type: ignore[arg-type]


def test_windows_that_fill_no_whole_batch_are_refused() -> None:
    trainer = tiny_trainer()
    trainer.begin_phase(5, decay=True)
    with pytest.raises(ValueError, match="multiple of 4"):
        trainer.train(windows(6))


def test_the_same_text_trains_the_same_bytes() -> None:
    trainers = [tiny_trainer() for _ in range(2)]
    for trainer in trainers:
        trainer.begin_phase(3, decay=True)
        trainer.train(windows(12))
    assert same(*(t.snapshot() for t in trainers))


def test_parts_of_a_batch_have_an_honest_flop_count() -> None:
    trainer = tiny_trainer()
    assert trainer.flops_per_token == 6 * sum(p.numel() for p in trainer.model.parameters())


def test_without_a_compiler_compilation_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    model = build_model(TINY, VOCAB)
    with pytest.raises(ValueError, match="expected a compiler for programs on cpu"):
        Trainer(model, TrainerConfig(), "cpu", compile=True)
    with pytest.raises(ValueError, match="expected a compiler for programs on cpu"):
        LearnerBank([model], TrainerConfig(), "cpu", compile=True)
