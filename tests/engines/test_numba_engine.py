"""The compiled engine against the rules written out slowly, and against itself where it has several ways."""

import dataclasses
import functools
import pickle
import tracemalloc

import jax
import numpy as np
import pytest
from helpers import reference, symmetry
from helpers.worlds import (
    SLOTS,
    check_contacts,
    check_nobody_passed_a_wall,
    check_readings,
    check_valid,
    crowded_world,
    generator,
    hundred,
    make_world,
    numpy_tree,
    piles,
    random_world,
    stack,
    take,
)
from hypothesis import given
from hypothesis import strategies as st

from entropy_env.engines import make_engine
from entropy_env.engines.numba_engine import engine as engine_module
from entropy_env.engines.numba_engine import geometry
from entropy_env.env import Swarm
from entropy_env.physics import top_speed
from entropy_env.scenarios import SCENARIOS, Open
from entropy_env.types import SwarmSpec

DT, WHEEL_BASE, WORLDS = 0.1, 0.2, 8
ENV = Swarm(symmetry.SPEC)
DRIVES = ("kinematic", "force")
ENVS = {drive: Swarm(dataclasses.replace(ENV.spec, drive=drive)) for drive in DRIVES}
HUNDRED = Swarm(SwarmSpec(num_agents=100, num_rays=1, on_goal="next_goal", num_goals=1, **dict.fromkeys(SLOTS, 3)))
CROWD = Swarm(SwarmSpec(num_agents=12, substeps=1, num_walls=4, num_boxes=3, num_discs=3))
SEED = np.array([0, 7], np.uint32)

places = st.tuples(*[st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1, width=32)] * 2)
seeds = st.integers(0, 2**16)


def engine_at(env, state, num_threads=1, **params):
    """An engine that goes on from a batched state, and never resets."""
    engine = make_engine(env, len(state.step), env.resolve_params(**params), "numba", False, num_threads)
    engine.state = state
    return engine


def drive(env, states, motors, **params):
    """Positions (T, B, N, 2), headings, wheel speeds and collision flags under motors (T, B, N, 2)."""
    engine = engine_at(env, stack(states), **params)
    history = []
    for action in motors:
        told, state = engine.step(action), engine.state
        history.append((state.position, state.heading, state.wheel_speed, told.collision.copy()))
    return tuple(np.stack(leaves) for leaves in zip(*history, strict=True))


def chase(env, start, where, wild=0.0, seed=0, steps=40, **params):
    """As `test_invariants.chase`: everyone drives at full speed to a point, or wildly with some probability."""
    engine, rng = engine_at(env, start, **params), np.random.default_rng(seed)
    target = (np.asarray(where) * np.asarray(start.layout.size))[:, None]
    state, history = engine.state, [engine.state.position]
    for _ in range(steps):
        offset = target - state.position
        angle = np.arctan2(offset[..., 1], offset[..., 0]) - state.heading
        turn = 3 * ((angle + np.pi) % (2 * np.pi) - np.pi)
        if env.spec.drive == "force":  # whose left motor turns the robot left, and ever faster
            turn = (state.angular_velocity - turn) / 10
        action = np.clip(1 + np.stack([-turn, turn], axis=-1), -1, 1)
        motors = rng.uniform(-2, 2, action.shape)
        engine.step(np.where(rng.random(turn.shape)[..., None] < wild, motors, action))
        state = engine.state
        history.append(state.position)
    return state, np.stack(history).astype(np.float64)


def speeds(drive, factor):
    """Parameters of robots that are so many times as fast as the default."""
    return {"motor_force": 10 * factor} if drive == "force" else {"max_wheel_speed": factor}


