"""How robots move and what stops them.

`kinematic` and `force` are the two drives, `contacts` keeps bodies from overlapping, `double` has the numbers that the
force drive sums up.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from entropy_env.physics import force, kinematic
from entropy_env.physics.contacts import (
    LEAST_GAP,
    PARTING_SPEED,
    REST,
    UNIT,
    apart,
    clearance,
    longest_move,
    top_speed,
    touching_neighbours,
)
from entropy_env.types import SwarmParams, SwarmSpec, SwarmState

__all__ = [
    "LEAST_GAP",
    "PARTING_SPEED",
    "REST",
    "UNIT",
    "advance",
    "apart",
    "as_motors",
    "clearance",
    "longest_move",
    "top_speed",
    "touching_neighbours",
]


def as_motors(action: jax.Array) -> jax.Array:
    """Clip an action to [-1, 1]. What is not finite becomes zero."""
    return jnp.clip(jnp.where(jnp.isfinite(action), action, 0.0), -1.0, 1.0)


def advance(state: SwarmState, motors: jax.Array, params: SwarmParams, spec: SwarmSpec) -> SwarmState:
    """Move all agents for one control period. motors: (N, 2) left and right, of `as_motors`."""
    near = touching_neighbours(state, params, spec)
    drive = {"kinematic": kinematic.drive, "force": force.drive}[spec.drive]
    return drive(state, motors, near, params, spec)
