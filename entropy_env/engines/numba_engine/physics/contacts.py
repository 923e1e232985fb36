"""`entropy_env.physics.contacts` in compiled loops, agent by agent.

No agent moves further than `longest` in a substep. So the bodies that it may touch are known for a whole control
period: there are few, and mostly none. Only those are looked at.
"""

from __future__ import annotations

import math

import numpy as np

from entropy_env.engines.numba_engine.arrays import LISTED
from entropy_env.engines.numba_engine.cells import rows_around, run_in_row
from entropy_env.engines.numba_engine.compilation import inlined
from entropy_env.engines.numba_engine.geometry import FAR, HALF, ONE, TINY, TWO, ZERO, separation_fixed
from entropy_env.physics import contacts as jax_side

ROUNDING, SMALL = np.float32(jax_side.ROUNDING), np.float32(jax_side.SMALL)
apart, settling = inlined(jax_side.apart), inlined(jax_side.settling)
clearance, rest, too_deep = inlined(jax_side.clearance), inlined(jax_side.rest), inlined(jax_side.too_deep)
PARTING_SPEED = np.float32(jax_side.PARTING_SPEED)
SPARE = np.float32(1e-3)  # m, added to the distance within which neighbours can matter


@inlined
def top_speed(p, choices):
    """Top speed (m/s), as in the JAX side's `top_speed`."""
    if not choices.force:
        return p.max_wheel_speed
    gain = TWO * p.motor_force / p.mass * p.dt / np.float32(choices.substeps)
    return np.float32(gain / -math.expm1(math.log(np.float64(p.damping)) * p.dt))


@inlined
def set_limits(world, size, p, choices):
    """Compute what follows from the parameters and lasts for a whole control period.

    The functions of these names in `entropy_env.physics.contacts` explain the numbers. size: (2,) m, of the arena.
    """
    side, substeps = max(size[0], size[1]), np.float32(choices.substeps)
    world.longest = max(top_speed(p, choices), PARTING_SPEED) * (p.dt / substeps)
    world.settling = settling(side, choices.force)
    world.clearance = clearance(side, world.longest, p.agent_radius)
    world.too_deep = too_deep(world.clearance)
    world.rest = rest(world.clearance, side)
    world.apart = apart(p.agent_radius)
    world.reach = substeps * (world.longest + world.settling) + world.rest + SPARE


@inlined
def contact_reach(world, p):
    """Distance (m) between the centres of two agents up to which they may touch during a control period."""
    return TWO * (p.agent_radius + world.reach)


@inlined
def touching_neighbours(w, p, e, i):
    """List the agents and the fixed bodies that agent i of world e may touch in this control period."""
    me = w.agents[e, i]
    x, y = me.position[0], me.position[1]
    reach = contact_reach(w.worlds[e], p)
    count = 0
    for row in range(*rows_around(w, e, y)):
        start, end = run_in_row(w, e, row, x)
        for k in range(start, end):
            dx, dy = w.sorted_x[e, k] - x, w.sorted_y[e, k] - y
            if dx * dx + dy * dy < reach * reach and w.sorted_agent[e, k] != i:
                if count < LISTED:
                    me.near[count] = w.sorted_agent[e, k]
                count += 1
    me.num_near = count

    count, reach = 0, p.agent_radius + w.worlds[e].reach
    for body in range(w.near_fixed.shape[2]):
        gap, _, _ = separation_fixed(w.maps, e, body, x, y, p.wall_half_thickness)
        if gap < reach:
            w.near_fixed[e, i, count] = body
            count += 1
    me.num_near_fixed = count


@inlined
def share_of_gap(gap, mine, theirs):
    """Fraction of the gap this agent may use, as in the JAX side's `_share_of_gap`."""
    gap, mine, theirs = max(gap, TINY), max(mine, ZERO), max(theirs, ZERO)
    has = min(mine, max(gap / TWO, gap - theirs))
    leaves = min(theirs, max(gap / TWO, gap - mine))
    return HALF + (has - leaves) / (TWO * gap)


