"""The shortest way for a robot's body, against ways worked out by hand and against a grid."""

import functools

import jax
import numpy as np
import pytest
from helpers.reference import fixed_gap, world
from helpers.worlds import KEY, numpy_tree, take
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from entropy_env.env import Swarm
from entropy_env.scenarios.custom import make_layout
from entropy_env.types import SwarmParams, SwarmSpec
from trainers.evaluation.shortest_path import _distances, shortest_paths, spl

PARAMS = SwarmParams()
ROBOT, WALL, REACH = PARAMS.agent_radius, PARAMS.wall_half_thickness, PARAMS.reach
SCENARIOS = ("obstacles", "rooms", "maze", "corridor")


def shortest(start=(2, 3), goal=(6, 3), **bodies):
    """m, for one agent in an arena of 8 x 6 m."""
    return shortest_paths(make_layout((8, 6), spawns=[start], goals=[goal], **bodies), PARAMS)[0]


def bend(leg, height, radius):
    """m, from a point over a circle, centred `leg` m away and `height` m above it, and down the same way."""
    distance = np.hypot(leg, height)
    lean = np.arctan2(height, leg) + np.arcsin(radius / distance)
    return 2 * np.sqrt(distance**2 - radius**2) + 2 * radius * lean


@functools.cache
def generated(scenario):
    """Two worlds of 10 agents and their parameters."""
    env = Swarm(SwarmSpec(num_agents=10), scenario, difficulty=3)
    params = env.make_params()
    layouts = jax.jit(jax.vmap(env.generate, (0, None)))(jax.random.split(KEY(3)), params)
    return [take(numpy_tree(layouts), index) for index in range(2)], numpy_tree(params)


def grid_paths(layout, params, pitch):
    """(N,) m, over lattice points joined with neighbours in 24 directions, ends rounded to the lattice."""
    bodies, robot = world(layout, params.wall_half_thickness), float(params.agent_radius)
    size = np.asarray(layout.size, float)
    columns, rows = (np.floor(size / pitch).astype(int) + 1).tolist()
    lattice = pitch * np.stack(np.meshgrid(np.arange(columns), np.arange(rows), indexing="ij"), -1).reshape(-1, 2)
    free = fixed_gap(lattice, bodies, robot) >= 0
    tails, heads = [], []
    for dx, dy in ((1, 0), (0, 1), *((a, s * b) for a, b in ((1, 1), (1, 2), (2, 1), (1, 3), (3, 1)) for s in (1, -1))):
        column, row = np.divmod(np.flatnonzero(free), rows)
        inside = (column + dx < columns) & (row + dy >= 0) & (row + dy < rows)
        tail = (column * rows + row)[inside]
        head = tail + dx * rows + dy
        along = np.linspace(0, 1, 4)[1:, None, None]
        steps = lattice[tail] * (1 - along) + lattice[head] * along
        clear = np.min(fixed_gap(steps, bodies, robot), axis=0) >= 0
        tails.append(tail[clear])
        heads.append(head[clear])
    tail, head = np.concatenate(tails), np.concatenate(heads)
    length = np.linalg.norm(lattice[tail] - lattice[head], axis=1)
    graph = csr_array((length, (tail, head)), shape=(len(lattice), len(lattice)))
    paths = []
    for spawn, goal in zip(layout.spawns[:, 0, :2], layout.goals[:, 0], strict=True):
        from_spawn = np.where(free, np.linalg.norm(lattice - spawn, axis=1), np.inf)
        start = np.argmin(from_spawn)
        distance = dijkstra(graph, directed=False, indices=start)
        paths.append(from_spawn[start] + distance[np.linalg.norm(lattice - goal, axis=1) < params.reach].min())
    return np.array(paths)


def test_a_clear_way_is_straight_and_ends_at_the_reach_of_the_goal():
    assert shortest() == pytest.approx(4 - REACH)
    touched = 3 + ROBOT + WALL
    assert shortest(walls=[((0, touched), (8, touched))]) == pytest.approx(4 - REACH)


def test_a_goal_within_reach_takes_no_way():
    assert shortest(goal=(2.2, 3)) == 0


