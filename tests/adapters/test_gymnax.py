"""One robot under gymnax's own wrappers and base class. In an environment of its own: see examples/clients.md."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.recipes import run_recipe
from helpers.worlds import KEY, Lanes

gymnax = pytest.importorskip("gymnax")

from gymnax.environments.environment import Environment

from entropy_env.adapters import gymnax as adapter
from entropy_env.adapters.gymnax import GymnaxSwarm

FROM_1_0 = pytest.mark.skipif(not adapter.SIX_RESULTS, reason="gymnax before 1.0 has a `done` alone")
WORLDS, STEPS = 5, 24


def make(**settings):
    return GymnaxSwarm(Lanes(3), max_steps=9, num_rays=4, **settings)


def rollout(env, step, params=None, steps=STEPS):
    """Observation, state, reward, ends and info of every step of some worlds that go ahead."""
    state = jax.vmap(env.reset, (0, None))(jax.random.split(KEY(1), WORLDS), params)[1]

    def body(state, key):
        action = jnp.tile(jnp.array([1.0, 0.9]), (WORLDS, 1))
        transition = jax.vmap(step, (0, 0, 0, None))(jax.random.split(key, WORLDS), state, action, params)
        return transition[1], transition

    return jax.jit(functools.partial(jax.lax.scan, body))(state, jax.random.split(KEY(2), steps))[1]


def still(outcome, params):
    return 1.0


@pytest.mark.parametrize("on_goal", ["terminate", "next_goal"])
def test_it_resets_as_gymnax_itself_would(on_goal):
    env = make(on_goal=on_goal)
    transition = rollout(env, env.step, env.default_params)
    expected = rollout(env, functools.partial(Environment.step.__wrapped__, env), env.default_params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), transition[:-1], expected[:-1])
    for name, value in expected[-1].items():
        np.testing.assert_allclose(transition[-1][name], value, atol=1e-5, err_msg=name)
    assert (
        np.sum(transition[3]) >= WORLDS if on_goal == "terminate" else np.sum(transition[-1]["truncated"]) == 2 * WORLDS
    )


@FROM_1_0
def test_arriving_terminates_and_the_time_limit_truncates():
    env = make()
    _, _, reward, terminated, truncated, info = rollout(env, env.step)
    assert np.any(terminated) and np.any(truncated) and not np.any(terminated & truncated)
    np.testing.assert_array_equal(info["reached"], terminated)
    np.testing.assert_array_equal(info["discount"], 1.0 - terminated)
    assert np.all(np.asarray(reward)[np.asarray(terminated)] > 0.9)
    assert np.all(np.any(info["final_observation"], axis=-1))


def test_params_are_plain_numbers_that_may_change_under_gymnax_s_names():
    env = make()
    params = env.default_params
    assert params.max_steps_in_episode == 9
    assert all(type(leaf) in (int, float) for leaf in jax.tree.leaves(params))
    shorter = params.replace(max_steps_in_episode=4, max_wheel_speed=0.0)
    assert (shorter.max_steps, shorter.max_steps_in_episode, params.max_steps) == (4, 4, 9)
    transition = rollout(env, env.step, shorter, 8)
    np.testing.assert_array_equal(transition[-1]["truncated"].sum(axis=0), 2)


def test_spaces_hold_what_is_seen_and_done():
    env = make()
    obs, state = env.reset(KEY(0))
    assert env.observation_space(env.default_params).contains(obs)
    assert env.observation_space().shape == obs.shape == (8,)
    action = env.action_space(env.default_params).sample(KEY(0))
    assert action.shape == (2,) == (env.num_actions,)
    np.testing.assert_allclose(env.get_obs(state), obs, atol=1e-6)
    assert env.name == "Swarm-v0"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_agents": 3}, "num_agents=3: there is one robot here"),
        ({"on_goal": "respawn"}, "on_goal='respawn' is for swarms"),
        ({"max_stepz": 3}, "unknown keyword 'max_stepz'; did you mean 'max_steps'"),
        ({"engine": "jax"}, "unknown keyword 'engine'"),
        ({"scenario": "opne"}, "unknown scenario 'opne'"),
    ],
)
def test_a_wrong_keyword_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GymnaxSwarm(**settings)


def test_the_log_wrapper_sums_up_episodes():
    from gymnax.wrappers.purerl import FlattenObservationWrapper, LogWrapper

    plain = make()
    env = LogWrapper(FlattenObservationWrapper(plain))
    transition, expected = rollout(env, env.step), rollout(plain, plain.step)
    info = transition[-1]
    over = np.asarray(info["returned_episode"])
    total = np.zeros(WORLDS)
    for t in range(STEPS):
        total += np.asarray(expected[2][t])
        np.testing.assert_allclose(info["returned_episode_returns"][t][over[t]], total[over[t]], atol=1e-4)
        total[over[t]] = 0
    assert over.sum() >= 2 * WORLDS


@FROM_1_0
def test_gymnasium_and_rollout_wrappers_run():
    from gymnax.experimental import RolloutWrapper
    from gymnax.wrappers.gym import GymnaxToGymWrapper, GymnaxToVectorGymWrapper

    one = GymnaxToGymWrapper(make())
    obs, _ = one.reset(seed=0)
    transition = one.step(one.action_space.sample())
    assert obs.shape == transition[0].shape == (8,)
    many = GymnaxToVectorGymWrapper(make(), num_envs=3)
    obs, _ = many.reset(seed=0)
    assert obs.shape == many.step(many.action_space.sample())[0].shape == (3, 8)
    obs, *_, total = RolloutWrapper(env=make()).batch_rollout(jax.random.split(KEY(0), 3), None)
    assert obs.shape == (3, 9, 8) and total.shape == (3, 1)


def test_the_weight_of_a_users_own_term_may_change_under_its_name():
    env = make(reward_terms={"still": still}, reward_still=1.0)
    doubled = env.default_params.replace(reward_still=2.0, max_steps_in_episode=4)
    assert (doubled.weight("still"), doubled.max_steps) == (2.0, 4)
    gained = [np.asarray(rollout(env, env.step, params, 3)[2]) for params in (env.default_params, doubled)]
    np.testing.assert_allclose(gained[1] - gained[0], 1.0, atol=1e-5)


@FROM_1_0
def test_the_recipe_trains(capsys, tmp_path):
    pytest.importorskip("optax")
    run_recipe("gymnax", tmp_path, "UPDATES = 64, 128, 60", "UPDATES = 4, 8, 2")
    assert "mean return" in capsys.readouterr().out


@FROM_1_0
def test_rejax_trains(capsys, tmp_path):
    pytest.importorskip("rejax")
    run_recipe("rejax", tmp_path, "total_timesteps=500_000", "total_timesteps=1024")
    assert "mean return" in capsys.readouterr().out
