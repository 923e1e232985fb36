"""Robots that talk, behind every adapter: spaces, checkers, what is heard, and what is refused."""

import functools
import importlib
import warnings

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from helpers.worlds import ENGINES, KEY, SLOW_JAX
from pettingzoo.test import api_test, parallel_api_test

from entropy_env import make_layout, swarm_v0, vocabulary
from entropy_env.adapters.gymnasium import SwarmEnv, SwarmVectorEnv
from entropy_env.types import HEARD

N, K = 4, 3
LIDAR, GOAL, INBOX = 8, 12, 12 + HEARD * K  # where lidar, goal and inbox end in an observation
FOUND, HELP = (np.concatenate([[0.0, 0.0], vocabulary.say(word, [0.5, 0, -1, 1])]) for word in ("FOUND_TARGET", "HELP"))
SMALL = {"num_rays": LIDAR, "comm_neighbours": K, "comm_range": 20.0, "max_steps": 12}
LINE = make_layout([8, 6], spawns=[[1, 1], [2, 1], [4, 1], [7, 1]], goals=[[1, 5], [2, 5], [4, 5], [7, 5]])
every_engine = pytest.mark.parametrize("engine", ENGINES)
numba_first = pytest.mark.parametrize("engine", SLOW_JAX)


def swarm(**settings):
    return swarm_v0.parallel_env(**({"num_agents": N} | SMALL | settings))


def vec_env(**settings):
    pytest.importorskip("stable_baselines3", reason="the sb3 extra is not installed")
    from entropy_env.adapters.sb3 import SwarmVecEnv

    return SwarmVecEnv(**({"num_worlds": 2, "num_agents": N, "seed": 0} | SMALL | settings))


def client(module, name):
    """An adapter whose library is not always installed."""
    pytest.importorskip(module)
    return getattr(importlib.import_module(f"entropy_env.adapters.{module}"), name)


def slots(obs):
    """The inbox of observations (..., D), slot by slot (..., K, 9)."""
    return obs[..., GOAL:INBOX].reshape(*obs.shape[:-1], K, HEARD)