def test_a_free_agent_follows_the_closed_form_arc():
    rng, env = np.random.default_rng(0), Swarm(SwarmSpec(num_agents=1, num_rays=1))
    poses, motors, paths = zip(*(reference.random_arc(rng, WHEEL_BASE, DT) for _ in range(32)), strict=True)
    states = [make_world(env, [pose[:2]], pose[2], size=(8.0, 8.0)) for pose in poses]
    position, heading, _, collided = drive(env, states, np.tile(np.array(motors)[None, :, None], (100, 1, 1, 1)))
    expected = np.stack(paths, axis=1)
    np.testing.assert_allclose(position[:, :, 0], expected[..., :2], atol=1e-4)
    assert np.max(np.abs((heading[:, :, 0] - expected[..., 2] + np.pi) % (2 * np.pi) - np.pi)) < 1e-4
    assert np.all((heading > -np.pi) & (heading <= np.float32(np.pi)))
    assert not collided.any()


def test_lidar_matches_brute_force():
    rng = np.random.default_rng(0)
    states = [random_world(CROWD, rng) for _ in range(16)]
    found, active = engine_at(CROWD, stack(states)).observe(), np.stack([state.active for state in states])
    assert not np.any(found[~active])
    check_readings(np.where(active[..., None], found[..., :32], np.nan), states)


def test_contacts_match_the_written_rule():
    rng = np.random.default_rng(1)
    states = [crowded_world(CROWD, rng) for _ in range(32)]
    motors = rng.uniform(-1, 1, (1, 32, 12, 2)).astype(np.float32)
    motors[:, :, ::2] = 1
    position, _, _, collided = drive(CROWD, states, motors, dt=0.1)
    check_contacts(states, motors[0], position[0], collided[0])


@pytest.mark.parametrize("drive", DRIVES)
@pytest.mark.parametrize("name", SCENARIOS)
@given(seed=seeds, where=places, wild=st.sampled_from([0.0, 0.3, 1.0]), speed=st.sampled_from([1.0, 0.3, 3.0]))
def test_whatever_ten_agents_do_they_stay_apart_and_on_their_side_of_every_wall(name, drive, seed, where, wild, speed):
    start = generator(ENV.spec, name, WORLDS)(seed)
    assert np.all(start.layout.valid)
    last, history = chase(ENVS[drive], start, where, wild, seed, **speeds(drive, speed))
    check_valid(start.layout, history)
    assert np.all(last.active)
    assert np.linalg.norm(history[-1] - history[0], axis=-1).max() > 0.1


@pytest.mark.parametrize("drive", DRIVES)
@pytest.mark.parametrize("speed", [1.0, 3.0])
def test_a_hundred_agents_in_one_corner_do_not_overlap(drive, speed):
    env = Swarm(dataclasses.replace(HUNDRED.spec, drive=drive))
    state = stack([hundred(env, np.random.default_rng(i)) for i in range(WORLDS)])
    where = [(0, 0), (1, 1), (1, 0), (0.57, 0.3), (0.5, 0.5), (0.7, 0.25), (0, 0.5), (0.55, 0.85)]
    crowded, history = chase(env, state, where, steps=60, max_steps=1000)
    check_valid(state.layout, history)
    _, history = chase(env, crowded, where[::-1], wild=0.5, steps=60, max_steps=1000, **speeds(drive, speed))
    check_valid(state.layout, history)


@pytest.mark.parametrize("drive", DRIVES)
@given(seed=seeds)
def test_a_pile_comes_apart_gradually(drive, seed):
    """With motors all but off, by no jump; then wholly, as all drive about."""
    start = state = stack(piles(ENV, np.random.default_rng(seed)))
    state, history = chase(ENVS[drive], state, (0, 0), **speeds(drive, 1e-7))
    assert np.max(np.linalg.norm(np.diff(history, axis=0), axis=-1)) < 0.101
    for _ in range(2):
        state, history = chase(ENVS[drive], state, (0.5, 0.5), wild=1.0, seed=seed)
    check_valid(start.layout, history[-1:])


