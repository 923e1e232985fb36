"""gymnax's environments as batched ones: resets, time limits and actions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainers.learn.distributions import Categorical, Gaussian, action_shape, distribution_of

environment = pytest.importorskip("gymnax.environments.environment")
if not hasattr(environment.Environment, "is_truncated"):
    pytest.skip("needs gymnax 1.0", allow_module_level=True)

from trainers.envs.contract import check_env
from trainers.envs.gymnax import GymnaxWorlds, make


@pytest.mark.parametrize(
    ("name", "actions", "obs_dim"),
    [
        ("CartPole-v1", Categorical(2), 4),
        ("Pendulum-v1", Gaussian(1), 3),
        ("Catch-bsuite", Categorical(3), 50),
        ("Breakout-MinAtar", Categorical(3), 400),
    ],
)
def test_environments_of_gymnax_keep_the_contract(name: str, actions: object, obs_dim: int) -> None:
    env = GymnaxWorlds(make(name), 4)
    assert distribution_of(env.action_space) == actions
    assert check_env(env, env.default_params, action_shape(actions)) == (4, 1, obs_dim)


def rollout(env: GymnaxWorlds, steps: int, params: object, action: jax.Array) -> tuple:
    """What each step returned but the state, and each step's obs before it."""
    obs, state = env.reset(jax.random.key(1), params)

    def step(carry, key):
        obs, state = carry
        next_obs, state, *rest = env.step(key, state, action, params)
        return (next_obs, state), (obs, next_obs, *rest)

    return jax.jit(lambda: jax.lax.scan(step, (obs, state), jax.random.split(jax.random.key(2), steps))[1])()


def test_a_fallen_pole_terminates_and_begins_anew_in_the_same_step() -> None:
    env = GymnaxWorlds(make("CartPole-v1"), 3)
    seen, after, _, terminated, truncated, info = rollout(env, 40, env.default_params, jnp.ones((3, 1), jnp.int32))
    assert terminated.any() and not truncated.any() and info["acted"].all()
    first = int(np.argmax(terminated[:, 0, 0]))
    assert np.abs(info["final_obs"][first, 0, 0, 2]) > 12 * 2 * np.pi / 360
    assert np.abs(after[first, 0, 0]).max() <= 0.05
    assert info["episode_length"][first, 0, 0] == first + 1 == info["episode_return"][first, 0, 0]
    np.testing.assert_array_equal(seen[1:], after[:-1])
    going = ~terminated
    np.testing.assert_array_equal(after[going], info["final_obs"][going])
    begins = after[terminated]
    assert len(np.unique(begins, axis=0)) == len(begins), "each reset draws for itself"


def test_the_time_limit_truncates_and_a_fall_in_that_step_terminates_alone() -> None:
    env = GymnaxWorlds(make("CartPole-v1"), 1)
    _, _, _, terminated, *_ = rollout(env, 40, env.default_params, jnp.ones((1, 1), jnp.int32))
    falls = int(np.argmax(terminated[:, 0, 0])) + 1
    for limit, fell in ((falls - 1, False), (falls, True)):
        params = env.default_params.replace(max_steps_in_episode=jnp.int32(limit))
        _, _, _, terminated, truncated, info = rollout(env, limit, params, jnp.ones((1, 1), jnp.int32))
        assert (bool(terminated[-1, 0, 0]), bool(truncated[-1, 0, 0])) == (fell, not fell)
        assert info["episode_length"][-1, 0, 0] == limit


def test_actions_of_a_box_are_stretched_to_its_bounds() -> None:
    env = GymnaxWorlds(make("Pendulum-v1"), 1)
    for given, torque in ((0.5, 1.0), (7.0, 2.0), (-1.0, -2.0)):
        _, state = env.reset(jax.random.key(0), env.default_params)
        _, state, *_ = env.step(jax.random.key(1), state, jnp.full((1, 1, 1), given), env.default_params)
        assert float(state.worlds.last_u[0]) == pytest.approx(torque)


def test_an_unknown_environment_is_named() -> None:
    with pytest.raises(ValueError, match=r"'CartPole-v9'.*CartPole-v1"):
        make("CartPole-v9")
