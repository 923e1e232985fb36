"""The compiled engine against the rules written out slowly, and against itself where it has several ways."""

import pickle
import tracemalloc

import jax
import numpy as np
import pytest
from helpers import reference, symmetry
from helpers.chase import DRIVES, chase, engine_at
from helpers.worlds import (
    SLOTS,
    check_contacts,
    check_readings,
    crowded_world,
    generator,
    make_world,
    numpy_tree,
    random_world,
    stack,
    take,
)

from entropy_env.engines import make_engine
from entropy_env.engines.numba_engine import engine as engine_module
from entropy_env.engines.numba_engine import geometry
from entropy_env.env import Swarm
from entropy_env.scenarios import Open
from entropy_env.types import SwarmSpec

DT, WHEEL_BASE, WORLDS = 0.1, 0.2, 8
ENV = Swarm(symmetry.SPEC)
CROWD = Swarm(SwarmSpec(num_agents=12, substeps=1, num_walls=4, num_boxes=3, num_discs=3))
SEED = np.array([0, 7], np.uint32)


def drive(env, states, motors, **params):
    """Positions (T, B, N, 2), headings, wheel speeds and collision flags under motors (T, B, N, 2)."""
    engine = engine_at(env, stack(states), **params)
    history = []
    for action in motors:
        transition, state = engine.step(action), engine.state
        history.append((state.position, state.heading, state.wheel_speed, transition.collision.copy()))
    return tuple(np.stack(leaves) for leaves in zip(*history, strict=True))


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
    crushed = chase("numba", env, stack(states), (0.4, 0.6), steps=20, goal_radius=1e-6)[0]
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
        transition = engine.step(rng.uniform(-0.5, 1, (*state.heading.shape, 2)))
        transition = {name: np.array(getattr(transition, name)) for name in vars(transition) if name != "final_obs"}
        history.append((seen, transition, engine.state))
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
    assert sum(transition["reached"].sum() for _, transition, _ in found) > 20
    assert off <= 0.01 * agents
    assert differing <= 2


@pytest.mark.parametrize("size", [(16.0, 16.0), (32.0, 32.0), (48.0, 48.0), (16.0, 9.6), (25.6, 19.2), (9.7, 40.0)])
def test_cells_miss_nobody_where_they_fit_the_arena_exactly(size):
    """At the default parameters, whose reaches divide some of these sizes, up to rounding."""
    count, transition = (100 if min(size) < 10 else 200), []
    for search in ("dense", "grid"):
        env = Swarm(SwarmSpec(count, neighbour_search=search, on_goal="respawn"), Open(size=size))
        engine = make_engine(env, 2, env.resolve_params(goal_radius=1.0), "numba")
        rng, seen = np.random.default_rng(0), [engine.reset(SEED).copy()]
        seen += [engine.step(rng.uniform(0, 1, (2, count, 2))).obs.copy() for _ in range(8)]
        transition.append(np.stack(seen))
    assert np.any(transition[0][..., :32] < 1)
    np.testing.assert_allclose(transition[1], transition[0], atol=1e-5)


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
        transition = engine.step(action)
    arrays = {name: getattr(transition, name).ctypes.data for name in vars(transition)}
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(100):
            transition = engine.step(action)
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2_000
    assert peak - before < 20_000
    assert arrays == {name: getattr(transition, name).ctypes.data for name in vars(transition)}


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
    turned = state.replace(heading=state.heading + np.float32(1), over=np.array([True, False]))
    engine.state = turned
    seen = engine.observe().copy()
    engine.state = turned.replace(over=np.zeros(2, bool))
    np.testing.assert_array_equal(engine.observe(), seen)


def test_only_the_worlds_that_are_over_are_reset():
    engine = small_engine()
    engine.params = engine.params.replace(max_steps=np.array([3, 5]))
    clocks = []
    for _ in range(10):
        over = engine.step(np.zeros((2, 3, 2))).over.copy()
        clocks.append(engine.state.step)
        np.testing.assert_array_equal(over, clocks[-1] == 0)
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