@pytest.mark.parametrize("height", [0.0, 0.5, 1.5])
def test_around_the_end_of_a_wall(height):
    way = shortest(walls=[((4, 0), (4, 3 + height))])
    assert way == pytest.approx(bend(2, height, WALL + ROBOT) - REACH, abs=1e-6)


def test_around_a_disc_on_the_side_that_is_open():
    start, goal, disc = (2, 3.2), (6, 3.2), (4, 3, 1.0)
    over, under = (bend(2, height, 1.0 + ROBOT) - REACH for height in (-0.2, 0.2))
    assert shortest(start, goal, discs=[disc]) == pytest.approx(over, abs=1e-6)
    assert shortest(start, goal, discs=[disc], walls=[((4, 3), (4, 6))]) == pytest.approx(under, abs=1e-6)


def test_of_two_edges_between_the_same_nodes_the_shorter_counts():
    goal, start, one, other = 0, 1, 2, 3
    edges = ((goal, one, 1.0), (other, start, 1.0), (one, other, 5.0), (other, one, 2.0))
    tail, head, length = map(np.array, zip(*edges, strict=True))
    assert _distances(tail, head, length, count=1) == [4.0]


def test_around_the_corners_of_a_box():
    way = shortest(boxes=[(4, 3, 0.5, 1.0)])
    assert way == pytest.approx(bend(1.5, 1.0, ROBOT) + 1.0 - REACH, abs=1e-6)


def test_half_way_round_the_end_of_the_wall_beside_which_it_starts():
    beside = ROBOT + WALL
    way = shortest(start=(4, 3 + beside), goal=(2, 3 - beside), walls=[((0, 3), (6, 3))])
    assert way == pytest.approx(2 + np.pi * beside + 4 - REACH, abs=1e-6)


@pytest.mark.parametrize("clear", [0.36, 1.0])
def test_through_a_door(clear):
    edge = clear / 2 + WALL
    walls = [((4, 0), (4, 3 - edge)), ((4, 3 + edge), (4, 6))]
    assert shortest(walls=walls) == pytest.approx(4 - REACH)
    aside = bend(2, 1 - edge, WALL + ROBOT) - REACH
    assert shortest((2, 4), (6, 4), walls=walls) == pytest.approx(aside, abs=1e-6)


@pytest.mark.parametrize("clear", [0.0, 0.19])
def test_no_way_through_a_gap_narrower_than_the_robot(clear):
    edge = clear / 2 + WALL
    assert shortest(walls=[((4, 0), (4, 3 - edge)), ((4, 3 + edge), (4, 6))]) == np.inf
    assert shortest(discs=[(4, 3, 3 - clear)]) == np.inf


def test_unused_slots_are_not_in_the_way():
    layout = make_layout((8, 6), spawns=[(2, 3)], goals=[(6, 3)], walls=[((4, 0), (4, 6))], discs=[(4, 3, 1)])
    layout = layout.replace(wall_mask=np.array([False]), disc_mask=np.array([False]))
    assert shortest_paths(layout, PARAMS)[0] == pytest.approx(4 - REACH)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_way_back_is_as_long(scenario):
    layouts, params = generated(scenario)
    for layout in layouts:
        spawns = np.concatenate([layout.goals, layout.spawns[..., 2:]], axis=-1)
        back = layout.replace(spawns=spawns, goals=layout.spawns[..., :2])
        np.testing.assert_allclose(shortest_paths(layout, params), shortest_paths(back, params), atol=0.02)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_grid_finds_nothing_shorter_and_little_longer(scenario):
    (layout, _), params = generated(scenario)
    exact, grid = shortest_paths(layout, params), grid_paths(layout, params, pitch=0.06)
    assert np.all(np.isfinite(exact))
    assert np.all(exact <= grid + 0.002)
    assert np.all(grid <= 1.03 * exact + 0.1)


def test_spl_is_the_shortest_over_the_travelled_way_of_those_who_arrive():
    reached = np.array([True, True, False, True, True, False])
    possible = np.array([2.0, 3.0, 3.0, 2.0, 0.0, np.inf])
    travelled = np.array([4.0, 3.0, 3.0, 1.9, 0.0, 1.0])
    np.testing.assert_allclose(spl(reached, possible, travelled), [0.5, 1.0, 0.0, 1.0, 1.0, 0.0])
