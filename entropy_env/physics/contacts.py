"""What stops robots: contacts.

A substep moves every agent by one displacement. `drive` proposes it; `resolve_contacts` pushes overlaps apart and then
limits it, so that a valid state stays valid whatever the crowd: two agents may use half the gap between them each, a
fixed body leaves the whole gap, and all bodies are convex, so the gap taken at the substep's start bounds it.

What is limited is the displacement that float32 will make of it. With u = 2^-24, an arena of L m, agents of radius r
and displacements of at most D m in a substep, these errors are possible:
- storing a position moves it by up to `settling` = 1.5 u L, and by twice that with the force drive, whose float32
  position is the rounded sum of a pair;
- the gap to an agent is off by 8 u (2 r + gap), the gap to a fixed body by 8 u L more, and a normal by 8 u;
- a displacement d may exceed its limit by `ROUNDING` |d|.
`clearance` is at least the sum of all this for both sides of a contact, and `LEAST_GAP` more. So:
- If a gap is above the clearance, its two shares of (gap - clearance), and both sides' errors, leave `LEAST_GAP`.
- If it is not, nobody may approach: an agent moves only if it departs by more than storing its position can take back.
  An agent that cannot stays where it is, to the bit.
Either way no gap shrinks below `LEAST_GAP`, and one that starts smaller does not shrink.

Two agents that overlap by more than `too_deep`, which no step leads to, do not hold each other back, so that they come
apart gradually. They hold all others, and fixed bodies hold everybody, so no step makes two overlap that did not.
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

UNIT = 2.0**-24  # u, the most that rounding to float32 changes a number, as a share of it
LEAST_GAP = 1e-7  # m that a step leaves between any two bodies
REST = 3e-5  # m more than the clearance, between bodies in a crush, so that one can move along another
PILED = 1e-5  # m of overlap beyond all errors, so that it must have been imported
ROUNDING = 16 * UNIT  # of a displacement, that an excess taken away may leave
LANES = 8  # agents are padded to a multiple, so that a CPU works on full vectors
SMALL = 1e-6  # m, the offset that coincident agents are taken to have
AWAY = 1e6  # m, where inactive agents are out of reach
UNROLLED = 4  # bodies of a kind that are worth no loop
PARTING_SPEED = 1.0  # m/s at least at which an imported overlap may come apart


def top_speed(params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """() m/s. With the force drive, where damping takes in a control period what the motors give; an agent that a
    collision has made faster yet does not get further.
    """
    if spec.drive == "kinematic":
        return jnp.asarray(params.max_wheel_speed)
    gain = 2 * params.motor_force / params.mass * params.dt / spec.substeps
    return gain / -jnp.expm1(params.dt * jnp.log(params.damping))


def longest_move(duration: jax.Array | float, params: SwarmParams, spec: SwarmSpec) -> jax.Array:
    """() m, what no agent's displacement in a duration () s exceeds."""
    return jnp.maximum(top_speed(params, spec), PARTING_SPEED) * duration


def apart(radius):
    """m between the centres of two agents that are `LEAST_GAP` apart at least, whatever float32 makes of it.

    This and the next four are formulas over numbers of any kind, which Numba compiles, too. radius: m.
    """
    return (1 + 16 * UNIT) * 2 * radius + LEAST_GAP


def settling(side, force):
    """m, the most by which storing a position changes it. side: m, the arena's longer. force: bool, the drive."""
    return (3.0 if force else 1.5) * UNIT * side


def clearance(side, longest, radius):
    """m, see the top of this file. side: m, the arena's longer. longest: m, displacement in a substep. radius: m."""
    return LEAST_GAP + UNIT * (12 * side + 16 * (2 * radius + 8 * longest))


def too_deep(clear):
    """m of overlap that no rounding explains. clear: m, the clearance."""
    return PILED + clear


def rest(clear, side):
    """m between bodies in a crush: so far above the clearance `clear` (m) that rounding seldom leads below it."""
    return clear + REST + 6 * UNIT * side


