"""Why an arm wins: what arms read, held against the target's sample, beside the loss they end with.

    python benchmarks/reading.py --world worlds/distant --run runs/distant --out reading.json

RUN is a directory of `kncl-policy evaluate`. Two figures of each episode, of vectors alone:

- *closeness*: cosine of what was read with the closest passage of the sample, a mean over reading;
- *coverage*: cosine of each passage of the sample with the closest that was read, a mean over the
  sample. It is facility location (Nemhauser, Wolsey & Fisher 1978), with passages for topics.

Printed are both for each arm, and how they go with the final loss over all arms, within each seed.
That is a correlation of arms that nobody drew by lot: it says what winners have in common.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kncl_env.settings import Settings
from kncl_env.stage import open_stage
from kncl_env.world.index import PassageIndex
from kncl_env.world.world import World
from policies.arms.selection.chosen import sample_vectors
from policies.arms.selection.nearest import QUERIES
from policies.benchmark.standings import UNIFORM
from policies.play.evaluation import FORMAT
from policies.play.journal import read_lines
from policies.verdict.statistics import mean, stratified_bootstrap_ci
from train_lm.command_line import say
from train_lm.files import write_json
from train_lm.provenance import commit

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
Ints = NDArray[np.int64]


def closeness_and_coverage(read: Vectors, sample: Vectors) -> tuple[float, float]:
    """Of unit rows (n, D) that were read and (m, D) of the sample."""
    cosines = read @ sample.T  # (n, m)
    return float(cosines.max(1).mean()), float(cosines.max(0).mean())


def rows_of(index: PassageIndex, passages: Ints) -> Vectors:
    """(n, D) vectors of training passages."""
    at = np.full(int(index.passages.max()) + 1, -1, dtype=np.int64)
    at[index.passages] = np.arange(index.size)
    rows = at[passages]
    assert (rows >= 0).all(), "an arm read a passage that is not indexed"
    return index.vectors()[rows]


def figures(world: World, run: Path) -> dict[str, Floats]:
    """By arm, a row a seed: final test loss minus uniform's [bits per byte], closeness, coverage.

    Raises:
        ValueError: No evaluation, one of another world, or one without uniform.
    """
    header, lines = read_lines(run / "episodes.jsonl", FORMAT)
    if header["world"] != world.hash:
        raise ValueError(f"expected an evaluation in {world.path}, got one of another world: {run}")
    stage = open_stage(world, Settings.from_json(header["settings"], run))
    sample = sample_vectors(stage, QUERIES)
    read = [np.concatenate([np.array(p, dtype=np.int64) for p in one["passages"]]) for one in lines]
    every, back = np.unique(np.concatenate(read), return_inverse=True)
    vectors = rows_of(world.index, every)
    ends = np.cumsum([len(one) for one in read])
    found: dict[str, dict[int, tuple[float, float, float]]] = defaultdict(dict)
    for line, own in zip(lines, np.split(back, ends[:-1]), strict=True):
        near, covered = closeness_and_coverage(vectors[own], sample)
        found[line["arm"]][line["seed"]] = (line["test_after"], near, covered)
    if UNIFORM not in found:
        raise ValueError(f"expected uniform among the arms of {run}, got {', '.join(found)}")
    first = found[UNIFORM]
    return {
        arm: np.array([(loss - first[s][0], *own) for s, (loss, *own) in sorted(seeds.items())])
        for arm, seeds in found.items()
        if set(seeds) == set(first)
    }


def correlations(found: dict[str, Floats]) -> Floats:
    """(seeds, 2) of the loss with closeness and with coverage, over arms, within each seed."""
    table = np.stack(list(found.values()))  # (arms, seeds, 3)
    rows = [np.atleast_2d(np.corrcoef(own.T))[0, 1:] for own in np.moveaxis(table, 1, 0)]
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world", required=True)
    parser.add_argument("--run", type=Path, required=True, help="directory of an evaluation")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = figures(World.open(args.world), args.run)
    means = {arm: rows.mean(0).tolist() for arm, rows in found.items()}
    say(f"{'arm':28s} {'loss':>8s} {'closeness':>10s} {'coverage':>9s}")
    for arm, (loss, near, covered) in sorted(means.items(), key=lambda item: item[1][0]):
        say(f"{arm:28s} {loss:+8.4f} {near:10.3f} {covered:9.3f}")
    spans = {}
    if len(found) > 2:
        for name, own in zip(("closeness", "coverage"), correlations(found).T, strict=True):
            ends = stratified_bootstrap_ci(own, mean, np.random.default_rng(0))
            low, high = np.clip(ends, -1, 1).tolist()
            spans[name] = [mean(own), low, high]
            say(f"loss and {name}: r = {mean(own):.3f} [{low:.3f}, {high:.3f}] over seeds")
    if args.out:
        write_json(args.out, {"arms": means, "correlations": spans, "commit": commit()})


if __name__ == "__main__":
    main()
