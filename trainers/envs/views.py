"""What the critic of a swarm sees of a world beside the observations."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from entropy_env.env import Swarm
from entropy_env.types import SwarmParams, SwarmState
from entropy_env.vector import View


@dataclasses.dataclass(frozen=True)
class Central:
    """The state of all agents, a row for each. The last number marks those that are in the world."""

    env: Swarm

    def __call__(self, state: SwarmState, params: SwarmParams) -> jax.Array:
        """Return (N, state_dim + 1)."""
        rows = self.env.global_state(state).reshape(self.env.spec.num_agents, -1)
        return jnp.concatenate([rows, state.active[:, None].astype(jnp.float32)], axis=1)


@dataclasses.dataclass(frozen=True)
class Privileged:
    """What the simulator knows of the shortest ways, of the time left and of agents near. Needs the option `geodesic`."""

    env: Swarm

    def __call__(self, state: SwarmState, params: SwarmParams) -> jax.Array:
        """Return (N, K)."""
        return self.env.privileged(state, params)


VIEWS: dict[str, Any] = {"central": Central, "privileged": Privileged}


def view_of(critic: str, env: Swarm) -> View | None:
    """Return what a kind of critic sees of a world, None for one that sees the observations alone.

    critic: local, central or privileged.
    """
    return VIEWS[critic](env) if critic in VIEWS else None
