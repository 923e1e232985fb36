"""The contact promise: crowds that press, in any arena and with any step, never overlap and never pass a wall."""

import dataclasses

import numpy as np
import pytest
from helpers import reference
from helpers.worlds import ENGINES, RADIUS, SLOTS, crowded_world, make_world, numpy_tree, random_world, stack

from benchmarks import crowds
from benchmarks.crowds import Crowd, Run, least_gap
from entropy_env import Swarm, SwarmSpec, make_engine
from entropy_env.geometry import separation_capsule
from entropy_env.physics import LEAST_GAP, UNIT
from entropy_env.scenarios.custom import Custom

DRIVES = ("kinematic", "force")
CORNER = (1.0, 1.0)  # where float32 is coarsest
SPEC = SwarmSpec(num_agents=12, num_rays=1, on_goal="next_goal", num_goals=2, **SLOTS)
CHOSEN = ("far", "wedge/0.1", "dt/3", "gap")
PRESSED = {crowd.name: crowd for crowd in crowds.handmade() if crowd.name.startswith(CHOSEN)}


def stacked(state):
    """One world as a batch, NumPy."""
    return numpy_tree(stack([state]))


def gaps(state):
    """(E, N, N) m between robots, in float64; those with themselves are infinite."""
    position = state.position.astype(np.float64)
    apart = np.linalg.norm(position[:, :, None] - position[:, None], axis=-1) - 2 * RADIUS
    return np.where(np.eye(position.shape[1], dtype=bool), np.inf, apart)


def press(crowd, engine, drive, steps, num_worlds=2):
    run = Run(crowd, engine, drive, num_worlds)
    for _ in range(steps):
        run.step()
    return run


@pytest.mark.parametrize("drive", DRIVES)
@pytest.mark.parametrize("on_goal", ["next_goal", "respawn"])
def test_a_corner_full_of_robots_does_not_collapse(drive, on_goal):
    crowd = Crowd("corner", 100, CORNER, difficulty=4, spec={"on_goal": on_goal})
    run = press(crowd, "numba", drive, steps=300, num_worlds=4)
    assert run.worst_gap >= 0


@pytest.mark.parametrize("drive", ["kinematic", pytest.param("force", marks=pytest.mark.slow)])
def test_a_corner_full_of_robots_does_not_collapse_in_jax(drive):
    crowd = dataclasses.replace(PRESSED["far corner/253 m"], num_agents=49)
    crowd = dataclasses.replace(crowd, layout=dict(crowd.layout) | {"spawns": crowd.layout["spawns"][:49]})
    assert press(crowd, "jax", drive, steps=150).worst_gap >= 0


@pytest.mark.parametrize("drive", DRIVES)
@pytest.mark.parametrize("name", PRESSED)
def test_nothing_presses_robots_into_each_other(name, drive):
    run = press(PRESSED[name], "numba", drive, steps=150)
    assert run.worst_gap >= 0
    assert run.passed == 0


@pytest.mark.parametrize("engine", ["numba", pytest.param("jax", marks=pytest.mark.slow)])
def test_thin_robots_do_not_pass_thin_walls(engine):
    run = press(crowds.thin_walls(), engine, "kinematic", steps=400, num_worlds=4)
    assert run.worst_gap >= 0
    assert run.passed == 0


@pytest.mark.parametrize("drive", DRIVES)
def test_a_crush_whose_motors_are_reversed_comes_apart(drive):
    run = press(Crowd("crush", 100, CORNER), "numba", drive, steps=200)
    start = run.state.position
    for _ in range(100):
        run.step(direction=-1.0)
    assert np.linalg.norm(run.state.position - start, axis=-1).min() >= 0.2
    assert run.worst_gap >= 0


@pytest.mark.parametrize("drive", DRIVES)
def test_overlaps_that_are_brought_into_a_crush_do_not_spread_and_go_when_it_eases(drive):
    run, rng = press(Crowd("crush", 50, CORNER), "numba", drive, steps=100), np.random.default_rng(0)
    state = run.state
    position = state.position + rng.normal(0, 0.03, state.position.shape) * (np.arange(50) < 10)[:, None]
    nothing = np.zeros_like(state.rounding), np.zeros_like(state.penetration)
    position = np.clip(position, RADIUS, run.size[:, None] - RADIUS).astype(np.float32)
    run.engine.state = run.state = state.replace(position=position, rounding=nothing[0], penetration=nothing[1])
    overlapping = gaps(run.state) < 0
    assert overlapping.any()
    for _ in range(100):
        run.step()
        assert not np.any((gaps(run.state) < 0) & ~overlapping)
        overlapping = gaps(run.state) < 0
    for _ in range(150):
        run.step(direction=-1.0)
    assert least_gap(run.state, run.params).min() >= 0


@pytest.mark.parametrize(
    ("engine", "drive"),
    [
        ("numba", "kinematic"),
        ("numba", "force"),
        ("jax", "kinematic"),
        pytest.param("jax", "force", marks=pytest.mark.slow),  # see `helpers.worlds.SLOW_JAX`
    ],
)
def test_robots_that_touch_come_no_nearer(engine, drive):
    """A row of robots whose surfaces are at 0 to a few float32 digits of each other, driven together and at a wall."""
    env, rng = Swarm(dataclasses.replace(SPEC, drive=drive)), np.random.default_rng(0)
    worlds = make_engine(env, 1, engine=engine, autoreset=False)
    for _ in range(5):
        x = np.float32(0.1) + np.zeros(12, np.float32)
        for i in range(1, 12):
            x[i] = np.float32(np.float64(x[i - 1]) + 2 * RADIUS)
            while np.float64(x[i]) - np.float64(x[i - 1]) < 2 * RADIUS:
                x[i] = np.nextafter(x[i], np.float32(10))
        x = np.minimum(x, np.float32(7.9))
        heading = rng.choice([0.0, np.pi, 0.3, -2.0], 12)
        state = make_world(env, np.stack([x, np.full(12, 3.0)], axis=-1), heading)
        worlds.state = stacked(state)
        before = least_gap(worlds.state, worlds.params)[0]
        assert before >= 0
        for _ in range(50):
            worlds.step(rng.uniform(-0.2, 1.0, (1, 12, 2)))
            gap = least_gap(worlds.state, worlds.params)[0]
            assert gap >= min(before, LEAST_GAP)
            before = gap


