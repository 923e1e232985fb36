"""How robots move and what stops them: `advance` is the list of what happens in a control period.

`kinematic` and `force` are the two drives, `contacts` keeps bodies from overlapping, `double` has the numbers that the
force drive sums up.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from entropy_env.neighbours import Neighbours
from entropy_env.physics.contacts import (
    LEAST_GAP,
    PARTING_SPEED,
    REST,
    UNIT,
    Contacts,
    apart,
    clearance,
    longest_move,
    resolve_contacts,
    top_speed,
    touching_neighbours,
)
from entropy_env.physics.force import ForceDrive
from entropy_env.physics.kinematic import KinematicDrive
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


class Drive(Protocol):
    """What moves the agents of a world during one control period. `Agents` are its numbers from substep to substep."""

    h: Any  # () s, a substep

    def __init__(self, state: SwarmState, motors: jax.Array, params: SwarmParams, spec: SwarmSpec) -> None: ...

    def begin(self, state: SwarmState) -> Any:
        """Return the agents at the start of a control period. `agents.here` is their position, two (N,) m."""

    def aim(self, agents: Any, near: Neighbours) -> tuple[tuple[jax.Array, jax.Array], Any]:
        """Find the displacement that each agent wants in a substep, two (N,) m, and what else changes, for `move`."""

    def move(self, agents: Any, change: Any, safe: Contacts) -> Any:
        """Move the agents by the displacement that is safe."""

    def end(self, state: SwarmState, agents: Any) -> SwarmState:
        """Write the agents into the state."""


DRIVES: dict[str, type[Drive]] = {"kinematic": KinematicDrive, "force": ForceDrive}


def as_motors(action: jax.Array) -> jax.Array:
    """Clip an action to [-1, 1]. What is not finite becomes zero."""
    return jnp.clip(jnp.where(jnp.isfinite(action), action, 0.0), -1.0, 1.0)


def advance(state: SwarmState, motors: jax.Array, params: SwarmParams, spec: SwarmSpec) -> SwarmState:
    """Move all agents for one control period. motors: (N, 2) left and right, of `as_motors`."""
    near = touching_neighbours(state, params, spec)
    drive = DRIVES[spec.drive](state, motors, params, spec)

    def substep(agents: Any, _: None) -> tuple[Any, None]:
        (x, y), ((dx, dy), change) = agents.here, drive.aim(agents, near)
        safe = resolve_contacts(x, y, dx, dy, state.active, near, state.layout, drive.h, params, spec)
        return drive.move(agents, change, safe), None

    agents, _ = jax.lax.scan(substep, drive.begin(state), None, length=spec.substeps)
    return drive.end(state, agents)
