"""How robots move and what stops them: the two drives and the contacts.

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

The force drive is that of an older engine on Chipmunk, in Chipmunk's order: positions advance with the old velocity,
contacts are those found there, then come damping and motors, and then the contacts' impulses, which change velocities
alone. Chipmunk lets robots sink into each other and parts them over some substeps, in which they stay in contact. So an
agent here has two places: its own, which overlaps nothing, and where Chipmunk would have it, `sunk` from there, where
contacts are found and which it makes for. So no contact is missed or invented up to 3 m/s, but after a fly-by at 2 to 3
m/s that is within 1 cm, in which the normal at the substep's start has held it back, it may be some mm behind for a
moment.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.geometry import FAR, TINY, Separation, fixed_bodies, wrap_angle
from entropy_env.neighbours import Neighbours, find_neighbours
from entropy_env.physics import double as double_float
from entropy_env.physics.double import Pair
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
SLOP = 1e-3  # m of overlap that Chipmunk leaves, of the older engine's 100 pixels to the metre
LEFT = 0.9**60  # share of any more that it leaves after 1 s
IMPULSE_ROUNDS = 4  # in which the impulses of a substep are found
TWO_PI = 6.2831855, -1.7484555e-7  # as float32 reads it, and the rest

Motion = tuple[jax.Array, jax.Array, jax.Array]  # vx, vy in m/s and the turn rate in rad/s, (N,) each


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


def deepest(params: SwarmParams) -> jax.Array:
    """() m that an agent may be sunk at most, so that what it has sunk into is still ahead."""
    return jnp.asarray(params.agent_radius) / 2


def _fixed(layout: Layout, params: SwarmParams) -> list[tuple[int, Callable[..., Separation]]]:
    """`fixed_bodies`, with gaps from an agent's surface instead of its centre."""

    def from_surface(separation: Callable, i: jax.Array, point: tuple) -> Separation:
        gap, nx, ny = separation(i, point)
        return gap - params.agent_radius, nx, ny

    kinds = fixed_bodies(layout, params.wall_half_thickness)
    return [(count, partial(from_surface, separation)) for count, separation in kinds]


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


