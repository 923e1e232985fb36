"""Contacts: which bodies an agent can touch, and which displacement is safe to make.

A substep moves every agent by one displacement, which its drive proposes. `resolve_contacts` pushes overlaps apart and
then limits the displacement, so that a valid state stays valid in any crowd:
- two agents may use half of the gap between them each, or share it by what they want;
- an agent may use the whole gap to a fixed body;
- agents and obstacles are convex, so the gap and the normal at the substep's start bound the whole displacement.

Rounding. The limit holds for the displacement that float32 makes of it. Let u = 2^-24, L the arena's longer side, r the
radius of an agent and D the longest displacement in a substep. These errors are possible:
- storing a position changes it by up to `settling`: 1.5 u L, and twice that with the force drive, whose float32
  position is the rounded sum of a `Double`;
- a gap between agents is off by up to 8 u (2 r + gap), a gap to a fixed body by 8 u L more, and a normal by 8 u;
- a displacement d may exceed its limit by up to `ROUNDING` |d|.

`clearance` is at least the sum of these errors on both sides of a contact plus `LEAST_GAP`. So:
- Where a gap is above the clearance, each side uses at most its share of (gap - clearance). With all errors added,
  `LEAST_GAP` is left.
- Where a gap is not above it, nobody may approach. An agent moves only if it departs by more than storing its position
  can take back. Otherwise it keeps its position to the bit.
In both cases no gap shrinks below `LEAST_GAP`, and a gap that starts smaller does not shrink.

Deep overlaps. No step leads to an overlap of more than `too_deep`, but an imported state may have one. Two such agents
do not hold each other back, so they come apart gradually. All others and all fixed bodies still hold them, so no step
makes two bodies overlap that did not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from entropy_env.geometry import FAR, TINY, Separation, fixed_bodies
from entropy_env.neighbours import Neighbours, find_neighbours
from entropy_env.types import Layout, SwarmParams, SwarmSpec, SwarmState

UNIT = 2.0**-24  # u, the largest relative error of rounding to float32
LEAST_GAP = 1e-7  # m, the smallest gap that a step leaves between two bodies
REST = 3e-5  # m above the clearance, kept between bodies in a crush, so that one can slide along another
PILED = 1e-5  # m of overlap beyond all errors: a state that has it was imported
ROUNDING = 16 * UNIT  # the fraction of a displacement by which it may still exceed its limit
LANES = 8  # agents are padded to a multiple of this, so that a CPU works on full vectors
SMALL = 1e-6  # m, the offset assumed between coincident agents
AWAY = 1e6  # m, where inactive agents are put, out of reach
UNROLLED = 4  # loops over at most so many bodies are unrolled
PARTING_SPEED = 1.0  # m/s that even slow robots may reach, so that an imported overlap comes apart


def top_speed(params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """Top speed of an agent that touches nothing, () m/s.

    With the force drive, it is the speed at which damping takes in a control period what the motors give. A collision
    may make an agent faster, but a substep moves it no further (see `longest_move`).
    """
    if spec.drive == "kinematic":
        return jnp.asarray(params.max_wheel_speed)
    gain = 2 * params.motor_force / params.mass * params.dt / spec.substeps
    return gain / -jnp.expm1(params.dt * jnp.log(params.damping))


def longest_move(duration: jax.Array | float, params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """Longest displacement, () m, that any agent may make in a duration () s."""
    return jnp.maximum(top_speed(params, spec), PARTING_SPEED) * duration


def apart(radius):
    """Distance (m) between the centres of two agents at which their gap is at least `LEAST_GAP`, in spite of rounding.

    This function and the next four work on any kind of number, and Numba compiles them too. radius: m.
    """
    return (1 + 16 * UNIT) * 2 * radius + LEAST_GAP


def settling(side, force):
    """Largest change (m) that storing a position makes to it. side: m, the arena's longer. force: bool, the drive."""
    return (3.0 if force else 1.5) * UNIT * side


def clearance(side, longest, radius):
    """Gap (m) up to which nobody may approach: see the top of this file.

    side: m, the arena's longer. longest: m, the longest displacement in a substep. radius: m, of an agent.
    """
    return LEAST_GAP + UNIT * (12 * side + 16 * (2 * radius + 8 * longest))


def too_deep(clear):
    """Overlap (m) that rounding cannot explain. clear: m, the clearance."""
    return PILED + clear


def rest(clear, side):
    """Gap (m) kept in a crush: so far above the clearance `clear` (m) that rounding seldom leads below it. side: m."""
    return clear + REST + 6 * UNIT * side