class Body(NamedTuple):
    """Something that agents may touch, as each of them finds it."""

    gap: jax.Array  # (P,) m between the surfaces
    nx: jax.Array  # (P,) the unit vector towards it
    ny: jax.Array
    share: jax.Array | float  # of the gap that the agent may use
    agent: jax.Array | None  # (P,) or () index of the agent that it is, None for a fixed body


Bodies = list[tuple[int | jax.Array, Callable[[jax.Array], Body]]]  # for every kind, how many, and the i-th


def _share_of_gap(gap: jax.Array, mine: jax.Array, theirs: jax.Array) -> jax.Array:
    """(P,) of a gap between two agents, what the other does not want of it and half of what nobody wants; at least
    half, if wanted. The shares of the two make one. gap, mine, theirs: (P,) m, what each wants, towards the other.
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
    """Whatever agents at x, y (P,) m can touch. Agents that are not `touchable` (P,) bool are infinitely far from each
    other. Coincident agents part along x, the later one forwards. Two agents may use half the gap each, or share it by
    the displacements that they want, two (P,) m.
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
    """Those that agents at x, y (P,) m can touch."""

    def body(separation: Callable[..., Separation], i: jax.Array) -> Body:
        gap, nx, ny = separation(i, (x, y))
        return Body(gap - params.agent_radius, nx, ny, 1.0, None)

    kinds = fixed_bodies(layout, params.wall_half_thickness)
    return [(count, partial(body, separation)) for count, separation in kinds]


def padded(value: jax.Array) -> jax.Array:
    """One row an agent, (N,) to a multiple of LANES."""
    return jnp.pad(value, (0, -value.shape[0] % LANES))


def touching_neighbours(state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> Neighbours:
    """Of every agent, in padded rows (P,), those that it can touch within the next control period."""
    x, y, active = padded(state.position[:, 0]), padded(state.position[:, 1]), padded(state.active)
    side, longest = jnp.max(state.layout.size), longest_move(params.dt, params, spec)
    travel = longest + spec.substeps * settling(side, spec.drive == "force")
    reach = 2 * params.agent_radius + 2 * travel + rest(clearance(side, longest, params.agent_radius), side)
    return find_neighbours(spec, (x, y), (x, y), active, state.layout.size, reach)


def visit(bodies: Bodies, fold: Callable[[Any, Body], Any], carry: Any) -> Any:
    """Fold `fold(carry, body)` over all bodies, one after the other: on a CPU, a loop of flat operations over all
    agents runs several times faster than reductions of (bodies, agents) arrays.
    """
    for count, body in bodies:
        carry = jax.lax.fori_loop(
            0, count, lambda i, c, of=body: fold(c, of(i)), carry,
            unroll=isinstance(count, int) and count <= UNROLLED,
        )  # fmt: skip
    return carry


def shortened(dx: jax.Array, dy: jax.Array, longest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Displacements, two (P,) m, cut to a length of `longest` () m."""
    scale = jnp.minimum(1.0, longest * jax.lax.rsqrt(jnp.maximum(dx * dx + dy * dy, TINY)))
    return dx * scale, dy * scale


def resolve_contacts(
    x: jax.Array, y: jax.Array, dx: jax.Array, dy: jax.Array, active: jax.Array, near: Neighbours,
    layout: Layout, h: jax.Array | float, params: SwarmParams, spec: SwarmSpec,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:  # fmt: skip
    """The displacement that is safe to make, two (N,) m, who overlapped something before correction, (N,) bool, and who
    overlaps something too deep at the substep's start, (N,) bool.

    x, y: (N,) m at the substep's start. dx, dy: (N,) m wanted. active: (N,) bool. near: `touching_neighbours`, not older
    than a control period. h: () s.

    With the force drive, whose agents are fast, two share the gap between them by what they want of it: half the gap
    each would hold back one that comes at another without touching it yet.

    Displacements are at most `longest_move` where bodies are looked for, and in the end. So two agents affect each
    other only within 2 r + 2 longest + `rest` from centre to centre at the substep's start, and a fixed body an agent
    within longest + `rest` of its surface.
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
    return (dx * scale)[:num_agents], (dy * scale)[:num_agents], (collided & active)[:num_agents], piled[:num_agents]
