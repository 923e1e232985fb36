import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import reference
from helpers.worlds import KEY, RADIUS, check_contacts, crowded_world, make_world, stack

from entropy_env.env import Swarm
from entropy_env.physics import REST
from entropy_env.types import SwarmSpec

pytestmark = pytest.mark.core

DT, WHEEL_BASE = 0.1, 0.2
BATCH = 32
LONE = Swarm(SwarmSpec(num_agents=1, num_rays=1))
LONE_SUBSTEP = Swarm(SwarmSpec(num_agents=1, num_rays=1, substeps=1))
PAIR = Swarm(SwarmSpec(num_agents=2, num_rays=1, num_walls=1))
CROWD = Swarm(SwarmSpec(num_agents=12, num_rays=1, substeps=1, num_walls=3, num_boxes=2, num_discs=2))


@functools.cache
def compiled(env):
    def step(state, action, params):
        state = env.step(KEY(0), state, action, params)[1]
        return state, (state.position, state.heading, state.wheel_speed, state.collided)

    return jax.jit(jax.vmap(step, (0, 0, None)))


def roll(env, states, action, **params):
    """Positions (T, B, N, 2), headings, wheel speeds and collision flags. action: broadcast to (T, B, N, 2)."""
    states = states if isinstance(states, list) else [states]
    state, params = stack([*states, *(states[0] for _ in range(BATCH - len(states)))]), env.make_params(**params)
    history = []
    for motors in np.asarray(action, np.float32):
        shape = (BATCH, env.spec.num_agents, 2)
        state, seen = compiled(env)(state, jnp.asarray(np.broadcast_to(motors, shape)), params)
        history.append([np.asarray(leaf, np.float64 if leaf.dtype == jnp.float32 else bool) for leaf in seen])
    return tuple(np.stack(leaves)[:, : len(states)] for leaves in zip(*history, strict=True))


def constant(left, right, steps):
    return np.tile(np.array([[[left, right]]], np.float32), (steps, 1, 1, 1))


def lone(position=(12.0, 12.0), heading=0.0, **fields):
    return make_world(LONE, [position], heading, size=(24.0, 24.0), **fields)


def angle_between(a, b):
    return np.abs((a - b + np.pi) % (2 * np.pi) - np.pi)


def test_a_free_agent_follows_the_closed_form_arc():
    rng = np.random.default_rng(0)
    poses, motors, paths = zip(*(reference.random_arc(rng, WHEEL_BASE, DT) for _ in range(BATCH)), strict=True)
    states = [make_world(LONE, [pose[:2]], pose[2], size=(8.0, 8.0)) for pose in poses]
    position, heading, _, _ = roll(LONE, states, np.tile(np.array(motors)[None, :, None], (100, 1, 1, 1)))
    expected = np.stack(paths, axis=1)
    np.testing.assert_allclose(position[:, :, 0], expected[..., :2], atol=1e-4)
    assert np.max(angle_between(heading[:, :, 0], expected[..., 2])) < 1e-4
    assert np.all((heading > -np.pi) & (heading <= np.float32(np.pi)))
    assert np.max(np.linalg.norm(np.diff(expected[..., :2], axis=0).sum(axis=0), axis=-1)) > 4


def test_free_motion_does_not_depend_on_the_number_of_substeps():
    once, often = (roll(env, lone(), constant(1, 0.6, 20)) for env in (LONE_SUBSTEP, LONE))
    np.testing.assert_allclose(once[0], often[0], atol=1e-4)


@pytest.mark.parametrize(("motors", "twist"), [((1, 1), (0.8, 0)), ((-1, 1), (0, 8.0)), ((0, 1), (0.4, 4.0))])
def test_wheel_speed_and_base_set_speed_and_turn_rate(motors, twist):
    position, heading, wheels, _ = roll(LONE, lone(), constant(*motors, 1), max_wheel_speed=0.8, wheel_base=0.2)
    np.testing.assert_allclose(wheels[0, 0, 0], 0.8 * np.array(motors), atol=1e-6)
    np.testing.assert_allclose(heading[0, 0, 0], twist[1] * DT, atol=1e-5)
    chord = twist[0] * DT * np.sinc(twist[1] * DT / 2 / np.pi)
    np.testing.assert_allclose(np.linalg.norm(position[0, 0, 0] - 12), chord, atol=1e-5)


def test_motor_lag_is_first_order():
    motors = np.concatenate([constant(1, -0.5, 10), constant(0, 0.5, 10)])
    _, _, wheels, _ = roll(LONE, lone(), motors, motor_tau=0.3)
    rise = 1 - np.exp(-DT * np.arange(1, 11) / 0.3)
    top = rise[-1] * np.array([1, -0.5])
    expected = [rise[:, None] * [1, -0.5], top + rise[:, None] * ([0, 0.5] - top)]
    np.testing.assert_allclose(wheels[:, 0, 0], np.concatenate(expected), atol=1e-5)


def test_without_motor_lag_wheels_follow_at_once():
    _, _, wheels, _ = roll(LONE, lone(wheel_speed=[[1.0, 1.0]]), constant(-0.25, 0.75, 1))
    np.testing.assert_allclose(wheels[0, 0, 0], [-0.25, 0.75], atol=1e-7)


@pytest.mark.parametrize(
    ("given", "same_as"),
    [
        ((7.0, -3.0), (1.0, -1.0)),
        ((np.nan, 1.0), (0.0, 1.0)),
        ((np.inf, 0.5), (0.0, 0.5)),
        ((0.5, -np.inf), (0.5, 0.0)),
    ],
)
def test_actions_are_clipped_and_what_is_not_finite_is_zero(given, same_as):
    found, expected = (roll(LONE, lone(), constant(*motors, 3)) for motors in (given, same_as))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.all(np.isfinite(found[0]))


