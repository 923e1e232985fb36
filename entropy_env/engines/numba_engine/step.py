"""One control period of one world, stage by stage, and the kernels that run it.

A small world goes through all stages of its schedule in one call. A large world goes through one stage after the other,
each shared by several threads.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from entropy_env.checks import NEVER
from entropy_env.engines.numba_engine import schedule
from entropy_env.engines.numba_engine.arrays import rest_agent, rest_lasting, rest_motion, rest_world
from entropy_env.engines.numba_engine.cells import rows_around, run_in_row, sort_into_cells
from entropy_env.engines.numba_engine.compilation import inlined, kernel, spliced
from entropy_env.engines.numba_engine.geodesic import FAR, way_left
from entropy_env.engines.numba_engine.geometry import ONE, TWO, ZERO
from entropy_env.engines.numba_engine.observations import observe
from entropy_env.engines.numba_engine.physics.contacts import (
    contact_reach,
    resolve_contacts,
    set_limits,
    touching_neighbours,
)
from entropy_env.engines.numba_engine.physics.force import (
    apply_impulses,
    clipped,
    collide,
    count_contacts,
    glide,
    set_losses,
    set_thrust,
    settle_pair,
    sink,
)
from entropy_env.engines.numba_engine.physics.kinematic import follow_arc, set_command, settle
from entropy_env.engines.numba_engine.rewards import call_at, weigh_built_in
from entropy_env.rewards import Outcome
from entropy_env.types import OBSERVATION, SwarmSpec

TERMINATE, RESPAWN, NEXT_GOAL = 0, 1, 2
ON_GOAL = {"terminate": TERMINATE, "respawn": RESPAWN, "next_goal": NEXT_GOAL}


class Choices(NamedTuple):
    """Choices that are fixed for an engine."""

    schedule: np.ndarray  # (K, 2) int32, of `make_schedule`
    substeps: int
    force: bool  # the force drive
    on_goal: int
    world_frame: bool  # whether velocities are observed in the world's frame
    autoreset: bool  # whether a world that is over is reset at once; the step then leaves its observations out
    columns: tuple[tuple[int, int], ...]  # of each component of an observation: its first, and the one after its last
    geodesic: bool  # whether layouts carry the shortest ways
    own_terms: int  # address of a user's own reward terms (`rewards.compile_terms`), 0 for none


def make_choices(spec: SwarmSpec, autoreset: bool, own_terms: int = 0) -> Choices:
    """Return the choices of a specification. own_terms: address of a user's own reward terms, 0 for none."""
    force, world_frame = spec.drive == "force", spec.velocity_frame == "world"
    stages = schedule.make_schedule(spec.substeps, force)
    columns = tuple((spec.slice(name).start, spec.slice(name).stop) for name in OBSERVATION)
    choices = ON_GOAL[spec.on_goal], world_frame, autoreset, columns, bool(spec.geodesic), own_terms
    return Choices(stages, spec.substeps, force, *choices)


@inlined
def distance_to_goal(me):
    """Compute the distance (m) of an agent from the goal that it had when the step began."""
    dx, dy = me.goal[0] - me.position[0], me.goal[1] - me.position[1]
    return np.float32(math.sqrt(dx * dx + dy * dy))


@inlined
def lidar_reach(p):
    """Compute the largest distance (m) between the centres of two agents that may see each other."""
    return p.lidar_range + TWO * p.agent_radius


@spliced
def prepare(w, p, choices, action, e, i):
    """Note the goal, the command and the bodies that an agent may touch in this control period."""
    me = w.agents[e, i]
    me.acted, me.collided = me.active, False
    if me.active:
        goal = w.maps.goals[e, i, me.goal_index]
        me.goal[0], me.goal[1] = goal[0], goal[1]
        me.distance = distance_to_goal(me)
        if choices.geodesic:
            w.way_before[e, i] = way_left(w.ways, w.maps, me.position, e, i, me.goal_index)
        if choices.force:
            set_thrust(me, w.motions[e, i], action[e, i], p, choices)
        else:
            set_command(me, action[e, i], p)
        touching_neighbours(w, p, e, i)