def unexpected(call):
    """Messages of warnings, without those that observations have no bounds."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    known = ("unknown reset option 'options'", "value is -infinity", "value is infinity")
    return [str(each.message) for each in caught if not any(text in str(each.message) for text in known)]


def check_spaces(action, observation):
    assert action.shape == (38,) and np.all(action.low == -1) and np.all(action.high == 1)
    assert observation.shape == (INBOX,)
    assert np.all(observation.low[GOAL:] == -1) and np.all(observation.high[GOAL:] == 1)
    assert np.all(np.isinf(observation.high[LIDAR:GOAL])) and np.all(observation.high[:LIDAR] == 1)


def test_spaces_have_room_for_words():
    env = swarm(engine="jax")
    check_spaces(env.action_space("agent_0"), env.observation_space("agent_0"))
    check_spaces(env.action_spaces["agent_3"], env.observation_spaces["agent_3"])
    silent = swarm(engine="jax", comm_neighbours=0)
    assert silent.action_space("agent_0").shape == (2,) and silent.observation_space("agent_0").shape == (GOAL,)
    one = SwarmEnv(engine="jax", **SMALL)
    check_spaces(one.action_space, one.observation_space)
    many = SwarmVectorEnv(3, engine="jax", **SMALL)
    check_spaces(many.single_action_space, many.single_observation_space)
    assert many.action_space.shape == (3, 38) and many.observation_space.shape == (3, INBOX)


@numba_first
def test_checkers_of_pettingzoo_accept_robots_that_talk(engine):
    assert unexpected(lambda: parallel_api_test(swarm(engine=engine), num_cycles=20)) == []
    assert unexpected(lambda: parallel_api_test(swarm(engine=engine, on_goal="respawn"), num_cycles=20)) == []
    settings = {"num_agents": N, "engine": engine, "scenario": "relay"} | SMALL
    assert unexpected(lambda: api_test(swarm_v0.env(**settings), num_cycles=20)) == []


@numba_first
def test_checkers_of_gymnasium_accept_a_robot_that_talks(engine):
    env = gymnasium.make("entropy_env/Swarm-v0", engine=engine, **SMALL)
    assert unexpected(lambda: check_env(env.unwrapped, skip_render_check=True)) == []


@every_engine
def test_a_word_is_heard_in_the_next_observation_of_the_nearest(engine):
    env = swarm(engine=engine, layout=LINE)
    obs, _ = env.reset(seed=0)
    assert not any(slots(each).any() for each in obs.values())
    silence = np.zeros(38)
    actions = dict.fromkeys(env.agents, silence) | {"agent_0": FOUND, "agent_2": HELP}
    obs, _, _, _, infos = env.step(actions)
    expected = {"agent_0": [2], "agent_1": [0, 2], "agent_2": [0], "agent_3": [2, 0]}
    for agent, speakers in expected.items():
        heard = slots(obs[agent])
        tokens = [{0: vocabulary.FOUND_TARGET, 2: vocabulary.HELP}[speaker] for speaker in speakers]
        np.testing.assert_allclose(
            heard[:, 4], [*(token / 31 for token in tokens), *[0] * (K - len(tokens))], atol=1e-6
        )
        np.testing.assert_allclose(heard[: len(tokens), 5:], [[0.5, 0, -1, 1]] * len(tokens), atol=1e-6)
        here, there = int(agent[-1]), speakers[0]
        offset = LINE.spawns[there, 0, 0] - LINE.spawns[here, 0, 0]
        np.testing.assert_allclose(heard[0, :4], [offset / 20, 0, 1, 0], atol=1e-6)
    assert set(infos["agent_0"]) == {"active", "reached", "collision", "goals_reached", "reward_terms"}
    assert infos["agent_0"]["reward_terms"]["bandwidth"] == pytest.approx(-0.01)
    assert infos["agent_1"]["reward_terms"]["bandwidth"] == 0
    obs, *_ = env.step(dict.fromkeys(env.agents, silence))
    assert not any(slots(each).any() for each in obs.values())


@every_engine
def test_words_of_robots_that_have_left_are_not_heard(engine):
    near = make_layout([8, 6], spawns=[[1, 1], [3, 1], [5, 1], [7, 1]], goals=[[1.2, 1], [3, 5], [5, 5], [7, 5]])
    env = swarm(engine=engine, layout=near)
    env.reset(seed=0)
    obs, _, terminated, *_ = env.step(dict.fromkeys(env.agents, FOUND))
    assert terminated == {"agent_0": True} | dict.fromkeys(["agent_1", "agent_2", "agent_3"], False)
    obs, *_ = env.step(dict.fromkeys(env.agents, FOUND))  # agent_0 has left
    assert set(obs) == {"agent_1", "agent_2", "agent_3"}
    assert all((slots(each)[:, 4] > 0).sum() == 2 for each in obs.values())


@numba_first
def test_teams_given_with_a_map_hear_only_each_other(engine):
    layout = {"size": [8, 6], "spawns": LINE.spawns[:, 0], "goals": LINE.goals[:, 0], "team": [0, 1, 0, 1]}
    env = swarm(engine=engine, layout=layout, comm_channel="team")
    env.reset(seed=0)
    obs, *_ = env.step(dict.fromkeys(env.agents, FOUND))
    for agent, friend in ((0, 2), (1, 3), (2, 0), (3, 1)):
        heard = slots(obs[f"agent_{agent}"])
        offset = LINE.spawns[friend, 0, 0] - LINE.spawns[agent, 0, 0]
        np.testing.assert_allclose(heard[0, 0], offset / 20, atol=1e-6)
        assert not heard[1:].any()


@numba_first
def test_one_robot_speaks_and_hears_nobody(engine):
    env = SwarmEnv(engine=engine, **SMALL)
    env.reset(seed=0)
    obs, _, _, _, info = env.step(FOUND.astype(np.float32))
    assert obs.shape == (INBOX,) and not slots(obs).any()
    assert info["reward_terms"]["bandwidth"] == pytest.approx(-0.01)
    many = SwarmVectorEnv(3, engine=engine, **SMALL)
    many.reset(seed=0)
    obs, reward, *_ = many.step(np.tile(FOUND, (3, 1)))
    assert obs.shape == (3, INBOX) and not slots(obs).any() and reward.shape == (3,)


@numba_first
def test_actions_without_words_are_refused(engine):
    env = swarm(engine=engine)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"the action of agent_0 has shape \(2,\), expected \(38,\)"):
        env.step(dict.fromkeys(env.agents, np.zeros(2)))
    one = SwarmEnv(engine=engine, **SMALL)
    one.reset(seed=0)
    with pytest.raises(ValueError, match=r"expected \(38,\)"):
        one.step(np.zeros(2))
    many = SwarmVectorEnv(2, engine=engine, **SMALL)
    many.reset(seed=0)
    with pytest.raises(ValueError, match=r"expected \(2, 38\)"):
        many.step(np.zeros((2, 2)))
    nan = dict.fromkeys(env.agents, FOUND) | {"agent_2": np.full(38, np.nan)}
    with pytest.raises(ValueError, match="the action of agent_2 is not finite"):
        env.step(nan)


@pytest.mark.parametrize("settings", [{"comm_neighbours": -1}, {"comm_channel": "radio"}, {"comm_delay": 3}])
@pytest.mark.parametrize("make", [swarm, vec_env, functools.partial(SwarmVectorEnv, 2), SwarmEnv])
def test_impossible_settings_of_words_are_refused(make, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        make(engine="jax", **(SMALL | settings))


def test_misspelt_settings_of_words_are_explained():
    for make in (swarm, functools.partial(SwarmVectorEnv, 2), SwarmEnv):
        with pytest.raises(ValueError, match="did you mean 'comm_neighbours'"):
            make(engine="jax", comm_neighbors=3)


@every_engine
def test_pictures_of_an_adapter_show_words(engine):
    pytest.importorskip("pygame")
    env = swarm(engine=engine, render_mode="rgb_array", layout=LINE, reward="shaped")
    frames = []
    for said in (np.zeros(38), FOUND):
        env.reset(seed=0)
        env.step(dict.fromkeys(env.agents, said))
        frames.append(env.render())
    changed = (frames[0] != frames[1]).any(axis=-1)
    assert changed.sum() > 2000
    lines = changed[:, : changed.shape[1] * 3 // 8 - 40]
    assert lines.any()
    env.close()


@every_engine
def test_lanes_of_sb3_hear_each_other_within_their_world(engine):
    env = vec_env(engine=engine)
    check_spaces(env.action_space, env.observation_space)
    env.reset()
    actions = np.zeros((env.num_envs, 38), np.float32)
    actions[0] = FOUND
    obs, *_ = env.step(actions)
    heard = slots(obs)[..., 4] > 0
    assert heard.sum(axis=-1).tolist() == [0, 1, 1, 1, 0, 0, 0, 0]
    with pytest.raises(ValueError, match=r"expected \(8, 38\)"):
        env.step(np.zeros((8, 2)))


@numba_first
def test_sb3_learns_on_the_flat_box(engine):
    env = vec_env(engine=engine, scenario="relay")
    from stable_baselines3 import PPO

    assert unexpected(lambda: PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, seed=0).learn(128)) == []
    model = PPO("MlpPolicy", env, n_steps=8, batch_size=16, seed=0)
    action, _ = model.predict(env.reset())
    assert action.shape == (8, 38) and np.all(np.abs(action) <= 1)


@every_engine
def test_lanes_of_sb3_come_back_where_a_scenario_lets_them(engine):
    assert vec_env(engine=engine)._worlds.swarm.spec.on_goal == "respawn"
    assert vec_env(engine=engine, scenario="lookout", comm_neighbours=None)._worlds.swarm.spec.on_goal == "terminate"
    assert vec_env(engine=engine, on_goal="terminate")._worlds.swarm.spec.on_goal == "terminate"
    with pytest.raises(ValueError, match="on_goal='respawn': scenario 'lookout' takes only terminate"):
        vec_env(engine=engine, scenario="lookout", on_goal="respawn")
    with pytest.raises(ValueError, match=r"unknown scenario 'lockout'.*did you mean 'lookout'"):
        vec_env(engine=engine, scenario="lockout")


def test_worlds_of_sb3_go_on_from_a_snapshot_with_words_in_flight():
    env = vec_env(engine="jax", comm_history=1, comm_delay=1)
    env.reset()
    env.step(np.tile(FOUND, (8, 1)))
    kept = env.snapshot()
    silence = np.zeros((8, 38), np.float32)
    expected, *_ = env.step(silence)
    assert (slots(expected)[..., 4] > 0).any()
    env.step(silence)
    env.restore(kept)
    np.testing.assert_array_equal(env.step(silence)[0], expected)


def test_a_robot_of_gymnax_may_talk():
    env = client("gymnax", "GymnaxSwarm")(**SMALL)
    check_spaces(env.action_space(), env.observation_space())
    assert env.num_actions == 38
    _, state = env.reset(KEY(0), env.default_params)
    obs, state, reward, *_ = env.step(KEY(1), state, jnp.asarray(FOUND, jnp.float32), env.default_params)
    assert obs.shape == (INBOX,) and np.isfinite(reward)
    assert state.words.token[0, 0] == vocabulary.FOUND_TARGET


def test_robots_of_jaxmarl_hear_each_other():
    make = client("jaxmarl", "JaxMARLSwarm")
    env = make(num_agents=N, **SMALL)
    check_spaces(env.action_space("agent_0"), env.observation_space("agent_0"))
    _, state = jax.vmap(env.reset)(jax.random.split(KEY(0), 2))
    said = jnp.zeros((2, 38)).at[0].set(FOUND)
    actions = {agent: said if agent == "agent_1" else jnp.zeros((2, 38)) for agent in env.agents}
    obs, *_ = jax.vmap(env.step)(jax.random.split(KEY(1), 2), state, actions)
    heard = np.stack([(slots(np.asarray(obs[agent]))[..., 4] > 0).sum(axis=-1) for agent in env.agents])
    np.testing.assert_array_equal(heard, [[1, 0], [0, 0], [1, 0], [1, 0]])
    assert env.get_avail_actions(jax.tree.map(lambda leaf: leaf[0], state))["agent_0"].shape == (38,)
    with pytest.raises(ValueError, match="actions='discrete' with comm_neighbours=3: robots that talk need"):
        make(num_agents=N, actions="discrete", **SMALL)
    assert make(num_agents=N, actions="discrete", scenario="relay", comm_neighbours=0).action_spaces
