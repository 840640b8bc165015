"""What an arm is charged for the model that it runs beside the budget [FLOPs].

Text statistics on a CPU run no model and are charged nothing; what they take shows in a benchmark.
"""

from __future__ import annotations

from kncl_env.learner import Learner
from kncl_env.settings import Settings


def of_training(settings: Settings, learner: Learner, windows: int) -> float:
    """FLOPs of training a learner on so many windows."""
    return windows * settings.learner.context * learner.flops_per_token


def of_measuring(settings: Settings, learner: Learner, windows: int) -> float:
    """FLOPs of measuring its loss on them: a third of training, a half where most weights stand
    still."""
    parts = 3 if settings.change.adapter == "none" else 2
    return of_training(settings, learner, windows) / parts
