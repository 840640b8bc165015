"""Many tiny learners, and one larger model, on a GPU: `make bench-gpu`.

Prints a table and writes `out/gpu.json`; without a GPU it says so and ends.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from loops import BareLoop, Ints, Way, bank_way, matmul_rate, trainer_way

from train_lm.adapters import Adapted, AdapterConfig
from train_lm.bank.bank import LearnerBank
from train_lm.files import write_json
from train_lm.machine.compiling import can_compile
from train_lm.model import PRESETS, build_model
from train_lm.trainer import Trainer, TrainerConfig

BANKS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
ADAPTER_BANKS = (1, 8, 64)
PARTS = ("banks", "adapters", "large")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (5)")
    parser.add_argument("--batch", type=int, default=64, help="windows of the larger model (64)")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure (all)")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, nothing compiled: a trial")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out" / "gpu.json")
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing measured")
        return
    warnings.filterwarnings("ignore")
    # Each bank is a shape of its own; beyond its limit PyTorch would quietly stop compiling.
    torch._dynamo.config.recompile_limit = 4 * len(BANKS)
    where = torch.cuda.get_device_name() if args.device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}, median of {args.rounds} interleaved rounds\n")
    found: dict[str, float] = {}
    parts = args.parts.split(",")
    if unknown := sorted({*parts} - {*PARTS}):
        parser.error(f"expected parts among {', '.join(PARTS)}, got {', '.join(unknown)}")
    if "banks" in parts:
        found |= measure_banks(args.device, args.rounds, args.tiny)
    if "adapters" in parts:
        found |= measure_adapters(args.device, args.rounds, args.tiny)
    if "large" in parts:
        found |= measure_large(args.device, args.rounds, args.tiny, args.batch)
    args.out.parent.mkdir(exist_ok=True)
    write_json(args.out, found)
    print(args.out)


def measure_banks(device: str, rounds: int, tiny: bool) -> dict[str, float]:
    """Banks of N learners of the RL loop's preset, beside a bare eager loop over one learner."""
    preset, vocabulary, batch, updates = ("xxs", 64, 2, 2) if tiny else ("xs", 512, 16, 10)
    compile = not tiny and can_compile(torch.device(device))
    config = TrainerConfig(learning_rate=3e-3, batch=batch)
    windows = random_windows(vocabulary, batch * updates, PRESETS[preset].context)
    model = build_model(PRESETS[preset], vocabulary)
    trained = Trainer(build_model(PRESETS[preset], vocabulary), config, device, compile=compile)
    ways: dict[str, Way] = {
        "bare_loop": BareLoop(model, batch, device),
        "trainer": trainer_way(trained),
    }
    learners = {"bare_loop": 1, "trainer": 1}
    for n in BANKS[:3] if tiny else BANKS:
        ways[f"bank{n}"] = bank_way(LearnerBank([model] * n, config, device, compile=compile), n)
        learners[f"bank{n}"] = n
    rates = interleave(ways, learners, windows, rounds)
    print(f"{'preset ' + preset + ', fp32':28s} {'tokens/s':>12s} {'of bare':>9s} {'of bank1':>9s}")
    for name, rate in rates.items():
        of_bare, of_one = rate / rates["bare_loop"], rate / rates["bank1"]
        print(f"{name:28s} {rate:12,.0f} {of_bare:9.2f} {of_one:9.2f}")
    best = max((n for n in rates if n.startswith("bank")), key=lambda n: rates[n])
    print(f"\nbest bank over one learner: {rates[best] / rates['bank1']:.1f} ({best})\n")
    found = {f"{name}_tokens_per_s": rate for name, rate in rates.items()}
    return found | {
        "best_bank_over_one_learner": rates[best] / rates["bank1"],
        "best_bank_over_bare_loop": rates[best] / rates["bare_loop"],
    }


