"""How robots move and what stops them: the two drives and the contacts."""

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
    """One control period of motion. action: (N, 2) in [-1, 1]; anything beyond is clipped, non-finite is zero."""
    motors = jnp.clip(jnp.where(jnp.isfinite(action), action, 0.0), -1.0, 1.0)
    near = touching_neighbours(state, params, spec)
    drive = {"kinematic": kinematic.drive, "force": force.drive}[spec.drive]
    return drive(state, motors, near, params, spec)
