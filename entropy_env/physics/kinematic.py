"""The kinematic drive: wheels that roll at the speeds they are told, up to a motor lag."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from entropy_env.geometry import TINY, wrap_angle
from entropy_env.neighbours import Neighbours
from entropy_env.physics.contacts import Contacts
from entropy_env.types import SwarmParams, SwarmSpec, SwarmState


def follow_arc(
    heading: jax.Array, wheel_speed: jax.Array, command: jax.Array, h: jax.Array | float, params: SwarmParams
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Move along the exact arc of a differential drive for one substep (Siegwart et al. 2011, section 3.2).

    heading: (N,) rad. wheel_speed, command: (N, 2) m/s, the present speeds and those wanted. h: () s.
    Returns the displacement as two (N,) m, the new heading (N,) and the new wheel speeds (N, 2).
    """
    keep = jnp.exp(-h / jnp.maximum(params.motor_tau, TINY))
    wheel_speed = command + (wheel_speed - command) * keep
    left, right = wheel_speed[:, 0], wheel_speed[:, 1]
    half_turn = (right - left) / params.wheel_base * h / 2
    tiny_turn = jnp.abs(half_turn) < 1e-4
    sinc = jnp.where(tiny_turn, 1.0, jnp.sin(half_turn) / jnp.where(tiny_turn, 1.0, half_turn))
    chord, middle = (left + right) / 2 * h * sinc, heading + half_turn
    return chord * jnp.cos(middle), chord * jnp.sin(middle), wrap_angle(middle + half_turn), wheel_speed


class Agents(NamedTuple):
    """N agents within a control period."""

    x: jax.Array  # (N,) m
    y: jax.Array
    heading: jax.Array  # (N,) rad
    wheel_speed: jax.Array  # (N, 2) m/s
    collided: jax.Array  # (N,) bool, in this control period

    @property
    def here(self) -> tuple[jax.Array, jax.Array]:
        """The position, two (N,) m."""
        return self.x, self.y


class KinematicDrive:
    """`entropy_env.physics.Drive` of wheels that roll as they are told."""

    def __init__(self, state: SwarmState, motors: jax.Array, params: SwarmParams, spec: SwarmSpec) -> None:
        self.command, self.h = motors * params.max_wheel_speed, params.dt / spec.substeps
        self.active, self.params = state.active, params

    def begin(self, state: SwarmState) -> Agents:
        """See `Drive`."""
        x, y = state.position[:, 0], state.position[:, 1]
        return Agents(x, y, state.heading, state.wheel_speed, jnp.zeros_like(self.active))

    def aim(self, agents: Agents, near: Neighbours) -> tuple[tuple[jax.Array, jax.Array], Any]:
        """See `Drive`."""
        dx, dy, *change = follow_arc(agents.heading, agents.wheel_speed, self.command, self.h, self.params)
        return (dx, dy), change

    def move(self, agents: Agents, change: Any, safe: Contacts) -> Agents:
        """See `Drive`."""
        heading, wheel_speed = change
        return Agents(
            x=jnp.where(self.active, agents.x + safe.dx, agents.x),
            y=jnp.where(self.active, agents.y + safe.dy, agents.y),
            heading=jnp.where(self.active, heading, agents.heading),
            wheel_speed=jnp.where(self.active[:, None], wheel_speed, agents.wheel_speed),
            collided=agents.collided | safe.collided,
        )

    def end(self, state: SwarmState, agents: Agents) -> SwarmState:
        """See `Drive`."""
        return state.replace(
            position=jnp.stack(agents.here, axis=-1),
            heading=agents.heading,
            wheel_speed=agents.wheel_speed,
            collided=agents.collided,
        )
