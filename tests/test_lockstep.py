import threading
import time

import numpy as np
import pytest
import torch

from train_lm.bank.bank import LearnerBank
from train_lm.bank.lockstep import Lockstep, Member
from train_lm.model import ModelConfig, build_model
from train_lm.trainer import Trainer, TrainerConfig

VOCAB = 40
CONFIG = TrainerConfig(learning_rate=3e-3, batch=4)


def models(n: int) -> list[torch.nn.Module]:
    return [build_model(ModelConfig(16, 1, 8, seed=i), VOCAB) for i in range(n)]


def lockstep_of(n: int) -> Lockstep:
    return Lockstep(LearnerBank(models(n), CONFIG, "cpu"))


def windows(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCAB, (n, 9))


def live(trainer: Trainer | Member, seed: int, pause: float = 0.0) -> list[float]:
    """What some caller does with its learner; every caller does a little less than the last."""
    trainer.begin_phase(20, decay=True)
    start = trainer.snapshot()
    found = [trainer.train(windows(8, seed))]
    for round in range(3 - seed % 3):
        time.sleep(pause)
        found.append(trainer.train(windows(4 + 4 * (seed % 2), seed + round)))
        found.append(float(trainer.nll(windows(3 + seed, 9)).sum()))
    trainer.restore(start)
    found.append(trainer.train(windows(4, seed)))
    return found


def test_callers_of_unequal_length_get_what_a_trainer_of_their_own_would_give() -> None:
    lockstep = lockstep_of(4)
    found = lockstep.run([lambda i=i: live(lockstep.members[i], i) for i in range(4)])
    for i, (model, got) in enumerate(zip(models(4), found, strict=True)):
        assert got == pytest.approx(live(Trainer(model, CONFIG, "cpu"), i), rel=1e-5)


def test_who_comes_first_changes_no_bit() -> None:
    results = []
    for pauses in ((0.0, 0.01, 0.0), (0.01, 0.0, 0.02)):
        lockstep = lockstep_of(3)
        tasks = [
            lambda i=i, p=p, m=lockstep.members: live(m[i], i, p) for i, p in enumerate(pauses)
        ]
        found = lockstep.run(tasks)
        results.append((found, [m.snapshot() for m in lockstep.members]))
    assert results[0][0] == results[1][0]
    for a, b in zip(results[0][1], results[1][1], strict=True):
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_equal_requests_are_served_by_one_call() -> None:
    lockstep = lockstep_of(3)
    lockstep.bank.begin_phase(9, decay=True)
    served: list[list[int]] = []
    train = lockstep.bank.train
    lockstep.bank.train = lambda w, learners: served.append(learners) or train(w, learners)  # type: ignore
    lockstep.run([lambda m=m: m.train(windows(4, 0)) for m in lockstep.members])
    assert served == [[0, 1, 2]]


def test_a_member_called_alone_is_served_at_once() -> None:
    member = lockstep_of(2).members[1]
    expected = Trainer(models(2)[1], CONFIG, "cpu")
    assert member.nll(windows(3, 0)) == pytest.approx(expected.nll(windows(3, 0)), rel=1e-5)
    assert len(member.nll(windows(0, 0))) == 0


def test_a_member_tells_its_place_as_a_trainer_does() -> None:
    lockstep, trainer = lockstep_of(2), Trainer(models(1)[0], CONFIG, "cpu")
    member = lockstep.members[0]
    for one in (member, trainer):
        one.begin_phase(9, decay=True)
        one.train(windows(8, 0))
    for name in ("updates", "flops_per_token", "config", "n_parameters"):
        assert getattr(member, name) == getattr(trainer, name), name
    assert member.learning_rate() == trainer.learning_rate()
    assert member.flops_per_token == 6 * sum(p.numel() for p in models(1)[0].parameters())
    assert member.nll(windows(3, 1)) == pytest.approx(trainer.nll(windows(3, 1)), rel=1e-5)


def test_an_error_reaches_its_caller_and_nobody_is_left_waiting() -> None:
    lockstep = lockstep_of(3)
    lockstep.bank.begin_phase(9, decay=True)

    def fails() -> float:
        lockstep.members[0].train(windows(4, 0))
        raise KeyError("of the caller")

    def goes_on(member: Member) -> float:
        member.train(windows(4, 0))
        return member.train(windows(4, 1))

    done = threading.Event()

    def run() -> None:
        tasks = [fails, *(lambda m=m: goes_on(m) for m in lockstep.members[1:])]
        with pytest.raises(KeyError, match="of the caller"):
            lockstep.run(tasks)
        done.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert done.is_set(), "the callers wait for each other"
    assert [m.updates for m in lockstep.members] == [1, 2, 2]


def test_a_learner_that_breaks_tells_all_who_trained_with_it() -> None:
    lockstep = lockstep_of(2)
    lockstep.bank.begin_phase(9, decay=True)
    broken = lockstep.members[1].snapshot()
    broken["model.model.norm.weight"].fill_(torch.nan)
    lockstep.members[1].restore(broken)
    with pytest.raises(FloatingPointError, match="learner 1"):
        lockstep.run([lambda m=m: m.train(windows(4, 0)) for m in lockstep.members])


def test_more_tasks_than_learners_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 2 tasks"):
        lockstep_of(2).run([lambda: 0] * 3)
