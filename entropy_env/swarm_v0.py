"""The PettingZoo environments.

    from entropy_env import swarm_v0
    env = swarm_v0.parallel_env(num_agents=10, scenario="open", render_mode="human")
    observations, infos = env.reset(seed=42)
    while env.agents:
        actions = {agent: env.action_space(agent).sample() for agent in env.agents}
        observations, rewards, terminations, truncations, infos = env.step(actions)

Version history: v0, first release.
"""

from __future__ import annotations

from typing import Any

from pettingzoo.utils import AECEnv, OrderEnforcingWrapper
from pettingzoo.utils.conversions import parallel_to_aec_wrapper

from entropy_env.adapters.pettingzoo import SwarmParallelEnv
from entropy_env.adapters.world import Adapter

__all__ = ["env", "parallel_env", "raw_env"]

parallel_env = SwarmParallelEnv


class SwarmAECEnv(Adapter, parallel_to_aec_wrapper):
    """A `parallel_env` in which the agents act in turn."""

    def __init__(self, world: SwarmParallelEnv) -> None:
        super().__init__(world)
        self._simulator = world._simulator


def raw_env(**settings: Any) -> AECEnv:
    """Return `parallel_env` as a turn-based environment without wrappers. All agents move once the last has acted."""
    return SwarmAECEnv(SwarmParallelEnv(**settings))


def env(**settings: Any) -> AECEnv:
    """Return `raw_env` in a wrapper that reports calls in the wrong order."""
    return OrderEnforcingWrapper(raw_env(**settings))