@inlined
def next_step(world):
    """Advance the clock. Without a time limit it stops before an int32 would overflow."""
    return min(world.step + 1, NEVER - 1)


@spliced
def reward_of(w, p, choices, outcome, e, i):
    """Write each reward term of an agent, and return their sum."""
    built_in, reward = w.agents[e, i].reward_terms, ZERO
    weigh_built_in(outcome, p, w.weights[e], built_in)
    for term in range(built_in.shape[0]):
        reward += built_in[term]
    if choices.own_terms:
        every = w.reward_terms[e, i]
        call_at(choices.own_terms, outcome, p, w.weights[e], every)
        for term in range(built_in.shape[0]):
            every[term] = built_in[term]
        for term in range(built_in.shape[0], every.shape[0]):
            reward += every[term]
    return reward


@spliced
def score(w, p, choices, motors, e, i):
    """Give the reward, and end the episode of an agent that reached its goal or met the time limit.

    motors: (2,), the action of the agent.
    """
    me, time_up, num_goals = w.agents[e, i], next_step(w.worlds[e]) >= p.max_steps, w.maps.goals.shape[2]
    reached, reward = False, ZERO
    if me.acted:
        if choices.force:
            settle_pair(me, w.motions[e, i])
        else:
            settle(me)
        distance = distance_to_goal(me)
        reached = distance < p.agent_radius + p.goal_radius
        way_before, way = me.distance, distance
        if choices.geodesic:
            way_before, way = w.way_before[e, i], way_left(w.ways, w.maps, me.position, e, i, me.goal_index)
            way = way if max(way_before, way) < FAR else way_before
        outcome = Outcome(
            distance_before=me.distance,
            distance=distance,
            way_before=way_before,
            way=way,
            reached=ONE if reached else ZERO,
            collision=ONE if me.collided else ZERO,
            left=clipped(motors[0]),
            right=clipped(motors[1]),
        )
        reward = reward_of(w, p, choices, outcome, e, i)
        me.length_so_far += 1
    else:
        me.reward_terms[:] = ZERO
        w.reward_terms[e, i, :] = ZERO
    if reached:
        me.goals_reached += 1
        if choices.on_goal == NEXT_GOAL:
            me.goal_index = (me.goal_index + 1) % num_goals
        else:
            me.active = False
    me.return_so_far += reward
    me.reward, me.reached, me.collision, me.goals_reached_before_reset = reward, reached, me.collided, me.goals_reached
    me.terminated = reached and choices.on_goal != NEXT_GOAL
    me.truncated = me.active and time_up
    me.success = me.terminated
    if choices.on_goal == NEXT_GOAL:
        me.success = me.truncated and me.goals_reached > 0
    me.episode_return, me.episode_length = me.return_so_far, me.length_so_far
    if me.terminated or me.truncated:
        me.return_so_far, me.length_so_far = ZERO, 0


@spliced
def end(w, p, choices, e):
    """Advance the clock, and note whether the world is over."""
    world, going = w.worlds[e], choices.on_goal != TERMINATE
    for i in range(w.agents.shape[1]):
        me = w.agents[e, i]
        me.active_before_reset = me.active
        going |= me.active
    world.step = next_step(world)
    world.over = world.step >= p.max_steps or not going
    world.over_before_reset = world.over


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


@inlined
def stand(w, e, i, column):
    """Put an agent at a pose of its row, at rest."""
    me, pose = w.agents[e, i], w.maps.spawns[e, i, column]
    rest_agent(me)
    rest_motion(w.motions[e, i])
    me.position[0], me.position[1], me.heading = pose[0], pose[1], pose[2]


@spliced
def respawn(w, p, e):
    """Bring inactive agents back where there is room, as `Swarm.respawn`. Returns whether any came back."""
    came = False
    for i in range(w.agents.shape[1]):
        w.agents[e, i].asked = -1 if w.agents[e, i].active else ask(w, p, e, i)
    for i in range(w.agents.shape[1]):
        me = w.agents[e, i]
        if me.asked >= 0 and not gives_way(w, e, i):
            stand(w, e, i, me.asked)
            me.goal_index, me.active_before_reset = (me.goal_index + 1) % w.maps.goals.shape[2], True
            came = True
    return came


