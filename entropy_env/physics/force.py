"""The force drive: the dynamics of an older engine on Chipmunk, in Chipmunk's order.

In a substep, positions advance with the old velocity, and contacts are found there. Then damping and motors change the
velocity, and then the contacts' impulses do; they move nobody.

Chipmunk lets robots sink into each other and parts them over some substeps, in which they stay in contact. So an agent
here has two places: its own, which overlaps nothing, and the one that Chipmunk would give it, which is `penetration` away.
Contacts are found at the second one, and the agent heads for it. So no contact is missed or invented up to 3 m/s.

Known limit: a robot that passes another closer than 1 cm at 1.5 to 3 m/s may trail Chipmunk by up to 5 mm for a moment,
because the normal at the substep's start holds it back. Then it is where Chipmunk has it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.neighbours import Neighbours
from entropy_env.physics.contacts import (
    Bodies,
    Body,
    Contacts,
    bodies_around,
    longest_move,
    padded,
    shortened,
    visit,
)
from entropy_env.physics.double import Double, lost_by_decay, two_sum
from entropy_env.types import Layout, SwarmParams, SwarmSpec, SwarmState

SLOP = 1e-3  # m of overlap that Chipmunk leaves, at the older engine's 100 pixels to the metre
LEFT = 0.9**60  # fraction of a deeper overlap that is left after 1 s
IMPULSE_ROUNDS = 4  # rounds of impulses in a substep
TWO_PI = Double(6.2831855, -1.7484555e-7)  # the nearest float32, and the rest

Vector = tuple[jax.Array, jax.Array]  # two (N,)
Motion = tuple[jax.Array, jax.Array, jax.Array]  # vx, vy in m/s and the turn rate in rad/s, (N,) each
ExactMotion = tuple[Double, Double, Double]


class Agents(NamedTuple):
    """N agents within a control period."""

    pose: tuple[Double, Double, Double]  # x and y in m, heading in rad, (N,) each
    motion: ExactMotion
    penetration: Vector  # m
    gain: ExactMotion  # what the motors add in the next substep
    collided: jax.Array  # (N,) bool, in this control period

    @property
    def here(self) -> Any:
        """The position, two (N,) m."""
        return self.pose[0].high, self.pose[1].high


class Change(NamedTuple):
    """What a substep changes beside the position."""

    heading: Double
    motion: ExactMotion
    aim: Vector  # m, the displacement wanted
    apart: Vector  # m, by what contacts part
    touched: jax.Array  # (N,) bool


class ForceDrive:
    """`entropy_env.physics.Drive` of motors that push and turn discs. Sums are `Double`s, for an accuracy of 1e-5 m."""

    def __init__(self, state: SwarmState, motors: jax.Array, params: SwarmParams, spec: SwarmSpec) -> None:
        self.exact_h = Double(params.dt) / float(spec.substeps)
        self.h = self.exact_h.high
        self.loss = -lost_by_decay(jnp.asarray(params.damping), self.exact_h)
        self.longest = longest_move(self.h, params, spec)
        self.active, self.layout, self.motors, self.params = state.active, state.layout, motors, params

    def begin(self, state: SwarmState) -> Agents:
        """See `Drive`."""
        numbers = jnp.concatenate(
            [state.position, state.heading[:, None], state.velocity, state.angular_velocity[:, None]], axis=-1
        )
        x, y, heading, vx, vy, turn_rate = (Double(numbers[:, k], state.rounding[:, k]) for k in range(6))
        penetration = state.penetration[:, 0], state.penetration[:, 1]
        gain = thrust(heading, self.motors, self.exact_h, self.params)
        return Agents((x, y, heading), (vx, vy, turn_rate), penetration, gain, jnp.zeros_like(self.active))

    def aim(self, agents: Agents, near: Neighbours) -> tuple[Vector, Change]:
        """See `Drive`."""
        (x, y), penetration, h = agents.here, agents.penetration, self.h
        vx, vy, _ = agents.motion
        aim = shortened(vx.high * h + penetration[0], vy.high * h + penetration[1], self.longest)
        heading, motion = glide(agents.pose[2], agents.motion, agents.gain, self.loss, self.exact_h)
        there = x + aim[0], y + aim[1]
        before: Any = vx.high, vy.high
        after: Any = tuple(rate.high for rate in motion)
        impulses, apart, touched = resolve_impulses(
            there, before, after, self.active, near, self.layout, h, self.params
        )
        vx, vy, turn_rate = (rate + more for rate, more in zip(motion, impulses, strict=True))
        return aim, Change(heading, (vx, vy, turn_rate), aim, apart, touched)

    def move(self, agents: Agents, change: Change, safe: Contacts) -> Agents:
        """See `Drive`."""
        penetration = sink(change.aim, (safe.dx, safe.dy), change.apart, safe.piled, self.params)
        x, y, _ = agents.pose
        new = (x + safe.dx, y + safe.dy, change.heading), change.motion, penetration
        old = agents.pose, agents.motion, agents.penetration
        pose, motion, penetration = jax.tree.map(partial(jnp.where, self.active), new, old)
        no_gain = jax.tree.map(jnp.zeros_like, agents.gain)  # forces last one substep
        return Agents(pose, motion, penetration, no_gain, agents.collided | change.touched)

    def end(self, state: SwarmState, agents: Agents) -> SwarmState:
        """See `Drive`."""
        x, y, heading, vx, vy, turn_rate = numbers = [*agents.pose, *agents.motion]
        return state.replace(
            position=jnp.stack([x.high, y.high], axis=-1),
            heading=heading.high,
            velocity=jnp.stack([vx.high, vy.high], axis=-1),
            angular_velocity=turn_rate.high,
            rounding=jnp.stack([number.low for number in numbers], axis=-1),
            penetration=jnp.stack(agents.penetration, axis=-1),
            collided=agents.collided,
        )


def thrust(heading: Double, motors: jax.Array, h: Double, params: SwarmParams) -> ExactMotion:
    """Find what the motors add to vx, vy (m/s) and the turn rate (rad/s) in a substep of h () s, (N,) each.

    Each motor pulls along the heading (N,) rad. The left one sits at (0, -r) in the robot's frame and the right one at
    (0, r), as in the older engine, whose y points down. So the left motor turns the robot counter-clockwise. motors:
    (N, 2) in [-1, 1].
    """
    speed = Double(params.motor_force) * h / params.mass
    turn_rate = speed * 2.0 / params.agent_radius  # torque r F, inertia m r^2 / 2
    pull = two_sum(motors[:, 0], motors[:, 1]) * speed
    turn = two_sum(motors[:, 0], -motors[:, 1]) * turn_rate
    cos, sin = jnp.cos(heading.high), jnp.sin(heading.high)
    return pull * Double(cos, -sin * heading.low), pull * Double(sin, cos * heading.low), turn


def glide(
    heading: Double, motion: ExactMotion, gain: ExactMotion, loss: Double, h: Double
) -> tuple[Double, ExactMotion]:
    """Turn for a substep of h () s with the old turn rate, then apply damping and motors.

    gain: what the motors add. loss: () minus the fraction that damping takes. Returns the new heading and motion.
    """
    new_heading = _wrap_angle(heading + motion[2] * h)
    vx, vy, turn_rate = (rate + rate * loss + more for rate, more in zip(motion, gain, strict=True))
    return new_heading, (vx, vy, turn_rate)


def _wrap_angle(angle: Double) -> Double:
    """`geometry.wrap_angle`."""
    turns = jnp.ceil((angle.high - jnp.pi) / (2 * jnp.pi))
    wrapped = angle + TWO_PI * -turns
    return jax.tree.map(partial(jnp.where, wrapped.high <= -np.float32(np.pi)), wrapped + TWO_PI, wrapped)


def resolve_impulses(
    there: Vector, before: Vector, after: Motion, active: jax.Array, near: Neighbours, layout: Layout,
    h: jax.Array | float, params: SwarmParams,
) -> tuple[Motion, Vector, jax.Array]:  # fmt: skip
    """Find what contacts do in a substep of h () s to agents that want to be `there` (m).

    before: vx and vy before damping and motors. after: the motion after them. Returns what contacts add to the motion;
    by what (m) they part the agents that overlap there; and who has a contact, (N,) bool.

    All contacts act at once. Each acts on an agent's mass divided by its number of contacts, so that together they add
    no energy (Tonge et al. 2012). One round settles a single contact; several contacts take several rounds.
    """
    num_agents = there[0].shape[0]
    x, y, active = padded(there[0]), padded(there[1]), padded(active)
    before = padded(before[0]), padded(before[1])
    bodies = bodies_around(x, y, active, near, layout, params)
    count, px, py = count_contacts(bodies, x, h)
    motion = start = padded(after[0]), padded(after[1]), padded(after[2])
    for _ in range(IMPULSE_ROUNDS):
        motion = collide(bodies, count, before, motion, params)
    vx, vy, turn_rate = ((new - old)[:num_agents] for new, old in zip(motion, start, strict=True))
    return (vx, vy, turn_rate), (px[:num_agents], py[:num_agents]), (active & (count > 0))[:num_agents]


def count_contacts(bodies: Bodies, like: jax.Array, h: jax.Array | float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Count the bodies that each agent overlaps, and find by what they part in a substep of h () s, two m.

    All three results have the shape of `like` (P,).
    """
    taken = -jnp.expm1(h * float(np.log(LEFT)))
    zero = jnp.zeros_like(like)

    def part(carry: tuple, body: Body) -> tuple:
        count, px, py = carry
        depth = body.share * taken * jnp.minimum(body.gap + SLOP, 0.0)
        return count + (body.gap < 0).astype(jnp.float32), px + depth * body.nx, py + depth * body.ny

    return visit(bodies, part, (zero, zero, zero))