@pytest.mark.parametrize("drive", DRIVES)
@pytest.mark.parametrize("name", SCENARIOS)
@given(seed=seeds, where=places, wild=st.sampled_from([0.0, 1.0]))
def test_agents_put_anywhere_even_into_walls_never_pass_one(name, drive, seed, where, wild):
    start = numpy_tree(generator(ENV.spec, name, WORLDS)(seed))
    anywhere = np.random.default_rng(seed).uniform(0, 1, (WORLDS, 10, 2)) * start.layout.size[:, None]
    env, dt = ENVS[drive], {"kinematic": DT, "force": 0.01}[drive]  # 0.1 m at most in a step
    _, history = chase(env, start.replace(position=anywhere.astype(np.float32)), where, wild, seed, dt=dt)
    longest = dt * float(top_speed(env.make_params(dt=dt), env.spec))
    assert np.max(np.linalg.norm(np.diff(history, axis=0), axis=-1)) < 1.1 * longest
    check_nobody_passed_a_wall(start.layout, history, margin=longest)


@functools.cache
def common(drive, seed):
    return symmetry.common_states(ENVS[drive], seed, lambda state, where: chase(ENVS[drive], state, where)[0])


def step(state, action, drive):
    """As `symmetry` wants it; observations of everyone who took part."""
    engine = engine_at(ENVS[drive], numpy_tree(state))
    told = engine.step(np.asarray(action))
    return told.obs.copy(), engine.state, told.reward.copy(), told.collision.copy()


STEPS = {drive: functools.partial(step, drive=drive) for drive in DRIVES}


@pytest.mark.parametrize("drive", DRIVES)
@given(seed=seeds)
def test_agent_order_does_not_matter(drive, seed):
    order = np.random.default_rng(seed).permutation(10)
    symmetry.compare(STEPS[drive], common(drive, seed), symmetry.reordered(order), order)


@pytest.mark.parametrize("drive", DRIVES)
@given(seed=seeds)
def test_a_mirrored_world_steps_as_the_mirror_image(drive, seed):
    symmetry.compare(STEPS[drive], common(drive, seed), symmetry.mirror, mirrored=True)


@pytest.mark.parametrize("drive", DRIVES)
@given(seed=seeds)
def test_a_rotated_square_world_steps_as_the_rotated_image(drive, seed):
    symmetry.compare(STEPS[drive], common(drive, seed), symmetry.rotate)


@pytest.mark.parametrize("drive", DRIVES)
@given(seed=seeds)
def test_inactive_agents_neither_move_nor_touch_nor_are_seen(drive, seed):
    symmetry.compare_with_inactive(STEPS[drive], common(drive, seed), seed)


def crowds(num_agents, seed, drive="kinematic"):
    """An environment and worlds of many agents: scattered, in a heap, in one point, in the border, in a crush."""
    rng = np.random.default_rng(seed)
    slots = dict.fromkeys(SLOTS, 3)
    spec = SwarmSpec(num_agents=num_agents, num_rays=9, drive=drive, on_goal="respawn", num_goals=3, **slots)
    env, size = Swarm(spec, "open", difficulty=4), np.array([8.0, 6.0])
    shape = num_agents, 2
    places = [
        rng.uniform(0, 1, shape) * size,
        rng.normal([4, 3], 0.4, shape),
        np.tile([[2.0, 2.0]], (num_agents, 1)),
        rng.uniform(-0.3, 1.3, shape) * size,
        rng.normal([7.5, 5.5], 0.3, shape),
        rng.uniform(0.1, 0.9, shape) * size,
    ]
    bodies = {"walls": [[[4.5, 0], [4.5, 2]], [[4.5, 2.8], [6, 6]]], "boxes": [[5.5, 1.5, 0.4, 0.2]]}
    states = [
        make_world(
            env, position, rng.uniform(-3, 3, num_agents), goal=position[:, None] + rng.normal(0, 0.5, (num_agents, 3, 2)),
            active=rng.random(num_agents) < 0.9, size=size, discs=[[4.3, 5.0, 0.3]], **bodies,
        )
        for position in np.clip(places, 0, size)
    ]  # fmt: skip
    crushed = chase(env, stack(states), (0.4, 0.6), steps=20, goal_radius=1e-6)[0]
    return env, jax.tree.map(
        lambda *parts: np.concatenate(parts), numpy_tree(stack(states)), take(crushed, slice(5, 6))
    )


