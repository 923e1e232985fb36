"""The compiled engine and the JAX engine, held to each other."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from helpers import reference
from helpers.chase import towards
from helpers.worlds import ENGINES, SLOTS, Lanes, generator, hundred, make_world, numpy_tree, stack, take
from hypothesis import given
from hypothesis import strategies as st

from entropy_env.engines import make_engine
from entropy_env.env import Swarm
from entropy_env.scenarios import SCENARIOS
from entropy_env.types import PARAM_NAMES, SwarmParams, SwarmSpec

N, WORLDS, STEPS = 6, 8, 10
TOLERANCE = 1e-5  # also m, from a threshold, within which flags may differ
SPEED_TOLERANCE = {"velocity": 1e-4, "angular_velocity": 2e-3}  # m/s and rad/s, which a contact changes by some units
CRUSH_TOLERANCE = 1e-3  # m, where several contacts share a step and the 8th digit decides how
SEED = np.array([3, 5], np.uint32)
COMMON = SwarmSpec(num_agents=N, num_rays=1, num_goals=4, **SLOTS)
# every choice of algorithm at least once; the scenario makes goals come soon after a reset
MODES = {
    "terminate": (dataclasses.replace(COMMON, num_rays=32, substeps=4, on_goal="terminate"), True),
    "respawn": (dataclasses.replace(COMMON, num_rays=7, substeps=2, on_goal="respawn", velocity_frame="world"), True),
    "next_goal": (dataclasses.replace(COMMON, num_rays=1, substeps=1, on_goal="next_goal"), False),
    "force": (dataclasses.replace(COMMON, num_rays=5, substeps=3, on_goal="respawn", drive="force"), True),
}
FLAGS = ("terminated", "truncated", "over", "acted", "active", "reached", "collision", "success", "goals_reached")
seeds = st.integers(0, 2**16)


def per_world(env, num_envs, **values):
    """Params with one value a world each, so that none of them retraces."""
    params = env.resolve_params(**({"max_steps": 9} | values))
    cast = {name: np.broadcast_to(np.asarray(getattr(params, name)), num_envs).copy() for name in PARAM_NAMES}
    return SwarmParams(**cast)


@functools.cache
def engines(mode):
    """The compiled and the JAX engine of a mode."""
    spec, autoreset = MODES[mode]
    env = Swarm(spec, Lanes(4))
    params = per_world(env, WORLDS)
    return [make_engine(env, WORLDS, params, name, autoreset) for name in ENGINES]


def random_params(env, rng):
    """Of every kind, world by world; time limits of a few steps among them."""

    def pick(*choices):
        return rng.choice(np.array(choices), WORLDS)

    return per_world(
        env,
        WORLDS,
        dt=pick(0.05, 0.1, 0.2),
        max_steps=pick(1, 3, 5, 200),
        agent_radius=pick(0.05, 0.1, 0.2),
        goal_radius=pick(0.05, 0.15, 0.8),
        wall_half_thickness=pick(0.02, 0.05, 0.1),
        max_wheel_speed=pick(0.3, 1.0, 3.0),
        wheel_base=pick(0.1, 0.2, 0.4),
        motor_tau=pick(0.0, 0.05, 0.5),
        motor_force=pick(3.0, 10.0, 20.0),
        mass=pick(0.5, 1.0, 2.0),
        damping=pick(0.1, 0.5, 0.7),
        restitution=pick(0.0, 0.04, 0.5),
        wall_restitution=pick(0.0, 0.1, 1.0),
        friction=pick(0.0, 0.49, 1.0),
        wall_friction=pick(0.0, 0.35, 1.0),
        lidar_range=pick(0.5, 3.0, 20.0),
        goal_scale=pick(1.0, 10.0),
        reward_distance=rng.uniform(-1, 1, WORLDS),
        reward_progress=rng.uniform(-1, 1, WORLDS),
        reward_reached=rng.uniform(-1, 1, WORLDS),
        reward_collision=rng.uniform(-1, 1, WORLDS),
        reward_time=rng.uniform(-1, 1, WORLDS),
    )


def upset(state, params, rng, drive="kinematic"):
    """Layouts as they are, agents wherever no step would lead them: one kind of disorder a world, goals often near."""
    size, places = np.asarray(state.layout.size)[:, None], np.array(state.position)
    lanes = places.shape[:2]
    anywhere = rng.uniform(0, 1, places.shape) * size
    middle = rng.uniform(0, 1, (WORLDS, 1, 2)) * size
    kinds = [
        places,
        anywhere,
        middle + rng.normal(0, 0.15, places.shape),  # a pile
        np.broadcast_to(middle, places.shape),  # all in one point
        rng.uniform(-0.5, 1.5, places.shape) * size,  # many in the border
        middle + 0.22 * np.stack([np.arange(lanes[1]), np.zeros(lanes[1])], -1),  # nearly touching, in a row
    ]
    kind = rng.integers(0, len(kinds), WORLDS)
    position = np.clip(np.choose(kind[:, None, None], kinds), 0, size).astype(np.float32)
    goals = np.array(state.layout.goals)
    near = position[:, :, None] + rng.normal(0, 0.6, goals.shape)
    goals = np.where(rng.random((WORLDS, 1, 1, 1)) < 0.7, near, goals).astype(np.float32)
    # some faster than wheels can be made to turn, as where the limit has just been lowered
    speed = (params.max_wheel_speed * rng.choice([1, 4], WORLDS))[:, None, None]
    motion = {}
    if drive == "force":
        motion["velocity"] = rng.normal(0, rng.choice([0.3, 3, 15], (WORLDS, 1, 1)), places.shape).astype(np.float32)
        motion["angular_velocity"] = rng.normal(0, 15, lanes).astype(np.float32)
    spawns = np.array(state.layout.spawns)
    spawns = np.where(rng.random((WORLDS, 1, 1, 1)) < 0.5, spawns[:, :1], spawns)  # or all want the same places
    return numpy_tree(state).replace(
        layout=numpy_tree(state.layout).replace(goals=goals, spawns=spawns),
        position=position,
        heading=rng.uniform(-np.pi, np.pi, lanes).astype(np.float32),
        wheel_speed=(speed * rng.uniform(-1, 1, places.shape)).astype(np.float32),
        active=rng.random(lanes) < np.where(rng.random((WORLDS, 1)) < 0.5, 1.0, 0.7),
        goal_index=rng.integers(0, goals.shape[2], lanes).astype(np.int32),
        goals_reached=rng.integers(0, 3, lanes).astype(np.int32),
        **motion,
    )


def random_motors(state, rng):
    """Some drive to the middle of their world, some wildly, some beyond all bounds."""
    offset = np.mean(state.position, axis=1, keepdims=True) - state.position
    turn = 3 * wrap(np.arctan2(offset[..., 1], offset[..., 0]) - state.heading)
    action = np.where(
        rng.random((*turn.shape, 1)) < 0.5, 1 + np.stack([-turn, turn], axis=-1), rng.uniform(-1.5, 1.5, offset.shape)
    ).astype(np.float32)
    odd = rng.random(action.shape)
    action[odd < 0.01], action[odd > 0.99] = np.nan, -np.inf
    return action


def wrap(angle):
    """To [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def copied(transition):
    """A Transition that outlives the next call."""
    return type(transition)(
        **{field.name: np.array(getattr(transition, field.name)) for field in dataclasses.fields(transition)}
    )


def nudged_flags(engine, state, action):
    """The flags of the same step where everybody's radius, and with it the reach of goals, is TOLERANCE larger or
    smaller."""
    params, transition = engine.params, []
    for sign in (-1, 1):
        engine.params = params.replace(agent_radius=(params.agent_radius + sign * TOLERANCE).astype(np.float32))
        engine.state = state
        transition.append(copied(engine.step(action)))
    engine.params = params
    return transition


def check_readings(found, expected, state, params, num_rays):
    """Lidar of everybody active, (E, N, R) each: equal, or between what larger and smaller obstacles give."""
    size = np.asarray(state.layout.size)[:, None]
    outside = np.any((state.position < 0) | (state.position > size), axis=-1)[..., None]  # for which the border is far
    off = np.abs(found - expected) > np.where(outside, 1e-4, TOLERANCE)
    for e in np.flatnonzero(off.any(axis=(1, 2))):
        world, p = take(state, e), take(params, e)
        who = np.flatnonzero(off[e].any(axis=1))

        def scan(grown, who=who, world=world, p=p):
            return reference.scan(
                world.position.astype(np.float64),
                world.heading.astype(np.float64),
                world.active,
                reference.world(world.layout, float(p.wall_half_thickness), grown=grown),
                float(p.agent_radius),
                float(p.lidar_range),
                num_rays,
                seen_radius=float(p.agent_radius) + grown,
                inset=grown,
                who=who,
            )

        near, far = scan(2e-5), scan(-2e-5)
        for readings in (found, expected):
            inside = (near - 1e-5 <= readings[e][who]) & (readings[e][who] <= far + 1e-5)
            assert np.all(inside | ~off[e][who]), f"{found[e][off[e]]} and {expected[e][off[e]]}, from {near} to {far}"
    return off.sum()


def compare_observations(spec, found, expected, state, params):
    lidar = spec.slice("lidar")
    for part in map(spec.slice, ("velocity", "goal")):
        np.testing.assert_allclose(found[..., part], expected[..., part], atol=2 * TOLERANCE, rtol=1e-5)
    return check_readings(found[..., lidar], expected[..., lidar], state, params, spec.num_rays)


def check_far_off(far, state, params):
    """Agents (E, N) may end far from each other where bodies that they overlap push them in contrary directions."""
    for e in np.flatnonzero(far.any(axis=1)):
        world, radius = reference.world(take(state.layout, e)), params.agent_radius[e]
        others = reference.agent_gap(state.position[e].astype(np.float64), state.active[e], radius)
        gap = np.minimum(others, reference.fixed_gap(state.position[e].astype(np.float64), world, radius))
        assert np.any(gap[far[e]] < -TOLERANCE), np.flatnonzero(far[e])


def differing_speed(*ends):
    """(E, N) bool: who goes on at another speed in two states."""
    velocity, spin = (np.abs(getattr(ends[0], name) - getattr(ends[1], name)) for name in SPEED_TOLERANCE)
    return np.any(velocity > SPEED_TOLERANCE["velocity"], axis=-1) | (spin > SPEED_TOLERANCE["angular_velocity"])


def compare_flags(ours, theirs, nudge):
    """(E,) bool: where two Transitions tell the same. Elsewhere something must have been within TOLERANCE of touching,
    as the flags of `nudge()`, two more Transitions, then show."""
    differs = {name: getattr(ours, name) != getattr(theirs, name) for name in FLAGS}
    same = ~np.any([flag.reshape(WORLDS, -1).any(axis=1) for flag in differs.values()], axis=0)
    if not same.all():
        low, high = nudge()
        doubtful = (low.collision != high.collision) | (low.reached != high.reached)
        for name, flag in differs.items():
            allowed = doubtful.any(axis=1) if name == "over" else doubtful
            allowed = doubtful.any(axis=1, keepdims=True) if name == "active" else allowed
            assert not np.any(flag & ~allowed), f"{name} differs at {np.argwhere(flag & ~allowed)}"
    return same


def compare_states(ends, before, going, params, drive):
    """Hold two states to each other in the worlds that are `going` (E,) bool.

    Returns how far agents are apart (E, N) m, and who goes on at another speed (E, N) bool: one who touches several bodies
    may meet them in another order.
    """
    for field in ("active", "goal_index", "goals_reached", "collided", "step", "over"):
        np.testing.assert_array_equal(getattr(ends[0], field)[going], getattr(ends[1], field)[going], field)
    np.testing.assert_allclose(ends[0].wheel_speed[going], ends[1].wheel_speed[going], atol=TOLERANCE)
    apart = np.where(going[:, None], np.linalg.norm(ends[0].position - ends[1].position, axis=-1), 0)
    other_speed = going[:, None] & differing_speed(*ends)
    check_far_off((apart > CRUSH_TOLERANCE) & ~other_speed, before, params)
    turned = np.abs(wrap(ends[0].heading - ends[1].heading))[going[:, None] & ~other_speed]
    spun = SPEED_TOLERANCE["angular_velocity"] * params.dt.max() if drive == "force" else 0
    assert np.max(turned, initial=0) < TOLERANCE + spun
    return apart, other_speed


def compare_rewards(ours, theirs, exact):
    """Hold the rewards of two Transitions to each other in the worlds that are `exact` (E,) bool."""
    for field in ("reward", "reward_terms", "episode_return", "episode_length"):
        found, expected = (getattr(transition, field)[exact] for transition in (ours, theirs))
        np.testing.assert_allclose(found, expected, atol=2e-5, err_msg=field)


def compare_final_obs(ours, theirs, exact, spec):
    """Hold the last observations of episodes to each other in the worlds that are `exact` (E,) bool.

    They are of after the move, which has its own rounding, and before respawns, so no state is there to look from. Returns
    how many readings differ; and how many agents see their goal elsewhere because several bodies touched them, or with the
    force drive go on at another speed, as `compare_states` allows.
    """
    ended = exact[:, None] & (ours.terminated | ours.truncated)
    gap, touched = np.abs(ours.final_obs - theirs.final_obs)[ended], ours.collision[ended]
    readings, velocities, goals = (gap[:, spec.slice(name)] for name in ("lidar", "velocity", "goal"))
    if spec.drive == "kinematic":
        assert np.max(velocities, initial=0) <= 5 * TOLERANCE
    assert np.max(goals[~touched], initial=0) <= 5 * TOLERANCE
    elsewhere = np.any(goals > 5 * TOLERANCE, axis=1)
    return np.sum(readings > 5 * TOLERANCE), np.sum(elsewhere) + np.sum(velocities > 2e-3)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", SCENARIOS)
@given(seed=seeds)
def test_one_step_from_a_common_state_is_the_same_in_both_engines(name, mode, seed):
    rng = np.random.default_rng(seed)
    compiled, slow = engines(mode)
    spec, params = compiled.env.spec, random_params(compiled.env, rng)
    compiled.params = slow.params = params
    state = numpy_tree(generator(COMMON, name, WORLDS)(seed))
    if rng.random() < 0.7:
        state = upset(state, params, rng, spec.drive)
    compared = crushed = grazing = 0
    for t in range(STEPS):
        compiled.state, slow.state = state, state
        grazing += compare_observations(spec, compiled.observe(), slow.observe(), state, params)
        np.testing.assert_allclose(compiled.global_state(), slow.global_state(), atol=TOLERANCE)
        action = random_motors(state, rng)
        ours, theirs = copied(compiled.step(action)), copied(slow.step(action))
        ends = compiled.state, slow.state
        np.testing.assert_array_equal(ours.obs, compiled.observe())

        same = compare_flags(ours, theirs, functools.partial(nudged_flags, slow, state, action))
        going = same & ~(ours.over & compiled.autoreset)
        apart, other_speed = compare_states(ends, state, going, params, spec.drive)
        # where a reset or respawn took the place of where somebody had come, rewards alone tell of a crush
        hidden = ~going | np.any(ours.terminated & ours.active, axis=1)
        off = hidden & np.any(np.abs(ours.reward_terms - theirs.reward_terms) > 2e-5, axis=(1, 2))
        exact = same & ~off & np.all(apart <= TOLERANCE, axis=1)
        compare_rewards(ours, theirs, exact)
        readings, elsewhere = compare_final_obs(ours, theirs, exact, spec)

        compared += same.sum()
        crushed += np.sum((apart > TOLERANCE) | other_speed) + np.sum(same & off) + elsewhere
        grazing += readings
        state = ends[t % 2]
    assert compared >= 0.9 * STEPS * WORLDS
    assert crushed <= 6
    assert grazing <= 10


@functools.cache
def crowd_engines():
    """Of a hundred agents, enough for the compiled engine to sort them into cells, and worlds in which they crowd."""
    rng, slots = np.random.default_rng(0), dict.fromkeys(SLOTS, 3)
    env = Swarm(SwarmSpec(num_agents=100, num_rays=5, on_goal="next_goal", num_goals=1, **slots), Lanes(4))
    both = [make_engine(env, WORLDS, per_world(env, WORLDS, max_steps=1000), name, False) for name in ENGINES]
    both[0].state = stack([hundred(env, rng) for _ in range(WORLDS)])
    where, crowds = rng.uniform(0, 1, (WORLDS, 1, 2)) * [8, 6], []
    for _ in range(60):
        state = both[0].state
        both[0].step(towards(state, where))
        crowds.append((state, where))
    return both, crowds


@pytest.mark.parametrize("speed", [1.0, 0.3, 3.0])
def test_a_step_of_a_hundred_in_a_crush_is_the_same_in_both_engines(speed):
    """Most of them touch several others at a time, some have more neighbours than a list holds."""
    both, crowds = crowd_engines()
    off, grazing, touching = np.zeros(2, int), 0, 0
    for state, where in crowds[::12] + crowds[-1:]:
        params = per_world(both[0].env, WORLDS, max_wheel_speed=speed, max_steps=1000)
        for engine in both:
            engine.params, engine.state = params, state
        action = towards(state, where)
        ours, theirs = (copied(engine.step(action)) for engine in both)
        ends = [engine.state for engine in both]
        same = compare_flags(ours, theirs, functools.partial(nudged_flags, both[1], state, action))
        assert same.sum() >= WORLDS - 2
        distance = np.linalg.norm(ends[0].position - ends[1].position, axis=-1)
        off += np.array([np.sum(distance > limit) for limit in (TOLERANCE, CRUSH_TOLERANCE)])
        touching += ours.collision.sum()
        for engine in both:
            engine.state = ends[1]
        grazing += compare_observations(both[0].env.spec, *(engine.observe() for engine in both), ends[1], params)
    assert touching > 1000
    assert np.all(off <= touching * np.array([0.01, 0.001]))
    assert grazing <= 20


def lone_robots(env, rng):
    """Worlds of three robots 12 m apart, and three that are not there."""
    places = np.concatenate([[[8, 8], [20, 8], [14, 18]], np.full((N - 3, 2), 14)])
    active = np.arange(N) < 3
    return stack([
        make_world(env, places, rng.uniform(-3, 3, N), size=(28.0, 28.0), active=active) for _ in range(WORLDS)
    ])  # fmt: skip


def test_lone_robots_are_in_the_same_place_after_200_steps_in_both_engines():
    rng = np.random.default_rng(0)
    both = engines("terminate")
    params = per_world(both[0].env, WORLDS, max_steps=1000, motor_tau=np.resize([0, 0, 0.2, 1], WORLDS))
    start = lone_robots(both[0].env, rng)
    for engine in both:
        engine.params, engine.state = params, start
    for _ in range(200):
        action = rng.uniform(-1, 1, (WORLDS, N, 2)).astype(np.float32)
        ours, theirs = (copied(engine.step(action)) for engine in both)
        assert not np.any(ours.collision | theirs.collision)
    ends = [engine.state for engine in both]
    np.testing.assert_allclose(ends[0].position, ends[1].position, atol=1e-4)
    assert np.max(np.abs(wrap(ends[0].heading - ends[1].heading))) < 1e-4
    for part in map(both[0].env.spec.slice, ("velocity", "goal")):
        np.testing.assert_allclose(ours.obs[..., part], theirs.obs[..., part], atol=1e-4)
    np.testing.assert_allclose(ours.episode_return, theirs.episode_return, atol=1e-4)
    assert np.linalg.norm(ends[0].position - np.asarray(start.position), axis=-1).max() > 0.5


def open_engines():
    env = Swarm(SwarmSpec(num_agents=N, num_rays=1), "open", difficulty=4)
    params = per_world(env, WORLDS, difficulty=np.resize([1, 2, 3, 4], WORLDS))
    return [make_engine(env, WORLDS, params, name) for name in ENGINES]


@pytest.mark.parametrize("mode", ["terminate", "next_goal", "open"])
def test_the_same_seed_gives_the_same_layouts_in_both_engines(mode):
    """To all worlds and to some of them; observations are of the worlds as they stand."""
    both = open_engines() if mode == "open" else engines(mode)
    both[1].params = both[0].params
    some = np.arange(WORLDS) % 3 == 1
    first = [engine.reset(SEED).copy() for engine in both]
    np.testing.assert_allclose(*first, atol=TOLERANCE)
    states = [engine.state for engine in both]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), *states)
    assert np.all(states[0].layout.valid == both[0].valid)
    for engine in both:
        engine.step(np.ones((WORLDS, N, 2)))
        engine.state = states[0].replace(heading=states[0].heading + np.float32(0.1))
    again = [engine.reset(SEED + 1, some).copy() for engine in both]
    np.testing.assert_allclose(*again, atol=TOLERANCE)
    later = [engine.state for engine in both]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), *later)
    fresh = np.any(later[0].layout.spawns != states[0].layout.spawns, axis=(1, 2, 3))
    np.testing.assert_array_equal(fresh, some)


