"""The swarm under JaxMARL's own wrappers and training code. In an environment of its own: see examples/clients.md."""

import functools
import importlib.util
import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.recipes import run_recipe
from helpers.worlds import KEY, Lanes

jaxmarl = pytest.importorskip("jaxmarl")

from jaxmarl.environments.multi_agent_env import MultiAgentEnv

from entropy_env.adapters.jaxmarl import MOTORS, JaxMARLSwarm

BASELINES = os.environ.get("JAXMARL_BASELINES")  # the folder of that name of a checkout of JaxMARL
N, WORLDS, STEPS = 3, 5, 24


def make(**settings):
    return JaxMARLSwarm(N, Lanes(3), max_steps=9, num_rays=4, **settings)


def rollout(env, step, seed=0):
    """Observations, state, rewards, dones and infos of every step of some worlds."""
    state = jax.vmap(env.reset)(jax.random.split(KEY(1), WORLDS))[1]
    noise = np.random.default_rng(seed).normal(0.7, 0.5, (STEPS, N, WORLDS, 2)).astype(np.float32)

    def body(state, inputs):
        key, action = inputs
        transition = jax.vmap(step)(jax.random.split(key, WORLDS), state, dict(zip(env.agents, action, strict=True)))
        return transition[1], transition

    inputs = jax.random.split(KEY(2), STEPS), jnp.asarray(noise.clip(-1, 1))
    return jax.tree.map(np.asarray, jax.jit(functools.partial(jax.lax.scan, body))(state, inputs)[1])


@functools.cache
def played(on_goal):
    env = make(on_goal=on_goal)
    return rollout(env, env.step)


def rows(env, by_agent):
    """(T, E, N, ...)."""
    return np.stack([by_agent[agent] for agent in env.agents], axis=2)


@pytest.mark.parametrize("on_goal", ["terminate", "respawn", "next_goal"])
def test_it_resets_as_jaxmarl_itself_would(on_goal):
    env = make(on_goal=on_goal)
    expected = rollout(env, functools.partial(MultiAgentEnv.step.__wrapped__, env))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), played(on_goal), expected)
    assert played(on_goal)[3]["__all__"].sum() >= 2 * WORLDS


def test_a_robot_that_arrived_is_done_and_silent_until_its_world_is_over():
    env = make()
    obs, _, rewards, dones, infos = played("terminate")
    obs, rewards, done = rows(env, obs), rows(env, rewards), rows(env, dones)
    before = np.concatenate([np.zeros_like(done[:1]), done[:-1] & ~dones["__all__"][:-1, :, None]])
    assert before.sum() > STEPS
    assert done[before].all() and not rewards[before].any()
    stays = done & ~dones["__all__"][..., None]
    assert not obs[stays].any()
    np.testing.assert_array_equal(dones["__all__"], done.all(axis=2))
    np.testing.assert_array_equal(done & ~before, infos["terminated"] | infos["truncated"])
    np.testing.assert_array_equal(infos["terminated"], infos["reached"])
    assert infos["truncated"].any() and infos["terminated"].any()
    assert obs[dones["__all__"]].any(axis=-1).all(), "a world that is over has begun again"


def test_a_robot_that_respawns_is_done_for_a_step():
    env = make(on_goal="respawn")
    obs, _, _, dones, infos = played("respawn")
    done, back = rows(env, dones), rows(env, obs).any(axis=-1)
    assert (infos["terminated"] & back & ~dones["__all__"][..., None]).any()
    np.testing.assert_array_equal(done, infos["terminated"] | infos["truncated"] | ~back)


def test_robots_with_several_goals_are_done_at_the_time_limit_alone():
    env = make(on_goal="next_goal")
    _, _, _, dones, infos = played("next_goal")
    np.testing.assert_array_equal(rows(env, dones), np.repeat(dones["__all__"][..., None], N, axis=2))
    assert infos["reached"].any() and infos["goals_reached"].max() > 0


def test_spaces_and_observations_are_those_of_every_agent():
    env = make()
    obs, state = env.reset(KEY(0))
    assert env.agents == ["agent_0", "agent_1", "agent_2"] == [*obs] == env.agent_classes["robots"]
    assert env.num_agents == N
    for agent in env.agents:
        assert env.observation_space(agent).shape == obs[agent].shape == (8,)
        assert env.action_space(agent).sample(KEY(0)).shape == (2,)
        assert env.observation_space(agent).contains(obs[agent])
        np.testing.assert_allclose(env.get_obs(state)[agent], obs[agent], atol=1e-6)
        assert env.get_avail_actions(state)[agent].shape == (2,)


