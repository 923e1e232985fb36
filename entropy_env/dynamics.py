"""How robots move and what stops them: the kinematic drive and the contacts.

A substep moves every agent by one displacement. `drive` proposes it; `resolve_contacts` pushes overlaps apart
and then limits it, so that a valid state stays valid whatever the crowd: two agents may use half the gap
between them each, a fixed body leaves the whole gap, and all bodies are convex, so the gap taken at the
substep's start bounds it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from entropy_env.geometry import TINY, Separation, separation_border, separation_box, separation_capsule, separation_disc
from entropy_env.types import Layout, SwarmParams, SwarmState

SLACK = 1e-6  # m kept between bodies, for the rounding of float32 positions
PARTING_SPEED = 1.0  # m/s at which an imported overlap comes apart, above the robots' own speed


def wrap_angle(angle: jax.Array) -> jax.Array:
    """To (-pi, pi]."""
    wrapped = angle - 2 * jnp.pi * jnp.ceil((angle - jnp.pi) / (2 * jnp.pi))
    return jnp.where(wrapped <= -jnp.pi, jnp.pi, wrapped)


def drive(
    heading: jax.Array, wheel_speed: jax.Array, command: jax.Array, h: jax.Array, params: SwarmParams
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """One substep of a differential drive along its exact arc (Siegwart et al. 2011, section 3.2).

    heading: (N,) rad. wheel_speed, command: (N, 2) m/s, now and wanted. h: () s.
    Returns the displacement as two (N,) m, the new heading (N,) and the new wheel speed (N, 2).
    """
    keep = jnp.exp(-h / jnp.maximum(params.motor_tau, TINY))
    wheel_speed = command + (wheel_speed - command) * keep
    left, right = wheel_speed[:, 0], wheel_speed[:, 1]
    turn = (right - left) / params.wheel_base * h
    middle = heading + turn / 2
    chord = (left + right) / 2 * h * jnp.sinc(turn / (2 * jnp.pi))
    return chord * jnp.cos(middle), chord * jnp.sin(middle), wrap_angle(heading + turn), wheel_speed


def fixed_separation(x: jax.Array, y: jax.Array, layout: Layout, params: SwarmParams) -> Separation:
    """Gap and normal from each agent's surface to each fixed body, (F, N) each: border, walls, boxes, discs.

    x, y: (N,) m. Empty slots are infinitely far away.
    """
    points = jnp.stack([x, y], axis=-1)

    def to_all(kernel, *bodies):
        over_bodies = jax.vmap(kernel, (None, *(0 for _ in bodies)))
        return jax.vmap(over_bodies, (0, *(None for _ in bodies)), out_axes=1)(points, *bodies)

    found = [jax.vmap(separation_border, (0, None), out_axes=(1, None, None))(points, layout.size)]
    found[0] = (found[0][0], *(jnp.broadcast_to(n[:, None], found[0][0].shape) for n in found[0][1:]))
    masks = [jnp.ones(4, bool)]
    if layout.walls.shape[0]:
        thickness = jnp.broadcast_to(params.wall_half_thickness, layout.wall_mask.shape)
        found.append(to_all(separation_capsule, layout.walls[:, 0], layout.walls[:, 1], thickness))
        masks.append(layout.wall_mask)
    if layout.boxes.shape[0]:
        found.append(to_all(separation_box, layout.boxes[:, :2], layout.boxes[:, 2:]))
        masks.append(layout.box_mask)
    if layout.discs.shape[0]:
        found.append(to_all(separation_disc, layout.discs[:, :2], layout.discs[:, 2]))
        masks.append(layout.disc_mask)
    gap, nx, ny = (jnp.concatenate(parts) for parts in zip(*found, strict=True))
    return jnp.where(jnp.concatenate(masks)[:, None], gap - params.agent_radius, jnp.inf), nx, ny


def agent_separation(x: jax.Array, y: jax.Array, active: jax.Array, params: SwarmParams) -> Separation:
    """Gap and normal from each agent (column) to each other (row), (N, N) each; inf to itself and to the inactive.

    x, y: (N,) m. active: (N,) bool. Coincident agents part along x, the later one forwards.
    """
    dx, dy = x[:, None] - x[None, :], y[:, None] - y[None, :]
    square = dx * dx + dy * dy
    coincident = square < TINY
    inverse = jax.lax.rsqrt(jnp.where(coincident, 1.0, square))
    index = jnp.arange(x.shape[0])
    order = jnp.where(index[:, None] > index[None, :], jnp.float32(1), jnp.float32(-1))
    touchable = active[:, None] & active[None, :] & (index[:, None] != index[None, :])
    gap = jnp.where(touchable, jnp.where(coincident, 0.0, square * inverse) - 2 * params.agent_radius, jnp.inf)
    return gap, jnp.where(coincident, order, dx * inverse), jnp.where(coincident, 0.0, dy * inverse)


def _push(separation: Separation, share: float) -> tuple[jax.Array, jax.Array]:
    """(N,) m each: the sum of what takes an agent out of the bodies it overlaps."""
    gap, nx, ny = separation
    depth = share * jnp.minimum(gap, 0.0)
    return jnp.sum(depth * nx, axis=0), jnp.sum(depth * ny, axis=0)


def _excess(dx: jax.Array, dy: jax.Array, separation: Separation, share: float) -> jax.Array:
    """(M, N) m: how far a displacement goes beyond its share of each gap."""
    gap, nx, ny = separation
    return dx[None] * nx + dy[None] * ny - share * jnp.maximum(gap - SLACK, 0.0)


def resolve_contacts(
    x: jax.Array, y: jax.Array, dx: jax.Array, dy: jax.Array, active: jax.Array, layout: Layout,
    h: jax.Array, params: SwarmParams,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """The displacement that is safe to make, two (N,) m, and who overlapped something before correction, (N,) bool.

    x, y: (N,) m at the substep's start. dx, dy: (N,) m wanted. h: () s.
    """
    bodies = (
        (agent_separation(x, y, active, params), agent_separation(x + dx, y + dy, active, params), 0.5),
        (fixed_separation(x, y, layout, params), fixed_separation(x + dx, y + dy, layout, params), 1.0),
    )
    collided = jnp.zeros_like(active)
    push_x, push_y = jnp.zeros_like(x), jnp.zeros_like(y)
    for _, after, share in bodies:
        collided |= jnp.any(after[0] < 0, axis=0)
        px, py = _push(after, share)
        push_x, push_y = push_x + px, push_y + py
    dx, dy = dx + push_x, dy + push_y

    cut_x, cut_y = jnp.zeros_like(x), jnp.zeros_like(y)
    for before, _, share in bodies:
        excess = jnp.maximum(_excess(dx, dy, before, share), 0.0)
        cut_x, cut_y = cut_x + jnp.sum(excess * before[1], axis=0), cut_y + jnp.sum(excess * before[2], axis=0)
    dx, dy = dx - cut_x, dy - cut_y

    longest = jnp.maximum(params.max_wheel_speed, PARTING_SPEED) * h
    scale = jnp.minimum(1.0, longest * jax.lax.rsqrt(jnp.maximum(dx * dx + dy * dy, TINY)))
    for before, _, share in bodies:
        towards = dx[None] * before[1] + dy[None] * before[2]
        allowed = share * jnp.maximum(before[0] - SLACK, 0.0)
        ratio = jnp.where(towards > allowed, allowed / jnp.maximum(towards, TINY), 1.0)
        scale = jnp.minimum(scale, jnp.min(ratio, axis=0))
    return dx * scale, dy * scale, collided & active


def advance(state: SwarmState, action: jax.Array, params: SwarmParams, substeps: int) -> SwarmState:
    """One control period of motion. action: (N, 2) in [-1, 1]; anything beyond is clipped, non-finite is zero."""
    command = jnp.clip(jnp.where(jnp.isfinite(action), action, 0.0), -1.0, 1.0) * params.max_wheel_speed
    h = params.dt / substeps

    def substep(carry, _):
        x, y, heading, wheel_speed, collided = carry
        dx, dy, new_heading, new_wheel_speed = drive(heading, wheel_speed, command, h, params)
        still = ~state.active
        dx, dy = jnp.where(still, 0.0, dx), jnp.where(still, 0.0, dy)
        dx, dy, touched = resolve_contacts(x, y, dx, dy, state.active, state.layout, h, params)
        heading = jnp.where(still, heading, new_heading)
        wheel_speed = jnp.where(still[:, None], wheel_speed, new_wheel_speed)
        x, y = jnp.where(still, x, x + dx), jnp.where(still, y, y + dy)
        return (x, y, heading, wheel_speed, collided | touched), None

    carry = (state.position[:, 0], state.position[:, 1], state.heading, state.wheel_speed, jnp.zeros_like(state.active))
    for _ in range(substeps):
        carry, _ = substep(carry, None)
    x, y, heading, wheel_speed, collided = carry
    return state.replace(
        position=jnp.stack([x, y], axis=-1), heading=heading, wheel_speed=wheel_speed, collided=collided
    )