def test_contacts_match_the_written_rule():
    rng = np.random.default_rng(1)
    states = [crowded_world(CROWD, rng) for _ in range(BATCH)]
    motors = rng.uniform(-1, 1, (1, BATCH, 12, 2)).astype(np.float32)
    motors[:, :, ::2] = 1
    position, _, _, collided = roll(CROWD, states, motors, dt=0.1)
    check_contacts(states, motors[0], position[0], collided[0])


def pair(first, second, heading, wall=None, **fields):
    walls = [] if wall is None else [wall]
    return make_world(PAIR, [first, second], heading, size=(24.0, 24.0), walls=walls, **fields)


def test_collision_means_an_overlap_in_any_substep():
    """Four substeps on a tight curve under a wall that is touched at the start only, or at the end only."""
    start, motors = [12, 12 - 0.05 - RADIUS - 0.004], [[[1.0, 0.2]]]
    leaving = pair(start, [6, 6], [0.3, 0], [[4, 12], [20, 12]])
    _, heading, _, collided = roll(PAIR, leaving, motors, dt=0.4)
    assert collided[0, 0].tolist() == [True, False]
    assert heading[0, 0, 0] < -1
    end = reference.arc((0, 0, -1.0), 0.2, 1.0, WHEEL_BASE, 0.4)
    arriving = pair([12, start[1] - end[1] + 0.008], [6, 6], [-1.0, 0], [[4, 12], [20, 12]])
    _, _, _, collided = roll(PAIR, arriving, [[[0.2, 1.0]]], dt=0.4)
    assert collided[0, 0].tolist() == [True, False]


def test_two_overlapping_agents_part_by_half_each():
    position, _, _, collided = roll(PAIR, pair([12, 12], [12.18, 12], 0), constant(0, 0, 1))
    np.testing.assert_allclose(position[0, 0], [[11.99, 12], [12.19, 12]], atol=3e-5)
    assert collided.all()


def test_agents_that_meet_head_on_stop_at_contact():
    position, _, wheels, collided = roll(PAIR, pair([11.5, 12], [12.5, 12], [0, np.pi]), constant(1, 1, 10))
    np.testing.assert_allclose(position[-1, 0], [[11.9, 12], [12.1, 12]], atol=1e-4)
    assert collided[-1].all()
    assert not collided[0].any()
    np.testing.assert_allclose(wheels, 1)


def test_an_agent_stops_at_a_wall_in_front_of_it():
    position, _, _, collided = roll(PAIR, pair([11, 12], [6, 6], 0, [[12, 11], [12, 13]]), constant(1, 1, 15))
    np.testing.assert_allclose(position[-1, 0, 0], [12 - 0.05 - RADIUS, 12], atol=1e-4)
    assert collided[-1, 0].tolist() == [True, False]


def test_an_agent_slides_along_a_wall_whatever_its_angle():
    angle = np.linspace(0, 2 * np.pi, BATCH, endpoint=False) + 0.05
    states = []
    for a in angle:
        along, normal = np.array([np.cos(a), np.sin(a)]), np.array([-np.sin(a), np.cos(a)])
        states.append(pair(12 - normal * 0.16, [1, 1], [a + 0.6, 0], [12 - 6 * along, 12 + 6 * along]))
    position, _, _, _ = roll(PAIR, states, constant(1, 1, 20))
    travelled = np.linalg.norm(np.diff(position[:, :, 0], axis=0), axis=-1)
    np.testing.assert_allclose(travelled[5:], DT * np.cos(0.6), rtol=0.01)


def test_an_agent_slides_past_another_that_stands():
    position, _, _, _ = roll(
        PAIR, [pair([11, 12 + offset], [12, 12], [0, 1]) for offset in (-0.1, -0.05, 0.05, 0.1)],
        np.tile(np.array([[1, 1], [0, 0]], np.float32), (40, 1, 1, 1)),
    )  # fmt: skip
    assert np.all(position[-1, :, 0, 0] > 12.5)


def test_inactive_agents_neither_move_nor_are_touched():
    start = pair([11.7, 12], [12, 12], [0, 1], active=[True, False], wheel_speed=[[1, 1], [0.5, 0.25]])
    position, heading, wheels, collided = roll(PAIR, start, constant(1, 1, 10))
    np.testing.assert_allclose(position[:, 0, 0, 0], 11.7 + DT * np.arange(1, 11), atol=1e-4)
    np.testing.assert_array_equal(position[:, 0, 1], np.full((10, 2), 12))
    np.testing.assert_array_equal(heading[:, 0, 1], 1)
    np.testing.assert_array_equal(wheels[:, 0, 1], np.tile([0.5, 0.25], (10, 1)))
    assert not collided.any()


def test_nothing_beyond_its_reach_affects_an_agent():
    """In one substep three agents push a fourth from behind; three stand just too far in front of it, or do not."""
    angle = np.radians([60, 0, -60, -30, 0, 30])
    distance = np.where(np.arange(6) < 3, -0.201, 2 * RADIUS + 2 * DT + REST + 1e-5)
    around = distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    position = np.array([1.0, 0.9]) + np.concatenate([np.zeros((1, 2)), around, np.ones((5, 2))])
    worlds = [
        make_world(CROWD, position, [0, *angle, *[0] * 5], size=(2.4, 1.8), active=np.arange(12) < present)
        for present in (7, 4)
    ]
    moved, *_ = roll(CROWD, worlds, np.where(np.arange(12) < 4, 1.0, 0.0)[None, None, :, None], dt=DT)
    np.testing.assert_array_equal(moved[0, 0, 0], moved[0, 1, 0])
    np.testing.assert_allclose(moved[0, 0, 0], [1 + DT, 0.9], atol=1e-4)
