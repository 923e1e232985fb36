"""`entropy_env.dynamics` for compiled loops: the same drive and contacts, agent by agent.

No agent moves further than `longest_move` in a substep, so whom it may touch is known for a whole control period: few,
and mostly nobody. Only those are looked at.
"""

from __future__ import annotations

import math

import numpy as np

from entropy_env import dynamics
from entropy_env.numba_engine.arrays import LISTED
from entropy_env.numba_engine.cells import rows_around, run_in_row
from entropy_env.numba_engine.compilation import inlined
from entropy_env.numba_engine.geometry import HALF, ONE, TINY, TWO, ZERO, cos_sin, separation_fixed, sinc, wrap_angle

SLACK, REST, PILED = np.float32(dynamics.SLACK), np.float32(dynamics.REST), np.float32(dynamics.PILED)
ROUNDING, SMALL = np.float32(dynamics.ROUNDING), np.float32(dynamics.SMALL)
PARTING_SPEED = np.float32(dynamics.PARTING_SPEED)
SPARE = np.float32(1e-3)  # m, by which neighbours are looked for further than they can matter


@inlined
def longest_move(p, duration):
    """m, the furthest that an agent gets in a duration (s)."""
    return max(p.max_wheel_speed, PARTING_SPEED) * duration


@inlined
def contact_reach(p):
    """m, between the centres of agents that may touch during a control period."""
    return TWO * (p.agent_radius + longest_move(p, p.dt)) + REST + SPARE


@inlined
def find_neighbours(w, p, e, i):
    """List whatever agent i of world e may touch in this control period, and whether it overlaps any of it now."""
    me = w.agents[e, i]
    x, y = me.position[0], me.position[1]
    reach = contact_reach(p)
    overlap, piled, count = TWO * p.agent_radius - PILED, False, 0
    for row in range(*rows_around(w, e, y)):
        start, end = run_in_row(w, e, row, x)
        for k in range(start, end):
            dx, dy = w.sorted_x[e, k] - x, w.sorted_y[e, k] - y
            square = dx * dx + dy * dy
            if square < reach * reach and w.sorted_agent[e, k] != i:
                if count < LISTED:
                    me.near[count] = w.sorted_agent[e, k]
                count += 1
                piled |= square < overlap * overlap
    me.num_near = count

    count, reach = 0, p.agent_radius + longest_move(p, p.dt) + REST + SPARE
    for body in range(w.near_fixed.shape[2]):
        gap, _, _ = separation_fixed(w.maps, e, body, x, y, p.wall_half_thickness)
        if gap < reach:
            w.near_fixed[e, i, count] = body
            count += 1
            piled |= gap < p.agent_radius - PILED
    me.num_near_fixed = count
    me.piled = piled


@inlined
def set_command(me, motors, p):
    """The wheel speeds wanted: beyond [-1, 1] motors (2,) are clipped, non-finite they are zero."""
    for wheel in range(2):
        motor = motors[wheel]
        me.command[wheel] = min(max(motor, -ONE), ONE) * p.max_wheel_speed if math.isfinite(motor) else ZERO
        me.move[wheel] = ZERO


@inlined
def propose(me, p, h):
    """Make the move of the substep before, and aim along the exact arc of the next, of h s (`dynamics.drive`)."""
    if not me.active:
        return
    left, right = me.command[0], me.command[1]
    if p.motor_tau > ZERO:
        keep = np.float32(math.exp(-h / p.motor_tau))
        left += (me.wheel_speed[0] - left) * keep
        right += (me.wheel_speed[1] - right) * keep
    half_turn = (right - left) / p.wheel_base * h / TWO
    chord = (left + right) / TWO * h * sinc(half_turn)
    longest = longest_move(p, h)
    chord = min(max(chord, -longest), longest)
    middle = me.heading + half_turn
    me.heading = wrap_angle(middle + half_turn)
    me.wheel_speed[0], me.wheel_speed[1] = left, right
    x, y = me.position[0] + me.move[0], me.position[1] + me.move[1]
    me.position[0], me.position[1] = x, y
    cos, sin = cos_sin(middle)
    me.wanted[0], me.wanted[1] = x + chord * cos, y + chord * sin


