"""All arms that choose among a handful of domains, or search."""

from __future__ import annotations

from policies.arms.arm import Listed
from policies.arms.bandits import (
    aioli,
    best_of,
    doremi,
    graves,
    greedy,
    learning_progress,
    odm,
    op_mix,
    plr,
    rho,
    skill_it,
    stratified,
    tscl,
    ucb1,
)

BANDITS: dict[str, Listed] = {
    **stratified.ARMS,
    **odm.ARMS,
    **ucb1.ARMS,
    **tscl.ARMS,
    **learning_progress.ARMS,
    **graves.ARMS,
    **plr.ARMS,
    **rho.ARMS,
    **skill_it.ARMS,
    **aioli.ARMS,
    **doremi.ARMS,
    **op_mix.ARMS,
    **greedy.ARMS,
    **best_of.ARMS,
}