class Body(NamedTuple):
    """One body for every agent: the k-th neighbour of each, or the same wall for all."""

    gap: jax.Array  # (P,) m between the surfaces, negative where they overlap
    nx: jax.Array  # (P,) the unit vector from the agent towards the body
    ny: jax.Array
    share: jax.Array | float  # fraction of the gap that the agent may use
    agent: jax.Array | None  # (P,) or () index of the body's agent, None for a fixed body


Bodies = list[tuple[int | jax.Array, Callable[[jax.Array], Body]]]  # for every kind: how many bodies, and the i-th


def _share_of_gap(gap: jax.Array, mine: jax.Array, theirs: jax.Array) -> jax.Array:
    """Fraction (P,) of the gap this agent may use: what it asks for if both fit, else at least half.

    The two fractions sum to 1. An agent that asks for less than half leaves the rest to the other. gap: (P,) m. mine,
    theirs: (P,) m, how far each wants to move towards the other.
    """
    gap, mine, theirs = jnp.maximum(gap, TINY), jnp.maximum(mine, 0.0), jnp.maximum(theirs, 0.0)
    has = jnp.minimum(mine, jnp.maximum(gap / 2, gap - theirs))
    leaves = jnp.minimum(theirs, jnp.maximum(gap / 2, gap - mine))
    return jnp.where(jnp.isfinite(gap), 0.5 + (has - leaves) / (2 * gap), 0.5)


def bodies_around(
    x: jax.Array,
    y: jax.Array,
    touchable: jax.Array,
    near: Neighbours,
    layout: Layout,
    params: SwarmParams,
    wanted: tuple[jax.Array, jax.Array] | None = None,
) -> Bodies:
    """All bodies that agents at x, y (P,) m can touch.

    Agents that are not `touchable` (P,) bool touch no other agent. Coincident agents part along x, the later one
    forwards. wanted: two (P,) m, the displacements by which two agents share the gap between them; without it, each may
    use half.
    """
    index = jnp.arange(x.shape[0], dtype=jnp.int32)
    seen_x = jnp.where(touchable, x, AWAY)

    def agent(k: jax.Array) -> Body:
        i, there = near.candidate(k)
        dx, dy = seen_x[i] - x, y[i] - y
        square = dx * dx + dy * dy
        dx = jnp.where(square < TINY, jnp.where(i > index, SMALL, -SMALL), dx)
        inverse = jax.lax.rsqrt(jnp.maximum(square, TINY))
        gap = jnp.where(touchable & there & (index != i), square * inverse - 2 * params.agent_radius, jnp.inf)
        nx, ny = dx * inverse, dy * inverse
        share: jax.Array | float = 0.5
        if wanted is not None:
            mine, theirs = wanted[0] * nx + wanted[1] * ny, -(wanted[0][i] * nx + wanted[1][i] * ny)
            share = _share_of_gap(gap, mine, theirs)
        return Body(gap, nx, ny, share, i)

    return [(near.rounds, agent), *_fixed_bodies(x, y, layout, params)]


def _fixed_bodies(x: jax.Array, y: jax.Array, layout: Layout, params: SwarmParams) -> Bodies:
    """The border and the obstacles that agents at x, y (P,) m can touch."""

    def body(separation: Callable[..., Separation], i: jax.Array) -> Body:
        gap, nx, ny = separation(i, (x, y))
        return Body(gap - params.agent_radius, nx, ny, 1.0, None)

    kinds = fixed_bodies(layout, params.wall_half_thickness)
    return [(count, partial(body, separation)) for count, separation in kinds]


def padded(value: jax.Array) -> jax.Array:
    """Pad one row an agent, (N,), to a multiple of LANES."""
    return jnp.pad(value, (0, -value.shape[0] % LANES))