def test_an_episode_on_a_given_layout_begins_the_same_in_both_engines():
    both, layout = engines("respawn"), generator(COMMON, "rooms", WORLDS)(5).layout
    for engine in both:
        engine.params = per_world(engine.env, WORLDS)
        engine.reset(SEED)
        engine.step(np.ones((WORLDS, N, 2)))
    found = [engine.reset_to(layout).copy() for engine in both]
    np.testing.assert_allclose(*found, atol=TOLERANCE)
    states = [engine.state for engine in both]
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), *states)
    jax.tree.map(np.testing.assert_array_equal, states[0].layout, numpy_tree(layout))


class Recount:
    """Statistics of episodes, agent by agent, from what each step tells."""

    def __init__(self, engine):
        self.engine = engine
        self.returns, self.lengths = np.zeros((WORLDS, N)), np.zeros((WORLDS, N), int)
        self.goals, self.clock = np.zeros((WORLDS, N), int), np.zeros(WORLDS, int)
        self.active = engine.state.active

    def begin(self, worlds):
        for counts in (self.returns, self.lengths, self.goals, self.clock):
            counts[worlds] = 0

    def check(self, action):
        engine, on_goal, max_steps = self.engine, self.engine.env.spec.on_goal, self.engine.params.max_steps
        transition = copied(engine.step(action))
        self.clock += 1
        for e, i in np.ndindex(WORLDS, N):
            acted, reached = transition.acted[e, i], transition.reached[e, i]
            assert acted == self.active[e, i]
            if acted:
                self.returns[e, i] += transition.reward[e, i]
                self.lengths[e, i] += 1
                self.goals[e, i] += reached
            else:
                assert not reached and not transition.collision[e, i] and transition.reward[e, i] == 0
            terminated = reached and on_goal != "next_goal"
            truncated = acted and not terminated and self.clock[e] >= max_steps[e]
            assert transition.terminated[e, i] == terminated
            assert transition.truncated[e, i] == truncated
            assert transition.goals_reached[e, i] == self.goals[e, i]
            np.testing.assert_allclose(transition.episode_return[e, i], self.returns[e, i], atol=1e-5)
            assert transition.episode_length[e, i] == self.lengths[e, i]
            if terminated or truncated:
                assert transition.success[e, i] == (terminated or (on_goal == "next_goal" and self.goals[e, i] > 0))
                self.returns[e, i], self.lengths[e, i] = 0, 0
            if on_goal != "respawn":
                assert transition.active[e, i] == (acted and not terminated)
        np.testing.assert_allclose(transition.reward, transition.reward_terms.sum(axis=-1), atol=1e-6)
        nobody = ~transition.active.any(axis=1) if on_goal == "terminate" else np.zeros(WORLDS, bool)
        np.testing.assert_array_equal(transition.over, (self.clock >= max_steps) | nobody)
        state = engine.state
        if engine.autoreset:
            assert np.all(state.active[transition.over])
            self.begin(transition.over)
        np.testing.assert_array_equal(state.step, self.clock)
        np.testing.assert_array_equal(state.active[~transition.over], transition.active[~transition.over])
        assert not np.any(transition.obs[~state.active])
        self.active = state.active
        return transition


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_statistics_of_episodes_are_what_a_slow_recount_gives(mode, engine):
    """Through respawns, time limits, resets of some worlds and of all, and where a world over is stepped on."""
    rng = np.random.default_rng(0)
    engine = engines(mode)[engine == "jax"]
    engine.params = per_world(engine.env, WORLDS, max_steps=np.arange(WORLDS) + 5, difficulty=np.resize([1, 2], WORLDS))
    engine.reset(SEED)
    recount, ended, resets = Recount(engine), np.zeros(2, int), 0
    for t in range(40):
        transition = recount.check(np.clip(rng.normal(0.7, 0.5, (WORLDS, N, 2)), -1, 1))
        ended += [
            np.sum(transition.success & (transition.terminated | transition.truncated)),
            transition.truncated.sum(),
        ]
        resets += transition.over.sum()
        if t in (13, 29):
            some = np.arange(WORLDS) % 2 == t % 4 // 2
            engine.reset(SEED + np.uint32(t), some)
            recount.begin(some)
            recount.active = engine.state.active
            assert np.all(recount.active[some])
    assert resets > WORLDS
    assert np.all(ended > 20)


