"""How agents begin: at the first pose of their row, or after a goal at the first one that is clear."""

from __future__ import annotations

from typing import Any

from entropy_env.engines.numba_engine.arrays import rest_agent, rest_lasting, rest_motion, rest_world
from entropy_env.engines.numba_engine.cells import rows_around, run_in_row
from entropy_env.engines.numba_engine.comms import forget
from entropy_env.engines.numba_engine.compilation import inlined, spliced
from entropy_env.engines.numba_engine.geometry import ZERO


@inlined
def is_clear(w, e, pose):
    """Whether an agent at a pose touches none of the agents that are sorted into cells."""
    x, y, wide = pose[0], pose[1], w.worlds[e].apart
    for row in range(*rows_around(w, e, y)):
        start, stop = run_in_row(w, e, row, x)
        for k in range(start, stop):
            dx, dy = w.sorted_x[e, k] - x, w.sorted_y[e, k] - y
            if dx * dx + dy * dy < wide * wide:
                return False
    return True


@spliced
def ask(w, p, e, i):
    """Find the first column of an agent's row whose pose is clear and not at the agent's next goal, or -1."""
    num_goals, near = w.maps.goals.shape[2], p.agent_radius + p.goal_radius
    next_goal = (w.agents[e, i].goal_index + 1) % num_goals
    goal = w.maps.goals[e, i, next_goal]
    for k in range(num_goals):
        column = (next_goal + k) % num_goals
        pose = w.maps.spawns[e, i, column]
        dx, dy = goal[0] - pose[0], goal[1] - pose[1]
        if dx * dx + dy * dy >= near * near and is_clear(w, e, pose):
            return column
    return -1


@inlined
def gives_way(w, e, i):
    """Whether an agent with a lower index asks for a place too near."""
    pose, wide = w.maps.spawns[e, i, w.agents[e, i].asked], w.worlds[e].apart
    for j in range(i):
        asked = w.agents[e, j].asked
        if asked >= 0:
            other = w.maps.spawns[e, j, asked]
            dx, dy = other[0] - pose[0], other[1] - pose[1]
            if dx * dx + dy * dy < wide * wide:
                return True
    return False


@spliced
def may_stand(w, choices, e, i):
    """Whether an agent is given the place it asks for. Partners get theirs together."""
    if choices.partner and gives_way(w, e, i ^ choices.partner):
        return False
    return not gives_way(w, e, i)


@spliced
def ask_together(w, choices, e):
    """Let no agent ask whose partner cannot."""
    for i in range(w.agents.shape[1]):
        if choices.partner and w.agents[e, i ^ choices.partner].asked < 0:
            w.agents[e, i].asked = -1


def standing(social: bool) -> Any:
    """Return a compiled function (w, e, i, column) that puts an agent at a pose of its row, at rest."""

    @spliced
    def stand(w, e, i, column):
        me, pose = w.agents[e, i], w.maps.spawns[e, i, column]
        rest_agent(me)
        rest_motion(w.motions[e, i])
        me.position[0], me.position[1], me.heading = pose[0], pose[1], pose[2]
        if social:
            forget(w, e, i)

    return stand


def respawning(social: bool) -> Any:
    """Return a compiled function (w, p, choices, e) that brings inactive agents back where there is room.

    As `Swarm.respawn`. It returns whether any came back.
    """
    stand = standing(social)

    @spliced
    def respawn(w, p, choices, e):
        came = False
        for i in range(w.agents.shape[1]):
            w.agents[e, i].asked = -1 if w.agents[e, i].active else ask(w, p, e, i)
        if social:
            ask_together(w, choices, e)
        for i in range(w.agents.shape[1]):
            me = w.agents[e, i]
            if me.asked >= 0 and (may_stand(w, choices, e, i) if social else not gives_way(w, e, i)):
                stand(w, e, i, me.asked)
                me.goal_index, me.active_before_reset = (me.goal_index + 1) % w.maps.goals.shape[2], True
                came = True
        return came

    return respawn


def starting(social: bool) -> Any:
    """Return the compiled body of `step.start`."""
    stand = standing(social)

    @spliced
    def begin(w, which):
        for e in range(which.shape[0]):
            if which[e]:
                rest_world(w.worlds[e])
                for i in range(w.agents.shape[1]):
                    stand(w, e, i, 0)
                    me = w.agents[e, i]
                    rest_lasting(me)
                    me.goal_index, me.return_so_far, me.length_so_far = 0, ZERO, 0

    return begin
