"""What holds after every step, for any actions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st
from worlds import KEY, make_world, stack, take, wrapped

from entropy_env.env import Swarm
from entropy_env.scenarios import LEVELS, SCENARIOS
from entropy_env.types import SwarmSpec

pytestmark = pytest.mark.core

RADIUS, DT, DEPTH = 0.1, 0.1, 1e-5  # m, s, m that bodies may overlap
WORLDS = 8  # a batch; two of each difficulty
SLOTS = {
    name: max(family(max(LEVELS)).slots().get(name, 0) for family in SCENARIOS.values())
    for name in ("num_walls", "num_boxes", "num_discs")
}
SPEC = SwarmSpec(num_agents=10, num_rays=16, on_goal="next_goal", num_goals=2, **SLOTS)
ENV = Swarm(SPEC)
HUNDRED = Swarm(SwarmSpec(num_agents=100, num_rays=1, on_goal="next_goal", num_goals=1, **dict.fromkeys(SLOTS, 3)))


@functools.cache
def generator(name):
    """Starts of WORLDS worlds of a scenario, all scenarios in the same slots, so that one compiled step serves all."""
    env = Swarm(SPEC, name, difficulty=max(LEVELS))
    levels = jnp.asarray(np.resize(LEVELS, WORLDS), jnp.int32)

    def start(key, level):
        return env.start(env.generate(key, env.make_params(difficulty=level)))

    return jax.jit(lambda seed: jax.vmap(start)(jax.random.split(KEY(seed), WORLDS), levels))


@functools.cache
def chaser(env, steps):
    """Everyone drives at full speed to a point, or wildly with some probability; the history of WORLDS worlds."""

    def step(state, key, target, wild, params):
        k_wild, k_motors = jax.random.split(key)
        offset = target[None] - state.position
        turn = 3 * wrapped(jnp.arctan2(offset[:, 1], offset[:, 0]) - state.heading)
        action = jnp.clip(1 + jnp.stack([-turn, turn], axis=-1), -1, 1)
        motors = jax.random.uniform(k_motors, action.shape, minval=-2, maxval=2)
        action = jnp.where(jax.random.uniform(k_wild, action.shape[:1])[:, None] < wild, motors, action)
        return env.step(key, state, action, params)[1]

    def run(state, seed, target, wild, params):
        def advance(state, key):
            state = jax.vmap(step, (0, 0, 0, None, None))(state, jax.random.split(key, WORLDS), target, wild, params)
            return state, state.position

        return jax.lax.scan(advance, state, jax.random.split(KEY(seed), steps))

    return jax.jit(run)


def chase(env, state, where, wild=0.0, seed=0, steps=40, **params):
    """The last state, and positions (1 + steps, WORLDS, N, 2). where: (2,) or (WORLDS, 2), over the arena's size."""
    target = jnp.asarray(np.asarray(where, np.float32) * np.asarray(state.layout.size))
    last, history = chaser(env, steps)(state, seed, target, jnp.float32(wild), env.make_params(**params))
    return last, np.concatenate([state.position[None], history]).astype(np.float64)


def check_valid(layout, history, depth=DEPTH):
    """No overlap deeper than `depth` m, nobody outside, nobody through a wall, in any world at any time."""
    for i in range(history.shape[1]):
        world, path = reference.world(take(layout, i)), history[:, i]
        everyone = np.ones(path.shape[:2], bool)
        assert reference.fixed_gap(path, world, RADIUS).min() >= -depth
        assert reference.agent_gap(path, everyone, RADIUS).min() >= -depth
        assert np.all((path > 0) & (path < world.size))
        assert not reference.crossings(path[:-1], path[1:], world.walls).any()


places = st.tuples(*[st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1, width=32)] * 2)
seeds = st.integers(0, 2**16)


