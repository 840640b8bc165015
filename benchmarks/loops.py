"""Ways of training one model on the same windows: the bare loop that all others are compared with,
Hugging Face's `Trainer`, ours, and the bank. Each tells the seconds that it took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from train_lm.bank.bank import LearnerBank
from train_lm.trainer import Trainer

Ints = NDArray[np.int64]
Way = Callable[[Ints], float]  # (n, T + 1) windows to seconds


class BareLoop:
    """The least that trains a model, eager: no schedule, no checks, no snapshot."""

    def __init__(
        self, model: nn.Module, batch: int, device: str = "cpu", precision: str = "fp32"
    ) -> None:
        self.model = model.to(device).train()
        self.batch = batch
        self.device = device
        self.precision = precision
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def train(self, windows: Ints) -> None:
        for i in range(0, len(windows), self.batch):
            ids = torch.from_numpy(windows[i : i + self.batch]).to(self.device)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = self.model(input_ids=ids[:, :-1]).logits  # (B, T, V)
            loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def __call__(self, windows: Ints) -> float:
        return timed(lambda: self.train(windows), self.device)


def one_after_another(loops: Sequence[BareLoop]) -> Way:
    """Sequential learners: each trains on the windows before the next one begins."""
    return lambda windows: sum(loop(windows) for loop in loops)


def trainer_way(trainer: Trainer) -> Way:
    trainer.begin_phase(10**6, decay=False)
    return lambda windows: timed(lambda: trainer.train(windows), trainer.device.type)


def bank_way(bank: LearnerBank, n: int) -> Way:
    """The windows once for each of the first n learners."""
    bank.begin_phase(10**6, decay=False)
    learners = range(n)

    def train(windows: Ints) -> float:
        each = np.broadcast_to(windows, (n, *windows.shape))
        return timed(lambda: bank.train(each, learners), bank.device.type)

    return train


def hugging_face(model: nn.Module, batch: int, folder: str, compile: bool) -> Way:
    """Hugging Face's `Trainer` with the same optimiser, clip and batch; reports and saves nothing.

    Timed by callbacks from the end of its first update to the end of its last, so that what it
    sets up once per run is not counted.
    """
    import transformers

    transformers.logging.set_verbosity_error()
    ends: list[float] = []

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    def train(windows: Ints) -> float:
        # One batch more than is timed; the model shifts its labels itself.
        rows = torch.from_numpy(np.concatenate([windows[:batch], windows])[:, :-1])
        settings = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch,
            max_steps=len(rows) // batch,
            learning_rate=1e-3,
            lr_scheduler_type="constant",
            optim="adamw_torch_fused",
            max_grad_norm=1.0,
            torch_compile=compile,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        data = [{"input_ids": row, "labels": row} for row in rows]
        trainer = transformers.Trainer(model, settings, train_dataset=data, callbacks=[Watch()])
        trainer.remove_callback(transformers.PrinterCallback)
        ends.clear()
        trainer.train()
        return ends[-1] - ends[0]

    return train


def timed(action: Callable[[], object], device: str = "cpu") -> float:
    """Seconds until an action, and what it left to a GPU, is done."""
    began = time.perf_counter()
    action()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def matmul_rate(n: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of square matrix products; the best of ten, after one to warm up."""
    a, b = (torch.rand(n, n, device=device).to(dtype) for _ in range(2))
    return 2 * n**3 / min([timed(lambda: a @ b, device) for _ in range(11)][1:])