def transitions(env, state, steps, num_threads=1, resynchronised=None, **params):
    """What every step tells, and the states, of one engine; each step from the given states if there are some."""
    engine, rng, history = engine_at(env, state, num_threads, **params), np.random.default_rng(0), []
    for t in range(steps):
        if resynchronised is not None:
            engine.state = resynchronised[t]
        seen = engine.observe().copy()
        told = engine.step(rng.uniform(-0.5, 1, (*state.heading.shape, 2)))
        told = {name: np.array(getattr(told, name)) for name in vars(told) if name != "final_obs"}
        history.append((seen, told, engine.state))
    return history


@pytest.mark.parametrize("num_agents", [64, 111, 200])
@pytest.mark.parametrize("speed", [1.0, 3.0])
def test_cells_miss_nobody(num_agents, speed, monkeypatch):
    """Readings, flags and respawns are those of looking at everybody; contacts add up in another order."""
    env, state = crowds(num_agents, num_agents)
    params = {"max_wheel_speed": speed, "lidar_range": 0.7, "goal_radius": 0.2}
    monkeypatch.setattr(engine_module, "CELLS_FROM", 1000)
    expected = transitions(env, state, 6, **params)
    monkeypatch.setattr(engine_module, "CELLS_FROM", 1)
    found = transitions(env, state, 6, resynchronised=[state, *(end for _, _, end in expected)], **params)
    off = differing = agents = 0
    for (seen_a, told_a, end_a), (seen_b, told_b, end_b) in zip(expected, found, strict=True):
        np.testing.assert_array_equal(seen_b, seen_a)
        distance = np.linalg.norm(end_a.position - end_b.position, axis=-1)
        off, agents = off + np.sum(distance > 1e-5), agents + distance.size
        for name in ("acted", "reached", "collision", "terminated", "truncated", "active"):
            differing += np.sum(told_a[name] != told_b[name])
        np.testing.assert_allclose(end_b.wheel_speed, end_a.wheel_speed, atol=1e-6)
    assert told_a["collision"].sum() > 100
    assert sum(told["reached"].sum() for _, told, _ in found) > 20
    assert off <= 0.01 * agents
    assert differing <= 2


@pytest.mark.parametrize("size", [(16.0, 16.0), (32.0, 32.0), (48.0, 48.0), (16.0, 9.6), (25.6, 19.2), (9.7, 40.0)])
def test_cells_miss_nobody_where_they_fit_the_arena_exactly(size):
    """At the default parameters, whose reaches divide some of these sizes, up to rounding."""
    count, told = (100 if min(size) < 10 else 200), []
    for search in ("dense", "grid"):
        env = Swarm(SwarmSpec(count, neighbour_search=search, on_goal="respawn"), Open(size=size))
        engine = make_engine(env, 2, env.resolve_params(goal_radius=1.0), "numba")
        rng, seen = np.random.default_rng(0), [engine.reset(SEED).copy()]
        seen += [engine.step(rng.uniform(0, 1, (2, count, 2))).obs.copy() for _ in range(8)]
        told.append(np.stack(seen))
    assert np.any(told[0][..., :32] < 1)
    np.testing.assert_allclose(told[1], told[0], atol=1e-5)


def same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("num_threads", [2, 3])
@pytest.mark.parametrize("drive", DRIVES)
def test_any_number_of_threads_gives_the_same_bits(drive, num_threads, monkeypatch):
    monkeypatch.setattr(engine_module, "CHUNK", 64)
    monkeypatch.setattr(engine_module, "SHARED_FROM", 0)
    env, state = crowds(64, 5, drive)
    expected = transitions(env, state, 6, max_steps=4)
    same_bits(transitions(env, state, 6, num_threads, max_steps=4), expected)


@pytest.mark.parametrize("num_threads", [2, 3])
@pytest.mark.parametrize("drive", DRIVES)
def test_threads_that_share_a_world_give_the_same_bits(drive, num_threads, monkeypatch):
    env, state = crowds(200, 6, drive)
    state = take(state, slice(1, 4))
    expected = transitions(env, state, 6, max_steps=4)
    monkeypatch.setattr(engine_module, "TEAM_FROM", 100)
    monkeypatch.setattr(engine_module, "CHUNK", 16)
    same_bits(transitions(env, state, 6, num_threads, max_steps=4), expected)