@pytest.mark.parametrize("gap", [-1e-6, 5e-8, 1e-6])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_robot_comes_back_only_where_a_gap_is_left(engine, gap):
    env = Swarm(SwarmSpec(num_agents=2, num_rays=1, on_goal="respawn", num_goals=1), Custom())
    x = np.float32(1 + 2 * RADIUS + gap)
    exact = np.float64(x) - 1 - 2 * RADIUS
    state = make_world(env, [[1, 1], [x, 1]], active=[True, False])
    worlds = make_engine(env, 1, engine=engine, autoreset=False)
    worlds.state = stacked(state)
    assert worlds.step(np.zeros((1, 2, 2))).active[0].tolist() == [True, exact >= 5e-7]


def test_robots_too_thin_for_their_speed_are_refused_by_name():
    env = Swarm(SwarmSpec(substeps=1))
    thin = {"agent_radius": 0.001, "wall_half_thickness": 0.0, "wheel_base": 0.002}
    env.make_params(dt=0.1, **thin)
    with pytest.raises(
        ValueError, match=r"agent_radius=0.001 plus wall_half_thickness=0.0 is 0.001 m and must be at least"
    ):
        env.make_params(dt=10.0, max_wheel_speed=10.0, **thin)
    env.make_params(dt=10.0, max_wheel_speed=10.0, **thin | {"wall_half_thickness": 0.05})


@pytest.mark.parametrize("engine", ENGINES)
def test_each_pair_that_touches_keeps_its_gap(engine):
    """A block of robots at gaps of 0 to 2e-7 m that all drive to its middle, pair by pair."""
    env, rng = Swarm(SPEC), np.random.default_rng(1)
    worlds = make_engine(env, 1, engine=engine, autoreset=False)
    step, position = 2 * RADIUS + 1e-7, np.zeros((12, 2), np.float32)
    for i in range(12):
        position[i] = 3 + step * (i % 4), 2 + step * (i // 4)
    worlds.state = stacked(make_world(env, position, rng.uniform(-np.pi, np.pi, 12)))
    before = gaps(worlds.state)
    assert before.min() >= 0
    for _ in range(50):
        worlds.step(rng.uniform(-1, 1, (1, 12, 2)))
        after = gaps(worlds.state)
        assert np.all(after >= np.minimum(before, LEAST_GAP))
        before = after


@pytest.mark.parametrize("seed", range(3))
def test_the_gaps_that_are_looked_at_are_those_of_the_slow_reference(seed):
    env, rng = Swarm(SPEC), np.random.default_rng(seed)
    for state in (random_world(env, rng), crowded_world(env, rng)):
        world, points = reference.world(state.layout, float(np.float32(0.05))), np.asarray(state.position, np.float64)
        active = np.asarray(state.active)
        fixed = reference.fixed_gap(points, world, RADIUS)[active].min()
        expected = min(fixed, reference.agent_gap(points, active, RADIUS)[active].min())
        np.testing.assert_allclose(least_gap(stacked(state), env.make_params())[0], expected, atol=1e-12)


def test_a_move_through_a_wall_is_seen():
    walls = np.array([[[1.0, 0.0], [1.0, 2.0]]])
    before, after = np.array([[0.9, 1.0], [0.9, 1.9], [0.9, 2.2]]), np.array([[1.1, 1.0], [1.1, 1.9], [1.1, 2.2]])
    moved = np.ones(3, bool)
    assert crowds._passes(before, after, moved, walls, 0.0) == 2
    assert crowds._passes(before, after, moved, walls, 0.2) == 1
    assert crowds._passes(before, before, moved, walls, 0.0) == 0


def test_the_normal_of_a_long_thin_wall_is_its_own_and_the_gap_is_within_its_bound():
    """Points 1 mm beside slanted walls of up to 1,000 m, where an offset's difference would tilt the normal."""
    rng = np.random.default_rng(0)
    for size in (8.0, 1000.0):
        start, end = rng.uniform(0, size, (2, 500, 2)).astype(np.float32)
        axis = (end - start).astype(np.float64)
        axis /= np.linalg.norm(axis, axis=-1, keepdims=True)
        across = np.stack([-axis[:, 1], axis[:, 0]], axis=-1) * rng.choice([-1, 1], 500)[:, None]
        point = (start + rng.uniform(0.05, 0.95, (500, 1)) * (end - start) + 1e-3 * across).astype(np.float32)
        gap, nx, ny = separation_capsule(tuple(point.T), tuple(start.T), tuple(end.T), 0.0)
        normal = -across * np.sign(np.sum((point - start.astype(np.float64)) * across, axis=-1))[:, None]
        np.testing.assert_allclose(np.stack([nx, ny], axis=-1), normal, atol=1e-6)
        exact = np.abs(np.sum((point.astype(np.float64) - start) * across, axis=-1))
        assert np.max(np.abs(np.asarray(gap) - exact)) < 8 * UNIT * size
