"""The kinematic drive: wheels that roll at the speeds they are told, up to a motor lag."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from entropy_env.geometry import TINY, wrap_angle
from entropy_env.neighbours import Neighbours
from entropy_env.physics.contacts import resolve_contacts
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


def drive(state: SwarmState, motors: jax.Array, near: Neighbours, params: SwarmParams, spec: SwarmSpec) -> SwarmState:
    """Move everybody for a control period."""
    command, h, active = motors * params.max_wheel_speed, params.dt / spec.substeps, state.active

    def substep(carry: tuple, _: None) -> tuple[tuple, None]:
        x, y, heading, wheel_speed, collided = carry
        dx, dy, new_heading, new_wheel_speed = follow_arc(heading, wheel_speed, command, h, params)
        dx, dy, touched, _piled = resolve_contacts(x, y, dx, dy, active, near, state.layout, h, params, spec)
        return (
            jnp.where(active, x + dx, x),
            jnp.where(active, y + dy, y),
            jnp.where(active, new_heading, heading),
            jnp.where(active[:, None], new_wheel_speed, wheel_speed),
            collided | touched,
        ), None

    carry = (state.position[:, 0], state.position[:, 1], state.heading, state.wheel_speed, jnp.zeros_like(active))
    (x, y, heading, wheel_speed, collided), _ = jax.lax.scan(substep, carry, None, length=spec.substeps)
    return state.replace(
        position=jnp.stack([x, y], axis=-1), heading=heading, wheel_speed=wheel_speed, collided=collided
    )
