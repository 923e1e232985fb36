"""One world that begins again in the step that ends it, and the batch that `vmap` makes of many."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.compilation import quick_jit
from helpers.worlds import KEY, Lanes, numpy_tree, take

from entropy_env import vector
from entropy_env.adapters import functional
from entropy_env.env import Swarm
from entropy_env.types import SwarmSpec

N, WORLDS, STEPS = 3, 6, 24
DRAWN = collections.Counter()


class CountedLanes(Lanes):
    """Lanes that count the layouts that are really drawn."""

    def generate(self, key, spec, params):
        jax.debug.callback(lambda level: DRAWN.update([int(level)]), params.difficulty)
        return super().generate(key, spec, params)


def make(on_goal="terminate", lanes=Lanes):
    env = Swarm(SwarmSpec(num_agents=N, num_rays=4, on_goal=on_goal, num_goals=3), lanes(3))
    return env, env.make_params(max_steps=9)


def rollout(step, state, params, seed=0):
    """What (E, N, ...) every step told."""

    def body(state, inputs):
        key, action = inputs
        transition = step(jax.random.split(key, WORLDS), state, action, params)
        return transition[1], transition

    noise = np.random.default_rng(seed).normal(0.7, 0.5, (STEPS, WORLDS, N, 2))
    inputs = jax.random.split(KEY(seed), STEPS), jnp.asarray(np.clip(noise, -1, 1), jnp.float32)
    return numpy_tree(jax.jit(functools.partial(jax.lax.scan, body))(state, inputs)[1])


@functools.cache
def compiled_reset(env):
    return quick_jit(env.reset), quick_jit(jax.vmap(env.reset, (0, None)))


def worlds_of(env, params):
    return compiled_reset(env)[1](jax.random.split(KEY(1), WORLDS), params)[1]


# The most that a step can do; the other two compile as long and do a part of it.
ON_GOAL = ["respawn", *(pytest.param(name, marks=pytest.mark.slow) for name in ("terminate", "next_goal"))]


def lone(env, autoreset=True):
    return functools.partial(functional.step, env, autoreset=autoreset)


def same(transition, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), transition, expected)


@pytest.mark.parametrize("on_goal", ON_GOAL)
def test_worlds_under_vmap_do_what_a_reset_in_every_step_would(on_goal):
    """As the base classes of gymnax and JaxMARL do it, who draw a layout for every world in every step."""
    env, params = make(on_goal)

    def slow(key, state, action, params):
        obs, state, *rest = functional.step(env, key, state, action, params, autoreset=False)
        fresh_obs, fresh = env.reset(jax.random.split(key)[1], params)
        pick = functools.partial(jnp.where, rest[-1]["over"])
        return pick(fresh_obs, obs), jax.tree.map(pick, fresh, state), *rest

    state = worlds_of(env, params).replace(step=jnp.arange(WORLDS, dtype=jnp.int32))
    transition = rollout(jax.vmap(lone(env), (0, 0, 0, None)), state, params)
    expected = rollout(jax.vmap(slow, (0, 0, 0, None)), state, params)
    same(transition, expected)
    assert transition[5]["over"].sum(axis=0).min() >= 2
    assert np.ptp(transition[5]["over"].argmax(axis=0)) > 0
    assert len(np.unique(transition[1].layout.spawns[:, :, 0, 0, 0])) > 2 * WORLDS


@pytest.mark.parametrize("on_goal", ON_GOAL)
def test_a_world_is_as_in_a_batch_until_it_is_over(on_goal):
    env, params = make(on_goal)
    batch = vector.batch(env, WORLDS)
    _, state = quick_jit(batch.reset)(KEY(1), params)
    transition = rollout(jax.vmap(lone(env), (0, 0, 0, None)), state.worlds, params)
    expected = rollout(lambda keys, *rest: batch.step(keys[0], *rest), state, params)
    first = (
        np.cumsum(transition[5]["over"], axis=0) - transition[5]["over"] == 0
    )  # up to the step that ends the first episode
    assert first.sum() >= 3 * WORLDS
    for index in (2, 3, 4):
        np.testing.assert_allclose(transition[index][first], expected[index][first], atol=1e-5)
    for name in transition[5].keys() - {"reward_terms"}:
        np.testing.assert_allclose(transition[5][name][first], expected[5][name][first], atol=1e-5)
    goes_on = first & ~transition[5]["over"]
    np.testing.assert_allclose(transition[0][goes_on], expected[0][goes_on], atol=1e-5)


def test_only_worlds_that_are_over_draw():
    env, _ = make(lanes=CountedLanes)
    limits = np.array([3, 9, 4, 5, 7, 6])
    params = env.make_params(max_steps=limits)
    each = jax.tree.map(lambda leaf: 0 if leaf.ndim else None, params)
    state = worlds_of(env, env.make_params())
    jax.effects_barrier()
    DRAWN.clear()
    transition = rollout(jax.vmap(lone(env), (0, 0, 0, each)), state, params)
    jax.effects_barrier()
    np.testing.assert_array_equal(transition[5]["over"].sum(axis=0) >= STEPS // limits, True)
    assert DRAWN.total() == transition[5]["over"].sum()


def test_seeds_of_worlds_are_one_batch_and_independent():
    env, params = make()
    state = worlds_of(env, params)
    step = jax.vmap(lone(env), (0, 0, 0, None))
    expected = rollout(step, state, params)

    def nested(keys, state, action, params):
        split = functools.partial(jax.tree.map, lambda leaf: leaf.reshape(2, WORLDS // 2, *leaf.shape[1:]))
        transition = jax.vmap(step, (0, 0, 0, None))(*split((keys, state, action)), params)
        return jax.tree.map(lambda leaf: leaf.reshape(WORLDS, *leaf.shape[2:]), transition)

    same(rollout(nested, state, params), expected)


def test_params_may_differ_by_seed_by_world_or_both():
    env, _ = make()
    one = env.make_params()
    state, keys = worlds_of(env, one), jax.random.split(KEY(2), WORLDS)
    action = jnp.ones((WORLDS, N, 2))

    def moved(limits, *axes):
        step = lone(env)
        for axis in reversed(axes):
            step = jax.vmap(step, axis)
        return quick_jit(step)(keys, state, action, one.replace(max_steps=jnp.asarray(limits)))[5]["over"]

    params_axis = jax.tree.map(lambda _: None, one).replace(max_steps=0)
    by_world, by_seed, neither = (0, 0, 0, params_axis), (None, None, None, params_axis), (0, 0, 0, None)
    limits = np.array([1, 9, 1, 9, 1, 9])
    np.testing.assert_array_equal(moved([1, 9], by_seed, neither), [[True] * WORLDS, [False] * WORLDS])
    both = np.stack([limits, np.full(WORLDS, 9)])
    np.testing.assert_array_equal(moved(both, by_seed, by_world), both == 1)


def test_a_world_alone_begins_again():
    env, params = make()
    state = take(worlds_of(env, params), 0).replace(step=jnp.array(8, jnp.int32))
    key, action = jax.random.key(3), jnp.zeros((N, 2))
    obs, state, _, _, truncated, info = jax.jit(lone(env))(key, state, action, params)
    fresh_obs, fresh = compiled_reset(env)[0](jax.random.split(key)[1], params)
    assert truncated.all() and info["over"]
    same((obs, state), (fresh_obs, fresh))


def test_settings_become_a_swarm_with_plain_numbers():
    swarm, params = functional.make_swarm(4, "rooms", 2, "v2", num_rays=8, max_wheel_speed=0.5, reward=None)
    assert (swarm.spec.num_agents, swarm.spec.num_rays, swarm.spec.drive) == (4, 8, "force")
    assert params.max_wheel_speed == 0.5 and params.max_steps == 500 and params.difficulty == 2
    assert all(type(leaf) in (int, float) for leaf in jax.tree.leaves(params))
