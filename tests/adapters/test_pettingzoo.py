import copy
import dataclasses
import pickle
import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from helpers.worlds import ENGINES
from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test, render_test, seed_test
from pettingzoo.test.state_test import state_test
from pettingzoo.utils.conversions import aec_to_parallel, aec_to_parallel_wrapper, parallel_to_aec

from entropy_env import SwarmSpec, make_layout, swarm_v0
from entropy_env.adapters.pettingzoo import SwarmParallelEnv
from entropy_env.engines import interface, jax_engine
from entropy_env.engines.numba_engine import step
from entropy_env.scenarios.open import Open

ON_GOAL = ("terminate", "respawn", "next_goal")
FORWARD = np.ones(2, np.float32)
LIDAR, VELOCITY, GOAL = map(SwarmSpec().slice, ("lidar", "velocity", "goal"))
POSITION = SwarmSpec().state_slice("position")


@dataclasses.dataclass(frozen=True)
class Full(Open):
    """A generator that never finds room."""

    def generate(self, key, spec, params):
        return super().generate(key, spec, params).replace(valid=jnp.array(False))


def make(on_goal="terminate", **settings):
    """Three agents, with few distinct simulators to compile."""
    goals = {} if on_goal == "terminate" else {"num_goals": 2}
    return swarm_v0.parallel_env(3, on_goal=on_goal, **({"max_steps": 20} | goals | settings))


def near_goal(second_spawn=(1.0, 1.0), agent_2=(4.0, 3.0)):
    """agent_0 reaches its first goal in its third step ahead, the others have far to go."""
    far = [[6.0, 5.0], [5.0, 5.0]]
    return make_layout(
        (8, 6),
        spawns=[[[1.0, 3.0, 0.0], [*second_spawn, 0.0]], [[6.0, 1.0, 0.0]] * 2, [[*agent_2, 0.0]] * 2],
        goals=[[[1.5, 3.0], [7.5, 1.0]], far, far],
    )


def one_goal(layout):
    """The same map without second spawns and goals."""
    return layout.replace(spawns=layout.spawns[:, :1], goals=layout.goals[:, :1])


def act(env, action=FORWARD, **others):
    return env.step({agent: others.get(agent, action) for agent in env.agents})


def run(env, **others):
    """Every step until all have ended, agents standing still unless told otherwise."""
    steps = []
    while env.agents:
        steps.append(act(env, np.zeros(2), **others))
    return steps