def touching_neighbours(state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> Neighbours:
    """Find the agents that each agent may touch within the next control period, in padded rows (P,)."""
    x, y, active = padded(state.position[:, 0]), padded(state.position[:, 1]), padded(state.active)
    side, longest = jnp.max(state.layout.size), longest_move(params.dt, params, spec)
    travel = longest + spec.substeps * settling(side, spec.drive == "force")
    reach = 2 * params.agent_radius + 2 * travel + rest(clearance(side, longest, params.agent_radius), side)
    return find_neighbours(spec, (x, y), (x, y), active, state.layout.size, reach)


def visit(bodies: Bodies, fold: Callable[[Any, Body], Any], carry: Any) -> Any:
    """Fold `fold(carry, body)` over all bodies, one after the other.

    On a CPU, a loop of flat operations over all agents is several times faster than reductions of (bodies, agents)
    arrays.
    """
    for count, body in bodies:
        carry = jax.lax.fori_loop(
            0, count, lambda i, c, of=body: fold(c, of(i)), carry,
            unroll=isinstance(count, int) and count <= UNROLLED,
        )  # fmt: skip
    return carry


def shortened(dx: jax.Array, dy: jax.Array, longest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cut displacements, two (P,) m, to a length of `longest` () m."""
    scale = jnp.minimum(1.0, longest * jax.lax.rsqrt(jnp.maximum(dx * dx + dy * dy, TINY)))
    return dx * scale, dy * scale


class Contacts(NamedTuple):
    """What contacts allow in a substep."""

    dx: jax.Array  # (N,) m, the displacement that is safe
    dy: jax.Array
    collided: jax.Array  # (N,) bool, who would have overlapped something
    piled: jax.Array  # (N,) bool, who overlaps something too deep at the substep's start


def resolve_contacts(
    x: jax.Array, y: jax.Array, dx: jax.Array, dy: jax.Array, active: jax.Array, near: Neighbours,
    layout: Layout, h: jax.Array | float, params: SwarmParams, spec: SwarmSpec,
) -> Contacts:  # fmt: skip
    """Find the displacement that is safe to make.

    x, y: (N,) m at the substep's start. dx, dy: (N,) m, the displacement wanted. active: (N,) bool. near: from
    `touching_neighbours`, not older than a control period. h: () s, the substep.

    With the force drive, two agents share the gap between them by what they want. Half of it each would hold back a
    fast agent before it touches the other.

    Displacements are cut to `longest_move` before bodies are looked for, and again in the end. So two agents affect
    each other only if their centres are within 2 r + 2 longest + `rest` at the substep's start, and a fixed body
    affects an agent only within longest + `rest` of its surface.
    """
    num_agents, longest, side = x.shape[0], longest_move(h, params, spec), jnp.max(layout.size)
    clear = clearance(side, longest, params.agent_radius)
    x, y, dx, dy, active = (padded(value) for value in (x, y, dx, dy, active))
    dx, dy = shortened(jnp.where(active, dx, 0.0), jnp.where(active, dy, 0.0), longest)

    def push(carry, body):
        px, py, collided = carry
        depth = body.share * jnp.minimum(body.gap, 0.0)
        return px + depth * body.nx, py + depth * body.ny, collided | (body.gap < 0)

    zero = jnp.zeros_like(x)
    wanted = bodies_around(x + dx, y + dy, active, near, layout, params)
    px, py, collided = visit(wanted, push, (zero, zero, jnp.zeros_like(active)))
    want = (dx, dy) if spec.drive == "force" else None
    dx, dy = shortened(dx + px, dy + py, longest)
    bodies = bodies_around(x, y, active, near, layout, params, want)
    between, deep = rest(clear, side), too_deep(clear)

    def cut(carry, body):
        cx, cy, piled = carry
        towards, allowed = dx * body.nx + dy * body.ny, body.share * jnp.maximum(body.gap - between, -between)
        inside, excess = body.gap < -deep, jnp.maximum(towards - allowed, 0.0)
        if body.agent is not None:
            excess = jnp.where(inside, 0.0, excess)
        return cx + excess * body.nx, cy + excess * body.ny, piled | inside

    cx, cy, piled = visit(bodies, cut, (zero, zero, jnp.zeros_like(active)))
    dx, dy = dx - cx, dy - cy
    length = jnp.sqrt(jnp.maximum(dx * dx + dy * dy, TINY))

    def limit(carry, body):
        scale, departure = carry
        towards, allowed = dx * body.nx + dy * body.ny, body.share * (body.gap - clear)
        near_it = body.gap <= clear
        excessive = ~near_it & (towards > allowed + ROUNDING * length)
        scale = jnp.minimum(scale, jnp.where(excessive, allowed / jnp.where(excessive, towards, 1.0), 1.0))
        if body.agent is not None:
            near_it &= body.gap >= -deep
        return scale, jnp.minimum(departure, jnp.where(near_it, -towards, FAR))

    scale, departure = visit(bodies, limit, (jnp.minimum(1.0, longest / length), jnp.full_like(x, FAR)))
    departs = scale * (departure - ROUNDING * length) > settling(side, spec.drive == "force")
    scale = jnp.where(departs, scale, 0.0)
    return Contacts(
        (dx * scale)[:num_agents], (dy * scale)[:num_agents], (collided & active)[:num_agents], piled[:num_agents]
    )