@inlined
def settle(me):
    """Make the move of the last substep."""
    me.position[0] += me.move[0]
    me.position[1] += me.move[1]


@inlined
def gather_contacts(w, p, wanted, contacts, e, i):
    """Fill in gap, normal and share of all that agent i may touch; how many there are.

    Either where everybody is, where the `piled` are left out, or where they `wanted` to go. Coincident agents part along
    x, the later one forwards.
    """
    me = w.agents[e, i]
    here = me.wanted if wanted else me.position
    x, y, count, num_near = here[0], here[1], 0, me.num_near
    listed = num_near <= LISTED
    if not listed:
        num_near = w.agents.shape[1]
    if me.piled and not wanted:
        num_near = 0
    for k in range(num_near):
        j = me.near[k] if listed else k
        other = w.agents[e, j]
        if j == i or not other.active or (other.piled and not wanted):
            continue
        there = other.wanted if wanted else other.position
        dx, dy = there[0] - x, there[1] - y
        square = dx * dx + dy * dy
        length = np.float32(math.sqrt(square))
        if square < TINY:
            dx, length = (SMALL if j > i else -SMALL), SMALL
        contacts[count, 0] = length - TWO * p.agent_radius
        contacts[count, 1], contacts[count, 2], contacts[count, 3] = dx / length, dy / length, HALF
        count += 1
    for k in range(me.num_near_fixed):
        gap, nx, ny = separation_fixed(w.maps, e, w.near_fixed[e, i, k], x, y, p.wall_half_thickness)
        contacts[count, 0], contacts[count, 1], contacts[count, 2] = gap - p.agent_radius, nx, ny
        contacts[count, 3] = ONE
        count += 1
    return count


@inlined
def resolve_contacts(w, p, h, contacts, e, i):
    """Find the displacement that is safe to make (`dynamics.resolve_contacts`). contacts: room for one agent's."""
    me = w.agents[e, i]
    if not me.active:
        return
    dx, dy, longest = me.wanted[0] - me.position[0], me.wanted[1] - me.position[1], longest_move(p, h)
    if me.num_near + me.num_near_fixed == 0:
        me.move[0], me.move[1] = dx, dy
        return

    for k in range(gather_contacts(w, p, True, contacts, e, i)):
        gap, nx, ny, share = contacts[k, 0], contacts[k, 1], contacts[k, 2], contacts[k, 3]
        if gap < ZERO:
            me.collided = True
            dx += share * gap * nx
            dy += share * gap * ny
    cap = min(ONE, longest / np.float32(math.sqrt(max(dx * dx + dy * dy, TINY))))
    dx, dy = dx * cap, dy * cap

    count = gather_contacts(w, p, False, contacts, e, i)
    cut_x, cut_y = ZERO, ZERO
    for k in range(count):
        gap, nx, ny, share = contacts[k, 0], contacts[k, 1], contacts[k, 2], contacts[k, 3]
        excess = max(dx * nx + dy * ny - share * max(gap - REST, -REST), ZERO)
        cut_x += excess * nx
        cut_y += excess * ny
    dx, dy = dx - cut_x, dy - cut_y

    length = np.float32(math.sqrt(max(dx * dx + dy * dy, TINY)))
    scale = min(ONE, longest / length)
    for k in range(count):
        gap, nx, ny, share = contacts[k, 0], contacts[k, 1], contacts[k, 2], contacts[k, 3]
        ahead, allowed = dx * nx + dy * ny, share * max(gap - SLACK, ZERO)
        if ahead > allowed + ROUNDING * length:
            scale = min(scale, allowed / ahead)
    me.move[0], me.move[1] = dx * scale, dy * scale
