import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.compilation import quick_jit
from helpers.worlds import KEY, Lanes, make_world, stack
from hypothesis import given
from hypothesis import strategies as st

from entropy_env import neighbours, vector
from entropy_env.env import Swarm
from entropy_env.neighbours import find_neighbours, uses_grid
from entropy_env.physics import touching_neighbours
from entropy_env.scenarios.custom import Custom
from entropy_env.types import SwarmSpec

pytestmark = pytest.mark.core

RADIUS, WORLDS = 0.1, 8  # m, a batch
BODIES = {"walls": [[[1.0, 2.0], [2.5, 2.5]]], "boxes": [[3.0, 1.0, 0.3, 0.2]], "discs": [[1.0, 1.0, 0.2]]}
SLOTS = {"num_walls": 1, "num_boxes": 1, "num_discs": 1}
seeds = st.integers(0, 2**16)


def both(num_agents, scenario="open", **fields):
    """Two simulators of the same worlds."""
    return [
        Swarm(SwarmSpec(num_agents, num_rays=16, neighbour_search=search, **fields), scenario)
        for search in ("dense", "grid")
    ]


@functools.cache
def candidates(num_points):
    """Whether each of 40 agents is a candidate of each point, and how often, (num_points, 40) int32."""

    def count(points, position, present, size, reach):
        spec = SwarmSpec(num_agents=40, neighbour_search="grid")
        near = find_neighbours(
            spec, (points[:, 0], points[:, 1]), (position[:, 0], position[:, 1]), present, size, reach
        )

        def tally(counts, index, there):
            return counts.at[jnp.arange(num_points), index].add(there.astype(jnp.int32))

        return near.visit(tally, jnp.zeros((num_points, 40), jnp.int32))

    return jax.jit(count)


@given(
    seed=seeds,
    size=st.tuples(*[st.sampled_from([1e-2, 1.0, 8.0, 3e3])] * 2),
    reach=st.sampled_from([1e-3, 0.4, 3.2, 50.0]),
    spread=st.sampled_from([0.0, 1e-3, 1.0, 2.0]),
)
def test_all_within_reach_are_candidates_once(seed, size, reach, spread):
    """At any place in the arena or beside it, in arenas of any shape, on the edges of cells and on one spot."""
    rng = np.random.default_rng(seed)
    middle = np.where(rng.random(2) < 0.5, rng.random(2), 0.5) * size
    position = (middle + spread * rng.uniform(-0.6, 0.6, (40, 2)) * size).astype(np.float32)
    position[:20] = np.where(rng.random((20, 2)) < 0.5, np.round(position[:20] / reach) * reach, position[:20])
    direction = rng.uniform(-np.pi, np.pi, 20)
    ahead = 0.9999 * reach * np.stack([np.cos(direction), np.sin(direction)], axis=-1)
    points = np.concatenate([position, position[:20] + ahead]).astype(np.float32)
    present = rng.random(40) < 0.8
    found = candidates(60)(points, position, jnp.asarray(present), jnp.asarray(size, jnp.float32), jnp.float32(reach))
    distance = np.linalg.norm(points[:, None].astype(np.float64) - position, axis=-1)
    assert np.max(found) <= 1
    assert not np.any(found[:, ~present])
    assert np.all(np.asarray(found) >= (present & (distance <= reach)))


def rounds(num_agents, size, position):
    """Most candidates of an agent for contacts and for lidar."""
    env = Swarm(SwarmSpec(num_agents, neighbour_search="grid", num_goals=1), Custom())
    return tuple(map(int, _rounds(env.spec, make_world(env, position, size=size), env.make_params())))


@functools.partial(jax.jit, static_argnums=0)
def _rounds(spec, state, params):
    position, size = (state.position[:, 0], state.position[:, 1]), state.layout.size
    seen = find_neighbours(spec, position, position, state.active, size, params.lidar_range + 2 * RADIUS)
    return touching_neighbours(state, params, spec).rounds, seen.rounds


def test_at_constant_density_an_agent_has_as_many_candidates_in_a_swarm_of_any_size():
    counts = []
    for num_agents in (400, 10_000):
        side = np.sqrt(4.8 * num_agents)
        counts.append(rounds(num_agents, (side, side), np.random.default_rng(0).uniform(0, side, (num_agents, 2))))
    assert np.all(np.array(counts[1]) <= 2 * np.array(counts[0]))
    assert max(counts[1]) < 50


def test_the_densest_crowd_has_few_candidates_for_contacts():
    crowd = np.stack(np.meshgrid(np.arange(20), np.arange(20)), axis=-1).reshape(400, 2) * 2 * RADIUS + 1
    assert rounds(400, (6.0, 6.0), crowd)[0] <= 30


def scattered(rng, num_agents):
    return rng.uniform(0.1, [3.9, 2.9], (num_agents, 2))


def crowd(rng, num_agents):
    """Touching and overlapping by little, in a corner."""
    rows = np.stack(np.meshgrid(np.arange(6), np.arange(6)), axis=-1).reshape(-1, 2)[:num_agents]
    return 0.11 + rows * 0.2005 + rng.uniform(-2e-3, 2e-3, (num_agents, 2))


def pile(rng, num_agents):
    """Overlapping by much, some of them in bodies."""
    return rng.uniform(0.5, 1.5, (num_agents, 2))


def spot(rng, num_agents):
    """Few places for many."""
    return rng.uniform(0.2, 2.8, (4, 2))[rng.integers(0, 4, num_agents)]


def border(rng, num_agents):
    """On the border and outside it."""
    return rng.uniform(-0.3, [4.3, 3.3], (num_agents, 2)).round()


