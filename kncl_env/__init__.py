"""The world (corpus, graph, retrieval) and the game played on it.

Importing it makes `gymnasium` know `kncl_env/TopicExpansion-v0`; a process that did not import it
asks for `kncl_env:kncl_env/TopicExpansion-v0`, as children of `AsyncVectorEnv` and `SubprocVecEnv`
do. It does not import gymnasium, which would bring numpy: `kncl-env --help` needs neither. Where
gymnasium comes later, the environment is registered when it does.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any


def _register() -> None:
    from gymnasium.envs.registration import register

    register(
        id="kncl_env/TopicExpansion-v0",
        entry_point="kncl_env.entry_points:topic_expansion",
        vector_entry_point="kncl_env.entry_points:topic_expansions",
    )


class _Registering(Loader):
    """Gymnasium's own loader, and a registration after it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _register()

    def __getattr__(self, name: str) -> Any:  # resources and sources of gymnasium stay readable
        return getattr(self._loader, name)


class _WhenGymnasiumComes(MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


if "gymnasium" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _WhenGymnasiumComes())
