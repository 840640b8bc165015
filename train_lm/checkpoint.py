"""Checkpoints of a run: weights, moments, schedule, data position and generators, as safetensors.

A checkpoint counts from the moment its card names it, so a run may be killed at any other one.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train_lm.checked.arrays import reason
from train_lm.checked.digests import read_sealed, sealed
from train_lm.checked.inside import check_links, inside
from train_lm.checked.records import Fields, parse_json
from train_lm.checked.tensors import Packed, load_packed
from train_lm.files import Json, read_json, replacing, write_json, write_packed
from train_lm.machine.parallel import Parallel
from train_lm.outputs import MADE_BY, SETTINGS
from train_lm.trainer import Trainer

log = logging.getLogger(__name__)

CARD = "checkpoint.json"
METRICS = "metrics.jsonl"
LONGEST_SHOWN = 100  # characters of a setting in a message

BESIDE = "journal"  # in a card: bytes and CRC-32 of what is written beside the checkpoints

_MISSING = object()  # a setting that one side has not even as null


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A moment of a run, as it was kept.

    Attributes:
        done: How far the run was, in its unit.
        file: Where the tensors stand.
        tensors: By name.
        head: Texts beside the tensors.
        card: What the card says of it.
    """

    done: int
    file: Path
    tensors: dict[str, Tensor]
    head: dict[str, str]
    card: Fields