def surprises(call):
    """Messages of the warnings given by `call`, without those that PettingZoo's tests cause themselves."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    expected = ("unknown reset option 'options'", "space value is -infinity", "space value is infinity")
    return [str(w.message) for w in caught if not any(text in str(w.message) for text in expected)]


@pytest.mark.parametrize("on_goal", ON_GOAL)
def test_pettingzoo_tests_accept_the_parallel_environment(on_goal):
    assert surprises(lambda: parallel_api_test(make(on_goal), num_cycles=30)) == []
    parallel_seed_test(lambda: make(on_goal), num_cycles=10)


@pytest.mark.parametrize("on_goal", ON_GOAL)
def test_pettingzoo_tests_accept_the_turn_based_environment(on_goal):
    def turn_based():
        return swarm_v0.env(
            num_agents=3, on_goal=on_goal, max_steps=20, num_goals=2 if on_goal != "terminate" else None
        )

    allowed = {"Observation numpy array is all zeros."} if on_goal == "respawn" else set()
    assert set(surprises(lambda: api_test(turn_based(), num_cycles=30))) <= allowed
    seed_test(turn_based, num_cycles=10)


def test_state_is_in_its_space():
    state_test(swarm_v0.env(num_agents=3, max_steps=20), make())


def test_pettingzoo_accepts_what_is_drawn(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    render_test(lambda render_mode: swarm_v0.env(num_agents=3, max_steps=20, render_mode=render_mode))


def test_turn_based_and_parallel_convert_into_each_other():
    assert isinstance(aec_to_parallel(swarm_v0.env(num_agents=3)), SwarmParallelEnv)


def test_an_agent_at_its_goal_terminates_and_leaves():
    env = make(layout=one_goal(near_goal()))
    env.reset(seed=0)
    for _ in range(2):
        observations, _, terminations, _, _ = act(env)
    assert env.agents == ["agent_0", "agent_1", "agent_2"]
    assert not any(terminations.values())

    observations, rewards, terminations, truncations, infos = act(env)
    assert terminations == {"agent_0": True, "agent_1": False, "agent_2": False}
    assert not any(truncations.values())
    assert infos["agent_0"]["reached"]
    assert not infos["agent_0"]["active"]
    assert infos["agent_0"]["goals_reached"] == 1
    assert rewards["agent_0"] > 0.9
    assert np.any(observations["agent_0"])
    assert env.agents == ["agent_1", "agent_2"]
    observations = act(env, np.zeros(2), agent_2=FORWARD)[0]
    assert set(observations) == {"agent_1", "agent_2"}
    assert observations["agent_1"][VELOCITY][0] == 0
    assert observations["agent_2"][VELOCITY][0] == 1
    assert not np.any(env.state().reshape(3, -1)[0])
    assert np.all(np.any(env.state().reshape(3, -1)[1:], axis=1))


def test_the_time_limit_truncates_those_who_are_left():
    env = make(layout=one_goal(near_goal()), max_steps=4)
    env.reset()
    steps = run(env, agent_0=FORWARD)
    assert len(steps) == 4
    assert steps[2][2]["agent_0"]
    assert not any(steps[2][3].values())
    assert steps[3][3] == {"agent_1": True, "agent_2": True}
    assert not any(steps[3][2].values())


@pytest.mark.parametrize("on_goal", ON_GOAL)
def test_reaching_the_goal_on_the_last_step_is_no_truncation(on_goal):
    env = make(on_goal, max_steps=3)
    env.reset(options={"layout": one_goal(near_goal()) if on_goal == "terminate" else near_goal()})
    observations, _, terminations, truncations, infos = run(env, agent_0=FORWARD)[2]
    assert infos["agent_0"]["reached"]
    assert terminations["agent_0"] is (on_goal != "next_goal")
    assert truncations["agent_0"] is (on_goal == "next_goal")
    assert truncations["agent_1"]
    assert not terminations["agent_1"]
    if on_goal != "next_goal":
        assert 0 < 10 * np.linalg.norm(observations["agent_0"][GOAL]) < 0.25


@pytest.mark.parametrize("on_goal", ["respawn", "next_goal"])
def test_nobody_ends_before_the_time_limit_where_goals_go_on(on_goal):
    env = make(on_goal, layout=near_goal(), max_steps=6)
    env.reset()
    steps = run(env, agent_0=FORWARD)
    assert len(steps) == 6
    for _, _, terminations, truncations, infos in steps[:-1]:
        assert set(infos) == set(env.possible_agents)
        assert not any(terminations.values())
        assert not any(truncations.values())
    assert [step[4]["agent_0"]["reached"] for step in steps] == [False, False, True, False, False, False]
    assert [step[4]["agent_0"]["goals_reached"] for step in steps] == [0, 0, 1, 1, 1, 1]
    assert all(steps[-1][3].values())


def test_a_respawned_agent_observes_its_new_place():
    env = make("respawn", layout=near_goal(second_spawn=(1.0, 1.0)))
    env.reset()
    for _ in range(3):
        observations, _, _, _, infos = act(env, np.zeros(2), agent_0=FORWARD)
    assert infos["agent_0"]["reached"]
    assert infos["agent_0"]["active"]
    np.testing.assert_allclose(env.state()[POSITION], [1.0, 1.0])
    np.testing.assert_allclose(observations["agent_0"][GOAL], [0.65, 0.0], atol=1e-6)


def test_an_agent_without_room_to_respawn_waits_and_comes_back():
    env = make("respawn", layout=near_goal(second_spawn=(6.1, 1.0), agent_2=(0.75, 3.0)))
    env.reset()
    for _ in range(3):
        _, rewards, _, _, infos = act(env, np.zeros(2), agent_0=FORWARD, agent_2=FORWARD)
    assert infos["agent_0"]["reached"]
    assert not infos["agent_0"]["active"]
    assert rewards["agent_0"] > 0.9
    observations, rewards, _, _, infos = act(env, np.zeros(2))
    assert not infos["agent_0"]["active"]
    assert not np.any(observations["agent_0"])
    assert rewards["agent_0"] == 0
    assert env.agents == env.possible_agents

    freed = [act(env, np.zeros(2), agent_2=-FORWARD) for _ in range(3)]
    assert freed[-1][4]["agent_0"]["active"]
    assert np.any(freed[-1][0]["agent_0"])


def test_the_time_limit_truncates_an_agent_that_waits():
    env = make("respawn", layout=near_goal(second_spawn=(6.1, 1.0), agent_2=(0.75, 3.0)), max_steps=4)
    env.reset()
    for _ in range(3):
        act(env, np.zeros(2), agent_0=FORWARD, agent_2=FORWARD)
    _, _, terminations, truncations, infos = act(env, np.zeros(2))
    assert not infos["agent_0"]["active"]
    assert truncations == dict.fromkeys(env.possible_agents, True)
    assert not any(terminations.values())
    assert env.agents == []


def test_a_seed_fixes_the_episodes_that_follow():
    def episodes(env, seed):
        first, _ = env.reset(seed=seed)
        return [first, act(env)[0], env.reset()[0], env.reset()[0]]

    one, same, other = episodes(make(), 3), episodes(make(), 3), episodes(make(), 4)
    assert data_equivalence(one, same, exact=True)
    assert not data_equivalence(one[0], other[0])
    assert not data_equivalence(one[0], one[2])
    assert not data_equivalence(one[2], one[3])


def test_environments_without_a_seed_differ():
    assert not data_equivalence(make().reset()[0], make().reset()[0])


def test_difficulty_lasts_one_episode_as_an_option_and_longer_when_set():
    env = make(difficulty=2)

    def width_after_reset(**options):
        env.reset(options=options)
        return float(env._world.state.layout.size[0, 0])

    hard = width_after_reset()
    simulator = env._world.swarm
    easy = width_after_reset(difficulty=1)
    assert env._world.swarm == simulator
    assert easy < hard
    assert width_after_reset() == hard
    env.set_difficulty(1)
    assert width_after_reset() == easy
    assert width_after_reset() == easy
    with pytest.raises(ValueError, match="difficulty=7"):
        env.set_difficulty(7)
    assert width_after_reset() == easy


def test_a_layout_lasts_one_episode_as_an_option():
    env = make()
    env.reset(seed=0, options={"layout": one_goal(near_goal())})
    np.testing.assert_allclose(env.state().reshape(3, -1)[:, POSITION], [[1, 3], [6, 1], [4, 3]])
    env.reset()
    assert not np.allclose(env.state()[POSITION], [1, 3])


def test_a_layout_may_be_given_as_plain_numbers():
    env = make()
    spawns = [[1, 1], [1, 3], [1, 5]]
    env.reset(options={"layout": {"size": (8, 6), "spawns": spawns, "goals": [[7, 1], [7, 3], [7, 5]]}})
    np.testing.assert_allclose(env.state().reshape(3, -1)[:, POSITION], spawns)


def test_a_bad_layout_leaves_the_running_episode_alone():
    env = make()
    env.reset(seed=0)
    before = env.state()
    with pytest.raises(ValueError, match="the layout has spawns for 1 agents, the environment has 3"):
        env.reset(options={"layout": {"size": (8, 6), "spawns": [[1, 1]], "goals": [[7, 1]]}})
    np.testing.assert_array_equal(env.state(), before)
    act(env)


def test_a_bad_layout_fails_at_construction():
    with pytest.raises(ValueError, match="agent_1: its spawn"):
        make(layout={"size": (8, 6), "spawns": [[1, 1], [9, 1], [3, 1]], "goals": [[2, 2]] * 3})


def test_an_unknown_reset_option_is_named():
    with pytest.warns(UserWarning, match="'dificulty' is ignored: known are difficulty, layout"):
        make().reset(options={"dificulty": 2})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent_1": [0.0, 0.0, 0.0]}, r"the action of agent_1 has shape \(3,\), expected \(2,\)"),
        ({"agent_1": [[0.0, 0.0]]}, r"the action of agent_1 has shape \(1, 2\), expected \(2,\)"),
        ({"agent_1": 0.5}, r"the action of agent_1 has shape \(\), expected \(2,\)"),
        ({"agent_1": None}, r"the action of agent_1 is no array of numbers: None, expected shape \(2,\)"),
        ({"agent_1": ["fast", "slow"]}, r"the action of agent_1 is no array of numbers: \['fast', 'slow'\]"),
        ({"agent_2": [0.0, np.nan]}, r"the action of agent_2 is not finite: nan at \[1\]"),
        ({"agent_2": [-np.inf, 0.0]}, r"the action of agent_2 is not finite: -inf at \[0\]"),
        ({"agent_9": [0.0, 0.0]}, "an action for 'agent_9', which is no agent of this environment"),
        ({"agent_0": ..., "agent_2": ...}, "no action for agent_0, agent_2"),
    ],
)
def test_a_wrong_action_is_named(changes, message):
    env = make()
    env.reset(seed=0)
    actions = dict.fromkeys(env.agents, FORWARD) | changes
    with pytest.raises(ValueError, match=message):
        env.step({agent: action for agent, action in actions.items() if action is not ...})
    act(env)


@pytest.mark.parametrize("action", [FORWARD, None, "fast", [np.nan, 0.0], np.zeros(7)], ids=str)
def test_an_action_for_an_agent_that_has_ended_is_ignored(action):
    env, twin = (make(layout=one_goal(near_goal())) for _ in range(2))
    for each in (env, twin):
        each.reset()
        for _ in range(3):
            act(each)
        assert each.agents == ["agent_1", "agent_2"]
    transition = env.step({"agent_0": action, "agent_2": FORWARD, "agent_1": FORWARD})
    assert list(transition[0]) == ["agent_1", "agent_2"]
    assert data_equivalence(transition, act(twin), exact=True)
    with pytest.raises(ValueError, match="no action for agent_1"):
        env.step({"agent_0": action, "agent_2": FORWARD})
    with pytest.raises(ValueError, match="an action for 'agent_9', which is no agent"):
        env.step(dict.fromkeys([*env.possible_agents, "agent_9"], FORWARD))


def steered(observation):
    """Motors that turn towards the goal, so that agents arrive one after another."""
    ahead, left = observation[GOAL]
    turn = np.clip(np.arctan2(left, ahead), -1, 1)
    return np.array([1 - turn, 1 + turn], np.float32)


@pytest.mark.parametrize(
    "wrap", [aec_to_parallel_wrapper, lambda env: aec_to_parallel(parallel_to_aec(aec_to_parallel(env)))]
)
def test_conversions_play_the_same_episode(wrap):
    env, converted = make(max_steps=200), wrap(swarm_v0.raw_env(num_agents=3, max_steps=200))
    observations, twin = env.reset(seed=0)[0], converted.reset(seed=0)[0]
    left = []
    while env.agents:
        assert set(converted.agents) == set(env.agents)
        left.append(len(env.agents))
        transition = env.step({agent: steered(observations[agent]) for agent in env.agents})
        echo = converted.step({agent: steered(twin[agent]) for agent in env.possible_agents if agent in twin})
        observations, twin = transition[0], echo[0]
        for one, other in zip(transition, echo, strict=True):
            assert data_equivalence(dict(one), {agent: other[agent] for agent in one})
    assert sorted({*left}) == [1, 2, 3]
    assert not converted.agents


def test_those_who_always_act_for_all_play_on():
    env = make(max_steps=200)
    observations, _ = env.reset(seed=0)
    seen = dict(observations)
    for _ in range(201):
        observations, *_ = env.step({agent: steered(seen[agent]) for agent in env.possible_agents})
        seen |= observations
    assert env.agents == []
    assert observations == {}


def test_actions_beyond_full_speed_are_clipped():
    one, other = make(), make()
    one.reset(seed=0)
    other.reset(seed=0)
    assert data_equivalence(act(one, FORWARD)[0], act(other, 5 * FORWARD)[0])


def test_calls_outside_an_episode_say_what_is_missing():
    env = make(max_steps=1, render_mode="rgb_array")
    for call in (env.render, env.state):
        with pytest.raises(RuntimeError, match="no episode has begun"):
            call()
    with pytest.raises(RuntimeError, match=r"no episode has begun: call reset\(\)"):
        env.step({})
    env.reset()
    act(env)
    assert env.agents == []
    for actions in ({}, {"agent_1": FORWARD}, dict.fromkeys(env.possible_agents)):
        assert env.step(actions) == ({}, {}, {}, {}, {})
    with pytest.raises(ValueError, match="an action for 'agent_9', which is no agent"):
        env.step({"agent_9": FORWARD})
    assert len(env.reset()[0]) == 3


def test_a_reset_that_failed_leaves_nothing_to_step():
    env = make(scenario=Full())
    with pytest.raises(RuntimeError, match="found no room"):
        env.reset()
    with pytest.raises(RuntimeError, match="no episode has begun"):
        env.step({})


def test_the_number_of_agents_is_that_of_the_living():
    env = make(layout=one_goal(near_goal()), max_steps=4)
    assert (env.num_agents, env.max_num_agents) == (0, 3)
    env.reset()
    assert (env.num_agents, env.max_num_agents) == (3, 3)
    for _ in range(3):
        act(env)
    assert (env.num_agents, env.max_num_agents) == (2, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scenario": "opne"}, "'open'"),
        ({"max_weel_speed": 1.0}, "max_wheel_speed"),
        ({"render_mode": "ascii"}, "human, rgb_array"),
        ({"on_goal": "vanish"}, "terminate, respawn, next_goal"),
        ({"num_rays": 0}, "num_rays=0"),
        ({"difficulty": 5}, "difficulty=5"),
    ],
)
def test_a_wrong_setting_fails_at_construction(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_a_scenario_that_finds_no_room_fails_at_reset():
    env = make(scenario=Full())
    with pytest.raises(RuntimeError, match="scenario 'open' at difficulty 1 found no room for 3 agents of radius"):
        env.reset()


def test_settings_reach_the_simulator():
    env = make(max_wheel_speed=0.5, num_rays=8, velocity_frame="world", reward="v3", dt=0.05)
    env.reset(options={"layout": one_goal(near_goal())})
    observations, _, _, _, infos = act(env)
    spec = SwarmSpec(num_rays=8)
    assert observations["agent_0"].shape == (spec.obs_dim,)
    np.testing.assert_allclose(observations["agent_0"][spec.slice("velocity")], [0.5, 0.0], atol=1e-6)
    assert infos["agent_0"]["reward_terms"]["distance"] < 0
    assert env.metadata["render_fps"] == 20
    assert SwarmParallelEnv.metadata["render_fps"] == 10


def test_reward_terms_are_reported_and_add_up():
    env = make(layout=one_goal(near_goal()))
    env.reset()
    _, rewards, _, _, infos = act(env)
    terms = infos["agent_0"]["reward_terms"]
    assert terms["progress"] == pytest.approx(0.1, abs=1e-4)
    assert terms["time"] == pytest.approx(-0.005)
    assert sum(terms.values()) == pytest.approx(rewards["agent_0"])


def test_observations_are_in_their_space_and_spaces_stay_the_same_objects():
    env = make()
    observations, _ = env.reset(seed=0)
    stepped = act(env)[0]
    for agent in env.agents:
        space = env.observation_space(agent)
        assert space is env.observation_space(agent)
        assert env.action_space(agent) is env.action_space(agent)
        assert space.dtype == np.float32
        assert observations[agent] in space
        assert stepped[agent] in space
    assert env.action_space("agent_0") is not env.action_space("agent_1")
    assert space.low[LIDAR][0] == 0
    assert space.high[LIDAR][0] == 1
    assert np.all(np.isinf(space.high[VELOCITY]))
    assert np.all(np.isinf(space.high[GOAL]))


def test_arrays_handed_out_can_be_written_to_without_effect():
    env, twin = make(), make()
    for each in (env, twin):
        each.reset(seed=0)
    for observations in (env.reset(seed=0)[0], act(env)[0]):
        for array in (*observations.values(), env.state()):
            array[:] = 7.0
    act(twin)
    assert data_equivalence(act(env), act(twin), exact=True)


@pytest.mark.parametrize("engine", ENGINES)
def test_another_environment_and_other_parameters_compile_nothing(engine):
    def compiled():
        jitted = jax_engine._step, jax_engine._reset_to, interface._draw_little
        return len(step.run.signatures), *(function._cache_size() for function in jitted)

    env = make(engine=engine)
    env.reset(seed=0)
    act(env)
    before = compiled()
    other = make(engine=engine, max_wheel_speed=0.3, agent_radius=0.08, max_steps=50, reward="v3")
    other.reset(seed=1)
    act(other)
    assert compiled() == before
    assert before[0 if engine == "numba" else 1] >= 1


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_goes_on_by_itself(duplicate):
    env = make(render_mode="rgb_array")
    fresh = duplicate(env)
    assert data_equivalence(fresh.reset(seed=5), env.reset(seed=5), exact=True)
    act(env)
    env.render()
    copied = duplicate(env)
    for _ in range(3):
        expected = act(env)
    for _ in range(3):
        actual = act(copied)
    assert data_equivalence(actual, expected, exact=True)
    assert data_equivalence(copied.reset(), env.reset(), exact=True)
    assert copied.render().shape == env.render().shape


def test_frames_show_the_world():
    env = make(render_mode="rgb_array", layout=one_goal(near_goal()))
    env.reset()
    first = env.render()
    act(env)
    second = env.render()
    assert first.dtype == np.uint8
    assert first.ndim == 3
    assert first.shape[2] == 3
    assert np.any(first != second)
    first[:] = 0
    np.testing.assert_array_equal(env.render(), second)


def test_render_without_a_mode_warns_and_close_may_be_called_again():
    env = make()
    env.reset()
    with pytest.warns(UserWarning, match="without a render_mode"):
        assert env.render() is None
    env.close()
    env.close()


def test_the_environment_names_itself():
    assert str(make()) == "swarm_v0"
    assert repr(make()) == "SwarmParallelEnv(num_agents=3, scenario='open', difficulty=1, on_goal='terminate')"


def test_a_picture_that_fails_costs_no_step_and_warns_once(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    watched, plain = make(render_mode="human", dt=0.001), make(dt=0.001)
    for env in (watched, plain):
        env.reset(seed=0)

    def fail(*args, **kwargs):
        raise RuntimeError("no ink")

    with monkeypatch.context() as patched:
        patched.setattr("entropy_env.render.Renderer.draw", fail)
        with pytest.warns(UserWarning, match="no ink"):
            transition = act(watched)
        assert data_equivalence(transition, act(plain))
        with warnings.catch_warnings(action="error"):
            assert data_equivalence(act(watched), act(plain))
            assert data_equivalence(watched.reset(seed=1), plain.reset(seed=1))
        with pytest.raises(RuntimeError, match="no ink"):
            watched.render()
    assert data_equivalence(act(watched), act(plain))
    watched.close()


def test_a_neighbour_that_ends_pygame_costs_no_step(monkeypatch):
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    envs = [make(render_mode="human", dt=0.001) for _ in range(2)]
    for env in envs:
        env.reset(seed=0)
    pygame.quit()
    for _ in range(2):
        for env in envs:
            assert set(act(env)[0]) == set(env.possible_agents)
    envs[0].close()
    act(envs[1])
    assert not envs[1]._world._renderer.closed and pygame.display.get_init()
    envs[1].close()


def test_a_window_without_a_display_is_refused_before_the_episode(monkeypatch):
    pygame = pytest.importorskip("pygame")
    pygame.display.quit()
    monkeypatch.setenv("SDL_VIDEODRIVER", "none such")
    env = make(render_mode="human")
    with pytest.raises(RuntimeError, match="needs a display"):
        env.reset(seed=0)
    assert not env.agents
