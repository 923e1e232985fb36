"""How robots move and what stops them: the kinematic drive and the contacts.

A substep moves every agent by one displacement. `drive` proposes it; `resolve_contacts` pushes overlaps apart
and then limits it, so that a valid state stays valid whatever the crowd: two agents may use half the gap
between them each, a fixed body leaves the whole gap, and all bodies are convex, so the gap taken at the
substep's start bounds it. Agents that overlap something when a control period begins, which no step leads to,
hold no other agent back, and none them, until they have come apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from entropy_env.geometry import TINY, Separation, fixed_bodies, wrap_angle
from entropy_env.types import Layout, SwarmParams, SwarmState

SLACK = 1e-6  # m kept between bodies, for the rounding of float32 positions
REST = 3e-5  # m between bodies in a crush, so that a displacement along them is not stopped by rounding
PILED = 1e-5  # m of overlap that no step makes, so that it must have been imported
ROUNDING = 1e-6  # of a displacement, that an excess taken away may leave
LANES = 8  # agents are padded to a multiple, so that a CPU works on full vectors
SMALL = 1e-6  # m, the offset that coincident agents are taken to have
AWAY = 1e6  # m, where inactive agents are out of reach
UNROLLED = 4  # bodies of a kind that are worth no loop
PARTING_SPEED = 1.0  # m/s at least at which an imported overlap may come apart


def drive(
    heading: jax.Array, wheel_speed: jax.Array, command: jax.Array, h: jax.Array | float, params: SwarmParams
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """One substep of a differential drive along its exact arc (Siegwart et al. 2011, section 3.2).

    heading: (N,) rad. wheel_speed, command: (N, 2) m/s, now and wanted. h: () s.
    Returns the displacement as two (N,) m, the new heading (N,) and the new wheel speed (N, 2).
    """
    keep = jnp.exp(-h / jnp.maximum(params.motor_tau, TINY))
    wheel_speed = command + (wheel_speed - command) * keep
    left, right = wheel_speed[:, 0], wheel_speed[:, 1]
    half_turn = (right - left) / params.wheel_base * h / 2
    tiny_turn = jnp.abs(half_turn) < 1e-4
    sinc = jnp.where(tiny_turn, 1.0, jnp.sin(half_turn) / jnp.where(tiny_turn, 1.0, half_turn))
    chord, middle = (left + right) / 2 * h * sinc, heading + half_turn
    return chord * jnp.cos(middle), chord * jnp.sin(middle), wrap_angle(middle + half_turn), wheel_speed


def _fixed(layout: Layout, params: SwarmParams) -> list[tuple[int, Callable[..., Separation]]]:
    """`fixed_bodies`, with gaps from an agent's surface instead of its centre."""

    def from_surface(separation: Callable, i: jax.Array, point: tuple) -> Separation:
        gap, nx, ny = separation(i, point)
        return gap - params.agent_radius, nx, ny

    kinds = fixed_bodies(layout, params.wall_half_thickness)
    return [(count, partial(from_surface, separation)) for count, separation in kinds]


def _bodies(
    x: jax.Array,
    y: jax.Array,
    touchable: jax.Array,
    num_agents: int,
    layout: Layout,
    params: SwarmParams,
) -> list[tuple[int, float, Callable[[jax.Array], Separation]]]:
    """Whatever agents at x, y (P,) m can touch: for every kind, how many, the share of the gap to the i-th that an
    agent may use, and that gap with its normal, (P,) each. Agents that are not `touchable` (P,) bool are infinitely far
    from each other. Coincident agents part along x, the later one forwards.
    """
    index = jnp.arange(x.shape[0])
    seen_x = jnp.where(touchable, x, AWAY)

    def agent(i: jax.Array) -> Separation:
        dx, dy = seen_x[i] - x, y[i] - y
        square = dx * dx + dy * dy
        dx = jnp.where(square < TINY, jnp.where(i > index, SMALL, -SMALL), dx)
        inverse = jax.lax.rsqrt(jnp.maximum(square, TINY))
        gap = jnp.where(touchable & (index != i), square * inverse - 2 * params.agent_radius, jnp.inf)
        return gap, dx * inverse, dy * inverse

    fixed = [(count, 1.0, partial(separation, point=(x, y))) for count, separation in _fixed(layout, params)]
    return [(num_agents, 0.5, agent), *fixed]


def _padded(value: jax.Array) -> jax.Array:
    """One row an agent, (N,) to a multiple of LANES."""
    return jnp.pad(value, (0, -value.shape[0] % LANES))


def overlapping(x: jax.Array, y: jax.Array, active: jax.Array, layout: Layout, params: SwarmParams) -> jax.Array:
    """(N,) bool: who overlaps anything, which only an imported state can make. x, y: (N,) m. active: (N,) bool."""
    index, seen_x = jnp.arange(x.shape[0]), jnp.where(active, x, AWAY)
    near = jnp.square(2 * params.agent_radius - PILED)

    def visit(i: jax.Array, piled: jax.Array) -> jax.Array:
        return piled | ((jnp.square(seen_x[i] - x) + jnp.square(y[i] - y) < near) & (index != i))

    piled = jax.lax.fori_loop(0, x.shape[0], visit, jnp.zeros_like(active))
    fixed = [(count, 1.0, partial(separation, point=(x, y))) for count, separation in _fixed(layout, params)]
    return active & _visit(fixed, lambda piled, _, separation: piled | (separation[0] < -PILED), piled)


