"""Register the environment with Gymnasium, without importing Gymnasium.

Gymnasium 1.x reads no entry points. It knows an environment only once `gymnasium.register` has been called. This module
calls it as soon as both packages have been imported, in either order.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ENV_ID = "entropy_env/Swarm-v0"


def register_with_gymnasium() -> None:
    """Register now if Gymnasium has been imported, or else when it is."""
    if "gymnasium" in sys.modules:
        _register()
    elif not any(isinstance(finder, _OnGymnasiumImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OnGymnasiumImport())


def _register() -> None:
    from gymnasium.envs.registration import register, registry

    if ENV_ID not in registry:
        register(
            ENV_ID,
            entry_point="entropy_env.adapters.gymnasium:SwarmEnv",
            vector_entry_point="entropy_env.adapters.gymnasium:SwarmVectorEnv",
        )


class _OnGymnasiumImport:
    """An import finder that finds modules through the other finders, and registers once Gymnasium has been imported."""

    asking = False  # while this finder asks the others where Gymnasium is

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "gymnasium" or self.asking:
            return None
        self.asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.asking = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                _register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
