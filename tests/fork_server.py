"""Starts a command again and again in a few milliseconds, so that it can be killed often.

A helper process imports the program once and forks a child per command line: a real process that a
real SIGKILL ends, without the seconds that imports cost. Run as a script this file is that helper.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType


class ForkServer:
    """`with ForkServer("train_lm.cli") as server: pid = server.start([...]); server.wait(pid)`.

    Args:
        program: Module whose `main` takes the arguments of a command.
        needs: Modules that a command imports, imported before the first fork.
    """

    def __init__(self, program: str, *needs: str) -> None:
        self._modules = [program, *needs]

    def __enter__(self) -> ForkServer:
        root = Path(__file__).resolve().parent.parent
        self._helper = subprocess.Popen(
            [sys.executable, __file__, *self._modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root)},
            text=True,
        )
        assert self._answer() == "ready"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        self._helper.stdin.close()
        self._helper.wait(30)
        self._helper.stdout.close()

    @property
    def pid(self) -> int:
        """The helper process, the parent of every command."""
        return self._helper.pid

    def start(self, arguments: list[str], env: Mapping[str, str] | None = None) -> int:
        """Begin a command, with further variables in its environment; returns its process id."""
        return self._ask({"start": arguments, "env": dict(env or {})})

    def kill(self, pid: int) -> None:
        """SIGKILL; harmless where the command has ended, as it stays a zombie until `wait`."""
        os.kill(pid, signal.SIGKILL)

    def running(self, pid: int) -> bool:
        return bool(self._ask({"running": pid}))

    def kill_at(self, pid: int, file: Path, lines: int, delay: float) -> None:
        """SIGKILL `delay` seconds after `file` holds so many lines, or the command has ended.

        A moment told by what the command has written falls where it is meant to on a machine of any
        speed; one told by the clock alone may fall into the start-up every time.
        """
        while self.running(pid) and _lines(file) < lines:
            time.sleep(0.002)
        time.sleep(delay)
        self.kill(pid)

    def wait(self, pid: int) -> int:
        """Exit status of a command; minus the signal that ended it."""
        return self._ask({"wait": pid})

    def _ask(self, question: object) -> int:
        assert self._helper.stdin is not None
        print(json.dumps(question), file=self._helper.stdin, flush=True)
        return int(self._answer())

    def _answer(self) -> str:
        assert self._helper.stdout is not None
        return self._helper.stdout.readline().strip()


def _lines(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.is_file() else 0


def _serve(program: str, *needs: str) -> None:
    main, *_ = [importlib.import_module(name) for name in (program, *needs)]
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "wait" in asked:
            print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
            continue
        if "running" in asked:
            look = os.WEXITED | os.WNOHANG | os.WNOWAIT
            print(int(os.waitid(os.P_PID, asked["running"], look) is None), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.environ.update(asked["env"])
            try:
                os._exit(main.main(asked["start"]))
            except BaseException:
                traceback.print_exc()
                os._exit(70)
        print(pid, flush=True)


if __name__ == "__main__":
    _serve(*sys.argv[1:])
