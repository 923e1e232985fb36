"""`entropy_env.physics.force` in compiled loops, agent by agent. Sums are doubles, kept as the sum of two float32."""

from __future__ import annotations

import math

import numpy as np

from entropy_env.engines.numba_engine.compilation import inlined
from entropy_env.engines.numba_engine.geometry import HALF, ONE, TINY, TWO, ZERO, clipped
from entropy_env.engines.numba_engine.physics.contacts import gather_contacts
from entropy_env.physics import force as jax_side

IMPULSE_ROUNDS, SLOP, LOG_LEFT = jax_side.IMPULSE_ROUNDS, np.float32(jax_side.SLOP), math.log(jax_side.LEFT)
THREE = np.float32(3)
TWO_PI = 2 * math.pi  # a double, as every sum here


@inlined
def set_losses(world, p, choices):
    """Compute the fractions of a velocity, and of an overlap beyond SLOP, that a substep takes away."""
    world.lost = -math.expm1(math.log(np.float64(p.damping)) * p.dt / choices.substeps)
    world.parted = np.float32(-math.expm1(LOG_LEFT * p.dt / choices.substeps))


@inlined
def set_thrust(me, motion, motors, p, choices):
    """Compute what motors (2,) add in the first substep, as the JAX side's `thrust`."""
    me.move[0], me.move[1] = ZERO, ZERO
    left, right = np.float64(clipped(motors[0])), np.float64(clipped(motors[1]))
    heading = np.float64(me.heading) + motion.rounding[2]
    speed = np.float64(p.motor_force) * p.dt / choices.substeps / p.mass
    pull = (left + right) * speed
    motion.thrust[0], motion.thrust[1] = pull * math.cos(heading), pull * math.sin(heading)
    motion.thrust[2] = (left - right) * speed * 2.0 / p.agent_radius  # torque r F, inertia m r^2 / 2


@inlined
def high_low(value):
    """Split a double into the nearest float32 and the rest."""
    nearest = np.float32(value)
    return nearest, np.float32(value - nearest)


@inlined
def glide(me, motion, p, choices, lost, longest):
    """Make the move of the substep before, aim with the old velocity, then apply damping and motors to the velocity.

    lost: the fraction that damping takes. longest: m, the longest displacement in a substep.
    """
    if not me.active:
        return
    settle_pair(me, motion)
    h = np.float64(p.dt) / choices.substeps
    velocity, rounding = motion.velocity, motion.rounding
    vx, vy, turn = velocity[0], velocity[1], motion.angular_velocity
    dx, dy = vx * np.float32(h) + motion.penetration[0], vy * np.float32(h) + motion.penetration[1]
    cap = min(ONE, longest / np.float32(math.sqrt(max(dx * dx + dy * dy, TINY))))
    motion.aim[0], motion.aim[1] = dx * cap, dy * cap
    me.wanted[0], me.wanted[1] = me.position[0] + motion.aim[0], me.position[1] + motion.aim[1]
    motion.before[0], motion.before[1] = vx, vy

    rate = np.float64(turn) + rounding[5]
    heading = np.float64(me.heading) + rounding[2] + rate * h
    heading -= TWO_PI * math.ceil((heading - math.pi) / TWO_PI)
    me.heading, rounding[2] = high_low(heading)
    for k in range(2):
        new = np.float64(velocity[k]) + rounding[3 + k]
        new += motion.thrust[k] - new * lost
        velocity[k], rounding[3 + k] = high_low(new)
    motion.angular_velocity, rounding[5] = high_low(rate + (motion.thrust[2] - rate * lost))
    for k in range(3):
        motion.thrust[k] = 0.0  # forces last one substep
    motion.num_contacts, motion.apart[0], motion.apart[1] = 0, ZERO, ZERO
    for k in range(6):
        motion.change[k] = ZERO


@inlined
def settle_pair(me, motion):
    """Make the move of a substep, with the position as the sum of two float32."""
    for k in range(2):
        new = np.float64(me.position[k]) + motion.rounding[k] + me.move[k]
        me.position[k], motion.rounding[k] = high_low(new)


