"""One control period of one world, stage by stage, and the kernels that run it.

A small world goes through all stages of its schedule in one call. A large world goes through one stage after the other,
each shared by several threads.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from entropy_env.checks import NEVER
from entropy_env.engines.numba_engine import schedule
from entropy_env.engines.numba_engine.arrays import is_social
from entropy_env.engines.numba_engine.cells import is_active, sorting
from entropy_env.engines.numba_engine.comms import aim, delay, ears, gather, is_wanted, speak
from entropy_env.engines.numba_engine.compilation import called, inlined, kernel, spliced
from entropy_env.engines.numba_engine.geodesic import FAR, way_left
from entropy_env.engines.numba_engine.geometry import ONE, TWO, ZERO
from entropy_env.engines.numba_engine.observations import relate, sense
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
from entropy_env.engines.numba_engine.respawn import respawning, starting
from entropy_env.engines.numba_engine.rewards import call_at, weigh_built_in
from entropy_env.engines.numba_engine.teams import let_scouts_go, share_rewards
from entropy_env.rewards import Outcome
from entropy_env.types import OBSERVATION, SwarmSpec

MOTORS = 2  # numbers of an action; what is said comes after
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
    partner: int  # of agent i it is i ^ partner: itself, or where robots are in pairs the other one
    scouts: int  # how many agents, the first ones, are scouts
    targeted: bool  # whether a word is for one agent alone
    same_team: bool  # whether a word is for the speaker's team alone
    shared: bool  # whether teams share rewards
    own_terms: int  # address of a user's own reward terms (`rewards.compile_terms`), 0 for none


def make_choices(spec: SwarmSpec, autoreset: bool, own_terms: int = 0) -> Choices:
    """Return the choices of a specification. own_terms: address of a user's own reward terms, 0 for none."""
    force, world_frame = spec.drive == "force", spec.velocity_frame == "world"
    targeted, same_team = spec.comm_channel == "targeted", spec.comm_channel == "team"
    stages = schedule.make_schedule(spec.substeps, force, is_social(spec), spec.paired, spec.talks, targeted)
    social = int(spec.paired), spec.num_scouts, targeted, same_team, bool(spec.team_rewards)
    columns = tuple((spec.slice(name).start, spec.slice(name).stop) for name in OBSERVATION)
    choices = ON_GOAL[spec.on_goal], world_frame, autoreset, columns, bool(spec.geodesic), *social, own_terms
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
def move(w, choices, e, i):
    """Make the move of the last substep."""
    if choices.force:
        settle_pair(w.agents[e, i], w.motions[e, i])
    else:
        settle(w.agents[e, i])


@spliced
def arrive(w, p, choices, e, i):
    """Make the last move, and note whether an agent that has a partner is at its goal."""
    me = w.agents[e, i]
    if me.acted:
        move(w, choices, e, i)
    me.reached = me.acted and distance_to_goal(me) < p.agent_radius + p.goal_radius


@spliced
def tally(me, reward):
    """Count a reward, and end the counts of an episode that has ended."""
    me.reward = reward
    me.return_so_far += reward
    me.episode_return, me.episode_length = me.return_so_far, me.length_so_far
    if me.terminated or me.truncated:
        me.return_so_far, me.length_so_far = ZERO, 0


