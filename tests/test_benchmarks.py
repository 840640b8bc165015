"""The benchmarks run and write what they promise; no test asks how fast anything is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]


def run(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / script), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_benchmark_writes_a_flat_table_with_every_promised_ratio(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    printed = run("bench.py", "--tiny", "--rounds", "1", "--vectors", "700", "--out", str(out))
    found = json.loads(out.read_text())
    words = {found.pop(f"index_{kind}_kind") for kind in ("clustered", "harder")}
    assert words == {"Flat"}
    assert all(isinstance(value, int | float) for value in found.values())
    promised = [
        "trainer_over_bare_loop",
        "env_over_bare_loop",
        "trainer_over_hf_trainer",
        "bank8_over_sequential",
        "adapter_bank8_over_sequential",
        "evaluation_share_of_env_step",
        "outside_learner_share_of_env_step",
        "knowledge_share_of_env_step",
        "held_out_loss_noise_floor",
        "reward_signal_to_noise",
        "snapshot_s",
        "restore_s",
        "world_open_s",
        "checkpoint_s",
        "resume_s",
        "matmul_peak_flops",
        "index_700_peak_gib",
        "index_700_recall_at_10",
        "retrieval_share_of_step",
        "retrieval_over_raw_faiss",
        *(f"bank{n}_of_peak" for n in (1, 2, 4, 8, 16)),
    ]
    assert [name for name in promised if name not in found] == []
    assert all(found[name] > 0 for name in promised if name != "reward_signal_to_noise")
    assert "bank8_over_sequential" in printed
    shares = [found[f"{p}_share_of_env_step"] for p in ("training", "evaluation", "probing")]
    assert 0 < sum(shares) < 1


@pytest.mark.slow
def test_the_table_of_arms_has_every_arm_and_who_pays_for_models(tmp_path: Path) -> None:
    out = tmp_path / "arms.json"
    names = "uniform,dsir,highest-loss,target-aligned"
    run("arms.py", "--tiny", "--steps", "2", "--arms", names, "--out", str(out))
    found = json.loads(out.read_text())
    assert list(found) == names.split(",")
    assert all(row["act"] > 0 < row["step"] for row in found.values())
    models = {name: row["models"] for name, row in found.items()}
    assert models["uniform"] == models["dsir"] == 0
    assert models["highest-loss"] == pytest.approx(4 / 3)  # four times a step's, a third each
    assert models["target-aligned"] > 0


@pytest.mark.slow
def test_the_gpu_table_has_a_dry_run_on_a_cpu(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    run("gpu.py", "--device", "cpu", "--tiny", "--rounds", "1", "--out", str(out))
    found = json.loads(out.read_text())
    assert found["best_bank_over_one_learner"] >= 1
    assert found["large_trainer_of_peak"] > 0
    assert found["adapter_bank8_over_peft"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_one_line_says_so(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    assert run("gpu.py", "--out", str(out)).strip() == "no GPU here: nothing measured"
    assert not out.exists()


def test_links_of_text_alone_are_measured_against_true_ones(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from graph_quality import quality
    finally:
        sys.path.pop(0)
    from kncl_env.world.graph import TopicGraph

    truth = TopicGraph.from_links(30, [[((i + 1) % 30, 0), ((i + 2) % 30, 0)] for i in range(30)])
    half = TopicGraph.from_links(30, [[((i + 1) % 30, 0), ((i + 9) % 30, 0)] for i in range(30)])
    found = quality(half, truth)
    assert (found.pairs, found.precision, found.recall) == (60, 0.5, 0.5)
    assert found.chance == pytest.approx(60 / (30 * 29 / 2))
    assert found.precision_interval == pytest.approx((0.5, 0.5))  # every topic has as many
    assert found.rewired_precision < 0.4
    assert quality(truth, truth).recall == 1


@pytest.mark.slow
def test_scale_writes_the_promised_figures_and_bounds(tmp_path: Path) -> None:
    out = tmp_path / "scale.json"
    words = ["--sizes", "600", "--vectors", "500", "--dimensions", "16"]
    words += ["--model", "xxs", "--steps", "1"]
    printed = run("scale.py", *words, "--folder", str(tmp_path / "worlds"), "--out", str(out))
    found = json.loads(out.read_text())
    for name in ("index_500_peak_gib", "index_500_recall_at_10", "retrieval_share_of_step"):
        assert found[name] > 0
        assert name in printed
    assert found["retrieval_over_raw_faiss"] > 0
    assert found["index_500_recall_at_10"] == 1  # so few are all looked at
    assert found["build_600_passages"] == 600
    assert 0 < found["build_600_peak_gib"] < found["build_600_peak_allowed_gib"]
    assert 0 < found["step_600_retrieval_share"] < 1