def _bodies(
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
        return Body(gap, nx, ny, 1.0, None)

    return [(count, partial(body, separation)) for count, separation in _fixed(layout, params)]


def _padded(value: jax.Array) -> jax.Array:
    """One row an agent, (N,) to a multiple of LANES."""
    return jnp.pad(value, (0, -value.shape[0] % LANES))


def touching_neighbours(state: SwarmState, params: SwarmParams, spec: SwarmSpec) -> Neighbours:
    """Of every agent, in padded rows (P,), those that it can touch within the next control period."""
    x, y, active = _padded(state.position[:, 0]), _padded(state.position[:, 1]), _padded(state.active)
    side, longest = jnp.max(state.layout.size), longest_move(params.dt, params, spec)
    travel = longest + spec.substeps * settling(side, spec.drive == "force")
    reach = 2 * params.agent_radius + 2 * travel + rest(clearance(side, longest, params.agent_radius), side)
    return find_neighbours(spec, (x, y), (x, y), active, state.layout.size, reach)


def _visit(bodies: Bodies, visit: Callable[[Any, Body], Any], carry: Any) -> Any:
    """Fold `visit(carry, body)` over all bodies, one after the other: on a CPU, a loop of flat operations over all
    agents runs several times faster than reductions of (bodies, agents) arrays.
    """
    for count, body in bodies:
        carry = jax.lax.fori_loop(
            0, count, lambda i, c, of=body: visit(c, of(i)), carry,
            unroll=isinstance(count, int) and count <= UNROLLED,
        )  # fmt: skip
    return carry


def _shortened(dx: jax.Array, dy: jax.Array, longest: jax.Array) -> tuple[jax.Array, jax.Array]:
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
    x, y, dx, dy, active = (_padded(value) for value in (x, y, dx, dy, active))
    dx, dy = _shortened(jnp.where(active, dx, 0.0), jnp.where(active, dy, 0.0), longest)

    def push(carry, body):
        px, py, collided = carry
        depth = body.share * jnp.minimum(body.gap, 0.0)
        return px + depth * body.nx, py + depth * body.ny, collided | (body.gap < 0)

    zero = jnp.zeros_like(x)
    wanted = _bodies(x + dx, y + dy, active, near, layout, params)
    px, py, collided = _visit(wanted, push, (zero, zero, jnp.zeros_like(active)))
    want = (dx, dy) if spec.drive == "force" else None
    dx, dy = _shortened(dx + px, dy + py, longest)
    bodies = _bodies(x, y, active, near, layout, params, want)
    between, deep = rest(clear, side), too_deep(clear)

    def cut(carry, body):
        cx, cy, piled = carry
        towards, allowed = dx * body.nx + dy * body.ny, body.share * jnp.maximum(body.gap - between, -between)
        inside, excess = body.gap < -deep, jnp.maximum(towards - allowed, 0.0)
        if body.agent is not None:
            excess = jnp.where(inside, 0.0, excess)
        return cx + excess * body.nx, cy + excess * body.ny, piled | inside

    cx, cy, piled = _visit(bodies, cut, (zero, zero, jnp.zeros_like(active)))
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

    scale, departure = _visit(bodies, limit, (jnp.minimum(1.0, longest / length), jnp.full_like(x, FAR)))
    departs = scale * (departure - ROUNDING * length) > settling(side, spec.drive == "force")
    scale = jnp.where(departs, scale, 0.0)
    return (dx * scale)[:num_agents], (dy * scale)[:num_agents], (collided & active)[:num_agents], piled[:num_agents]


def collide(
    x: jax.Array, y: jax.Array, before: tuple[jax.Array, jax.Array], after: Motion, active: jax.Array, near: Neighbours,
    layout: Layout, h: jax.Array | float, params: SwarmParams,
) -> tuple[Motion, tuple[jax.Array, jax.Array], jax.Array]:  # fmt: skip
    """What the contacts of agents at x, y (N,) m, where they overlap, add to their motion and their places, two (N,) m,
    in a substep of h () s, and who has any, (N,) bool.

    before, after: damping and motors in this substep; before them, vx and vy alone. A contact gives two agents, discs
    of equal mass, a speed apart of `restitution` times that at which they approached before, and its friction (Coulomb)
    acts at the rim, on an inertia of m r^2 / 2. All contacts act at once, each on the share of an agent's mass that its
    number of contacts leaves, so that together they add no energy (Tonge et al. 2012). A round settles a single
    contact; further ones, several.
    """
    num_agents = x.shape[0]
    x, y, active = _padded(x), _padded(y), _padded(active)
    vx, vy = _padded(before[0]), _padded(before[1])
    bodies = _bodies(x, y, active, near, layout, params)
    taken = -jnp.expm1(h * float(np.log(LEFT)))

    def part(carry: tuple, body: Body) -> tuple:
        count, px, py = carry
        depth = body.share * taken * jnp.minimum(body.gap + SLOP, 0.0)
        return count + (body.gap < 0).astype(jnp.float32), px + depth * body.nx, py + depth * body.ny

    zero = jnp.zeros_like(x)
    count, px, py = _visit(bodies, part, (zero, zero, zero))
    motion = start = _padded(after[0]), _padded(after[1]), _padded(after[2])

    def push(change: Motion, body: Body) -> Motion:
        i = body.agent
        if i is None:
            restitution, friction = params.wall_restitution, params.wall_friction
            relative_before, relative, rim, contacts = (vx, vy), motion[:2], motion[2], count
        else:
            restitution, friction = params.restitution, params.friction
            relative_before = vx - vx[i], vy - vy[i]
            relative = motion[0] - motion[0][i], motion[1] - motion[1][i]
            rim, contacts = motion[2] + motion[2][i], count + count[i]
        approach = relative_before[0] * body.nx + relative_before[1] * body.ny
        excess = relative[0] * body.nx + relative[1] * body.ny + restitution * approach
        slip = relative[1] * body.nx - relative[0] * body.ny + params.agent_radius * rim
        # impulses over the mass; 1 / m + r^2 / inertia = 3 / m
        normal = jnp.where(body.gap < 0, jnp.maximum(excess, 0.0) / jnp.maximum(contacts, 1.0), 0.0)
        tangential = slip / (3 * jnp.maximum(contacts, 1.0))
        tangential = jnp.clip(tangential, -friction * normal, friction * normal)
        return (
            change[0] - normal * body.nx + tangential * body.ny,
            change[1] - normal * body.ny - tangential * body.nx,
            change[2] - 2 * tangential / params.agent_radius,
        )

    for _ in range(IMPULSE_ROUNDS):
        motion = _visit(bodies, push, motion)
    vx, vy, turn_rate = ((new - old)[:num_agents] for new, old in zip(motion, start, strict=True))
    return (vx, vy, turn_rate), (px[:num_agents], py[:num_agents]), (active & (count > 0))[:num_agents]


def as_motors(action: jax.Array) -> jax.Array:
    """What the motors do, in [-1, 1]: an action beyond is clipped, one that is not finite is zero."""
    return jnp.clip(jnp.where(jnp.isfinite(action), action, 0.0), -1.0, 1.0)


def advance(state: SwarmState, motors: jax.Array, params: SwarmParams, spec: SwarmSpec) -> SwarmState:
    """One control period of motion. motors: (N, 2) in [-1, 1], of `as_motors`."""
    near = touching_neighbours(state, params, spec)
    return {"kinematic": _roll, "force": _glide}[spec.drive](state, motors, near, params, spec)


def _roll(state: SwarmState, motors: jax.Array, near: Neighbours, params: SwarmParams, spec: SwarmSpec) -> SwarmState:
    """A control period with the kinematic drive."""
    command, h, active = motors * params.max_wheel_speed, params.dt / spec.substeps, state.active

    def substep(carry: tuple, _: None) -> tuple[tuple, None]:
        x, y, heading, wheel_speed, collided = carry
        dx, dy, new_heading, new_wheel_speed = drive(heading, wheel_speed, command, h, params)
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


def thrust(heading: Pair, motors: jax.Array, h: Pair, params: SwarmParams) -> tuple[Pair, Pair, Pair]:
    """What the motors add to vx, vy (m/s) and the turn rate (rad/s) in a substep of h () s, (N,) each.

    Each pulls along the heading (N,) rad, a pair, the left one at (0, -r) in the robot's frame and the right one at (0,
    r), as the older engine has it, whose y points down: so the left motor turns it counter-clockwise. motors: (N, 2).
    """
    divide, multiply, two_sum = double_float.divide, double_float.multiply, double_float.two_sum
    speed = divide(multiply((params.motor_force, 0.0), h), (params.mass, 0.0))
    turn_rate = divide(multiply(speed, (2.0, 0.0)), (params.agent_radius, 0.0))  # torque r F, inertia m r^2 / 2
    pull = multiply(two_sum(motors[:, 0], motors[:, 1]), speed)
    turn = multiply(two_sum(motors[:, 0], -motors[:, 1]), turn_rate)
    cos, sin = jnp.cos(heading[0]), jnp.sin(heading[0])
    return multiply(pull, (cos, -sin * heading[1])), multiply(pull, (sin, cos * heading[1])), turn


def _wrap_pair(angle: Pair) -> Pair:
    """`wrap_angle`."""
    turns = jnp.ceil((angle[0] - jnp.pi) / (2 * jnp.pi))
    wrapped = double_float.add(angle, double_float.multiply(TWO_PI, (-turns, 0.0)))
    return jax.tree.map(
        partial(jnp.where, wrapped[0] <= -np.float32(np.pi)), double_float.add(wrapped, TWO_PI), wrapped
    )


def _glide(state: SwarmState, motors: jax.Array, near: Neighbours, params: SwarmParams, spec: SwarmSpec) -> SwarmState:
    """A control period with the force drive. Its numbers are pairs, for 1e-5 m of accuracy."""
    add, multiply, active = double_float.add, double_float.multiply, state.active
    h = double_float.divide((params.dt, 0.0), (float(spec.substeps), 0.0))
    lost = double_float.negative(double_float.lost_by_decay(jnp.asarray(params.damping), h))
    longest = longest_move(h[0], params, spec)

    def substep(carry: tuple, _: None) -> tuple[tuple, None]:
        (x, y, heading), motion, sunk, gain, collided = carry
        before = motion[0][0], motion[1][0]
        aim = _shortened(before[0] * h[0] + sunk[0], before[1] * h[0] + sunk[1], longest)
        new_heading = _wrap_pair(add(heading, multiply(motion[2], h)))
        new_motion = tuple(add(add(rate, multiply(rate, lost)), more) for rate, more in zip(motion, gain, strict=True))
        after: Any = tuple(rate[0] for rate in new_motion)
        there = x[0] + aim[0], y[0] + aim[1]
        change, apart, touched = collide(*there, before, after, active, near, state.layout, h[0], params)
        new_motion = tuple(add(rate, (more, 0.0)) for rate, more in zip(new_motion, change, strict=True))
        dx, dy, _overlaps, piled = resolve_contacts(x[0], y[0], *aim, active, near, state.layout, h[0], params, spec)
        new_sunk = _shortened(aim[0] - dx + apart[0], aim[1] - dy + apart[1], deepest(params))
        new_sunk = jax.tree.map(lambda s: jnp.where(piled, 0.0, s), new_sunk)  # nothing pulls a pile together
        new = (add(x, (dx, 0.0)), add(y, (dy, 0.0)), new_heading), new_motion, new_sunk
        pose, motion, sunk = jax.tree.map(partial(jnp.where, active), new, carry[:3])
        return (
            pose,
            motion,
            sunk,
            jax.tree.map(jnp.zeros_like, gain),
            collided | touched,
        ), None  # forces last one substep

    numbers = jnp.concatenate(
        [state.position, state.heading[:, None], state.velocity, state.angular_velocity[:, None]], axis=-1
    )
    pairs = [(numbers[:, k], state.rounding[:, k]) for k in range(6)]
    sunk = state.sunk[:, 0], state.sunk[:, 1]
    gain = thrust(pairs[2], motors, h, params)
    carry = tuple(pairs[:3]), tuple(pairs[3:]), sunk, gain, jnp.zeros_like(active)
    (pose, motion, sunk, _, collided), _ = jax.lax.scan(substep, carry, None, length=spec.substeps)
    x, y, heading, vx, vy, turn_rate = (*pose, *motion)
    return state.replace(
        position=jnp.stack([x[0], y[0]], axis=-1),
        heading=heading[0],
        velocity=jnp.stack([vx[0], vy[0]], axis=-1),
        angular_velocity=turn_rate[0],
        rounding=jnp.stack([x[1], y[1], heading[1], vx[1], vy[1], turn_rate[1]], axis=-1),
        sunk=jnp.stack(sunk, axis=-1),
        collided=collided,
    )