class Checkpoints:
    """The checkpoints of a run: the newest and the one before it, each with its digest.

    Where the newest is damaged, a run goes on from the one before.

    Args:
        run: Its folder.
        unit: What progress is counted in, `updates` for example.
        finite: Whether all numbers have to be.
        beside: Name of a journal in the folder that grows with the run, if its lines are the same
            whenever they are written: its checksum is kept, too, and what differs is told.
    """

    def __init__(
        self, run: Path, unit: str, finite: bool = True, beside: str | None = None
    ) -> None:
        self.run, self.unit, self.finite, self.beside = run, unit, finite, beside
        self._named: set[str] | None = None  # files that the card names, once it was read

    def keep(
        self,
        done: int,
        tensors: Mapping[str, Tensor],
        head: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        """Keep this moment and the one before, and forget the others.

        Args:
            head: Texts to keep beside the tensors.
            more: For the card.
        """
        file = self.run / f"checkpoint-{done:07d}.safetensors"
        packed = Packed.of(tensors, {key: str(value) for key, value in (head or {}).items()})
        # A run writes one every few updates, and waits for no disk: a power cut costs the newest.
        write_packed(file, packed, durable=False)
        entry = {self.unit: done, "file": file.name, "digest": packed.digest(), **(more or {})}
        before = [e for e in self._entries() if e.whole(self.unit) < done][:1]
        entry |= self._checksum(before[0] if before else None)
        last = {"before": dict(before[0].values)} if before else {}
        write_json(self.run / CARD, sealed({**entry, **last}), durable=False)
        self._named = {file.name, *(e.text("file") for e in before)}
        self._forget_others(self._named)

    def _checksum(self, before: Fields | None) -> Json:
        """Bytes and CRC-32 of the journal, from where the checkpoint before it knows them."""
        if self.beside is None or not (self.run / self.beside).is_file():
            return {}
        first, crc = before.wholes(BESIDE) if before is not None and BESIDE in before else (0, 0)
        with (self.run / self.beside).open("rb") as stream:
            if os.fstat(stream.fileno()).st_size < first:  # it lost lines
                first = crc = 0
            stream.seek(first)
            more = stream.read()
        return {BESIDE: [first + len(more), zlib.crc32(more, crc)]}

    def _check_journal(self, entry: Fields) -> None:
        if self.beside is None or BESIDE not in entry:
            return
        (size, crc), file = entry.wholes(BESIDE), self.run / self.beside
        found = file.read_bytes()[:size] if file.is_file() else b""
        if len(found) != size or zlib.crc32(found) != crc:
            log.warning("%s: other lines than were written before the checkpoint: damaged", file)

    def newest(self) -> Checkpoint | None:
        """The last good checkpoint; None where none was kept yet.

        Raises:
            ValueError: None of those that were kept is whole.
        """
        reasons = []
        for entry in self._entries():
            try:
                found = self._open(entry)
            except (ValueError, FileNotFoundError) as error:
                log.warning("%s", error)
                reasons.append(str(error))
                continue
            self._check_journal(entry)
            return found
        if reasons:
            raise ValueError(
                f"{reasons[0]}; no older checkpoint is whole, add --force to begin again"
            )
        return None

    def forget_others(self) -> None:
        """Remove checkpoints that the card does not name: it had no time to."""
        if (self.run / CARD).is_file():
            if self._named is None:
                self._entries()
            self._forget_others(self._named or set())

    def _forget_others(self, named: Set[str]) -> None:
        for name in os.listdir(self.run):
            if fnmatch(name, "checkpoint-*.safetensors") and name not in named:
                (self.run / name).unlink()

    def _entries(self) -> list[Fields]:
        """What the card names, the newest first."""
        file = self.run / CARD
        if not file.is_file():
            return []
        advice = "add --force to begin again"
        card = read_sealed(file, advice)
        inner = {name: value for name, value in card.values.items() if name != "before"}
        entries = [Fields(inner, card.place, advice)]
        if "before" in card:
            entries.append(card.inner("before"))
        for entry in entries:
            entry.whole(self.unit)
            if BESIDE in entry and len(entry.wholes(BESIDE)) != 2:
                raise entry.wrong(BESIDE, "a size and a checksum")
            inside(self.run, entry.text("file"), CARD)
        self._named = {entry.text("file") for entry in entries}
        return entries

    def _open(self, entry: Fields) -> Checkpoint:
        file = self.run / entry.text("file")
        packed = load_packed(file, "the checkpoint is damaged", self.finite)
        # Checkpoints of before there were digests have none.
        if "digest" in entry and packed.digest() != entry.text("digest"):
            raise ValueError(f"expected {file} as it was written, got another: it is damaged")
        head = dict(packed.about or {})
        return Checkpoint(entry.whole(self.unit), file, packed.tensors(), head, entry)


def save_checkpoint(run: Path, trainer: Trainer, parallel: Parallel) -> None:
    """Keep this moment; every process must call it."""
    state = {**trainer.snapshot(), **_generators(parallel)}
    if parallel.rank == 0:
        Checkpoints(run, "updates", beside=METRICS).keep(trainer.updates, state)
    parallel.wait()


def restore_checkpoint(run: Path, trainer: Trainer, parallel: Parallel) -> int:
    """Return to the last good checkpoint, if there is one; returns the updates done.

    Raises:
        ValueError: The checkpoints are damaged or of another model.
    """
    kept = Checkpoints(run, "updates", beside=METRICS)
    found = kept.newest()
    if found is None:
        return 0
    if parallel.rank == 0:
        kept.forget_others()
    state = dict(found.tensors)
    try:
        for name, put in (("cpu", torch.set_rng_state), ("cuda", _set_cuda)):
            states = state.pop(f"generator.{name}", None)
            if states is not None and len(states) == parallel.size:
                # A copy: torch reads the state of a row from the beginning of its tensor's storage.
                put(states[parallel.rank].clone())
        trainer.restore(state)
    except (RuntimeError, TypeError, IndexError) as error:
        raise ValueError(
            f"expected a checkpoint of this run in {found.file}, got {reason(error)}"
        ) from None
    return trainer.updates


def last_checkpoint(run: Path) -> str:
    """The last checkpoint, for a message."""
    try:
        card = read_json(run / CARD)
        return f"the last good checkpoint is {run / str(card['file'])}"
    except (OSError, ValueError, LookupError, TypeError):
        return f"{run} has no checkpoint yet"


def claim_run(
    run: Path,
    settings: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
    *,
    made_by: str,
) -> None:
    """Begin a run in a folder, or check that the one found there has the same settings.

    Args:
        defaults: What a setting that the run found there does not know yet stood for.
        made_by: The command; nothing else is gone on with.

    Raises:
        FileExistsError: The folder holds something else.
        ValueError: Its run has other settings, or a link in it leads out of it.
    """
    file, settings = run / SETTINGS, {MADE_BY: made_by, **settings}
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
    if any(p.name[0] != "." and not (p / SETTINGS).is_file() for p in inside):
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
    """Drop lines after the given unit, and one that was not finished: both are written again.

    Whatever stands after a damaged line cannot be kept either, and is told.
    """
    if not file.is_file():
        return
    found, kept, last = file.read_bytes(), 0, 0
    for line in found.splitlines(keepends=True):
        try:
            here = parse_json(line, file)[unit] if line.endswith(b"\n") else done + 1
            if not last < here <= done:  # not after the one before: it was doubled
                break
        except (ValueError, KeyError, TypeError):
            break
        kept, last = kept + len(line), here
    if last != done:
        log.warning("%s: lines of %s %s to %s are lost: damaged", file, unit, last + 1, done)
    if kept < len(found):
        with replacing(file) as part:
            part.write_bytes(found[:kept])


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


def _generators(parallel: Parallel) -> dict[str, Tensor]:
    """The state of every generator that a model may draw from, one row per process."""
    states = {"generator.cpu": parallel.every(torch.get_rng_state())}
    if torch.cuda.is_available():
        states["generator.cuda"] = parallel.every(torch.cuda.get_rng_state())
    return states


def _set_cuda(state: Tensor) -> None:
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(state.cpu())