@inlined
def count_contacts(w, p, choices, contacts, e, i):
    """Count the bodies that agent i overlaps where everybody wants to go, and add up by what they part there."""
    me, motion = w.agents[e, i], w.motions[e, i]
    if me.active and me.num_near + me.num_near_fixed > 0:
        for k in range(gather_contacts(w, p, choices, True, contacts, e, i)):
            gap, nx, ny, share = contacts[k, 0], contacts[k, 1], contacts[k, 2], contacts[k, 3]
            if gap < ZERO:
                motion.num_contacts += 1
                depth = share * w.worlds[e].parted * min(gap + SLOP, ZERO)
                motion.apart[0] += depth * nx
                motion.apart[1] += depth * ny


@inlined
def collide(w, p, choices, contacts, last, e, i):
    """Add one round of impulses to the changes of agent i, as the JAX side's `collide`.

    The changes of the round before start at index `last`, 0 or 3, of `change`. Those of this round go to the other
    half.
    """
    motion, to = w.motions[e, i], 3 - last
    if motion.num_contacts == 0 or not w.agents[e, i].active:
        return
    vx, vy = motion.velocity[0] + motion.change[last], motion.velocity[1] + motion.change[last + 1]
    turn = motion.angular_velocity + motion.change[last + 2]
    dvx, dvy, dturn = ZERO, ZERO, ZERO
    for k in range(gather_contacts(w, p, choices, True, contacts, e, i)):
        if contacts[k, 0] < ZERO:
            nx, ny, j = contacts[k, 1], contacts[k, 2], int(contacts[k, 4])
            restitution, friction = p.wall_restitution, p.wall_friction
            old_x, old_y = motion.before[0], motion.before[1]
            new_x, new_y, rim, count = vx, vy, turn, motion.num_contacts
            if j >= 0:
                other = w.motions[e, j]
                restitution, friction = p.restitution, p.friction
                old_x, old_y = old_x - other.before[0], old_y - other.before[1]
                new_x -= other.velocity[0] + other.change[last]
                new_y -= other.velocity[1] + other.change[last + 1]
                rim += other.angular_velocity + other.change[last + 2]
                count += other.num_contacts
            contact_count = np.float32(count)
            excess = new_x * nx + new_y * ny + restitution * (old_x * nx + old_y * ny)
            slip = new_y * nx - new_x * ny + p.agent_radius * rim
            normal = max(excess, ZERO) / contact_count
            tangential = min(max(slip / (THREE * contact_count), -friction * normal), friction * normal)
            dvx += tangential * ny - normal * nx
            dvy -= tangential * nx + normal * ny
            dturn -= TWO * tangential / p.agent_radius
    motion.change[to], motion.change[to + 1] = motion.change[last] + dvx, motion.change[last + 1] + dvy
    motion.change[to + 2] = motion.change[last + 2] + dturn


@inlined
def apply_impulses(me, motion):
    """Apply what the contacts have changed, after the last round."""
    if not me.active or motion.num_contacts == 0:
        return
    final = 3 * (IMPULSE_ROUNDS % 2)
    for k in range(2):
        new = np.float64(motion.velocity[k]) + motion.rounding[3 + k] + motion.change[final + k]
        motion.velocity[k], motion.rounding[3 + k] = high_low(new)
    new = np.float64(motion.angular_velocity) + motion.rounding[5] + motion.change[final + 2]
    motion.angular_velocity, motion.rounding[5] = high_low(new)


@inlined
def sink(me, motion, p):
    """Compute how far an agent is left from where it wants to be, as the JAX side's `sink`."""
    if not me.active:
        return
    sx, sy = motion.aim[0] - me.move[0] + motion.apart[0], motion.aim[1] - me.move[1] + motion.apart[1]
    cap = min(ONE, HALF * p.agent_radius / np.float32(math.sqrt(max(sx * sx + sy * sy, TINY))))
    if motion.piled:
        cap = ZERO  # nothing pulls a pile together
    motion.penetration[0], motion.penetration[1] = sx * cap, sy * cap