def _visit(bodies: list, visit: Callable, carry: Any) -> Any:
    """Fold `visit(carry, share, separation)` over all bodies, one after the other: on a CPU, a loop of flat operations
    over all agents runs several times faster than reductions of (bodies, agents) arrays."""
    for count, share, separation in bodies:
        carry = jax.lax.fori_loop(
            0, count, lambda i, c, s=share, of=separation: visit(c, s, of(i)), carry, unroll=count <= UNROLLED
        )
    return carry


def resolve_contacts(
    x: jax.Array, y: jax.Array, dx: jax.Array, dy: jax.Array, active: jax.Array, piled: jax.Array, layout: Layout,
    h: jax.Array | float, params: SwarmParams,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """The displacement that is safe to make, two (N,) m, and who overlapped something before correction, (N,) bool.

    x, y: (N,) m at the substep's start. dx, dy: (N,) m wanted. active: (N,) bool. piled: (N,) bool, agents that other
    agents do not hold back. h: () s.
    """
    num_agents = x.shape[0]
    x, y, dx, dy, active, piled = (_padded(value) for value in (x, y, dx, dy, active, piled))
    dx, dy = jnp.where(active, dx, 0.0), jnp.where(active, dy, 0.0)

    def push(carry, share, separation):
        px, py, collided = carry
        gap, nx, ny = separation
        depth = share * jnp.minimum(gap, 0.0)
        return px + depth * nx, py + depth * ny, collided | (gap < 0)

    zero = jnp.zeros_like(x)
    wanted = _bodies(x + dx, y + dy, active, num_agents, layout, params)
    px, py, collided = _visit(wanted, push, (zero, zero, jnp.zeros_like(active)))
    dx, dy = dx + px, dy + py
    longest = jnp.maximum(params.max_wheel_speed, PARTING_SPEED) * h
    cap = jnp.minimum(1.0, longest / jnp.sqrt(jnp.maximum(dx * dx + dy * dy, TINY)))
    dx, dy = dx * cap, dy * cap

    def cut(carry, share, separation):
        cx, cy = carry
        gap, nx, ny = separation
        excess = jnp.maximum(dx * nx + dy * ny - share * jnp.maximum(gap - REST, -REST), 0.0)
        return cx + excess * nx, cy + excess * ny

    bodies = _bodies(x, y, active & ~piled, num_agents, layout, params)
    cx, cy = _visit(bodies, cut, (zero, zero))
    dx, dy = dx - cx, dy - cy

    length = jnp.sqrt(jnp.maximum(dx * dx + dy * dy, TINY))

    def limit(scale, share, separation):
        gap, nx, ny = separation
        towards, allowed = dx * nx + dy * ny, share * jnp.maximum(gap - SLACK, 0.0)
        excessive = towards > allowed + ROUNDING * length
        return jnp.minimum(scale, jnp.where(excessive, allowed / jnp.where(excessive, towards, 1.0), 1.0))

    scale = _visit(bodies, limit, jnp.minimum(1.0, longest / length))
    return (dx * scale)[:num_agents], (dy * scale)[:num_agents], (collided & active)[:num_agents]


def advance(state: SwarmState, action: jax.Array, params: SwarmParams, substeps: int) -> SwarmState:
    """One control period of motion. action: (N, 2) in [-1, 1]; anything beyond is clipped, non-finite is zero."""
    command = jnp.clip(jnp.where(jnp.isfinite(action), action, 0.0), -1.0, 1.0) * params.max_wheel_speed
    h = params.dt / substeps
    active = state.active

    def substep(carry: tuple, _: None) -> tuple[tuple, None]:
        x, y, heading, wheel_speed, collided = carry
        dx, dy, new_heading, new_wheel_speed = drive(heading, wheel_speed, command, h, params)
        dx, dy, touched = resolve_contacts(x, y, dx, dy, active, piled, state.layout, h, params)
        return (
            jnp.where(active, x + dx, x),
            jnp.where(active, y + dy, y),
            jnp.where(active, new_heading, heading),
            jnp.where(active[:, None], new_wheel_speed, wheel_speed),
            collided | touched,
        ), None

    piled = overlapping(state.position[:, 0], state.position[:, 1], active, state.layout, params)
    carry = (state.position[:, 0], state.position[:, 1], state.heading, state.wheel_speed, jnp.zeros_like(active))
    (x, y, heading, wheel_speed, collided), _ = jax.lax.scan(substep, carry, None, length=substeps)
    return state.replace(
        position=jnp.stack([x, y], axis=-1), heading=heading, wheel_speed=wheel_speed, collided=collided
    )