@spliced
def run_stage(stage, turn, w, params, action, choices, slot, e, first, last):
    """Run one stage of a step of world e. A stage that works on agents does so from `first` to before `last`.

    turn: the number of this round of impulses.
    """
    p = params[e]
    h = p.dt / np.float32(choices.substeps)
    if stage == schedule.MEET:
        set_limits(w.worlds[e], w.maps.size[e], p, choices)
        if choices.force:
            set_losses(w.worlds[e], p, choices)
        sort_into_cells(w, e, contact_reach(w.worlds[e], p))
    elif stage == schedule.PREPARE:
        for i in range(first, last):
            prepare(w, p, choices, action, e, i)
    elif stage == schedule.DRIVE:
        lost, longest = w.worlds[e].lost, w.worlds[e].longest
        for i in range(first, last):
            if choices.force:
                glide(w.agents[e, i], w.motions[e, i], p, choices, lost, longest)
            else:
                follow_arc(w.agents[e, i], p, h, longest)
    elif stage == schedule.COUNT:
        for i in range(first, last):
            count_contacts(w, p, choices, w.contacts[slot], e, i)
    elif stage == schedule.COLLIDE:
        for i in range(first, last):
            collide(w, p, choices, w.contacts[slot], 3 * (turn % 2), e, i)
    elif stage == schedule.TOUCH:
        for i in range(first, last):
            if choices.force:
                apply_impulses(w.agents[e, i], w.motions[e, i])
            resolve_contacts(w, p, choices, w.contacts[slot], e, i)
            if choices.force:
                sink(w.agents[e, i], w.motions[e, i], p)
    elif stage == schedule.SCORE:
        for i in range(first, last):
            score(w, p, choices, action[e, i], e, i)
    elif stage == schedule.END:
        end(w, p, choices, e)
    elif stage == schedule.SORT:
        sort_into_cells(w, e, lidar_reach(p))
    elif stage == schedule.RETURN:
        if choices.on_goal == RESPAWN and not w.worlds[e].over and respawn(w, p, e):
            sort_into_cells(w, e, lidar_reach(p))
    elif stage == schedule.SEE_LAST or not (w.worlds[e].over and choices.autoreset):
        for i in range(first, last):
            me = w.agents[e, i]
            seeing = me.active if stage == schedule.SEE else me.terminated or me.truncated
            row = w.obs[e, i] if stage == schedule.SEE else w.final_obs[e, i]
            if seeing:
                observe(w, p, choices, row, slot, e, i)
            elif stage == schedule.SEE:
                row[:] = ZERO


@kernel
def run(w, params, action, choices, slot, which, worlds, stages, agents):
    """Run some stages of a step, for some worlds and agents. Returns how many of the worlds are over.

    which: (E,) bool, worlds to run. worlds, stages, agents: each the first, and the one after the last. slot: the
    number of this thread.
    """
    over = 0
    for e in range(worlds[0], worlds[1]):
        if which[e]:
            for k in range(stages[0], stages[1]):
                stage, turn = choices.schedule[k, 0], choices.schedule[k, 1]
                run_stage(stage, turn, w, params, action, choices, slot, e, agents[0], agents[1])
            over += w.worlds[e].over
    return over


@kernel
def start(w, which):
    """Begin a new episode in each world of `which` (E,) bool, with every agent at the first pose of its row."""
    for e in range(which.shape[0]):
        if which[e]:
            rest_world(w.worlds[e])
            for i in range(w.agents.shape[1]):
                stand(w, e, i, 0)
                me = w.agents[e, i]
                rest_lasting(me)
                me.goal_index, me.return_so_far, me.length_so_far = 0, ZERO, 0


@kernel
def copy_rows(target, source, which):
    """Copy the rows (E, bytes) of `which` (E,) bool."""
    for e in range(which.shape[0]):
        if which[e]:
            for k in range(target.shape[1]):
                target[e, k] = source[e, k]