def measure_adapters(device: str, rounds: int, tiny: bool) -> dict[str, float]:
    """Banks of N adapters on one frozen base, beside a bare loop over one peft model; eager."""
    preset, vocabulary, batch, updates = ("xxs", 64, 2, 2) if tiny else ("xs", 512, 16, 10)
    config = TrainerConfig(learning_rate=3e-3, batch=batch)
    windows = random_windows(vocabulary, batch * updates, PRESETS[preset].context)
    model, shape = build_model(PRESETS[preset], vocabulary), AdapterConfig(rank=8)
    alone = Adapted(build_model(PRESETS[preset], vocabulary), shape).model
    ways: dict[str, Way] = {"peft": BareLoop(alone, batch, device)}
    learners = {"peft": 1}
    for n in ADAPTER_BANKS[:2] if tiny else ADAPTER_BANKS:
        bank = LearnerBank([model] * n, config, device, compile=False, adapter=shape)
        ways[f"adapter_bank{n}"], learners[f"adapter_bank{n}"] = bank_way(bank, n), n
    rates = interleave(ways, learners, windows, rounds)
    print(f"{'preset ' + preset + ', fp32, adapters':28s} {'tokens/s':>12s} {'of peft':>9s}")
    for name, rate in rates.items():
        print(f"{name:28s} {rate:12,.0f} {rate / rates['peft']:9.2f}")
    print()
    found = {f"{name}_tokens_per_s": rate for name, rate in rates.items()}
    return found | {"adapter_bank8_over_peft": rates["adapter_bank8"] / rates["peft"]}


def measure_large(device: str, rounds: int, tiny: bool, batch: int) -> dict[str, float]:
    """The largest preset in bf16, as a share of the matrix products' peak in bf16."""
    preset, vocabulary, batch, updates = ("xxs", 64, 2, 2) if tiny else ("l", 8192, batch, 4)
    compile = not tiny and can_compile(torch.device(device))
    config = TrainerConfig(learning_rate=3e-4, batch=batch, precision="bf16")
    windows = random_windows(vocabulary, batch * updates, PRESETS[preset].context)
    models = [build_model(PRESETS[preset], vocabulary) for _ in range(3)]
    ways: dict[str, Way] = {
        "bare_loop": BareLoop(models[0], batch, device, "bf16"),
        "trainer": trainer_way(Trainer(models[1], config, device)),
        "trainer_compiled": trainer_way(Trainer(models[2], config, device, compile=compile)),
    }
    rates = interleave(ways, dict.fromkeys(ways, 1), windows, rounds)
    peak = matmul_rate(64 if tiny else 8192, device, torch.bfloat16)
    flops = 6.0 * sum(p.numel() for p in models[0].parameters())
    print(f"{'preset ' + preset + ', bf16':28s} {'tokens/s':>12s} {'of peak':>9s}")
    found = {"bf16_matmul_peak_flops": peak}
    for name, rate in rates.items():
        print(f"{name:28s} {rate:12,.0f} {rate * flops / peak:9.2f}")
        found[f"large_{name}_tokens_per_s"] = rate
        found[f"large_{name}_of_peak"] = rate * flops / peak
    print(f"{'matrix products, bf16':28s} {peak / 1e12:9.1f} TFLOP/s\n")
    return found


def interleave(
    ways: dict[str, Way], learners: dict[str, int], windows: Ints, rounds: int
) -> dict[str, float]:
    """Median tokens per second of each way; the first round warms up and compiles."""
    tokens = windows[:, 1:].size
    order = np.random.default_rng(0)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name in order.permutation(list(ways)):
            seconds = ways[name](windows)
            if round_:
                rates[name].append(learners[name] * tokens / seconds)
    return {name: float(np.median(r)) for name, r in rates.items()}


def random_windows(vocabulary: int, n: int, context: int) -> Ints:
    return np.random.default_rng(0).integers(0, vocabulary, (n, context + 1))


if __name__ == "__main__":
    main()
