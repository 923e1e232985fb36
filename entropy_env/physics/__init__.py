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
    "clearance",
    "longest_move",
    "top_speed",
    "touching_neighbours",
]


def advance(state: SwarmState, action: jax.Array, params: SwarmParams, spec: SwarmSpec) -> SwarmState:
    """Move all agents for one control period.

    action: (N, 2) left and right motor in [-1, 1]. Values beyond are clipped, and values that are not finite count as
    zero.
    """
    motors = jnp.clip(jnp.where(jnp.isfinite(action), action, 0.0), -1.0, 1.0)
    near = touching_neighbours(state, params, spec)
    drive = {"kinematic": kinematic.drive, "force": force.drive}[spec.drive]
    return drive(state, motors, near, params, spec)