@inlined
def gather_contacts(w, p, choices, wanted, contacts, e, i):
    """Fill in the contacts of agent i and return how many there are.

    A row of `contacts` is a body that the agent may touch: gap (m), normal (2), share of the gap, and index of the
    other agent, -1 for a fixed body. Bodies are seen either where everybody is, or where everybody wants to go
    (`wanted`). Coincident agents part along x, the later one forwards.
    """
    me = w.agents[e, i]
    here = me.wanted if wanted else me.position
    x, y, count, num_near = here[0], here[1], 0, me.num_near
    listed = num_near <= LISTED
    if not listed:
        num_near = w.agents.shape[1]
    for k in range(num_near):
        j = me.near[k] if listed else k
        other = w.agents[e, j]
        if j == i or not other.active:
            continue
        there = other.wanted if wanted else other.position
        dx, dy = there[0] - x, there[1] - y
        square = dx * dx + dy * dy
        length = np.float32(math.sqrt(square))
        if square < TINY:
            dx, length = (SMALL if j > i else -SMALL), SMALL
        gap = length - TWO * p.agent_radius
        contacts[count, 0] = gap
        contacts[count, 1], contacts[count, 2], contacts[count, 3] = dx / length, dy / length, HALF
        if choices.force:
            contacts[count, 4] = j
            if not wanted:
                nx, ny = contacts[count, 1], contacts[count, 2]
                mine = (me.wanted[0] - x) * nx + (me.wanted[1] - y) * ny
                theirs = -((other.wanted[0] - there[0]) * nx + (other.wanted[1] - there[1]) * ny)
                contacts[count, 3] = share_of_gap(gap, mine, theirs)
        count += 1
    for k in range(me.num_near_fixed):
        gap, nx, ny = separation_fixed(w.maps, e, w.near_fixed[e, i, k], x, y, p.wall_half_thickness)
        contacts[count, 0], contacts[count, 1], contacts[count, 2] = gap - p.agent_radius, nx, ny
        contacts[count, 3] = ONE
        if choices.force:
            contacts[count, 4] = -1
        count += 1
    return count


@inlined
def resolve_contacts(w, p, choices, contacts, e, i):
    """Find the displacement that is safe to make, as the JAX side's `resolve_contacts`.

    contacts: room for the contacts of one agent.
    """
    me, world = w.agents[e, i], w.worlds[e]
    if not me.active:
        return
    longest, clearance, rest = world.longest, world.clearance, world.rest
    dx, dy = me.wanted[0] - me.position[0], me.wanted[1] - me.position[1]
    if choices.force:
        dx, dy = w.motions[e, i].aim[0], w.motions[e, i].aim[1]
    if me.num_near + me.num_near_fixed == 0:
        me.move[0], me.move[1] = dx, dy
        return

    # push overlaps apart, where everybody wants to go
    for k in range(gather_contacts(w, p, choices, True, contacts, e, i)):
        gap, nx, ny, share = contacts[k, 0], contacts[k, 1], contacts[k, 2], contacts[k, 3]
        if gap < ZERO:
            me.collided = True
            dx += share * gap * nx
            dy += share * gap * ny
    cap = min(ONE, longest / np.float32(math.sqrt(max(dx * dx + dy * dy, TINY))))
    dx, dy = dx * cap, dy * cap

    # take away what exceeds the share of a gap, where everybody is
    count = gather_contacts(w, p, choices, False, contacts, e, i)
    cut_x, cut_y, piled, num_agents = ZERO, ZERO, False, count - me.num_near_fixed
    for k in range(count):
        gap, nx, ny, share = contacts[k, 0], contacts[k, 1], contacts[k, 2], contacts[k, 3]
        inside = gap < -world.too_deep
        piled |= inside
        if inside and k < num_agents:
            continue
        excess = max(dx * nx + dy * ny - share * max(gap - rest, -rest), ZERO)
        cut_x += excess * nx
        cut_y += excess * ny
    dx, dy = dx - cut_x, dy - cut_y

    # scale down what still does, and stay where even that would not depart
    length = np.float32(math.sqrt(max(dx * dx + dy * dy, TINY)))
    scale, departure = min(ONE, longest / length), FAR
    for k in range(count):
        gap, nx, ny, share = contacts[k, 0], contacts[k, 1], contacts[k, 2], contacts[k, 3]
        ahead, allowed = dx * nx + dy * ny, share * (gap - clearance)
        if gap <= clearance:
            if gap >= -world.too_deep or k >= num_agents:
                departure = min(departure, -ahead)
        elif ahead > allowed + ROUNDING * length:
            scale = min(scale, allowed / ahead)
    if scale * (departure - ROUNDING * length) <= world.settling:
        scale = ZERO
    me.move[0], me.move[1] = dx * scale, dy * scale
    if choices.force:
        w.motions[e, i].piled = piled