def test_discrete_actions_are_pairs_of_motors():
    table, motors = make(actions="discrete"), make()
    _, state = motors.reset(KEY(0))
    assert table.action_space("agent_0").n == len(MOTORS)
    for first in range(0, len(MOTORS), N):
        index = {agent: jnp.array([first + i]) for i, agent in enumerate(table.agents)}  # baselines keep an axis
        pairs = {agent: jnp.array(MOTORS[first + i]) for i, agent in enumerate(table.agents)}
        transition, expected = (env.step(KEY(1), state, given) for env, given in ((table, index), (motors, pairs)))
        jax.tree.map(np.testing.assert_array_equal, transition, expected)
    assert {agent: mask.shape for agent, mask in table.get_avail_actions(state).items()} == dict.fromkeys(
        table.agents, (len(MOTORS),)
    )


def test_a_world_that_is_over_goes_on_with_the_state_that_is_given():
    env = make()
    _, other = env.reset(KEY(5))
    _, state = env.reset(KEY(0))
    still = dict.fromkeys(env.agents, jnp.zeros(2))
    for clock in (7, 8):
        obs, after, *_ = env.step(KEY(1), state.replace(step=jnp.array(clock, jnp.int32)), still, other)
        assert np.array_equal(after.layout.goals, other.layout.goals) is (clock == 8)
        np.testing.assert_allclose(obs["agent_0"], env.get_obs(after)["agent_0"], atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_agent": 3}, "unknown keyword 'num_agent'; did you mean 'num_agents'"),
        ({"engine": "jax"}, "unknown keyword 'engine'"),
        ({"actions": "both"}, "actions='both' must be one of continuous, discrete"),
        ({"num_agents": 0}, "num_agents=0"),
        ({"difficulty": 9}, "difficulty"),
    ],
)
def test_a_wrong_keyword_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        JaxMARLSwarm(**settings)


def test_the_log_wrapper_sums_up_each_robot_s_rewards():
    from jaxmarl.wrappers.baselines import LogWrapper

    env = make()
    logged = LogWrapper(env)
    _, _, rewards, dones, infos = rollout(logged, logged.step)
    total, over = np.zeros((WORLDS, N)), dones["__all__"]
    for t in range(STEPS):
        total += rows(env, rewards)[t]
        np.testing.assert_allclose(infos["returned_episode_returns"][t][over[t]], total[over[t]], atol=1e-4)
        total[over[t]] = 0
    assert over.sum() >= 2 * WORLDS


def test_the_rollout_manager_runs():
    from jaxmarl.wrappers.baselines import CTRolloutManager

    manager = CTRolloutManager(make(actions="discrete"), batch_size=2)
    obs, state = manager.batch_reset(KEY(0))
    chosen = {agent: manager.batch_sample(KEY(1), agent) for agent in manager.agents}
    obs, _, reward, *_ = manager.batch_step(KEY(2), state, chosen)
    assert obs["__all__"].shape == (2, 8 * N) and reward["__all__"].shape == (2,)


SMALL = {"NUM_ENVS": 4, "NUM_STEPS": 16, "TOTAL_TIMESTEPS": 128, "NUM_MINIBATCHES": 2, "UPDATE_EPOCHS": 1}
TRAINING = {
    "IPPO/ippo_ff_mabrax": ("IPPO/config/ippo_ff_mabrax", {}),
    "IPPO/ippo_rnn_mpe": ("IPPO/config/ippo_rnn_mpe", {"actions": "discrete"}),
    "MAPPO/mappo_rnn_mpe": ("MAPPO/config/mappo_homogenous_rnn_mpe", {"actions": "discrete"}),
}


@pytest.mark.skipif(BASELINES is None, reason="JAXMARL_BASELINES does not say where JaxMARL's training code is")
@pytest.mark.parametrize("name", TRAINING)
def test_jaxmarl_s_training_code_runs_as_it_is(name, monkeypatch):
    """Every line is its own: `jaxmarl.make` alone, with which it makes the environment, makes ours."""
    wandb, yaml = pytest.importorskip("wandb"), pytest.importorskip("yaml")
    config_name, settings = TRAINING[name]
    logged = []
    monkeypatch.setattr(jaxmarl, "make", lambda _, **given: make(**(settings | given)))
    monkeypatch.setattr(wandb, "log", lambda metrics, **_: logged.append(metrics))
    spec = importlib.util.spec_from_file_location("baseline", Path(BASELINES) / f"{name}.py")
    baseline = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "baseline", baseline)
    spec.loader.exec_module(baseline)
    config = yaml.safe_load((Path(BASELINES) / f"{config_name}.yaml").read_text(encoding="utf-8"))
    config |= {"LR": 1e-3, "ENT_COEF": 0.01} | SMALL | {"ENV_KWARGS": {}}
    key = KEY(0)
    arguments = (config, key) if "mabrax" in name else (config,)
    jax.block_until_ready(jax.jit(baseline.make_train(*arguments))(key))
    jax.effects_barrier()
    assert len(logged) == 2
    assert all(np.isfinite(float(value)) for value in jax.tree.leaves(logged))


def test_the_recipe_runs(capsys, tmp_path):
    run_recipe("JaxMARL", tmp_path, "WORLDS, STEPS = 256, 200", "WORLDS, STEPS = 2, 3")
    assert "agent steps/s" in capsys.readouterr().out
