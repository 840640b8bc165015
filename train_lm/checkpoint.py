"""Checkpoints of a run: weights, moments, schedule, data position and generators, as safetensors.

A checkpoint counts from the moment its card names it, so a run may be killed at any other one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train_lm.files import read_json, replacing, write_json
from train_lm.inside import check_links, inside
from train_lm.parallel import Parallel
from train_lm.trainer import Trainer, load_snapshot, save_snapshot

CARD = "checkpoint.json"
LONGEST_SHOWN = 100  # characters of a setting in a message

_MISSING = object()  # a setting that one side has not even as null


def save_checkpoint(run: Path, trainer: Trainer, parallel: Parallel) -> None:
    """Keep this moment, and forget the one before; every process must call it."""
    state = {**trainer.snapshot(), **_generators(parallel)}
    if parallel.rank == 0:
        file = run / f"checkpoint-{trainer.updates:07d}.safetensors"
        save_snapshot(state, file)
        write_json(run / CARD, {"updates": trainer.updates, "file": file.name})
        _forget_others(file)
    parallel.wait()


def restore_checkpoint(run: Path, trainer: Trainer, parallel: Parallel) -> int:
    """Return to the last checkpoint, if there is one; returns the updates done.

    Raises:
        ValueError: The checkpoint is damaged or of another model.
    """
    if not (run / CARD).is_file():
        return 0
    file = inside(run, read_json(run / CARD)["file"], CARD)
    state = load_snapshot(file)
    if parallel.rank == 0:
        _forget_others(file)
    for name, put in (("cpu", torch.set_rng_state), ("cuda", _set_cuda)):
        states = state.pop(f"generator.{name}", None)
        if states is not None and len(states) == parallel.size:
            # A copy: torch reads the state of a row from the beginning of its tensor's storage.
            put(states[parallel.rank].clone())
    trainer.restore(state)
    return trainer.updates


def last_checkpoint(run: Path) -> str:
    """The last good checkpoint, for a message."""
    if not (run / CARD).is_file():
        return f"{run} has no checkpoint yet"
    return f"the last good checkpoint is {run / str(read_json(run / CARD)['file'])}"


def claim_run(
    run: Path, settings: Mapping[str, Any], defaults: Mapping[str, Any] | None = None
) -> None:
    """Begin a run in a folder, or check that the one found there has the same settings.

    Args:
        defaults: What a setting that the run found there does not know yet stood for.

    Raises:
        FileExistsError: The folder holds something else.
        ValueError: Its run has other settings, or a link in it leads out of it.
    """
    file = run / "config.json"
    if run.is_dir():
        check_links(run)  # what is appended to would lie elsewhere
    if file.is_file():
        found, wanted = read_json(file), json.loads(json.dumps(settings))
        found = _filled(found, json.loads(json.dumps(defaults or {})))
        if found != wanted:
            differ = "; ".join(differences(found, wanted))
            raise ValueError(
                f"expected the settings of the run in {run}, got others ({differ}): "
                "name another --out, or add --force to begin again"
            )
        return
    # A run's own parts may lie inside: the practice before it, say.
    inside = run.iterdir() if run.exists() else ()
    if any(p.name[0] != "." and not (p / "config.json").is_file() for p in inside):
        raise FileExistsError(
            f"expected a new place or a run to go on with for --out, got {run}: name another"
        )
    run.mkdir(parents=True, exist_ok=True)
    write_json(file, settings)


def _filled(found: Any, defaults: Any) -> Any:
    """The same with defaults in place of missing keys, inside of mappings, too."""
    if not isinstance(found, dict) or not isinstance(defaults, dict):
        return found
    inside = {k: _filled(v, defaults.get(k)) for k, v in found.items()}
    return {**{k: v for k, v in defaults.items() if k not in found}, **inside}


def cut_metrics(file: Path, done: int, unit: str = "update") -> None:
    """Drop lines after the given unit, and one that was not finished: both are written again."""
    if not file.is_file():
        return
    kept = []
    for line in file.read_text().splitlines():
        try:
            if json.loads(line)[unit] > done:
                break
        except (ValueError, KeyError, TypeError):
            break
        kept.append(line)
    with replacing(file) as part:
        part.write_text("".join(f"{line}\n" for line in kept))


def differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """Every setting that differs, with both of its values; `steps.budget` is one inside another."""
    if there == here:
        return
    sides = [{} if side is _MISSING else side for side in (there, here)]
    if all(isinstance(side, dict) for side in sides) and any(sides):
        before, now = sides
        for key in sorted({*before, *now}):
            inside = f"{name}.{key}" if name else key
            yield from differences(before.get(key, _MISSING), now.get(key, _MISSING), inside)
    else:
        yield f"{name} is {_shown(there)} there, {_shown(here)} here"


def _shown(value: object) -> str:
    """A setting's value, cut where it is long."""
    text = "missing" if value is _MISSING else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def _forget_others(file: Path) -> None:
    """Remove older checkpoints, and one that its card had no time to name."""
    for other in file.parent.glob("checkpoint-*.safetensors"):
        if other != file:
            other.unlink()


def _generators(parallel: Parallel) -> dict[str, Tensor]:
    """The state of every generator that a model may draw from, one row per process."""
    states = {"generator.cpu": parallel.every(torch.get_rng_state())}
    if torch.cuda.is_available():
        states["generator.cuda"] = parallel.every(torch.cuda.get_rng_state())
    return states


def _set_cuda(state: Tensor) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(state.cpu())
