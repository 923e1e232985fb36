"""Swarms of differential-drive robots with lidar, simulated in JAX.

    from entropy_env import swarm_v0                             # PettingZoo
    env = swarm_v0.parallel_env(num_agents=10, scenario="open")

    import gymnasium                                             # one robot
    env = gymnasium.make("entropy_env:entropy_env/Swarm-v0")

    from entropy_env import Swarm, SwarmSpec, vector             # pure functions, many worlds
    worlds = vector.batch(Swarm(SwarmSpec(num_agents=10)), num_envs=256)

    from entropy_env import make_engine                          # NumPy arrays, many worlds on all cores
    worlds = make_engine(Swarm(SwarmSpec(num_agents=10)), num_envs=256)

Names are imported when first used, so that importing the package is quick and starts nothing. What it imports at once is
Gymnasium, which reads no entry points and must be told of the environment.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import register, registry

if TYPE_CHECKING:
    from entropy_env import spread, swarm_v0, vector
    from entropy_env.engines import make_engine
    from entropy_env.env import Swarm
    from entropy_env.scenarios.custom import make_layout
    from entropy_env.types import Layout, SwarmParams, SwarmSpec, SwarmState

__version__ = "0.1.0"

__all__ = [
    "Layout",
    "Swarm",
    "SwarmParams",
    "SwarmSpec",
    "SwarmState",
    "make_engine",
    "make_layout",
    "spread",
    "swarm_v0",
    "vector",
]

_HOMES = {
    "Layout": "types",
    "Swarm": "env",
    "SwarmParams": "types",
    "SwarmSpec": "observations",  # which fills the table that its `obs_dim` is made of
    "SwarmState": "types",
    "make_engine": "engines",
    "make_layout": "scenarios.custom",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_HOMES.get(name, name)}")
    return getattr(module, name) if name in _HOMES else module


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "entropy_env/Swarm-v0" not in registry:
    register(
        "entropy_env/Swarm-v0",
        entry_point="entropy_env.adapters.gymnasium:SwarmEnv",
        vector_entry_point="entropy_env.adapters.gymnasium:SwarmVectorEnv",
    )