def scoring(social: bool) -> Any:
    """Return a compiled function (w, p, choices, motors, e, i).

    It gives the reward, and ends the episode of an agent that reached its goal or met the time limit. motors: (2,), the
    action of the agent.
    """

    @spliced
    def score(w, p, choices, motors, e, i):
        me, time_up, num_goals = w.agents[e, i], next_step(w.worlds[e]) >= p.max_steps, w.maps.goals.shape[2]
        reached, reward, spoken = False, ZERO, ZERO
        if me.acted:
            if not choices.partner:  # else ARRIVE has done it
                move(w, choices, e, i)
            before, distance = me.distance, distance_to_goal(me)
            reached = distance < p.agent_radius + p.goal_radius
            if social:
                spoken = w.talk.spoken[e, i]
                if choices.partner:  # its thread may have written the same here before: both arrive, or none
                    reached = me.reached and w.agents[e, i ^ choices.partner].reached
                if i < choices.scouts:
                    reached, before, distance = False, ZERO, ZERO
            way_before, way = before, distance
            if choices.geodesic and not (social and i < choices.scouts):
                way_before, way = w.way_before[e, i], way_left(w.ways, w.maps, me.position, e, i, me.goal_index)
                way = way if max(way_before, way) < FAR else way_before
            outcome = Outcome(
                distance_before=before,
                distance=distance,
                way_before=way_before,
                way=way,
                reached=ONE if reached else ZERO,
                collision=ONE if me.collided else ZERO,
                left=clipped(motors[0]),
                right=clipped(motors[1]),
                spoken=spoken,
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
        me.reached, me.collision, me.goals_reached_before_reset = reached, me.collided, me.goals_reached
        me.terminated = reached and choices.on_goal != NEXT_GOAL
        me.truncated = me.active and time_up
        me.success = me.terminated
        if choices.on_goal == NEXT_GOAL:
            me.success = me.truncated and me.goals_reached > 0
        if social:
            me.reward = reward  # teams may share it, see `teams`
        else:
            tally(me, reward)

    return score


def ending(social: bool) -> Any:
    """Return a compiled function (w, p, choices, e) that advances the clock, and notes whether the world is over."""

    @spliced
    def end(w, p, choices, e):
        if social:
            let_scouts_go(w, choices, e)
            share_rewards(w, p, choices, e)
            ended = False
            for i in range(w.agents.shape[1]):
                me = w.agents[e, i]
                tally(me, me.reward)
                ended |= me.terminated or me.truncated
            w.talk.ended[e] = ended
        world, going = w.worlds[e], choices.on_goal != TERMINATE
        for i in range(w.agents.shape[1]):
            me = w.agents[e, i]
            me.active_before_reset = me.active
            going |= me.active
        world.step = next_step(world)
        world.over = world.step >= p.max_steps or not going
        world.over_before_reset = world.over

    return end


@called
def relate_all(w, p, choices, table, last_ones, slot, e, first, last):
    """Observe the others, for agents that act next, or for those whose episode has ended.

    w: `Ears`. table: (E, N, obs_dim). It is compiled by itself, which takes less time than as a part of the rest.
    """
    for i in range(first, last):
        me = w.agents[e, i]
        hearing = me.terminated or me.truncated if last_ones else me.active
        if hearing:
            relate(w, p, choices, table[e, i], slot, e, i)


def running(social: bool) -> Any:
    """Return the compiled body of a kernel that runs stages. social: whether it has stages of words, partners and scouts.

    A stage that works on agents does so from the first of `agents` to before the last. All sorting into cells is in one
    place, because each copy of it would have to be compiled.
    """
    score, end, respawn = scoring(social), ending(social), respawning(social)
    sort = sorting(is_wanted if social else is_active)

    @spliced
    def run_stages(w, params, action, choices, slot, which, worlds, stages, agents):
        over, (first, last) = 0, agents
        for e in range(worlds[0], worlds[1]):
            if not which[e]:
                continue
            p = params[e]
            h = p.dt / np.float32(choices.substeps)
            for k in range(stages[0], stages[1]):
                stage, turn = choices.schedule[k, 0], choices.schedule[k, 1]
                cells, old = ZERO, -1  # m, how far the cells reach that agents are sorted into, 0 for no sorting
                if stage == schedule.MEET:
                    set_limits(w.worlds[e], w.maps.size[e], p, choices)
                    if choices.force:
                        set_losses(w.worlds[e], p, choices)
                    cells = contact_reach(w.worlds[e], p)
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
                    cells = lidar_reach(p)
                elif stage == schedule.RETURN:
                    if choices.on_goal == RESPAWN and not w.worlds[e].over and respawn(w, p, choices, e):
                        cells = lidar_reach(p)
                elif stage == schedule.SEE_LAST or (
                    stage == schedule.SEE and not (w.worlds[e].over and choices.autoreset)
                ):
                    for i in range(first, last):
                        me = w.agents[e, i]
                        seeing = me.active if stage == schedule.SEE else me.terminated or me.truncated
                        row = w.obs[e, i] if stage == schedule.SEE else w.final_obs[e, i]
                        if seeing:
                            sense(w, p, choices, row, slot, e, i)
                        elif stage == schedule.SEE:
                            row[:] = ZERO
                if social:
                    ended = w.talk.ended[e]
                    if stage == schedule.SPEAK:
                        for i in range(first, last):
                            speak(w, p, action[e, i, MOTORS:], e, i)
                    elif stage == schedule.SURROUND:
                        cells = p.comm_range
                    elif stage == schedule.GATHER or (stage == schedule.GATHER_LAST and ended):
                        gather(w, p, e)
                        if w.cell_end.shape[1] > 1:
                            cells, old = p.comm_range, delay(p, w.talk.token.shape[2])
                    elif stage == schedule.AIM:
                        for i in range(first, last):
                            aim(w, p, e, i)
                    elif stage == schedule.ARRIVE:
                        for i in range(first, last):
                            arrive(w, p, choices, e, i)
                    elif stage == schedule.HEAR_LAST and ended:
                        relate_all(ears(w), p, choices, w.final_obs, True, slot, e, first, last)
                    elif stage == schedule.HEAR and not (w.worlds[e].over and choices.autoreset):
                        relate_all(ears(w), p, choices, w.obs, False, slot, e, first, last)
                if cells > ZERO:
                    sort(w, e, cells, old)
            over += w.worlds[e].over
        return over

    return run_stages


run_plain, run_all, start_plain, start_all = running(False), running(True), starting(False), starting(True)


@kernel
def run(w, params, action, choices, slot, which, worlds, stages, agents):
    """Run some stages of a step, for some worlds and agents. Returns how many of the worlds are over.

    which: (E,) bool, worlds to run. worlds, stages, agents: each the first, and the one after the last. slot: the
    number of this thread.
    """
    return run_plain(w, params, action, choices, slot, which, worlds, stages, agents)


@kernel
def run_social(w, params, action, choices, slot, which, worlds, stages, agents):
    """Do as `run` where robots talk, come in pairs or teams, or are scouts, see `arrays.is_social`."""
    return run_all(w, params, action, choices, slot, which, worlds, stages, agents)


@kernel
def start(w, which):
    """Begin a new episode in each world of `which` (E,) bool, with every agent at the first pose of its row."""
    start_plain(w, which)


@kernel
def start_social(w, which):
    """Do as `start`, for `run_social`."""
    start_all(w, which)


@kernel
def copy_rows(target, source, which):
    """Copy the rows (E, bytes) of `which` (E,) bool."""
    for e in range(which.shape[0]):
        if which[e]:
            for k in range(target.shape[1]):
                target[e, k] = source[e, k]
