"""What every family of layouts promises, and what is particular to each."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.compilation import quick_jit
from helpers.reference import agent_gap, fixed_gap, world
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.random import threefry_2x32
from scipy import ndimage, stats
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from entropy_env.env import Swarm
from entropy_env.scenarios import (
    LEVELS,
    SCENARIOS,
    Open,
    circle,
    corridor,
    crossing,
    make_scenario,
    maze,
    obstacles,
    rooms,
)
from entropy_env.scenarios.base import PACKED_BITS, Purpose, shuffle, uniforms
from entropy_env.scenarios.placement import CLEARANCE, PITCH, TOLERANCE, jitter, van_der_corput
from entropy_env.scenarios.roaming import Roaming, free_cells
from entropy_env.types import SwarmParams, SwarmSpec

pytestmark = pytest.mark.core

FAMILIES = tuple(SCENARIOS)
GOING = tuple(
    name for name in FAMILIES if name != "lookout"
)  # families in which every robot has a goal and goes on after it
ROAMING = tuple(name for name, family in SCENARIOS.items() if issubclass(family, Roaming))
PARAMS = SwarmParams()
ROBOT = PARAMS.agent_radius
HARD = 4
SEEDS = st.integers(0, 2**32 - 1)
ROUNDING = 1e-5  # m


@functools.cache
def drawer(family, num_agents=10, difficulty=HARD, on_goal="respawn"):
    """A compiled function from keys and per-world difficulty, radius and wall thickness to a batch of layouts."""
    ending = {"on_goal": on_goal} if family != "lookout" else {"num_goals": {"terminate": 1, "respawn": 8}[on_goal]}
    env = Swarm(SwarmSpec(num_agents=10, **ending), family, difficulty)
    spec = dataclasses.replace(env.spec, num_agents=num_agents)

    def draw(key, level, radius, half_thickness):
        params = env.make_params(difficulty=level, agent_radius=radius, wall_half_thickness=half_thickness)
        return env.scenario.generate(key, spec, params)

    return quick_jit(jax.vmap(draw))


def layouts(draw, seed, levels, radius=ROBOT, half_thickness=0.05):
    """A list of NumPy layouts, one for each of `levels`, drawn four at a time so that `draw` compiles once."""
    levels = np.asarray(levels, np.int32).reshape(-1, 4)
    keys = jax.random.split(jax.random.key(seed), levels.shape)
    sizes = np.full(4, radius, np.float32), np.full(4, half_thickness, np.float32)
    batches = [jax.tree.map(np.asarray, draw(key, level, *sizes)) for key, level in zip(keys, levels, strict=True)]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], batch) for batch in batches for i in range(4)]


def check_placement(layout, radius=ROBOT, scouts=0):
    """Everything is finite, and every column of spawns and of goals is clear; poses lead somewhere else.

    scouts: of the first robots poses need lead nowhere.
    """
    assert layout.valid
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(layout))
    spawns, goals = layout.spawns[..., :2].astype(float), layout.goals.astype(float)
    assert np.all(np.abs(layout.spawns[..., 2]) <= np.pi + 1e-6)
    for points in (spawns, goals):
        assert np.min(fixed_gap(points, world(layout), radius)) >= CLEARANCE - ROUNDING
        columns = points.swapaxes(0, 1)
        assert np.min(agent_gap(columns, np.ones(columns.shape[:-1], bool), radius)) >= CLEARANCE - ROUNDING
    assert np.min(np.linalg.norm(goals - spawns, axis=-1)[scouts:]) >= 2 * radius + CLEARANCE - ROUNDING


def free_grid(layout, step, radius=ROBOT):
    """(X, Y) bool: where the centre of a robot may be, on points `step` m apart from the corner on."""
    axes = [np.arange(int(length / step + 1e-6) + 1) * step for length in layout.size.astype(float)]
    return fixed_gap(np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1), world(layout), radius) >= 0


def regions(layout, step=0.07):
    """A function from points (M, 2) m to the numbers (M,) of the connected free regions they lie in, 0 for none."""
    region, _ = ndimage.label(free_grid(layout, step))
    return lambda points: region[tuple(np.rint(points / step).astype(int).T)]


def nearest_free(points, free, step):
    """(M,) indices into the flat grid. points: (M, 2) m, on free ground."""
    candidates = np.argwhere(free)
    nearest = np.argmin(np.linalg.norm(candidates * step - points[:, None], axis=-1), axis=1)
    return np.ravel_multi_index(candidates[nearest].T, free.shape)


def detours(layout, step=0.14):
    """(N,) m: the shortest ways from the first spawns to their goals, along a grid and its diagonals."""
    free = free_grid(layout, step)
    index = np.arange(free.size).reshape(free.shape)
    edges = []
    for dx, dy in ((1, 0), (0, 1), (1, 1), (1, -1)):
        here = (slice(0, free.shape[0] - dx), slice(max(-dy, 0), free.shape[1] - max(dy, 0)))
        there = (slice(dx, None), slice(max(dy, 0), free.shape[1] + min(dy, 0)))
        open_ = free[here] & free[there]
        edges.append((index[here][open_], index[there][open_], np.full(open_.sum(), step * np.hypot(dx, dy))))
    start, end, length = (np.concatenate(part) for part in zip(*edges, strict=True))
    graph = csr_array((length, (start, end)), shape=(free.size, free.size))
    spawns, goals = (nearest_free(points[:, 0, :2], free, step) for points in (layout.spawns, layout.goals))
    return dijkstra(graph, directed=False, indices=spawns)[np.arange(len(spawns)), goals]


def scouts_of(family, num_agents):
    return num_agents // 2 if family == "lookout" else 0


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=SEEDS)
def test_ten_agents_stand_clear_at_every_difficulty(family, seed):
    for layout in layouts(drawer(family), seed, LEVELS * 4):
        check_placement(layout, scouts=scouts_of(family, 10))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_goal_can_be_reached_from_its_spawn(family):
    for layout in layouts(drawer(family), 1, LEVELS * 3):
        region = regions(layout)
        spawn, goal = (region(points[..., :2].reshape(-1, 2)) for points in (layout.spawns, layout.goals))
        assert np.all(spawn > 0)
        assert np.array_equal(spawn, goal)


@pytest.mark.parametrize("family", GOING)  # the limit of the other is exact, and tested with it
def test_the_time_limit_leaves_a_lone_robot_a_quarter_to_spare(family):
    limits = make_scenario(family).max_steps
    for level, layout in zip(LEVELS, layouts(drawer(family), 2, LEVELS), strict=True):
        steps = np.max(detours(layout)) / (PARAMS.max_wheel_speed * PARAMS.dt)
        assert np.isfinite(steps)
        assert 1.25 * steps <= limits[level - 1]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_as_many_fit_as_promised_and_one_more_is_refused(family, level):
    scenario = make_scenario(family, level)
    capacity = scenario.capacity(level, PARAMS)
    assert capacity >= 10
    for layout in layouts(drawer(family, capacity, level, "terminate"), 3, [level] * 4):
        check_placement(layout, scouts=scouts_of(family, capacity))
    more = capacity + (2 if family in ("relay", "lookout") else 1)  # these refuse odd numbers
    with pytest.raises(ValueError, match=f"at most {capacity} fit"):
        Swarm(SwarmSpec(num_agents=more), family, level)


@pytest.mark.parametrize("family", ROAMING)
@given(seed=SEEDS)
def test_capacity_is_a_lower_bound_for_every_key_and_size_of_robot(family, seed):
    keys = jax.random.split(jax.random.key(seed), 4 * len(RADII))
    levels, radii = np.repeat(LEVELS, len(RADII)), np.tile(RADII, 4)
    counts = free_cell_counter(family)(keys, jnp.asarray(levels, jnp.int32), jnp.asarray(radii, jnp.float32))
    scenario = make_scenario(family, HARD)
    for level, radius, count in zip(levels, radii, np.asarray(counts), strict=True):
        assert scenario.capacity(level, SwarmParams(agent_radius=float(radius))) <= count


RADII = (0.05, 0.1, 0.14, 0.17, 0.22)  # m


@functools.cache
def free_cell_counter(family):
    scenario = make_scenario(family, HARD)
    spec = Swarm(scenario=family, difficulty=HARD).spec

    def count(key, level, radius):
        params = SwarmParams(difficulty=level, agent_radius=radius)
        u = uniforms(key, {Purpose.ARENA: (1,)} | scenario.arena_shapes())
        layout = scenario.arena(u, spec, params)
        room = free_cells(layout, scenario.spacing(params), scenario.largest(scenario.sizes), params)[1]
        return jnp.sum(room >= -TOLERANCE)

    return quick_jit(jax.vmap(count))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_robot_too_large_for_the_cells_fits_nowhere(family):
    scenario = make_scenario(family, HARD)
    assert [scenario.capacity(level, SwarmParams(agent_radius=0.6)) for level in LEVELS] == [0] * 4
    assert not any(layout.valid for layout in layouts(drawer(family), 4, LEVELS, radius=0.6))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_difficulty_beyond_the_sized_range_is_invalid(family):
    drawn = layouts(drawer(family), 5, (0, 1, HARD, HARD + 1))
    assert [bool(layout.valid) for layout in drawn] == [False, True, True, False]


@pytest.mark.parametrize("family", FAMILIES)
def test_worlds_of_different_difficulty_share_one_compiled_batch(family):
    draw = drawer(family)
    mixed = layouts(draw, 6, LEVELS)
    compiled = draw._cache_size()
    for level, layout in zip(LEVELS, mixed, strict=True):
        alone = layouts(draw, 6, [level] * 4)[level - 1]
        assert all(map(np.array_equal, jax.tree.leaves(alone), jax.tree.leaves(layout)))
    assert draw._cache_size() == compiled
    arenas = {(*layout.size.tolist(), *(int(m.sum()) for m in masks(layout))) for layout in mixed}
    assert len(arenas) == 4 or family in ("crossing", "relay")


def masks(layout):
    return layout.wall_mask, layout.box_mask, layout.disc_mask


@pytest.mark.parametrize("family", FAMILIES)
def test_the_key_decides_the_layout(family):
    first, again, other = (layouts(drawer(family), seed, LEVELS) for seed in (7, 7, 8))
    for a, b, c in zip(first, again, other, strict=True):
        assert all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))
        assert not np.any(np.all(np.isclose(a.spawns, c.spawns), axis=-1))


@pytest.mark.parametrize("family", [name for name in GOING if name not in ("circle", "curriculum")])
def test_an_agents_places_are_far_enough_apart_to_be_reached_one_by_one(family):
    for layout in layouts(drawer(family), 9, LEVELS):
        places = np.concatenate([layout.spawns[..., :2], layout.goals], axis=1).astype(float)
        assert np.min(agent_gap(places, np.ones(places.shape[:-1], bool), ROBOT)) >= CLEARANCE - ROUNDING


def test_reset_starts_robots_on_their_first_spawns_out_of_contact():
    env = Swarm(SwarmSpec(num_agents=10), "obstacles", HARD)
    reset = quick_jit(jax.vmap(env.reset, (0, None)))
    obs, state = reset(jax.random.split(jax.random.key(0), 16), env.make_params())
    assert np.all(np.isfinite(obs))
    assert np.min(obs[..., env.spec.slice("lidar")]) * PARAMS.lidar_range >= CLEARANCE - ROUNDING
    assert np.array_equal(state.position, state.layout.spawns[:, :, 0, :2])


def test_obstacles_leave_a_gap_between_each_other_and_to_the_border():
    for level, layout in zip(LEVELS * 8, layouts(drawer("obstacles"), 10, LEVELS * 8), strict=True):
        discs = layout.discs[layout.disc_mask].astype(float)
        boxes = layout.boxes[layout.box_mask].astype(float)
        assert len(discs) + len(boxes) == obstacles.COUNTS[level - 1]
        centre = np.concatenate([boxes[:, :2], discs[:, :2]])
        half = np.concatenate([boxes[:, 2:], np.zeros((len(discs), 2))])
        radius = np.concatenate([np.zeros(len(boxes)), discs[:, 2]])
        sides = np.maximum(np.abs(centre[:, None] - centre) - half[:, None] - half, 0)
        gap = np.linalg.norm(sides, axis=-1) - radius[:, None] - radius
        assert np.min(gap[~np.eye(len(gap), dtype=bool)]) >= 0.6 - ROUNDING
        reach = half + radius[:, None]
        assert np.min([centre - reach, layout.size - centre - reach]) >= 0.6 - ROUNDING
        assert obstacles.SMALLEST - ROUNDING <= np.min(reach) <= np.max(reach) <= obstacles.LARGEST + ROUNDING


@pytest.mark.parametrize("half_thickness", [0.02, 0.05, 0.1])
def test_doors_are_one_metre_wide_and_clear_of_corners(half_thickness):
    extra = {level: [] for level in LEVELS}
    drawn = layouts(drawer("rooms"), 11, LEVELS * 8, half_thickness=half_thickness)
    for level, layout in zip(LEVELS * 8, drawn, strict=True):
        grid = rooms.GRIDS[level - 1]
        walls = layout.walls[layout.wall_mask].astype(float)
        doors = 0
        for axis in (0, 1):
            across, along = walls[..., 1 - axis], walls[..., axis]
            pitch = layout.size / grid
            for line in range(1, grid[1 - axis]):
                pieces = along[np.all(np.isclose(across, line * pitch[1 - axis], atol=1e-4), axis=1)]
                pieces = pieces[np.argsort(pieces[:, 0])]
                assert np.allclose([pieces[0, 0], pieces[-1, 1]], [0, layout.size[axis]])
                openings = np.stack([pieces[:-1, 1] + half_thickness, pieces[1:, 0] - half_thickness], axis=1)
                openings = openings[openings[:, 1] > openings[:, 0]]
                doors += len(openings)
                assert np.allclose(openings[:, 1] - openings[:, 0], 1.0, atol=ROUNDING)
                corner = np.abs(openings[:, :, None] - np.arange(grid[axis] + 1) * pitch[axis]) - half_thickness
                assert np.min(corner, initial=np.inf) >= rooms.CORNER - ROUNDING
        extra[level].append(doors - (grid[0] * grid[1] - 1))
    assert all(min(counts) >= 0 for counts in extra.values())
    assert max(extra[1]) > 0


def test_exactly_one_way_leads_through_a_maze():
    for level, layout in zip(LEVELS * 8, layouts(drawer("maze"), 12, LEVELS * 8), strict=True):
        columns, rows = maze.GRIDS[level - 1]
        pitch = maze.PITCHES[level - 1]
        walls = layout.walls[layout.wall_mask] / pitch
        assert np.allclose(walls, np.rint(walls), atol=1e-5)
        assert len(np.unique(np.rint(walls), axis=0)) == len(walls) == (columns - 1) * (rows - 1)
        middles = (np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2) + 0.5) * pitch
        assert len(np.unique(regions(layout)(middles))) == 1


def test_a_corridor_lets_one_robot_through_and_not_two_abreast():
    for radius in (0.06, 0.1, 0.15):
        drawn = layouts(drawer("corridor"), 13, LEVELS * 4, radius=radius)
        for level, layout in zip(LEVELS * 4, drawn, strict=True):
            assert layout.valid
            (x, y, half_width, half_height), above = layout.boxes.astype(float)
            room, height = corridor.ROOM
            for box in ((x, y, half_width), above[:3]):
                assert np.allclose([box[0] - box[2], box[0] + box[2]], [room, layout.size[0] - room], atol=ROUNDING)
            assert np.isclose(2 * half_width, corridor.Corridor.lengths[level - 1])
            assert np.allclose([y - half_height, above[1] + above[3]], [0, height])
            clear = (above[1] - above[3]) - (y + half_height)
            assert 2 * radius + 0.01 < clear < 4 * radius - 0.01


def test_robots_of_a_corridor_change_sides_and_either_room_holds_them_all():
    for layout in layouts(drawer("corridor"), 14, LEVELS * 4):
        right = layout.size[0] - corridor.ROOM[0]
        spawn_left, goal_left = layout.spawns[..., 0] < corridor.ROOM[0], layout.goals[..., 0] < corridor.ROOM[0]
        spawn_right, goal_right = layout.spawns[..., 0] > right, layout.goals[..., 0] > right
        assert np.all(spawn_left ^ spawn_right)
        assert np.array_equal([spawn_left, spawn_right], [goal_right, goal_left])
        assert np.all(np.sum(spawn_left, axis=0) == 5)
        assert np.array_equal(goal_left[:, :-1], spawn_left[:, 1:])  # a robot that comes back starts where it got to
    scenario = make_scenario("corridor")
    assert scenario.capacity(1, PARAMS) * (2 * ROBOT + CLEARANCE) ** 2 < corridor.ROOM[0] * corridor.ROOM[1]


def test_a_corridor_leaves_time_for_ten_robots_to_pass_one_after_the_other():
    (width, height), scenario = corridor.ROOM, make_scenario("corridor")
    for length, offset, limit in zip(
        corridor.Corridor.lengths, corridor.Corridor.offsets, scenario.max_steps, strict=True
    ):
        approach = 2 * np.hypot(width, height / 2 + offset)
        metres = 10 * (length + 0.6) + approach + length
        assert 1.25 * metres / (PARAMS.max_wheel_speed * PARAMS.dt) <= limit


def test_streams_cross_from_one_side_to_the_opposite_one():
    sides = {1: {0, 1}, 2: {0, 2}, 3: {0, 1, 2, 3}, 4: {0, 1, 2, 3}}
    for level, layout in zip(LEVELS * 4, layouts(drawer("crossing"), 15, LEVELS * 4), strict=True):
        spawn, goal = (nearest_side(points, layout.size) for points in (layout.spawns[..., :2], layout.goals))
        assert np.array_equal(spawn ^ 1, goal)
        assert set(spawn[:, 0].tolist()) == sides[level]
        assert np.array_equal(spawn[:, 0], goal[:, 1])
        for points in (layout.spawns[..., :2], layout.goals):
            assert np.max(np.min([points, layout.size - points], axis=(0, 3))) < crossing.DEPTHS[level - 1]


def nearest_side(points, size):
    """0 left, 1 right, 2 bottom, 3 top."""
    distance = [points[..., 0], size[0] - points[..., 0], points[..., 1], size[1] - points[..., 1]]
    return np.argmin(distance, axis=0)


def test_robots_of_a_circle_swap_with_the_point_opposite():
    for level, layout in zip(LEVELS * 4, layouts(drawer("circle"), 16, LEVELS * 4), strict=True):
        offset = layout.spawns[..., :2] - layout.size / 2
        assert np.allclose(np.linalg.norm(offset, axis=-1), circle.RADII[level - 1], atol=ROUNDING)
        assert np.allclose(layout.goals - layout.size / 2, -offset, atol=ROUNDING)
        inward = np.arctan2(-offset[..., 1], -offset[..., 0])
        turned = np.angle(np.exp(1j * (layout.spawns[..., 2] - inward)))
        assert np.max(np.abs(turned)) <= circle.HEADING_SPREAD + 1e-4
        assert np.allclose(layout.spawns[:, 1, :2], layout.goals[:, 0], atol=ROUNDING)


@given(seed=SEEDS)
def test_a_curriculum_begins_with_nearby_goals(seed):
    for layout in layouts(drawer("curriculum"), seed, [1] * 16):
        every_goal_of_every_pose = layout.spawns[:, :, None, :2].astype(float) - layout.goals[:, None]
        distance = np.linalg.norm(every_goal_of_every_pose, axis=-1)
        assert 0.5 - ROUNDING <= np.min(distance) <= np.max(distance) <= 2
        step = np.linalg.norm(np.roll(layout.goals, 1, axis=1) - layout.goals, axis=-1)
        assert 0.5 - ROUNDING <= np.min(step) <= np.max(step) <= 2


def test_a_curriculum_goes_on_to_obstacles_rooms_and_mazes():
    levels = [2, 3] + [4] * 14
    drawn = layouts(drawer("curriculum"), 17, levels)
    assert [mask.sum() for mask in masks(drawn[0])] == [0, 0, 0]
    assert [mask.sum() for mask in masks(drawn[1])] == [0, 8, 8]
    last = {(*layout.size.tolist(), *(int(mask.sum()) for mask in masks(layout))) for layout in drawn[2:]}
    assert last == {(10.5, 7.0, 10, 0, 0), (7.5, 6.0, 12, 0, 0)}


def test_a_family_only_asks_for_the_slots_of_its_own_difficulty():
    assert make_scenario("rooms").slots() == {"num_walls": 6}
    assert make_scenario("maze").slots() == {"num_walls": 6}
    assert make_scenario("curriculum", 2).slots() == {}
    assert make_scenario("curriculum", 3).slots() == {"num_boxes": 8, "num_discs": 8}


def test_an_unknown_family_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="did you mean 'rooms'"):
        make_scenario("room")
    with pytest.raises(ValueError, match="difficulty=5"):
        make_scenario("rooms", 5)


@pytest.mark.parametrize("size", [(20.0, 15.0), (7.7, 5.2), (0.5, 30.0)])
def test_an_open_arena_of_any_size_is_that_large_at_every_difficulty_and_holds_what_it_promises(size):
    scenario = Open(HARD, size=size)
    capacity = scenario.capacity(1, PARAMS)
    assert capacity == int(size[0] / 0.5) * int(size[1] / 0.5)
    for layout in layouts(drawer(scenario, capacity, HARD, "terminate"), 18, LEVELS):
        assert np.array_equal(layout.size, np.float32(size))
        check_placement(layout)
    with pytest.raises(ValueError, match=rf"at most {capacity} fit; .*Open\(size="):
        Swarm(SwarmSpec(capacity + 1), scenario)


def test_a_crowd_too_large_for_a_family_hears_of_larger_arenas_where_there_are_any():
    with pytest.raises(ValueError, match=r"at most 192 fit; .*Open\(size=\(width, height\)\)"):
        Swarm(SwarmSpec(10_000))
    with pytest.raises(ValueError, match=r"fit$"):
        Swarm(SwarmSpec(10_000), "rooms")
    with pytest.raises(ValueError, match=r"at most 0 fit$"):
        Swarm(SwarmSpec(10)).make_params(agent_radius=0.6)


@functools.cache
def ten_thousand():
    """A layout of 10,000 robots in 253 x 190 m."""
    env = Swarm(SwarmSpec(10_000, on_goal="respawn"), Open(size=(253, 190)))
    return jax.tree.map(np.asarray, jax.jit(env.generate)(jax.random.key(19), env.make_params()))


def test_ten_thousand_robots_stand_clear_in_a_large_arena():
    layout, rounding = ten_thousand(), 1e-4  # m: float32 is coarser this far from the origin
    assert layout.valid
    for points in (layout.spawns[..., :2].astype(float), layout.goals.astype(float)):
        assert np.min([points, layout.size - points]) >= ROBOT + CLEARANCE - rounding
        for column in points.swapaxes(0, 1):
            nearest = cKDTree(column).query(column, 2)[0][:, 1]
            assert np.min(nearest) >= 2 * ROBOT + CLEARANCE - rounding


def test_ten_thousand_robots_are_spread_evenly_and_in_no_order():
    layout = ten_thousand()
    for points in (layout.spawns[..., :2], layout.goals):
        for column in points.swapaxes(0, 1):
            counts, _, _ = np.histogram2d(*column.T, bins=(11, 10), range=[(0, 253), (0, 190)])
            assert stats.chisquare(counts.ravel()).pvalue > 1e-3
            assert np.mean(np.diff(column, axis=0) > 0, axis=0) == pytest.approx(0.5, abs=0.015)  # 5 deviations
    assert np.abs(stats.pearsonr(layout.spawns[:, 0, :2], layout.goals[:, 0]).statistic).max() < 0.05


@pytest.mark.parametrize("size", [2**PACKED_BITS, 2**PACKED_BITS + 1])
def test_a_shuffle_goes_by_score_with_the_chosen_ones_first(size):
    score, chosen = np.random.default_rng(0).permutation(size) / size, np.arange(size) % 3 > 0
    order = np.asarray(shuffle(jnp.asarray(score, jnp.float32), jnp.asarray(chosen)))
    assert np.array_equal(order, np.lexsort((score, ~chosen)))


@pytest.mark.parametrize("size", [(8.0, 6.0), (60.0, 50.0), (253.0, 190.0), (0.5, 1000.0)])
def test_the_time_limit_of_a_large_arena_lets_a_robot_cross_it(size):
    limit = int(Swarm(SwarmSpec(1), Open(size=size)).make_params().max_steps)
    steps = np.hypot(*size) / (PARAMS.max_wheel_speed * PARAMS.dt)
    assert max(200, 1.25 * steps) <= limit <= max(200, 2 * steps + 1)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((8,), r"size=\(8,\) must be two numbers"),
        ((8, 6, 4), "must be two numbers"),
        (8.0, "size=8.0 must be two numbers"),
        (("wide", 6), "must be two numbers"),
        ((0.4, 6), r"size=\(0.4, 6\) must be from 0.5 to 1000 m"),
        ((8, -6), "must be from 0.5"),
        ((8, 1001), "must be from 0.5"),
        ((float("nan"), 6), "must be from 0.5"),
        ((8, float("inf")), "must be from 0.5"),
    ],
)
def test_an_impossible_size_is_shown(size, message):
    with pytest.raises(ValueError, match=message):
        Open(size=size)


def test_open_arenas_are_equal_where_their_sizes_are():
    one, other = Open(size=(20, 15)), Open(size=np.array([20.0, 15.0]))
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other, Open(), Open(1), Open(2), Open(2, size=(20, 15)), Open(size=(15, 20))}) == 5
    assert Swarm(SwarmSpec(300), one) == Swarm(SwarmSpec(300), other) != Swarm(SwarmSpec(300), Open(size=(20, 16)))


def test_an_open_arena_without_a_size_is_that_of_the_same_size():
    env = Swarm(SwarmSpec(3), "open", 2)
    layout = jax.jit(env.generate)(jax.random.key(3), env.make_params())
    assert np.allclose(layout.size, [9, 7])
    assert Open(HARD).max_steps == (200, 200, 200, 200)
    same = Swarm(SwarmSpec(3), Open(size=(9.0, 7.0)))
    given = jax.jit(same.generate)(jax.random.key(3), same.make_params())
    assert all(map(np.array_equal, jax.tree.leaves(layout), jax.tree.leaves(given)))


def present(layout):
    """What there is, without free slots."""
    bodies = [
        getattr(layout, kind)[mask] for kind, mask in zip(("walls", "boxes", "discs"), masks(layout), strict=True)
    ]
    return [*bodies, layout.size, layout.spawns, layout.goals, layout.valid]


@pytest.mark.parametrize("family", FAMILIES)
@given(seed=SEEDS)
def test_a_key_and_a_level_are_one_world_whatever_the_level_that_arrays_are_sized_for(family, seed):
    for level in LEVELS:
        exact, *larger = (layouts(drawer(family, difficulty=size), seed, [level] * 4) for size in LEVELS[level - 1 :])
        for others in larger:
            for one, other in zip(exact, others, strict=True):
                assert all(map(np.array_equal, present(one), present(other)))


@pytest.mark.parametrize("family", FAMILIES)
def test_more_goals_leave_the_first_ones_where_they_are(family):
    few, many = (layouts(drawer(family, on_goal=on_goal), 20, LEVELS * 2) for on_goal in ("terminate", "respawn"))
    for one, other in zip(few, many, strict=True):
        assert np.array_equal(one.spawns[:, 0], other.spawns[:, 0])
        assert np.array_equal(one.goals[:, 0], other.goals[:, 0])


@pytest.mark.parametrize("family", [name for name in GOING if name != "circle"])
def test_more_robots_leave_the_first_ones_where_they_are(family):
    few, many = (layouts(drawer(family, num_agents), 21, LEVELS * 2) for num_agents in (3, 10))
    for one, other in zip(few, many, strict=True):
        assert np.array_equal(one.spawns, other.spawns[:3])
        assert np.array_equal(one.goals, other.goals[:3])


@pytest.mark.optimised
@pytest.mark.parametrize("family", ["obstacles", "rooms", "circle", pytest.param("curriculum", marks=pytest.mark.slow)])
def test_code_that_is_compiled_for_speed_draws_the_same_bits(family):
    env = Swarm(SwarmSpec(num_agents=10, on_goal="respawn"), family, HARD)
    draw, keys = jax.vmap(env.generate, (0, None)), jax.random.split(jax.random.key(22), 64)
    fast, quick = jax.jit(draw), quick_jit(draw)
    for level in LEVELS:
        params = env.make_params(difficulty=level)
        assert all(map(np.array_equal, *(jax.tree.leaves(each(keys, params)) for each in (fast, quick))))


SHAPES = {Purpose.ARENA: (2,), Purpose.CELLS: (3, 4), Purpose.SPAWNS: (2, 3, 2)}
some_uniforms, threefry = jax.jit(functools.partial(uniforms, shapes=SHAPES)), jax.jit(threefry_2x32)


@given(seed=SEEDS)
def test_a_random_number_follows_from_key_purpose_and_place(seed):
    """The rule written out, one number at a time."""
    key = jax.random.key(seed, impl="threefry2x32")
    words, found = tuple(np.asarray(jax.random.key_data(key))), some_uniforms(key)
    assert found.keys() == SHAPES.keys()
    for purpose, shape in SHAPES.items():
        for place in np.ndindex(shape):
            i, j, k = (*place, 0, 0)[:3]
            counter = np.array([(purpose << 24) + i, (j << 8) + k], np.uint32)
            word = int(np.asarray(threefry(words, counter))[0])
            assert np.asarray(found[purpose])[place] == (word >> 9) / 2**23


def test_random_numbers_are_uniform_and_independent_of_each_other():
    shapes = dict.fromkeys(Purpose, (30, 20, 5))
    keys = jax.random.split(jax.random.key(23), 4)
    drawn = jax.jit(jax.vmap(lambda key: uniforms(key, shapes)))(keys)
    columns = np.concatenate([np.asarray(u).reshape(len(keys), -1) for u in drawn.values()])
    assert all(stats.kstest(column, "uniform").pvalue > 1e-4 for column in columns)
    assert np.abs(np.corrcoef(columns) - np.eye(len(columns))).max() < 5 / np.sqrt(columns.shape[1])


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys_of_every_generator_draw_worlds_of_their_own(impl):
    keys = jax.random.split(jax.random.key(24, impl=impl), 50)
    drawn = jax.jit(jax.vmap(lambda key: uniforms(key, {Purpose.CELLS: (2, 2)})[Purpose.CELLS]))(keys)
    assert len(np.unique(drawn)) == drawn.size


def test_an_open_world_follows_from_its_numbers():
    """Cells in the order of their numbers, spawns in the first of them and goals half of all cells on."""
    env = Swarm(SwarmSpec(5), "open", HARD)
    key, params = jax.random.key(25), env.make_params(difficulty=2)
    layout = quick_jit(env.generate)(key, params)
    shapes = {Purpose.CELLS: (18, 14), Purpose.SPAWNS: (1, 5, 2), Purpose.GOALS: (1, 5, 2)}
    u = jax.jit(lambda key: uniforms(key, shapes))(key)
    cells = np.argsort(np.asarray(u[Purpose.CELLS]).ravel())
    for points, first, purpose in ((layout.spawns, 0, Purpose.SPAWNS), (layout.goals, 126, Purpose.GOALS)):
        column, row = np.divmod(cells[first : first + 5], 14)
        centre = (np.stack([column, row], axis=-1) + 0.5) * PITCH
        to_border = np.minimum(centre, np.asarray(layout.size) - centre).min(axis=-1) - ROBOT - CLEARANCE
        reach = np.minimum(to_border, jitter(PARAMS))[:, None]
        expected = centre + (2 * np.asarray(u[purpose][0]) - 1) * reach
        np.testing.assert_allclose(points[:, 0, :2], expected, atol=ROUNDING)


@pytest.mark.parametrize("count", [1, 2, 6, 16, 100])
def test_shares_are_spread_evenly_however_many_there_are(count):
    shares = van_der_corput(count)
    assert np.array_equal(shares, van_der_corput(2 * count)[:count])
    size = 1 << (count - 1).bit_length()
    assert len(np.unique(np.floor(shares * size))) == count
    assert np.all(np.floor(shares[1::2] * 3) % 3 != np.floor(shares[: count // 2 * 2 : 2] * 3) % 3)


WORLDS = """
import hashlib, jax, numpy as np
from entropy_env.env import Swarm
from entropy_env.scenarios import LEVELS, SCENARIOS
from entropy_env.types import SwarmSpec
for name in SCENARIOS:
    env = Swarm(SwarmSpec(num_agents=10, on_goal="respawn" if name != "lookout" else "terminate"), name, 4)
    draw = jax.jit(jax.vmap(env.generate, (0, None)), compiler_options={"xla_backend_optimization_level": 0})
    keys = jax.random.split(jax.random.key(26), 8)
    for level in LEVELS:
        leaves = map(np.asarray, jax.tree.leaves(draw(keys, env.make_params(difficulty=level))))
        print(name, level, hashlib.sha256(b"".join(str(x.dtype).encode() + x.tobytes() for x in leaves)).hexdigest())
"""


@pytest.mark.slow
def test_sixty_four_bits_change_no_world():
    worlds = [
        subprocess.run(
            [sys.executable, "-c", WORLDS],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_ENABLE_X64": flag},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for flag in ("0", "1")
    ]
    assert len(worlds[0]) == len(FAMILIES) * len(LEVELS)
    assert worlds[0] == worlds[1]