def test_worlds_do_not_depend_on_their_neighbours():
    env, state = crowds(64, 7)
    together = transitions(env, state, 1)[0]
    engine = engine_at(env, take(state, slice(2, 3)))
    engine.step(np.random.default_rng(0).uniform(-0.5, 1, (*state.heading.shape, 2))[2:3])
    same_bits(take(together[2], slice(2, 3)), engine.state)


def evaluated(function, *arguments):
    return np.array([function(*(np.float32(a) for a in row)) for row in zip(*arguments, strict=True)], np.float64)


def test_sinc_is_accurate():
    angle = np.concatenate([np.linspace(-20, 20, 2001), [0.0, 1e-30, 0.49999, 0.5, -0.5]]).astype(np.float32)
    np.testing.assert_allclose(evaluated(geometry.sinc, angle), np.sinc(angle.astype(np.float64) / np.pi), atol=3e-7)


def test_cosine_and_sine_are_accurate():
    angle = np.concatenate([np.linspace(-50, 50, 20001), np.arange(-32, 33) * np.pi / 4, [0.0, -0.0]]).astype(
        np.float32
    )
    exact = angle.astype(np.float64)
    found = evaluated(geometry.cos_sin, angle)
    np.testing.assert_allclose(found, np.stack([np.cos(exact), np.sin(exact)], axis=-1), atol=3e-7)


def test_the_quick_arctangent_is_within_its_error():
    angle = np.concatenate([np.linspace(-np.pi, np.pi, 5001), np.arange(-4, 5) * np.pi / 4])
    for length in (1e-3, 1.0, 50.0):
        y, x = (length * np.sin(angle)).astype(np.float32), (length * np.cos(angle)).astype(np.float32)
        found = evaluated(geometry.nearly_atan2, y, x)
        exact = np.arctan2(y.astype(np.float64), x.astype(np.float64))
        error = (found - exact + np.pi) % (2 * np.pi) - np.pi
        assert np.max(np.abs(error)) <= geometry.ATAN_ERROR
        assert np.max(np.abs(found)) < 3.2


def test_the_bound_of_the_arcsine_is_one():
    sine = np.linspace(0, 1, 5001).astype(np.float32)
    assert np.all(evaluated(geometry.at_least_asin, sine) >= np.arcsin(sine.astype(np.float64)) - 1e-6)
    assert np.all(evaluated(geometry.at_least_asin, sine) <= np.arcsin(sine.astype(np.float64)) + 0.3)


def test_a_step_allocates_nothing():
    env, state = crowds(64, 8)
    engine = engine_at(env, state, max_steps=10**6)
    action = np.zeros((*state.heading.shape, 2), np.float32)
    for _ in range(3):
        told = engine.step(action)
    arrays = {name: getattr(told, name).ctypes.data for name in vars(told)}
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(100):
            told = engine.step(action)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2_000
    assert peak - before < 20_000
    assert arrays == {name: getattr(told, name).ctypes.data for name in vars(told)}


@pytest.mark.parametrize(
    ("given", "same_as"),
    [((7.0, -3.0), (1.0, -1.0)), ((np.nan, 1.0), (0.0, 1.0)), ((np.inf, 0.5), (0, 0.5)), ((0.5, -np.inf), (0.5, 0))],
)
@pytest.mark.parametrize("motor_tau", [0.0, 0.3])
def test_actions_are_clipped_and_what_is_not_finite_is_zero(given, same_as, motor_tau):
    start = generator(ENV.spec, "open", WORLDS)(0)
    ends = []
    for motors in (given, same_as):
        engine = engine_at(ENV, start, motor_tau=motor_tau)
        for _ in range(3):
            engine.step(np.broadcast_to(motors, (WORLDS, 10, 2)))
        ends.append(engine.state)
    same_bits(*ends)
    assert np.all(np.isfinite(ends[0].position))
    assert np.any(ends[0].heading != np.asarray(start.heading))


