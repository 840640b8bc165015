import time
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from train_lm.bank.bank import LearnerBank
from train_lm.bank.programs import adamw_
from train_lm.bank.stacks import StackedLlama, StackedModule, stack_of
from train_lm.machine.compiling import can_compile
from train_lm.model import ModelConfig, build_model
from train_lm.trainer import Trainer, TrainerConfig

VOCAB = 48
CONFIG = TrainerConfig(learning_rate=3e-3, batch=4)


def llama(seed: int = 0) -> nn.Module:
    return build_model(ModelConfig(width=16, layers=2, context=12, seed=seed), VOCAB)


def llama_with_groups_and_a_head() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=16,
                rope_parameters={"rope_type": "default", "rope_theta": 500.0},
                max_position_embeddings=12,
                tie_word_embeddings=False,
            )
        )


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCAB,
                n_positions=12,
                n_embd=16,
                n_layer=1,
                n_head=2,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
            )
        )


def bank_of(n: int, config: TrainerConfig | list[TrainerConfig] = CONFIG, **how: object):
    return LearnerBank([llama(seed) for seed in range(n)], config, "cpu", **how)  # type: ignore[arg-type]


def text(n: int, rows: int, seed: int = 0) -> np.ndarray:
    """(n, rows, 13) windows that can be learnt: each learner's tokens climb by its own stride."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, VOCAB, (n, rows, 1))
    stride = np.arange(1, n + 1)[:, None, None]
    noise = rng.integers(0, 3, (n, rows, 13))
    return (start + stride * np.arange(13) + noise) % VOCAB


def leaves_of(model: nn.Module, stack: StackedLlama | StackedModule) -> Sequence[Tensor]:
    row = torch.cat([p.detach().flatten() for p in model.parameters()])
    sizes = [int(np.prod(s)) for s in stack.shapes]
    parts = zip(row.split(sizes), stack.shapes, strict=True)
    return [part.view(1, *shape) for part, shape in parts]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("build", [llama, llama_with_groups_and_a_head])
def test_the_batched_llama_says_what_transformers_says(build) -> None:
    model = build().eval()
    # Norm weights are all one at birth; other values must matter in the same way.
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    assert isinstance(stack_of(model), StackedLlama)
    ids = torch.randint(0, VOCAB, (1, 3, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(input_ids=ids[0]).logits
        for stack in (StackedLlama(model), StackedModule(model)):
            found = stack(leaves_of(model, stack), ids)[0]
            assert torch.allclose(found, expected, atol=2e-6), type(stack).__name__


def test_an_unknown_architecture_is_mapped_instead() -> None:
    model = gpt2()
    assert isinstance(stack_of(model), StackedModule)
    trainer = Trainer(gpt2(), CONFIG, "cpu")
    bank = LearnerBank([model, model], CONFIG, "cpu", chunk=2)
    trainer.begin_phase(5, decay=True)
    bank.begin_phase(5, decay=True)
    for step in range(5):
        windows = text(1, 4, step)
        found = bank.train(np.repeat(windows, 2, 0))
        assert found == pytest.approx(np.full(2, trainer.update(windows[0])), rel=1e-5)


@pytest.mark.parametrize("variant", ["llama", "vmap"])
def test_a_bank_of_one_follows_the_trainer_for_200_updates(
    variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(llama(), CONFIG, "cpu")
    if variant == "vmap":
        monkeypatch.setattr("train_lm.bank.bank.stack_of", StackedModule)
    bank = LearnerBank([llama()], CONFIG, "cpu")
    updates = 200
    trainer.begin_phase(updates, decay=True)
    bank.begin_phase(updates, decay=True)
    expected, found = [], []
    for step in range(updates):
        windows = text(1, 4, step)
        expected.append(trainer.update(windows[0]))
        found.append(float(bank.train(windows)[0]))
    assert expected[-1] < 0.8 * expected[0], "nothing was learnt, so nothing was compared"
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("chunk", "threads"), [(1, 1), (1, 2), (2, 1), (3, 1)])
def test_every_learner_of_a_bank_follows_a_bank_of_one_for_200_updates(
    chunk: int, threads: int
) -> None:
    bank = bank_of(3, chunk=chunk, threads=threads)
    alone = [LearnerBank([llama(seed)], CONFIG, "cpu") for seed in range(3)]
    for b in (bank, *alone):
        b.begin_phase(200, decay=True)
    for step in range(200):
        windows = text(3, 4, step)
        expected = [float(b.train(windows[i : i + 1])[0]) for i, b in enumerate(alone)]
        assert bank.train(windows).tolist() == pytest.approx(expected, rel=1e-5)


def test_the_banks_own_adamw_equals_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 50, generator=generator)
    ours = weights.clone()
    parameters = [nn.Parameter(row.clone()) for row in weights]
    mean, square = torch.zeros_like(ours), torch.zeros_like(ours)
    rates, decay, clip = (1e-2, 3e-3), 0.1, 2.0
    optimizers = [
        torch.optim.AdamW([p], lr=r, betas=(0.9, 0.95), weight_decay=decay)
        for p, r in zip(parameters, rates, strict=True)
    ]
    for t in range(1, 30):
        gradient = torch.randn(2, 50, generator=generator)
        scalars = [[r * decay, r / (1 - 0.9**t), (1 - 0.95**t) ** 0.5, clip] for r in rates]
        norm = gradient.norm(dim=1, keepdim=True)
        adamw_(ours, gradient, mean, square, torch.ones(1, 50), norm, torch.tensor(scalars))
        for parameter, optimizer, row in zip(parameters, optimizers, gradient, strict=True):
            parameter.grad = row.clone()
            nn.utils.clip_grad_norm_([parameter], clip)
            optimizer.step()
    assert torch.allclose(ours, torch.stack([p.data for p in parameters]), atol=1e-6)


def test_learners_have_learning_rates_and_clips_of_their_own() -> None:
    configs = [
        TrainerConfig(learning_rate=1e-3, batch=4),
        TrainerConfig(learning_rate=1e-2, batch=4, clip=1e-3, weight_decay=0.3),
    ]
    trainers = [Trainer(llama(i), c, "cpu") for i, c in enumerate(configs)]
    bank = bank_of(2, configs, chunk=2)
    lengths = [5, 9]
    for i, trainer in enumerate(trainers):
        trainer.begin_phase(lengths[i], decay=True)
        bank.begin_phase(lengths[i], decay=True, learners=[i])
    for step in range(5):
        windows = text(2, 4, step)
        expected = [t.update(windows[i]) for i, t in enumerate(trainers)]
        assert bank.train(windows).tolist() == pytest.approx(expected, rel=1e-5)
    for schedule, updates, trainer in zip(bank.schedules, bank.updates, trainers, strict=True):
        assert schedule.rate(int(updates)) == trainer.learning_rate()
    for i, trainer in enumerate(trainers):
        expected_state = trainer.snapshot()
        for key, value in bank.snapshot(i).items():
            assert torch.allclose(value.float(), expected_state[key].float(), atol=1e-5), key


def test_a_learner_moves_from_a_trainer_into_a_bank_and_back() -> None:
    trainer = Trainer(llama(), CONFIG, "cpu")
    trainer.begin_phase(30, decay=True)
    trainer.train(text(1, 40)[0])
    moved = trainer.snapshot()
    bank = bank_of(3)
    bank.restore(1, moved)
    assert same(bank.snapshot(1), moved)
    windows = text(1, 20, 1)
    found = bank.train(windows, [1])[0]
    assert found == pytest.approx(trainer.train(windows[0]), rel=1e-5)
    trainer.restore(bank.snapshot(1))
    assert same(trainer.snapshot(), bank.snapshot(1))


@pytest.mark.parametrize("chunk", [1, 3])
def test_after_a_restore_a_learner_goes_on_bit_for_bit(chunk: int) -> None:
    bank = bank_of(3, chunk=chunk)
    bank.begin_phase(20, decay=True)
    bank.train(text(3, 12))
    middle = bank.snapshot(1)
    kept = {k: v.clone() for k, v in middle.items()}
    first = bank.train(text(3, 12, 1))[1], bank.snapshot(1)
    assert same(middle, kept), "training changed a snapshot"
    bank.restore(1, middle)
    second = bank.train(text(3, 12, 1))[1], bank.snapshot(1)
    assert first[0] == second[0]
    assert same(first[1], second[1])


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_learners_that_are_not_chosen_stay_as_they_are(chunk: int) -> None:
    bank, whole = bank_of(3, chunk=chunk), bank_of(3, chunk=chunk)
    for b in (bank, whole):
        b.begin_phase(9, decay=True)
    windows = text(3, 4)
    before = bank.snapshot(1)
    found = bank.train(windows[[0, 2]], [0, 2])
    expected = whole.train(windows)
    assert found.tolist() == expected[[0, 2]].tolist()
    assert same(bank.snapshot(1), before)
    assert same(bank.snapshot(0), whole.snapshot(0))
    assert same(bank.snapshot(2), whole.snapshot(2))


def test_a_bank_measures_as_a_trainer_does() -> None:
    bank = bank_of(2)
    held_out = text(2, 70)
    found = bank.nll(held_out)
    assert found.shape == (2, 70)
    for i in range(2):
        expected = Trainer(llama(i), CONFIG, "cpu").nll(held_out[i])
        assert found[i] == pytest.approx(expected, rel=1e-5)
        assert bank.nll(held_out[i : i + 1], [i])[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("chunk", "threads"), [(1, 1), (1, 2), (2, 2), (3, 1)])
def test_a_learner_that_breaks_is_named_and_every_count_is_its_own(
    chunk: int, threads: int
) -> None:
    bank, whole = (bank_of(3, chunk=chunk, threads=threads) for _ in range(2))
    windows = text(3, 12)
    for b in (bank, whole):
        b.begin_phase(9, decay=True)
    gradient = bank._programs.gradient

    def breaks_at_its_second_update(rows: Tensor, batch: Tensor):  # type: ignore[no-untyped-def]
        losses, found, norms = gradient(rows, batch)
        second = (batch == torch.from_numpy(windows[1, 4:8])).flatten(1).all(1)
        return losses, found, torch.where(second[:, None], torch.inf, norms)

    bank._programs = replace(bank._programs, gradient=breaks_at_its_second_update)
    with pytest.raises(FloatingPointError, match=r"learner 1: .* at update 1") as raised:
        bank.train(windows)
    assert "\n" not in str(raised.value)
    # What shares a program with learner 1 stops with it; the others finish.
    stopped = [i // chunk == 1 // chunk for i in range(3)]
    assert bank.updates.tolist() == [1 if s else 3 for s in stopped]
    bank._programs = replace(bank._programs, gradient=gradient)
    bank.train(windows[stopped, 4:], np.flatnonzero(stopped))
    whole.train(windows)
    assert all(same(bank.snapshot(i), whole.snapshot(i)) for i in range(3))


def test_an_error_is_told_when_no_thread_trains_any_more() -> None:
    bank = bank_of(2, threads=2)
    bank.begin_phase(9, decay=True)
    gradient = bank._programs.gradient

    def fails_at_once_or_is_slow(rows: Tensor, batch: Tensor):  # type: ignore[no-untyped-def]
        if rows.data_ptr() == bank._weights.data_ptr():
            raise MemoryError
        time.sleep(0.05)
        return gradient(rows, batch)

    bank._programs = replace(bank._programs, gradient=fails_at_once_or_is_slow)
    with pytest.raises(MemoryError):
        bank.train(text(2, 12))
    assert bank.updates.tolist() == [0, 3]


def test_a_snapshot_of_another_model_or_optimiser_is_refused() -> None:
    bank = bank_of(1)
    before = bank.snapshot(0)
    other = Trainer(build_model(ModelConfig(32, 2, 12), VOCAB), CONFIG, "cpu").snapshot()
    muon = Trainer(llama(), TrainerConfig(batch=4, optimizer="muon"), "cpu").snapshot()
    with pytest.raises(ValueError, match="another model"):
        bank.restore(0, other)
    with pytest.raises(ValueError, match="another optimiser"):
        bank.restore(0, muon)
    assert same(bank.snapshot(0), before)


def test_impossible_banks_are_refused() -> None:
    other = build_model(ModelConfig(32, 2, 12), VOCAB)
    with pytest.raises(ValueError, match="at least one"):
        LearnerBank([], CONFIG)
    with pytest.raises(ValueError, match="one architecture"):
        LearnerBank([llama(), other], CONFIG, "cpu")
    with pytest.raises(ValueError, match="one batch"):
        bank_of(2, [CONFIG, TrainerConfig(batch=8)])
    with pytest.raises(ValueError, match="3 settings"):
        bank_of(3, [CONFIG, CONFIG])
    with pytest.raises(ValueError, match="use a trainer"):
        bank_of(1, TrainerConfig(batch=4, optimizer="muon"))


def test_windows_of_a_wrong_shape_are_refused() -> None:
    bank = bank_of(2)
    with pytest.raises(RuntimeError, match="begin_phase"):
        bank.train(text(2, 4))
    bank.begin_phase(9, decay=True)
    with pytest.raises(ValueError, match="shape"):
        bank.train(text(1, 4))
    with pytest.raises(ValueError, match="at most 12 tokens"):
        bank.train(np.zeros((2, 4, 14), dtype=np.int64))
    with pytest.raises(ValueError, match="multiple of 4"):
        bank.train(text(2, 6))
    with pytest.raises(ValueError, match="multiple of 4"):
        bank.train(text(2, 0))
    with pytest.raises(ValueError, match="ascending learners"):
        bank.train(text(2, 4), [1, 0])


def test_the_weights_given_to_a_bank_are_left_alone() -> None:
    model = llama()
    before = [p.detach().clone() for p in model.parameters()]
    bank = LearnerBank([model, model], CONFIG, "cpu")
    bank.begin_phase(3, decay=True)
    bank.train(text(2, 12))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
def test_a_compiled_bank_follows_the_trainer() -> None:
    build = [
        build_model(ModelConfig(width=16, layers=1, context=12, seed=i), VOCAB) for i in (0, 1)
    ]
    trainers = [Trainer(m, CONFIG, "cpu") for m in build]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bank = LearnerBank(build, CONFIG, "cpu", compile=True)
        bank.begin_phase(40, decay=True)
        for trainer in trainers:
            trainer.begin_phase(40, decay=True)
        for step in range(40):
            windows = text(2, 4, step)
            expected = [t.update(windows[i]) for i, t in enumerate(trainers)]
            assert bank.train(windows).tolist() == pytest.approx(expected, rel=1e-5)
        held_out = text(2, 6)
        expected_nll = [t.nll(held_out[i]) for i, t in enumerate(trainers)]
        assert bank.nll(held_out) == pytest.approx(np.array(expected_nll), rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
def test_a_bank_compiles_no_program_anew_for_another_number_of_windows() -> None:
    model = build_model(ModelConfig(width=16, layers=1, context=12, seed=0), VOCAB)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bank = LearnerBank([model] * 2, CONFIG, "cpu", compile=True)
        bank.begin_phase(40, decay=True)
        bank.train(text(2, CONFIG.batch))
        bank.nll(text(2, 3))
        made = counters["stats"]["unique_graphs"]
        assert made
        for n in (1, 2, 5, 9):
            bank.train(text(2, n * CONFIG.batch))
            bank.nll(text(2, 7 * n))
            bank.nll(text(1, 7 * n), [1])
    assert counters["stats"]["unique_graphs"] == made


def test_each_thread_of_a_bank_keeps_to_one_core_also_after_its_first_operation() -> None:
    def cores(_: int) -> int:
        torch.rand(200, 200) @ torch.rand(200, 200)  # PyTorch settles a thread's number here
        return torch.get_num_threads()

    before = torch.get_num_threads()
    torch.set_num_threads(2)  # what a script on two cores finds; a command sets one
    try:
        bank = bank_of(2, threads=2)
        assert torch.get_num_threads() == 2
        assert bank._pool is not None
        assert set(bank._pool.map(cores, range(8))) == {1}
    finally:
        torch.set_num_threads(before)
