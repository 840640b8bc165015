"""Tokens in, loss out: the learner. Knows no topic, graph, reward or reinforcement learning."""

from __future__ import annotations

import signal


# Here, since every command imports this first; what Python itself has loaded is all it takes.
def say_nothing() -> None:
    """Until `program` takes over, a Ctrl-C ends the process at once, as SIGTERM does.

    Python would answer with a traceback of whatever it was importing.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def say_again() -> None:
    """Undo it. Where Ctrl-C was ignored, as behind nohup, it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