@pytest.mark.parametrize("name", SCENARIOS)
@given(seed=seeds, where=places, wild=st.sampled_from([0.0, 0.3, 1.0]), speed=st.sampled_from([1.0, 0.3, 3.0]))
def test_whatever_ten_agents_do_they_stay_apart_and_on_their_side_of_every_wall(name, seed, where, wild, speed):
    start = generator(name)(seed)
    assert np.all(start.layout.valid)
    last, history = chase(ENV, start, where, wild, seed, max_wheel_speed=speed)
    check_valid(start.layout, history)
    assert np.all(last.active)


def hundred(rng):
    """100 agents in a grid, with bodies to be crushed against on the right."""
    grid = np.stack(np.meshgrid(np.arange(10), np.arange(10)), axis=-1).reshape(-1, 2) * [0.35, 0.5] + [0.4, 0.6]
    bodies = {
        "walls": [[[4.5, 0], [4.5, 2]], [[4.5, 2.8], [6, 6]], [[7, 3], [7, 3]]],
        "boxes": [[5.5, 1.5, 0.4, 0.2]],
        "discs": [[4.3, 5.0, 0.3]],
    }
    return make_world(HUNDRED, grid, rng.uniform(-np.pi, np.pi, 100), **bodies)


def test_a_hundred_agents_in_one_corner_do_not_overlap():
    state = stack([hundred(np.random.default_rng(i)) for i in range(WORLDS)])
    where = [(0, 0), (1, 1), (1, 0), (0.57, 0.3), (0.5, 0.5), (0.7, 0.25), (0, 0.5), (0.55, 0.85)]
    crowded, history = chase(HUNDRED, state, where, steps=60)
    check_valid(state.layout, history)
    _, history = chase(HUNDRED, crowded, where[::-1], wild=0.5, steps=60)
    check_valid(state.layout, history)


@given(seed=seeds)
def test_a_pile_comes_apart_gradually(seed):
    """With motors all but off. Agents on one point or line have no sideways push and part ever more slowly."""
    rng = np.random.default_rng(seed)
    held = 0.25 + 0.2 * np.array([0, 1, 2, *range(10, 17)])  # m from a disc's centre: two others hold the first inside
    on_a_line = [
        np.tile([[4.0, 3.0]], (10, 1)),
        np.stack([np.linspace(3, 4, 10), np.full(10, 1.0)], axis=-1),
        np.stack([3.2 + held, np.full(10, 3.0)], axis=-1),
    ]
    scattered = [
        rng.uniform([2.7, 2.7], [3.3, 3.3], (10, 2)),
        rng.uniform([4.9, 0.9], [5.1, 1.1], (10, 2)),
        rng.uniform([1.7, 3.7], [2.3, 4.3], (10, 2)),
        rng.uniform([0, 0], [0.3, 5.9], (10, 2)),
        rng.uniform([7.9, 5.9], [8, 6], (10, 2)),
    ]
    bodies = {"walls": [[[2, 2], [2, 5]]], "boxes": [[5.0, 1.0, 0.3, 0.2]], "discs": [[3.2, 3.0, 0.3]]}
    state = stack([make_world(ENV, pile, **bodies) for pile in on_a_line + scattered])
    for _ in range(2):
        state, history = chase(ENV, state, (0, 0), max_wheel_speed=1e-7)
        assert np.max(np.linalg.norm(np.diff(history, axis=0), axis=-1)) < 0.101
    for part, depth in ((slice(3), 5e-3), (slice(3, None), 1e-4)):
        check_valid(take(state.layout, part), history[-1:, part], depth)


@functools.cache
def stepper():
    return jax.jit(jax.vmap(functools.partial(ENV.step, KEY(0)), (0, 0, None)))


@pytest.mark.parametrize("name", SCENARIOS)
@given(seed=seeds, where=places, wild=st.sampled_from([0.0, 1.0]))
def test_agents_put_anywhere_even_into_walls_never_pass_one(name, seed, where, wild):
    start = generator(name)(seed)
    anywhere = np.random.default_rng(seed).uniform(0, 1, (WORLDS, 10, 2)) * np.asarray(start.layout.size)[:, None]
    start = start.replace(position=jnp.asarray(anywhere, jnp.float32))
    _, history = chase(ENV, start, where, wild, seed)
    assert np.max(np.linalg.norm(np.diff(history, axis=0), axis=-1)) < 0.11
    for i in range(WORLDS):
        world, path = reference.world(take(start.layout, i)), history[:, i]
        assert not reference.crossings(path[:-1], path[1:], world.walls, margin=DT).any()
        assert np.all((path >= 0) & (path <= world.size))


