"""A constant rate with averaged weights: the mean of what was passed is measured, exactly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import env_of

from kncl_env.settings import Settings
from kncl_env.world.world import World
from train_lm.bank.bank import LearnerBank
from train_lm.model import ModelConfig, build_model
from train_lm.steps.schedule import Schedule
from train_lm.trainer import Trainer, TrainerConfig, load_snapshot, save_snapshot

VOCAB, UPDATES = 40, 20
CONFIG = TrainerConfig(learning_rate=3e-3, batch=4)
SETTINGS = {
    "nucleus_topics": 6,
    "nucleus_updates": 30,
    "steps": 4,
    "updates_per_step": 2,
    "batch": 4,
    "breadth": 16,
    "slots": 6,
    "model": "xxs",
}


def trainer_of(seed: int = 0) -> Trainer:
    model = build_model(ModelConfig(width=16, layers=1, context=8, seed=seed), VOCAB)
    return Trainer(model, CONFIG, device="cpu")


def text(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (n, 9))


def flat(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([w.flatten().double() for w in weights.values()])


def passed(trainer: Trainer, updates: int) -> list[torch.Tensor]:
    """The raw weights after each update."""
    found = []
    for i in range(updates):
        trainer.update(text(4, i))
        found.append(flat(trainer.weights()))
    return found


def test_the_tail_is_the_plain_mean_of_the_last_quarter() -> None:
    trainer = trainer_of()
    trainer.begin_phase(UPDATES, decay=False, averaging="tail")
    raw = passed(trainer, UPDATES)
    found = flat(trainer.measured_weights())
    assert torch.allclose(found, torch.stack(raw[-5:]).mean(0), atol=1e-6)
    assert not torch.allclose(found, raw[-1], atol=1e-6)


def test_before_its_tail_begins_the_newest_weights_are_measured() -> None:
    trainer = trainer_of()
    trainer.begin_phase(UPDATES, decay=False, averaging="tail")
    raw = passed(trainer, 15)
    assert torch.equal(flat(trainer.measured_weights()), raw[-1])


def test_ema_is_the_recursion_by_hand() -> None:
    trainer = trainer_of()
    trainer.begin_phase(UPDATES, decay=False, averaging="ema")
    raw = passed(trainer, UPDATES)
    # Horizon: a tenth of 20 updates. The first two are averaged plainly.
    expected = raw[0]
    for newest in raw[1:]:
        expected = 0.5 * expected + 0.5 * newest
    assert torch.allclose(flat(trainer.measured_weights()), expected, atol=1e-6)


@pytest.mark.parametrize("averaging", ["ema", "tail"])
def test_what_is_measured_are_the_averaged_weights_and_training_goes_on_from_the_raw_ones(
    averaging: str,
) -> None:
    averaged, plain = trainer_of(), trainer_of()
    averaged.begin_phase(UPDATES, decay=False, averaging=averaging)
    plain.begin_phase(UPDATES, decay=False)
    for i in range(UPDATES):
        assert averaged.update(text(4, i)) == plain.update(text(4, i))
        averaged.nll(text(3))  # measuring moves nothing
    assert torch.equal(flat(averaged.weights()), flat(plain.weights()))
    mean = trainer_of()
    mean.adopt({f"model.{n}": w for n, w in averaged.measured_weights().items()})
    held_out = text(6, seed=99)
    assert averaged.nll(held_out).tolist() == mean.nll(held_out).tolist()
    assert averaged.nll(held_out).tolist() != plain.nll(held_out).tolist()


def test_a_snapshot_carries_the_average_through_a_file(tmp_path: Path) -> None:
    trainer, other = trainer_of(), trainer_of(1)
    trainer.begin_phase(UPDATES, decay=False, averaging="ema")
    passed(trainer, 7)
    file = tmp_path / "snapshot.safetensors"
    save_snapshot(trainer.snapshot(), file)
    other.restore(load_snapshot(file))
    for one in (trainer, other):
        one.update(text(4, 50))
    assert torch.equal(flat(trainer.measured_weights()), flat(other.measured_weights()))
    assert trainer.schedule == other.schedule


def test_a_snapshot_of_before_there_was_a_choice_has_no_average() -> None:
    trainer = trainer_of()
    trainer.begin_phase(UPDATES, decay=True)
    passed(trainer, 2)
    before = trainer.snapshot()
    assert not [name for name in before if name.startswith("averag")]
    trainer.begin_phase(UPDATES, decay=False, averaging="tail")
    trainer.restore(before)
    assert trainer.schedule.averaging == "none"
    assert torch.equal(flat(trainer.measured_weights()), flat(trainer.weights()))


@pytest.mark.parametrize("broken", ["averaging", "average.model.norm.weight"])
def test_a_damaged_average_is_refused_and_changes_nothing(broken: str) -> None:
    trainer = trainer_of()
    trainer.begin_phase(UPDATES, decay=False, averaging="ema")
    passed(trainer, 2)
    snapshot = trainer.snapshot()
    assert broken in snapshot
    snapshot[broken] = torch.tensor([9, 9, 9])
    passed(trainer, 1)
    before = flat(trainer.weights())
    with pytest.raises(ValueError, match=r"expected (an averaging|averaged weights)"):
        trainer.restore(snapshot)
    assert torch.equal(flat(trainer.weights()), before)


@pytest.mark.parametrize("chunk", [1, 3])
@pytest.mark.parametrize("averaging", ["ema", "tail"])
def test_members_of_a_bank_average_as_single_trainers_do(averaging: str, chunk: int) -> None:
    singles = [trainer_of(seed) for seed in range(3)]
    bank = LearnerBank([t.model for t in singles], CONFIG, "cpu", chunk=chunk)
    kinds = [averaging, "none", averaging]
    for i, kind in enumerate(kinds):
        singles[i].begin_phase(UPDATES, decay=False, averaging=kind)
        bank.begin_phase(UPDATES, decay=False, averaging=kind, learners=[i])
    stream = np.stack([text(4 * UPDATES, seed) for seed in range(3)])
    for single, own in zip(singles, stream, strict=True):
        single.train(own)
    bank.train(stream)
    held_out = text(6, seed=99)
    measured = bank.nll(np.stack([held_out] * 3))
    for i, single in enumerate(singles):
        assert measured[i] == pytest.approx(single.nll(held_out), rel=1e-5)
        apart = flat(bank.measured_weights(i)) - flat(single.measured_weights())
        assert apart.abs().max() < 1e-4
    # And it moves from a trainer into a bank and back.
    bank.restore(1, singles[0].snapshot())
    assert torch.equal(flat(bank.measured_weights(1)), flat(singles[0].measured_weights()))
    singles[1].restore(bank.snapshot(1))
    assert singles[1].nll(held_out).tolist() == singles[0].nll(held_out).tolist()
    bank.close()


def test_an_episode_has_the_schedule_and_the_average_of_its_settings(small_world: World) -> None:
    env = env_of(small_world, **SETTINGS, schedule="constant", averaging="tail")
    env.reset(seed=0)
    schedule = env.learner.trainer.schedule  # type: ignore[attr-defined]
    assert (schedule.decays, schedule.averaging, schedule.length) == (False, "tail", 8)
    before = env.snapshot()
    ends = []
    for _ in range(2):
        env.restore(before)
        for _ in range(4):
            env.step(0)
        ends.append(env.learner.held_out_loss())
    assert ends[0] == ends[1]
    whole = env.stage.whole_model(env.learner)  # type: ignore[arg-type]
    found = {n: p.detach() for n, p in whole.named_parameters()}
    measured = env.learner.trainer.measured_weights()  # type: ignore[attr-defined]
    assert all(torch.equal(found[n], w) for n, w in measured.items())


def test_the_nucleus_is_the_same_whatever_the_schedule_of_episodes(small_world: World) -> None:
    starts = [
        env_of(small_world, **SETTINGS, **more).stage.nucleated
        for more in ({}, {"schedule": "constant", "averaging": "ema"})
    ]
    assert starts[0] is not None
    assert starts[0].keys() == starts[1].keys()
    assert all(torch.equal(starts[0][n], starts[1][n]) for n in starts[0])


def test_unknown_schedules_and_averages_of_adapters_are_refused() -> None:
    with pytest.raises(ValueError, match="expected schedule among decayed, constant, got 'x'"):
        Settings.of(schedule="x")
    with pytest.raises(ValueError, match="expected averaging among none, ema, tail, got 'x'"):
        Settings.of(averaging="x")
    with pytest.raises(ValueError, match="expected no averaging with an adapter"):
        Settings.of(averaging="ema", adapter="lora")
    with pytest.raises(ValueError, match="expected an averaging among"):
        Schedule(1e-3, 0.0, 0.0, averaging="x")
