"""What lanes of `SwarmVecEnv` are told: rewards, ends and figures of each robot."""

import pickle

import gymnasium
import numpy as np
import pytest
from helpers.lanes import AGENTS, GOAL, LANES, MODES, VELOCITY, WORLDS, assert_same, begun, make, roam, seek, untimed
from helpers.worlds import ENGINES
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from entropy_env.adapters.sb3 import SwarmVecEnv
from entropy_env.adapters.world import draw_seed
from entropy_env.engines import make_engine
from entropy_env.env import Swarm
from entropy_env.types import SwarmSpec

LIMIT = 12  # steps, about as long as a robot needs


class LaneByHand:
    """What one lane should be told, from its robot's flags and rewards alone."""

    def __init__(self, on_goal):
        self.on_goal = on_goal
        self.total, self.length = np.float32(0), 0
        self.begin_world()

    def begin_world(self):
        self.arrivals = 0

    def expect(self, reward, acted, reached, time_up, final_obs):
        """(done, info) of a step."""
        assert acted or reward == 0
        self.total += reward
        self.length += acted
        self.arrivals += reached
        arrived = bool(reached and self.on_goal != "next_goal")
        cut = bool(acted and time_up and not arrived)
        if not (arrived or cut):
            return False, {"is_success": self.arrivals > 0} if time_up and self.on_goal == "respawn" else {}
        info = {
            "terminal_observation": final_obs.copy(),
            "TimeLimit.truncated": cut,
            "episode": {"r": pytest.approx(self.total, abs=1e-5), "l": self.length, "t": None},
        }
        if time_up or self.on_goal != "respawn":
            info["is_success"] = self.arrivals > 0
        self.total, self.length = np.float32(0), 0
        return True, info


@pytest.mark.parametrize(
    ("on_goal", "engine", "num_agents", "num_goals"),
    [(mode, "numba", 3, None) for mode in MODES] + [("respawn", "numba", 30, 1), ("respawn", "jax", 3, None)],
)
def test_lanes_match_a_plain_account_of_every_robot(on_goal, engine, num_agents, num_goals):
    given = {} if num_goals is None else {"num_goals": num_goals}
    env = make(num_agents=num_agents, on_goal=on_goal, max_steps=LIMIT, engine=engine, seed=7, **given)
    swarm = Swarm(SwarmSpec(num_agents, on_goal=on_goal, **given), "curriculum", 1)
    worlds = make_engine(swarm, WORLDS, swarm.resolve_params(max_steps=LIMIT), engine)
    obs, expected = env.reset(), worlds.reset(draw_seed(np.random.default_rng(7)))
    np.testing.assert_array_equal(obs, expected.reshape(env.num_envs, -1))

    lanes = [LaneByHand(on_goal) for _ in range(env.num_envs)]
    clock, rng, seen = [0] * WORLDS, np.random.default_rng(0), dict.fromkeys(("waiting", "both", "untold"), 0)
    for _ in range(210):
        actions = seek(obs) + rng.normal(0, 0.1, (env.num_envs, 2))
        obs, rewards, dones, infos = env.step(actions)
        transition = worlds.step(actions.reshape(WORLDS, num_agents, 2))
        infos = untimed(infos)
        for e in range(WORLDS):
            clock[e] += 1
            ends = set()
            for i in range(num_agents):
                lane, at = e * num_agents + i, (e, i)
                done, info = lanes[lane].expect(
                    transition.reward[at],
                    transition.acted[at],
                    transition.reached[at],
                    clock[e] == LIMIT,
                    transition.final_obs[at],
                )
                assert rewards[lane] == transition.reward[at]
                assert bool(dones[lane]) == done
                assert infos[lane].keys() == info.keys()
                for name in info:
                    if name == "terminal_observation":
                        np.testing.assert_array_equal(infos[lane][name], info[name])
                    else:
                        assert infos[lane][name] == info[name], name
                np.testing.assert_array_equal(obs[lane], transition.obs[at])
                waits = not transition.active[at] and not transition.over[e]
                assert np.any(obs[lane]) != waits
                seen["waiting"] += waits
                seen["untold"] += done and "is_success" not in info
                ends |= {info["TimeLimit.truncated"]} if done else set()
            seen["both"] += len(ends) == 2
            if transition.over[e]:
                clock[e] = 0
                for i in range(num_agents):
                    lanes[e * num_agents + i].begin_world()
    assert (seen["waiting"] > 0) == (on_goal == "terminate" or num_goals == 1)
    assert (seen["untold"] > 0) == (on_goal == "respawn")
    assert (seen["both"] > 0) == (on_goal != "next_goal")