SQUARE = {
    "size": (4.0, 4.0),
    "walls": [[[1, 1], [1, 2]], [[2.5, 3], [3.5, 2.5]]],
    "boxes": [[3, 1, 0.4, 0.2]],
    "discs": [[1.75, 3.25, 0.25]],
}
GRID = 2.0**-18  # m, positions and headings on it survive a mirror without rounding


@functools.cache
def common_states(seed):
    """A batch of worlds, the first half scattered, the rest in a crush, with motors for each, (WORLDS, 10, 2)."""
    rng = np.random.default_rng(seed)
    world = reference.world(make_world(ENV, np.zeros((10, 2)), **SQUARE).layout)
    states = []
    while len(states) < WORLDS:
        position = rng.uniform(0.2, 3.8, (10, 2))
        gaps = reference.fixed_gap(position, world, RADIUS), reference.agent_gap(position, np.ones(10, bool), RADIUS)
        if np.min(gaps) > 0.005:
            goal = rng.uniform(0.5, 3.5, (10, 2, 2))
            states.append(make_world(ENV, position, rng.uniform(-3, 3, 10), goal=goal, **SQUARE))
    state = stack(states)
    crushed, _ = chase(ENV, state, rng.uniform(0, 1, (WORLDS, 2)))
    mixed = jax.tree.map(lambda a, b: jnp.concatenate([a[: WORLDS // 2], b[WORLDS // 2 :]]), state, crushed)
    on_grid = {name: jnp.round(getattr(mixed, name) / GRID) * GRID for name in ("position", "heading")}
    return mixed.replace(**on_grid), jnp.asarray(rng.uniform(-1, 1, (WORLDS, 10, 2)), jnp.float32)


def compare(seed, transform, order=tuple(range(10)), mirrored=False, crush_tolerance=1e-3):
    """Step a world and its image: the image of the step is the step of the image, but for rays that graze something.

    To 1e-5; in a crush the 8th digit decides how several contacts share a step.
    order: which of the world's agents is the image's k-th. mirrored: motors, rays, turn rate and sideways offset are.
    Returns how many agents of the crush are off by more than 1e-5 m.
    """
    state, action = common_states(seed)
    order, rays, sign = np.array(order), np.arange(16), 1
    moved = action[:, order]
    if mirrored:
        rays, sign, moved = -rays % 16, -1, moved[..., ::-1]
    results = [stepper()(state, action, ENV.make_params()), stepper()(transform(state), moved, ENV.make_params())]
    (obs, end, reward, *_, info), (obs_image, end_image, reward_image, *_, info_image) = results
    expected, obs = transform(end), np.asarray(obs)[:, order]

    def far(found, wanted, tolerance, half):
        return np.sum(np.abs(np.asarray(found)[half] - np.asarray(wanted)[half]) > tolerance)

    scattered, crush, both = slice(None, WORLDS // 2), slice(WORLDS // 2, None), slice(None)
    np.testing.assert_allclose(end_image.wheel_speed, expected.wheel_speed, atol=1e-5)
    assert far(wrapped(end_image.heading - expected.heading), 0 * expected.heading, 1e-5, both) == 0
    for tolerance, half in ((1e-5, scattered), (crush_tolerance, crush)):
        assert far(end_image.position, expected.position, tolerance, half) == 0
        assert far(reward_image, reward[:, order], tolerance, half) == 0
        assert far(obs_image[..., 16:], obs[..., 16:] * [1, sign, 1, sign], tolerance, half) == 0
        assert far(obs_image[..., :16], obs[..., rays], tolerance, half) <= 4
    np.testing.assert_array_equal(info_image["collision"], info["collision"][:, order])
    assert np.any(info["collision"])
    assert not np.all(info["collision"])
    return np.sum(np.any(np.abs(end_image.position - expected.position)[crush] > 1e-5, axis=-1))


@given(seed=seeds)
def test_agent_order_does_not_matter(seed):
    order = np.random.default_rng(seed).permutation(10)

    def transform(state):
        per_agent = ("position", "heading", "wheel_speed", "active", "goal_index", "goals_reached", "collided")
        layout = state.layout.replace(spawns=state.layout.spawns[:, order], goals=state.layout.goals[:, order])
        return state.replace(layout=layout, **{name: getattr(state, name)[:, order] for name in per_agent})

    compare(seed, transform, order, crush_tolerance=1e-5)


def place(state, point, heading, box, wheel_speed):
    """A state seen otherwise: `point` maps (..., 2), `heading` (...), `box` half sizes, `wheel_speed` (..., 2)."""
    layout = state.layout
    spawns = jnp.concatenate([point(layout.spawns[..., :2]), heading(layout.spawns[..., 2:])], axis=-1)
    layout = layout.replace(
        walls=point(layout.walls),
        boxes=jnp.concatenate([point(layout.boxes[..., :2]), box(layout.boxes[..., 2:])], axis=-1),
        discs=jnp.concatenate([point(layout.discs[..., :2]), layout.discs[..., 2:]], axis=-1),
        spawns=spawns,
        goals=point(layout.goals),
    )
    return state.replace(
        layout=layout,
        position=point(state.position),
        heading=heading(state.heading),
        wheel_speed=wheel_speed(state.wheel_speed),
    )


def mirror(state):
    return place(
        state,
        point=lambda p: jnp.stack([p[..., 0], 4 - p[..., 1]], axis=-1),
        heading=lambda h: -h,
        box=lambda half: half,
        wheel_speed=lambda wheels: wheels[..., ::-1],
    )


def rotate(state):
    return place(
        state,
        point=lambda p: jnp.stack([4 - p[..., 1], p[..., 0]], axis=-1),
        heading=lambda h: wrapped(h + np.float32(np.pi / 2)),
        box=lambda half: half[..., ::-1],
        wheel_speed=lambda wheels: wheels,
    )


@given(seed=seeds)
def test_a_mirrored_world_steps_as_the_mirror_image(seed):
    compare(seed, mirror, mirrored=True)


@given(seed=seeds)
def test_a_rotated_square_world_steps_as_the_rotated_image(seed):
    compare(seed, rotate)


def test_a_crush_seldom_tells_left_from_right():
    assert sum(compare(seed, mirror, mirrored=True) for seed in range(40)) <= 3, "of 1600 agents"


@given(seed=seeds)
def test_inactive_agents_neither_move_nor_touch_nor_are_seen(seed):
    """Wherever the inactive stand, they stay, and nothing changes for the others."""
    state, action = common_states(seed)
    gone = np.random.default_rng(seed).random((WORLDS, 10)) < 0.3
    present = state.replace(active=jnp.asarray(~gone))
    elsewhere = np.where(gone[..., None], state.position[:, ::-1], state.position).astype(np.float32)
    moved = present.replace(position=jnp.asarray(elsewhere))
    obs, end, reward, _, _, info = stepper()(present, action, ENV.make_params())
    obs_moved, end_moved, reward_moved, _, _, info_moved = stepper()(moved, action, ENV.make_params())
    for name in ("position", "heading", "wheel_speed"):
        before, after = np.asarray(getattr(moved, name)), np.asarray(getattr(end_moved, name))
        np.testing.assert_array_equal(after[gone], before[gone])
        np.testing.assert_array_equal(after[~gone], np.asarray(getattr(end, name))[~gone])
    np.testing.assert_array_equal(obs_moved, obs)
    np.testing.assert_array_equal(reward_moved, reward)
    np.testing.assert_array_equal(info_moved["collision"], info["collision"])
    assert not np.any(np.asarray(obs)[gone])
    assert not np.any(np.asarray(reward)[gone])
    assert not np.any(np.asarray(info["collision"])[gone])
    assert np.any(info["collision"])
