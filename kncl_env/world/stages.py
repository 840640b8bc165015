"""The stages of a build, each done once: what a kill costs is the stage that was under way.

    .NAME.building/state.json   what is being made from what, and each finished stage: what it
                                found, its files with their digests, its time and memory
    .NAME.building/world/       the world as far as it is
    .NAME.building/scratch/     what stages hand on and no world keeps

The folder stands beside the world's place. The same build goes on in it, another build empties it.
A stage of which a file is missing or damaged is done again, and so is what follows it.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from train_lm.checked.digests import SEAL, sealed, unsealed
from train_lm.files import (
    Json,
    hash_file,
    put_in_place,
    read_json,
    remove_folder,
    replacing_folder,
    sweep,
    sync,
    told_as,
    write_json,
)
from train_lm.outputs import holds_json

log = logging.getLogger(__name__)

STATE, WORLD, SCRATCH = "state.json", "world", "scratch"
MADE_BY = "kncl-env build"
# [s] What took less is not kept for later: it is litter to whoever does not come back.
KEPT = 60.0

Say = Callable[[str], None]


class Stages:
    """A build under way.

    Args:
        folder: Where it works; holds a state.
        say: Told what begins, and what is done already.

    Attributes:
        world: Folder of the world's files.
        scratch: Folder of what no world keeps.
    """

    def __init__(self, folder: Path, say: Say) -> None:
        self.folder, self._say = folder, say
        self.world, self.scratch = folder / WORLD, folder / SCRATCH
        self._sound: set[str] = set()  # stages whose files were looked at
        self._state: Json = unsealed(read_json(folder / STATE), folder / STATE)

    @property
    def log(self) -> list[Json]:
        """Seconds, those of a core, and peak memory [bytes] of each stage: of this run alone."""
        told = ("seconds", "cpu_seconds", "peak_bytes")
        return [
            {"stage": name, **{key: stage[key] for key in told}}
            for name, stage in self._state["stages"].items()
        ]

    @property
    def seconds(self) -> float:
        """Time that the finished stages took."""
        return float(sum(stage["seconds"] for stage in self._state["stages"].values()))

    def found(self, stage: str) -> Json | None:
        """What a finished stage found, if all that it made is still there, unchanged; else None."""
        done = self._state["stages"].get(stage)
        if done is None:
            return None
        for name, digest in () if stage in self._sound else done["files"].items():
            file = self.folder / name
            if not file.is_file() or hash_file(file) != digest:
                log.warning("%s: missing or damaged: %s again", file, stage)
                return None
        self._sound.add(stage)
        facts: Json = done["facts"]
        return facts

    def run(self, stage: str, make: Callable[[], Json]) -> Json:
        """What a stage finds; it is done unless it was.

        Args:
            stage: A name of its own, which says what is being done.
            make: Does it, writes into `world` and `scratch`, and returns what JSON can hold.
        """
        facts = self.found(stage)
        if facts is not None:
            self._say(f"{stage}: done before")
            return facts
        self._say(stage)
        self.forget(stage)
        began, busy = time.monotonic(), _busy()
        _forget_peak()
        facts = make()
        known = {name for done in self._state["stages"].values() for name in done["files"]}
        files = {name: file for name, file in self._files() if name not in known}
        for file in files.values():
            sync(file)
        self._state["stages"][stage] = {
            "facts": facts,
            "files": {name: hash_file(file) for name, file in files.items()},
            "seconds": round(time.monotonic() - began, 3),
            "cpu_seconds": round(_busy() - busy, 3),
            "peak_bytes": _peak(),
        }
        self._write()
        return facts

    def forget(self, stage: str | None) -> None:
        """Undo a stage and all that follow it, or all of them, and what an unfinished one left."""
        names = list(self._state["stages"])
        last = 0 if stage is None else names.index(stage) if stage in names else len(names)
        for name in names[last:]:
            del self._state["stages"][name]
            self._sound.discard(name)
        self._write()
        kept = {name for done in self._state["stages"].values() for name in done["files"]}
        for name, file in self._files():
            if name not in kept:
                # A folder is the room of a file that was being written.
                shutil.rmtree(file) if file.is_dir() else file.unlink()

    def _write(self) -> None:
        write_json(self.folder / STATE, sealed(self._state))

    def _files(self) -> Iterator[tuple[str, Path]]:
        for part in (WORLD, SCRATCH):
            for file in sorted((self.folder / part).iterdir()):
                yield f"{part}/{file.name}", file

    def finish(self, out: Path, identity: str) -> None:
        """Put the world in its place in one step, and leave nothing else.

        Args:
            identity: Hash of the world; a kill between the two steps is known by it.
        """
        self._state["finished"] = identity
        self._write()
        put_in_place(self.world, out, over=True)
        remove_folder(self.folder)


def finished_by(out: Path, made_from: str) -> str | None:
    """Hash of the world that the same build was about to put at `out` when it was killed."""
    folder = _folder(out)
    if not holds_json(folder / STATE, made_by=MADE_BY, made_from=made_from):
        return None
    found = _whole_state(folder)
    return None if found is None else found.get("finished")


def clear(out: Path) -> None:
    """Remove what a build left that was killed as it cleaned up, if one did."""
    folder = _folder(out)
    if holds_json(folder / STATE, made_by=MADE_BY):
        remove_folder(folder)
    else:
        sweep(folder.parent, folder.name)


@contextmanager
def stages_of(out: Path, made_from: str, say: Say) -> Iterator[Stages]:
    """The stages of what is built at `out`: those of an interrupted build, or none yet.

    Args:
        made_from: Hash of all that decides the result; the state of another build is removed.

    Raises:
        FileExistsError: Something else stands where the build would work.
    """
    folder = _folder(out)
    folder.parent.mkdir(parents=True, exist_ok=True)
    goes_on = os.path.lexists(folder) and _goes_on(folder, made_from)
    with told_as(out, folder):
        if os.path.lexists(folder) and not goes_on:
            remove_folder(folder)
        if not folder.is_dir():
            with replacing_folder(folder) as part:
                (part / WORLD).mkdir()
                (part / SCRATCH).mkdir()
                state = {"made_by": MADE_BY, "made_from": made_from, "stages": {}}
                write_json(part / STATE, sealed(state))
        stages = Stages(folder, say)
        try:
            yield stages
        except BaseException as error:
            again = isinstance(error, (KeyboardInterrupt, OSError, MemoryError))
            if folder.is_dir() and not (again and stages.seconds >= KEPT):
                with suppress(OSError):
                    remove_folder(folder)
            raise


def _folder(out: Path) -> Path:
    # By its real name: one place is one build, whatever leads there.
    real = Path(os.path.realpath(out))
    return real.with_name(f".{real.name}.building")


def _goes_on(folder: Path, made_from: str) -> bool:
    """Raises: FileExistsError where it is no folder of a build."""
    if folder.is_symlink() or not holds_json(folder / STATE, made_by=MADE_BY):
        raise FileExistsError(
            f"expected a build to go on with, or nothing, at {folder}, got something else: "
            "move it away"
        )
    parts = (folder / WORLD, folder / SCRATCH)
    state = _whole_state(folder)
    return (
        state is not None
        and state.get("made_from") == made_from
        and "finished" not in state
        and all(part.is_dir() and not part.is_symlink() for part in parts)
    )


def _busy() -> float:
    """Time of a core that this process took, and workers of it that have ended [s]."""
    return sum(os.times()[:4])


def _whole_state(folder: Path) -> Json | None:
    """What a build wrote of itself; None where that was damaged, or is of before it had a seal."""
    found: Json = read_json(folder / STATE)
    try:
        return unsealed(found, folder / STATE) if SEAL in found else None
    except ValueError as error:
        log.warning("%s: the build begins anew", error)
        return None


def _forget_peak() -> None:
    """Begin to measure the peak of memory anew, where the system can (Linux)."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The most memory that this process held since `_forget_peak`, or ever [bytes]."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