def test_an_arrival_hands_over_the_goal_and_begins_elsewhere_in_the_same_step():
    env, obs = begun(max_steps=200)
    arrivals = 0
    for _ in range(60):
        obs, rewards, dones, infos = env.step(seek(obs))
        for lane in np.flatnonzero(dones):
            last, arrivals = infos[lane]["terminal_observation"], arrivals + 1
            assert 10 * np.hypot(*last[GOAL]) < 0.25
            assert 10 * np.hypot(*obs[lane, GOAL]) >= 0.25
            assert obs[lane, VELOCITY].tolist() == [0, 0]
            assert not infos[lane]["TimeLimit.truncated"]
            assert rewards[lane] > 0.9
    assert arrivals > LANES


def test_the_time_limit_truncates_and_the_next_episode_begins_in_the_same_step():
    env, _ = begun(max_steps=4, on_goal="next_goal")
    twin = SwarmVecEnv(WORLDS, AGENTS, "curriculum", on_goal="next_goal", max_steps=5, seed=0)
    twin.reset()
    stand = np.full((LANES, 2), 0.25)
    for _ in range(3):
        assert not env.step(stand)[2].any()
        twin.step(stand)
    obs, _, dones, infos = env.step(stand)
    assert dones.all()
    assert all(info["TimeLimit.truncated"] for info in infos)
    np.testing.assert_array_equal([info["terminal_observation"] for info in infos], twin.step(stand)[0])
    assert np.all(obs[:, VELOCITY][:, 0] == 0)


def test_figures_look_like_those_of_monitor():
    gym = Monitor(gymnasium.make("entropy_env/Swarm-v0", max_steps=2))
    gym.reset()
    gym.step(np.zeros(2))
    theirs = gym.step(np.zeros(2))[4]["episode"]
    env, obs = begun(max_steps=2)
    ours = roam(env, obs, 2)[-1][3][0]["episode"]
    assert {name: type(value) for name, value in ours.items()} == {name: type(value) for name, value in theirs.items()}
    assert ours["l"] == theirs["l"] == 2
    assert 0 < ours["t"] < 600


def test_results_are_shaped_and_typed_as_spaces_say():
    env, obs = begun()
    assert env.num_envs == LANES
    assert env.observation_space.shape == (36,)
    assert env.action_space.shape == (2,)
    assert obs.shape == (LANES, 36)
    transition = roam(env, obs, 25)
    for obs, rewards, dones, infos in transition:
        assert (obs.shape, obs.dtype) == ((LANES, 36), np.float32)
        assert (rewards.shape, rewards.dtype) == ((LANES,), np.float32)
        assert (dones.shape, dones.dtype) == ((LANES,), bool)
        assert len(infos) == LANES
        assert all(info.get("terminal_observation", obs[0]) in env.observation_space for info in infos)
    assert transition[-1][2].any()


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_handed_out_stays_as_it_is_and_may_be_written_to(engine):
    env, obs = begun(engine=engine)
    twin, _ = begun(engine=engine)
    kept = [(obs, obs.copy())]
    for _ in range(30):
        actions = 3 * seek(obs)
        given = actions.copy()
        transition = env.step(actions)
        assert_same(transition, twin.step(given))
        np.testing.assert_array_equal(actions, given)
        kept.append((transition, pickle.loads(pickle.dumps(transition))))
        obs = transition[0]
    env.reset()
    np.testing.assert_array_equal(*kept[0])
    for transition, copy in kept[1:]:
        assert_same(transition, copy)
    twin_obs = twin.reset()
    obs = env.step(seek(obs))[0]
    twin.step(seek(kept[-1][0][0]))
    for value in (obs, kept[-1][0][1], kept[-1][0][2]):
        value[:] = 1
    assert_same(env.step(seek(twin_obs)), twin.step(seek(twin_obs)))


