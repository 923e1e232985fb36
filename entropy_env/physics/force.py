"""The force drive is that of an older engine on Chipmunk, in Chipmunk's order: positions advance with the old velocity,
contacts are those found there, then come damping and motors, and then the contacts' impulses, which change velocities
alone. Chipmunk lets robots sink into each other and parts them over some substeps, in which they stay in contact. So an
agent here has two places: its own, which overlaps nothing, and where Chipmunk would have it, `sunk` from there, where
contacts are found and which it makes for. So no contact is missed or invented up to 3 m/s, but after a fly-by at 2 to 3
m/s that is within 1 cm, in which the normal at the substep's start has held it back, it may be some mm behind for a
moment.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.neighbours import Neighbours
from entropy_env.physics import double as double_float
from entropy_env.physics.contacts import Body, _bodies, _padded, _shortened, _visit, longest_move, resolve_contacts
from entropy_env.physics.double import Pair
from entropy_env.types import Layout, SwarmParams, SwarmSpec, SwarmState

SLOP = 1e-3  # m of overlap that Chipmunk leaves, of the older engine's 100 pixels to the metre
LEFT = 0.9**60  # share of any more that it leaves after 1 s
IMPULSE_ROUNDS = 4  # in which the impulses of a substep are found
TWO_PI = 6.2831855, -1.7484555e-7  # as float32 reads it, and the rest
Motion = tuple[jax.Array, jax.Array, jax.Array]  # vx, vy in m/s and the turn rate in rad/s, (N,) each


def deepest(params: SwarmParams) -> jax.Array:
    """() m that an agent may be sunk at most, so that what it has sunk into is still ahead."""
    return jnp.asarray(params.agent_radius) / 2


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
