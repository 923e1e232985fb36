import functools

import jax
import numpy as np
import pytest
from helpers.worlds import brute_force, check_readings, make_world, random_world, stack

from entropy_env.env import Swarm
from entropy_env.types import SwarmSpec

pytestmark = pytest.mark.core

ENV = Swarm(SwarmSpec(num_agents=12, num_walls=4, num_boxes=3, num_discs=3))
RAYS, RADIUS, RANGE = ENV.spec.num_rays, 0.1, 3.0
BATCH = 16


@functools.cache
def compiled():
    return jax.jit(jax.vmap(ENV.lidar, (0, None)))


def lidar(*states, **params):
    """Readings (len(states), N, R), always compiled for BATCH worlds."""
    filled = stack([*states, *(states[0] for _ in range(BATCH - len(states)))])
    return np.asarray(compiled()(filled, ENV.make_params(**params)))[: len(states)]


def alone(position, heading=0.0, size=(40.0, 30.0), others=None, **world):
    """One agent to test, number 0; the rest are inactive, or stand where `others` says."""
    rest = np.tile(position, (12, 1)) if others is None else np.concatenate([[position], np.resize(others, (11, 2))])
    return make_world(ENV, rest, heading, size=size, active=np.arange(12) < (1 if others is None else 12), **world)


def test_lidar_matches_brute_force():
    rng = np.random.default_rng(0)
    states = [random_world(ENV, rng) for _ in range(BATCH)]
    check_readings(lidar(*states), states)


@pytest.mark.parametrize("heading", [0.0, 2.5, -3.0])
def test_ray_k_points_at_heading_plus_its_share_of_a_turn(heading):
    angle = heading + 2 * np.pi * np.arange(RAYS) / RAYS
    found = np.concatenate([
        lidar(*(alone([20, 15], heading, discs=[[20 + np.cos(a), 15 + np.sin(a), 0.05]]) for a in some))[:, 0]
        for some in np.split(angle, RAYS // BATCH)
    ])  # fmt: skip
    np.testing.assert_allclose(found, np.where(np.eye(RAYS, dtype=bool), (1 - 0.05 - RADIUS) / RANGE, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("bodies", "surface"),
    [
        ({"walls": [[[22, 14], [22, 16]]]}, 1.95),
        ({"walls": [[[22, 15], [30, 15]]]}, 1.95),
        ({"boxes": [[22.5, 15.3, 0.5, 0.4]]}, 2.0),
        ({"discs": [[22, 15, 0.3]]}, 1.7),
        ({"size": (22, 30)}, 2.0),
        ({"others": [[22, 15]]}, 1.9),
        ({}, np.inf),
    ],
    ids=["wall", "wall end on", "box", "disc", "border", "agent", "nothing"],
)
def test_lidar_sees(bodies, surface):
    found = lidar(alone([20, 15], **bodies))[0, 0]
    np.testing.assert_allclose(found[0], min((surface - RADIUS) / RANGE, 1), atol=1e-6)
    assert np.all(found[8:25] == 1), "nothing is behind"


def test_lidar_sees_neither_goals_nor_the_inactive_nor_itself():
    goal = np.tile([21.0, 15.0], (12, 1))
    ghosts = make_world(ENV, [[20, 15]] + [[21, 15]] * 11, size=(40, 30), active=np.arange(12) == 0, goal=goal)
    assert np.all(lidar(alone([20, 15], goal=goal), ghosts)[:, 0] == 1)


def test_empty_slots_are_not_seen():
    """Whatever stands in them; here bodies around (1, 1)."""
    state = alone([2.05, 2.05], np.pi / 4)
    np.testing.assert_allclose(lidar(state)[0, 0], brute_force(state)[0], atol=1e-5)


def test_an_inactive_agent_is_not_seen_but_others_behind_it_are():
    first, second = [21.0, 15.0], [22.0, 15.0]
    position = np.array([[20.0, 15.0], first, second] + [[30, 25]] * 9)
    worlds = [make_world(ENV, position, size=(40, 30), active=np.arange(12) != gone) for gone in (11, 1)]
    np.testing.assert_allclose(lidar(*worlds)[:, 0, 0], [0.8 / RANGE, 1.8 / RANGE], atol=1e-6)


def test_lidar_reads_zero_touching_and_one_at_its_range():
    gaps = np.array([0.0, 1e-3, 1.5, 2.999, 3.0, 3.5])
    found = lidar(*(alone([20, 15], discs=[[20 + RADIUS + gap + 0.3, 15, 0.3]]) for gap in gaps))[:, 0, 0]
    np.testing.assert_allclose(found, np.minimum(gaps / RANGE, 1), atol=1e-6)
    assert lidar(alone([20, 15], discs=[[20.3, 15, 0.3]]))[0, 0, 0] == 0


@pytest.mark.parametrize(("lidar_range", "agent_radius", "half_thickness"), [(1.0, 0.1, 0.02), (6.0, 0.2, 0.1)])
def test_range_and_sizes_are_parameters(lidar_range, agent_radius, half_thickness):
    state = alone([20, 15], walls=[[[20.8, 14], [20.8, 16]]], others=[[19.0, 15.0]])
    sizes = {"agent_radius": agent_radius, "wall_half_thickness": half_thickness}
    found = lidar(state, lidar_range=lidar_range, **sizes)[0, 0]
    expected = np.array([0.8 - half_thickness - agent_radius, 1.0 - 2 * agent_radius]) / lidar_range
    np.testing.assert_allclose(found[[0, RAYS // 2]], expected, atol=1e-6)


def test_rays_beside_a_wall_end_do_not_touch_it():
    """An agent in a doorway, in line with the walls on both sides, a little off their axis."""
    walls = [[[18, 15], [19.5, 15]], [[20.5, 15], [22, 15]]]
    state = alone([20.0, 15.03], 0.05, walls=walls)
    np.testing.assert_allclose(lidar(state)[0, 0], brute_force(state)[0], atol=1e-5)
    assert lidar(state)[0, 0].min() > 0.1


def test_lidar_of_one_world_equals_lidar_of_a_batch():
    state = random_world(ENV, np.random.default_rng(1))
    single = jax.jit(ENV.lidar)(state, ENV.make_params())
    np.testing.assert_allclose(single, lidar(state)[0], atol=1e-6)