def far(rng, num_agents):
    """In cells that lie apart."""
    return rng.choice([0.3, 1.9, 3.5], (num_agents, 2)) + rng.uniform(-0.2, 0.2, (num_agents, 2))


PLACES = scattered, crowd, pile, spot, border, far, crowd, scattered


@functools.cache
def stepper(env):
    return jax.jit(jax.vmap(functools.partial(env.step, KEY(0))))


@functools.cache
def scanner(env):
    return jax.jit(jax.vmap(env.lidar))


def random_params(env, rng):
    """Other numbers for each world."""
    ranges = {"agent_radius": (0.05, 0.12), "max_wheel_speed": (0.2, 3), "lidar_range": (0.2, 6), "dt": (0.02, 0.2)}
    values = {name: rng.uniform(*between, WORLDS) for name, between in ranges.items()}
    params = env.make_params(motor_tau=rng.choice([0, 0.1], WORLDS), **values)
    return jax.tree.map(lambda value: jnp.broadcast_to(value, WORLDS), params)


def check_equal(grid, dense):
    """Results of a step; all that is discrete exactly, lengths to 1e-5 m, lidar to 1e-6 where poses are the same."""
    for found, expected in zip(jax.tree.leaves(grid), jax.tree.leaves(dense), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 if found.dtype == jnp.float32 else 0)


@pytest.mark.optimised
@pytest.mark.parametrize("num_agents", [*(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2)), 36])
@given(seed=seeds)
def test_grid_equals_dense(num_agents, seed):
    """From the same states, at every step; in all worlds parameters differ."""
    rng = np.random.default_rng(seed)
    dense, grid = both(num_agents, on_goal="next_goal", num_goals=2, **SLOTS)
    params = random_params(dense, rng)
    state = stack([
        make_world(
            dense, place(rng, num_agents), rng.uniform(-np.pi, np.pi, num_agents), size=(4.0, 3.0),
            active=rng.random(num_agents) < (0.7 if i % 2 else 1), **BODIES,
        )
        for i, place in enumerate(PLACES)
    ])  # fmt: skip
    scans = [scanner(env)(state, params) for env in (grid, dense)]
    np.testing.assert_allclose(*scans, atol=1e-6)
    collisions = 0
    for _ in range(4):
        action = jnp.asarray(rng.uniform(-1.5, 1.5, (WORLDS, num_agents, 2)), jnp.float32)
        found, expected = (stepper(env)(state, action, params) for env in (grid, dense))
        check_equal(found, expected)
        state = found[1]
        collisions += np.sum(state.collided)
    assert collisions


@functools.cache
def worlds(on_goal):
    """Reset and step of a batch, dense and grid."""
    batches = [vector.batch(env, WORLDS) for env in both(8, Lanes(difficulty=4), on_goal=on_goal)]
    return batches[0].env, [(quick_jit(batch.reset), jax.jit(batch.step)) for batch in batches]


def params_of_each_world(env, rng):
    return env.make_params(
        max_wheel_speed=rng.uniform(0.5, 3, WORLDS),
        agent_radius=rng.uniform(0.05, 0.2, WORLDS),
        lidar_range=rng.uniform(0.2, 6, WORLDS),
        difficulty=rng.integers(1, 5, WORLDS),
    )


@pytest.mark.parametrize(
    "on_goal", ["respawn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("terminate", "next_goal"))]
)
@given(seed=seeds)
def test_grid_equals_dense_in_a_batch_with_parameters_of_each_world(on_goal, seed):
    rng = np.random.default_rng(seed)
    env, ((reset, dense), (_, grid)) = worlds(on_goal)
    params = params_of_each_world(env, rng)
    _, state = reset(KEY(seed), params)
    ended, came_back = 0, 0
    for t in range(20):
        action = jnp.asarray(rng.uniform(-0.2, 1, (WORLDS, 8, 2)), jnp.float32)
        found, expected = (step(KEY(t), state, action, params) for step in (grid, dense))
        check_equal(found, expected)
        state = found[1]
        ended += np.sum(found[3] | found[4])
        came_back += np.sum(found[3] & state.worlds.active)
    assert ended
    assert came_back or on_goal != "respawn"


def test_no_value_of_a_parameter_recompiles():
    env, ((reset, _), (_, step)) = worlds("respawn")
    params = [params_of_each_world(env, np.random.default_rng(seed)) for seed in range(3)]
    _, state = reset(KEY(0), params[0])
    for some in params:
        _, state, *_ = step(KEY(1), state, jnp.ones((WORLDS, 8, 2), jnp.float32), some)
    assert step._cache_size() == 1


def test_worlds_of_a_batch_share_their_rounds():
    """So that no world's loop needs a mask."""
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (WORLDS, 40)), jnp.float32)
    spec, present, size = SwarmSpec(40, neighbour_search="grid"), jnp.ones(40, bool), jnp.ones(2, jnp.float32)

    def rounds(x):
        return find_neighbours(spec, (x, x), (x, x), present, size, 0.1).rounds

    alone = jax.jit(rounds)
    most = jax.jit(jax.vmap(rounds, out_axes=None))(x)
    assert most == max(alone(world) for world in x)


def test_auto_takes_the_grid_for_large_swarms():
    few, many = neighbours.GRID_FROM - 1, neighbours.GRID_FROM
    assert [uses_grid(SwarmSpec(num_agents)) for num_agents in (1, few, many, 10_000)] == [False, False, True, True]
    assert uses_grid(SwarmSpec(1, neighbour_search="grid"))
    assert not uses_grid(SwarmSpec(10_000, neighbour_search="dense"))