def collide(bodies: Bodies, count: jax.Array, before: Vector, motion: Motion, params: SwarmParams) -> Motion:
    """Add one round of impulses to the motion (P,).

    count: (P,) contacts of each agent. before: vx and vy as in `resolve_impulses`. After a contact two agents, discs of
    equal mass, separate at `restitution` times the speed at which they approached. Friction (Coulomb) acts at the rim,
    on an inertia of m r^2 / 2.
    """
    vx, vy = before

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

    return visit(bodies, push, motion)


def sink(aim: Vector, move: Vector, apart: Vector, piled: jax.Array, params: SwarmParams) -> Vector:
    """Find how far (m) an agent is left from where it wants to be.

    It wanted to move by `aim` (m) and moved by `move` (m); `apart` (m) is what its contacts part. An agent that is
    `piled` (N,) bool, too deep in something, sinks nowhere: nothing pulls a pile together.
    """
    sx, sy = shortened(aim[0] - move[0] + apart[0], aim[1] - move[1] + apart[1], deepest(params))
    return jnp.where(piled, 0.0, sx), jnp.where(piled, 0.0, sy)


def deepest(params: SwarmParams) -> jax.Array:
    """Largest penetration, () m: the body that an agent is in must still lie ahead of it."""
    return jnp.asarray(params.agent_radius) / 2