def small_engine():
    env = Swarm(SwarmSpec(num_agents=3, num_rays=2))
    engine = make_engine(env, 2, env.resolve_params(), "numba")
    engine.reset(SEED)
    return engine


def with_shape(tree, name, shape):
    return tree.replace(**{name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda e: e.step(np.zeros((3, 2))), r"action has shape \(3, 2\), expected \(2, 3, 2\)"),
        (lambda e: e.step(0.0), r"action has shape \(\), expected \(2, 3, 2\)"),
        (lambda e: e.step(np.zeros((2, 4, 2))), r"action has shape \(2, 4, 2\), expected \(2, 3, 2\)"),
        (lambda e: setattr(e, "params", e.params.replace(dt=np.ones(3))), r"dt has shape \(3,\)"),
        (lambda e: setattr(e, "params", e.params.replace(dt=np.ones((2, 1)))), r"dt has shape \(2, 1\)"),
        (lambda e: e.reset(SEED, np.ones(3, bool)), r"which has shape \(3,\), expected \(2,\)"),
        (lambda e: e.reset_to(with_shape(e.state.layout, "goals", (2, 3, 2, 2))), r"layout\.goals has shape"),
        (lambda e: e.reset_to(with_shape(e.state.layout, "size", 2)), r"layout\.size has shape"),
        (lambda e: setattr(e, "state", with_shape(e.state, "heading", (2, 4))), r"state\.heading has shape"),
        (lambda e: setattr(e, "state", with_shape(e.state, "step", ())), r"state\.step has shape"),
    ],
)
def test_a_wrong_shape_is_named_and_changes_nothing(use, message):
    engine = small_engine()
    before, params = engine.state, engine.params
    with pytest.raises(ValueError, match=message):
        use(engine)
    same_bits(engine.state, before)
    assert engine.params is params
    engine.step(np.zeros((2, 3, 2)))


@pytest.mark.parametrize("name", ["spent", "seed", "draws"])
def test_a_damaged_snapshot_changes_nothing(name):
    engine = small_engine()
    before, snapshot = engine.state, engine.snapshot()
    engine.step(np.ones((2, 3, 2)))
    after = engine.state
    with pytest.raises(ValueError, match=rf"snapshot\['{name}'\] has shape"):
        engine.restore(snapshot | {name: np.zeros(5, snapshot[name].dtype)})
    same_bits(engine.state, after)
    engine.restore(snapshot)
    same_bits(engine.state, before)


def test_a_world_that_is_over_can_be_looked_at():
    """As it stands, also by an engine that would reset it in the step in which it ends."""
    engine = small_engine()
    state = engine.state
    turned = state.replace(heading=state.heading + np.float32(1), done=np.array([True, False]))
    engine.state = turned
    seen = engine.observe().copy()
    engine.state = turned.replace(done=np.zeros(2, bool))
    np.testing.assert_array_equal(engine.observe(), seen)


def test_only_the_worlds_that_are_over_are_reset():
    engine = small_engine()
    engine.params = engine.params.replace(max_steps=np.array([3, 5]))
    clocks = []
    for _ in range(10):
        done = engine.step(np.zeros((2, 3, 2))).done.copy()
        clocks.append(engine.state.step)
        np.testing.assert_array_equal(done, clocks[-1] == 0)
    np.testing.assert_array_equal(clocks, [[(t + 1) % 3, (t + 1) % 5] for t in range(10)])


def test_a_pickled_engine_goes_on_as_the_one_it_was_made_from():
    engine = small_engine()
    engine.params = engine.params.replace(max_steps=4)
    motors = np.random.default_rng(0).uniform(-1, 1, (12, 2, 3, 2))
    for action in motors[:3]:
        engine.step(action)
    copy = pickle.loads(pickle.dumps(engine))
    for action in motors[3:]:
        ours, theirs = copy.step(action), engine.step(action)
        for name in vars(ours):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), name)
    same_bits(copy.state, engine.state)