def test_actions_changed_after_they_were_given_change_nothing():
    env, obs = begun()
    twin, _ = begun()
    actions = seek(obs).astype(np.float32)
    env.step_async(actions)
    actions[:] = 0
    assert_same(env.step_wait(), twin.step(seek(obs)))


def changes_of_level():
    def through(wrap):
        return lambda env: (wrap(env), lambda wrapped: wrapped.env_method("set_difficulty", 3))

    return {
        "method": lambda env: (env, lambda env: env.set_difficulty(3)),
        "property": lambda env: (env, lambda env: setattr(env, "difficulty", 3)),
        "set_attr": lambda env: (env, lambda env: env.set_attr("difficulty", 3)),
        "env_method": through(lambda env: env),
        "VecNormalize": through(lambda env: VecNormalize(env, norm_obs=False, norm_reward=False)),
        "VecMonitor": through(VecMonitor),
    }


@pytest.mark.filterwarnings("ignore:The environment is already wrapped with a `Monitor`")
@pytest.mark.parametrize("how", changes_of_level())
def test_a_new_level_cuts_every_episode_at_the_next_step(how):
    env, change = changes_of_level()[how](make(seed=0))
    transition = [env.reset()]
    while True:
        actions = seek(transition[0])
        uncut = pickle.loads(pickle.dumps(env.unwrapped)).step(actions)
        if uncut[2].any():
            break
        transition = env.step(actions)
    change(env)
    assert env.get_attr("difficulty") == [3] * LANES
    transition = env.step(actions)
    assert transition[2].all()
    np.testing.assert_array_equal(transition[1], uncut[1])
    assert not uncut[2].all()
    for lane in range(LANES):
        info = transition[3][lane]
        if uncut[2][lane]:
            assert not info["TimeLimit.truncated"]
            np.testing.assert_array_equal(info["terminal_observation"], uncut[3][lane]["terminal_observation"])
        else:
            assert info["TimeLimit.truncated"]
            np.testing.assert_array_equal(info["terminal_observation"], uncut[0][lane])
            assert "is_success" not in info
            assert ("episode" in info) == (how == "VecMonitor")
    worlds = env.unwrapped._worlds
    assert worlds.state.layout.size.tolist() == [[10, 8]] * WORLDS
    assert worlds.state.step.tolist() == [0] * WORLDS
    assert int(worlds.params.max_steps) == 300
    assert not env.step(seek(transition[0]))[2].any()


def test_what_a_new_level_cuts_is_no_episode_in_the_figures():
    env, _ = begun(max_steps=200)
    stand = np.zeros((LANES, 2))
    for _ in range(3):
        env.step(stand)
    env.set_difficulty(2)
    assert all(info.keys() == {"terminal_observation", "TimeLimit.truncated"} for info in env.step(stand)[3])
    for _ in range(199):
        assert not env.step(stand)[2].any()
    assert [info["episode"]["l"] for info in env.step(stand)[3]] == [200] * LANES


def test_the_level_that_holds_already_cuts_nothing_and_a_reset_takes_over_a_new_one():
    env, obs = begun()
    env.set_difficulty(1)
    assert not env.step(seek(obs))[2].all()
    env.set_difficulty(2)
    env.reset()
    assert not env.step(np.zeros((LANES, 2)))[2].any()
    assert env._worlds.state.layout.size.tolist() == [[8, 6]] * WORLDS
    with pytest.raises(ValueError, match="difficulty"):
        env.set_difficulty(5)
    assert env.difficulty == 2
    assert not env.step(np.zeros((LANES, 2)))[2].any()


def test_the_success_that_is_told_favours_nobody():
    env = make(num_worlds=4, num_agents=10, max_steps=60, scenario="open", goal_radius=1.0, seed=0)
    obs, arrived, transition = env.reset(), np.zeros(env.num_envs, bool), []
    for step in range(1, 301):
        obs, _, dones, infos = env.step(seek(obs))
        for lane, info in enumerate(infos):
            assert ("is_success" in info) == (step % 60 == 0)
            arrived[lane] |= dones[lane] and not info["TimeLimit.truncated"]
            transition += [info["is_success"]] if "is_success" in info else []
            assert step % 60 or transition[-1] == arrived[lane]
        if step % 60 == 0:
            arrived[:] = False
    assert len(transition) == 5 * env.num_envs
    assert 0.3 < np.mean(transition) < 1