@pytest.mark.parametrize("engine", ENGINES)
def test_agents_respawn_and_start_at_rest(engine):
    """With the force drive, whose robots otherwise keep their speed from step to step."""
    engine = engines("force")[engine == "jax"]
    engine.params = per_world(engine.env, WORLDS, dt=0.05, goal_radius=0.5, max_steps=60)
    engine.reset(SEED)
    rng, respawned, resets = np.random.default_rng(0), 0, 0
    for _ in range(190):
        transition = engine.step(rng.uniform(0.2, 1, (WORLDS, N, 2)))
        came_back = transition.active & (transition.terminated | ~transition.acted)
        fresh, state = transition.over[:, None] | came_back, engine.state
        for name in ("velocity", "angular_velocity", "rounding"):
            assert not np.any(getattr(state, name)[fresh])
        assert np.all(np.any(state.velocity[~fresh & transition.active], axis=-1))
        respawned, resets = respawned + fresh.sum(), resets + transition.over.sum()
    assert respawned > 80 and resets >= 24


@pytest.mark.parametrize("mode", MODES)
def test_an_episode_goes_on_in_the_other_engine_and_back(mode):
    """As if it had stayed; trips of lanes, without contact."""
    rng = np.random.default_rng(1)
    compiled, slow = engines(mode)
    params = per_world(compiled.env, WORLDS, max_steps=50, agent_radius=0.02, goal_radius=0.2)
    compiled.params = slow.params = params
    motors = np.clip(rng.normal(0.7, 0.3, (12, WORLDS, N, 2)), -1, 1).astype(np.float32)
    ends = []
    for route in ([compiled] * 12, [slow] * 12, [compiled] * 4 + [slow] * 4 + [compiled] * 4):
        route[0].reset(SEED)
        for t, (here, action) in enumerate(zip(route, motors, strict=True)):
            if t and here is not route[t - 1]:
                here.state = route[t - 1].state
            transition = copied(here.step(action))
            if transition.over.any():
                break
        ends.append((t, transition, here.state))
    for t, transition, state in ends[1:]:
        assert t == ends[0][0]
        for name in FLAGS:
            np.testing.assert_array_equal(getattr(transition, name), getattr(ends[0][1], name), name)
        going = ~transition.over
        np.testing.assert_allclose(state.position[going], ends[0][2].position[going], atol=1e-4)
        np.testing.assert_allclose(transition.obs[going], ends[0][1].obs[going], atol=1e-4)
    assert ends[0][2].goals_reached.sum() > 5


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_says_where_no_episode_has_begun(name):
    env = engines("terminate")[0].env
    engine = make_engine(env, 2, env.resolve_params(), name)
    uses = [
        lambda: engine.step(np.zeros((2, N, 2))),
        engine.observe,
        engine.global_state,
        lambda: engine.state,
        lambda: engine.valid,
        lambda: engine.reset(SEED, np.array([True, False])),
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match="no episode has begun"):
            use()
