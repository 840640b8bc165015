"""Starts `rabbit-holes` again and again in a few milliseconds, so that it can be killed often.

A helper process imports the program once and forks a child per command line: a real process that a
real SIGKILL ends, without the second that imports cost. Run as a script this file is that helper.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType


class ForkServer:
    """`with ForkServer() as server: pid = server.start([...]); server.kill(pid); server.wait()`."""

    def __enter__(self) -> ForkServer:
        root = Path(__file__).resolve().parent.parent
        self._helper = subprocess.Popen(
            [sys.executable, __file__],
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

    def start(self, arguments: list[str]) -> int:
        """Begin a command; returns its process id."""
        assert self._helper.stdin is not None
        print(json.dumps(arguments), file=self._helper.stdin, flush=True)
        return int(self._answer())

    def kill(self, pid: int) -> None:
        """SIGKILL; harmless where the command has ended, as it stays a zombie until `wait`."""
        os.kill(pid, signal.SIGKILL)

    def wait(self) -> int:
        """Exit status of the command begun last; minus the signal that ended it."""
        assert self._helper.stdin is not None
        print("wait", file=self._helper.stdin, flush=True)
        return int(self._answer())

    def _answer(self) -> str:
        assert self._helper.stdout is not None
        return self._helper.stdout.readline().strip()


def _serve() -> None:
    # What a command imports, before the first fork.
    import rabbit_holes.collector
    import rabbit_holes.wikipedia  # noqa: F401
    from rabbit_holes.cli import main

    print("ready", flush=True)
    pid = 0
    for line in sys.stdin:
        if line == "wait\n":
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(main(json.loads(line)))
        print(pid, flush=True)


if __name__ == "__main__":
    _serve()
