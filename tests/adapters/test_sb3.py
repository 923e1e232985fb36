import itertools
import multiprocessing
import pickle
import subprocess
import sys
import types
import warnings

import cloudpickle
import gymnasium
import imageio_ffmpeg
import numpy as np
import pytest
from helpers.worlds import ENGINES

torch = pytest.importorskip("torch", reason="the sb3 extra is not installed")
pytest.importorskip("stable_baselines3", reason="the sb3 extra is not installed")
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecVideoRecorder,
)

from entropy_env.adapters.sb3 import SwarmVecEnv
from entropy_env.adapters.world import draw_seed
from entropy_env.engines import make_engine
from entropy_env.env import Swarm
from entropy_env.types import SwarmSpec

torch.set_num_threads(1)
MODES = ("respawn", "terminate", "next_goal")
WORLDS, AGENTS = 2, 3
LANES = WORLDS * AGENTS
VELOCITY, GOAL = map(SwarmSpec().slice, ("velocity", "goal"))
LIMIT = 12  # steps, about as long as a robot needs
ON_POLICY = {"n_steps": 16, "batch_size": 32, "n_epochs": 2}
OFF_POLICY = {"buffer_size": 1000, "learning_starts": 24, "batch_size": 16, "train_freq": 4}


def make(**settings):
    """Two small worlds whose goals are near, and a time limit that comes soon."""
    return SwarmVecEnv(**({"num_worlds": WORLDS, "num_agents": AGENTS, "scenario": "curriculum"} | settings))


def begun(**settings):
    """Such worlds, and their first observations."""
    env = make(**({"max_steps": 25, "seed": 0} | settings))
    return env, env.reset()


def seek(obs):
    """Wheel speeds (lanes, 2) that lead to the goals, (lanes, obs_dim) observed."""
    ahead, left = obs[:, GOAL].T
    turn = np.clip(np.arctan2(left, ahead), -1, 1)
    return np.stack([1 - turn, 1 + turn], axis=1)


def roam(env, obs, steps):
    """What seeking robots are told, step by step."""
    transition = []
    for _ in range(steps):
        transition.append(env.step(seek(obs)))
        obs = transition[-1][0]
    return transition


def untimed(infos):
    """Infos without the seconds that have passed."""
    return [info | {"episode": {**info["episode"], "t": None}} if "episode" in info else info for info in infos]


def assert_same(one, other):
    """Equal bits in all that two steps told."""
    for a, b in zip(one[:3], other[:3], strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(untimed(one[3]), untimed(other[3]), strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], name)


def assert_same_course(env, twin, obs, steps=40):
    """Both are told the same from these observations on, across ends of episodes."""
    ends = 0
    for _ in range(steps):
        actions = seek(obs)
        one, other = env.step(actions), twin.step(actions)
        assert_same(one, other)
        obs, ends = one[0], ends + one[2].sum()
    assert ends


def small(algorithm, env, policy="MlpPolicy", **settings):
    """A model with a tiny network, seeded."""
    settings = (ON_POLICY if algorithm in (PPO, RecurrentPPO) else OFF_POLICY) | settings
    return algorithm(policy, env, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **settings)


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()]).numpy()


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


def test_a_seed_fixes_all_that_follows():
    def episodes(env, seed=None):
        if seed is not None:
            assert env.seed(seed) == list(range(seed, seed + LANES))
        first = env.reset()
        return [first, *(transition[0] for transition in roam(env, first, 30)), env.reset()]

    env, _ = begun()
    one, same = episodes(env, 3), episodes(env, 3)
    np.testing.assert_array_equal(one, same)
    np.testing.assert_array_equal(one, episodes(make(max_steps=25, seed=3)))
    np.testing.assert_array_equal(one, episodes(VecNormalize(make(max_steps=25), norm_obs=False), 3))
    assert not np.array_equal(one[0], one[-1])
    assert not np.array_equal(one[0][:AGENTS], one[0][AGENTS:])
    assert not np.array_equal(one[0], episodes(env, 4)[0])
    assert not np.array_equal(make().reset(), make().reset())
    env.seed()
    unseeded = env.reset()
    env.seed()
    assert not np.array_equal(unseeded, env.reset())
    with pytest.raises(ValueError, match="non-negative"):
        env.seed(-1)


def test_a_difficulty_may_be_an_option_of_one_reset():
    env, _ = begun()
    env.set_options({"difficulty": 3})
    env.reset()
    assert env._worlds.state.layout.size.tolist() == [[10, 8]] * WORLDS
    assert not env.step(np.zeros((LANES, 2)))[2].any()
    env.reset()
    assert np.all(env._worlds.state.layout.size < 7.5)
    env.set_options([{"difficulty": 2}] + [{}] * (LANES - 1))
    with pytest.raises(ValueError, match="give set_options one dict"):
        env.reset()
    env.set_options({"map": 1})
    with pytest.warns(UserWarning, match="'map' is ignored: known are difficulty"):
        env.reset()


@pytest.mark.parametrize(
    "duplicate", [lambda env: pickle.loads(pickle.dumps(env)), lambda env: cloudpickle.loads(cloudpickle.dumps(env))]
)
@pytest.mark.parametrize("on_goal", MODES)
def test_a_pickled_environment_goes_on_by_itself(duplicate, on_goal):
    env, obs = begun(on_goal=on_goal)
    obs = roam(env, obs, 8)[-1][0]
    env.step_async(seek(obs))
    twin = duplicate(env)
    transition = env.step_wait()
    assert_same(transition, twin.step_wait())
    assert_same_course(env, twin, transition[0])
    np.testing.assert_array_equal(env.reset(), twin.reset())


def test_an_environment_may_be_pickled_before_it_begins_and_while_it_is_drawn():
    env = make(render_mode="rgb_array", seed=0)
    twin = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(env.reset(), twin.reset())
    picture = env.render()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(env)).render(), picture)


def harder(env):
    """Up two levels and one back, so that sizes are for a harder level than is played."""
    env.set_difficulty(3)
    env.step(np.zeros((LANES, 2)))
    env.set_difficulty(2)
    return env.step(np.zeros((LANES, 2)))[0]


def pending(env):
    env.set_difficulty(3)
    return env._worlds.engine.observe().reshape(LANES, -1).copy()


def by_option(env):
    env.set_options({"difficulty": 3})
    return env.reset()


@pytest.mark.parametrize("before", [lambda env: env.reset(), harder, pending, by_option])
def test_an_environment_goes_on_exactly_from_a_snapshot(before):
    env, _ = begun()
    obs = before(env)
    snapshot = env.snapshot()
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in snapshot.values())
    kept = {name: array.copy() for name, array in snapshot.items()}
    fresh = make(max_steps=25)
    fresh.restore(snapshot)
    used, _ = begun(seed=5)
    used.set_difficulty(4)
    used.step(np.zeros((LANES, 2)))
    used.restore(snapshot)
    for restored in (fresh, used):
        assert restored.difficulty == env.difficulty
        twin = pickle.loads(pickle.dumps(env))
        assert_same_course(twin, restored, obs)
        np.testing.assert_array_equal(twin.reset(), restored.reset())
    roam(env, obs, 30)
    for name, array in kept.items():
        np.testing.assert_array_equal(snapshot[name], array)


def test_a_snapshot_goes_on_in_another_process(tmp_path):
    env, _ = begun()
    harder(env)
    np.savez(tmp_path / "worlds.npz", **env.snapshot())
    code = f"""
import numpy as np
from entropy_env.adapters.sb3 import SwarmVecEnv
env = SwarmVecEnv({WORLDS}, {AGENTS}, "curriculum", max_steps=25)
env.restore(np.load({str(tmp_path / "worlds.npz")!r}))
transition = [env.step(np.full(({LANES}, 2), 0.5))[0] for _ in range(30)]
np.save({str(tmp_path / "transition.npy")!r}, transition + [env.reset()])
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    transition = [env.step(np.full((LANES, 2), 0.5))[0] for _ in range(30)]
    np.testing.assert_array_equal(np.load(tmp_path / "transition.npy"), [*transition, env.reset()])


def test_a_snapshot_of_another_environment_is_refused():
    env, _ = begun()
    for other in ({"num_worlds": 3}, {"num_agents": 4}, {"scenario": "open", "on_goal": "terminate"}):
        with pytest.raises(ValueError, match="snapshot"):
            env.restore(begun(**other)[0].snapshot())
    snapshot = env.snapshot()
    for name in snapshot:
        with pytest.raises(ValueError, match=f"snapshot has no '{name}'"):
            env.restore({key: array for key, array in snapshot.items() if key != name})
    with pytest.raises(ValueError, match="unknown 'more'"):
        env.restore(snapshot | {"more": np.zeros(1)})
    with pytest.raises(RuntimeError, match="no episode has begun"):
        make().snapshot()


def steer(connection, env, obs):
    """In a spawned process: the observations of twelve steps."""
    connection.send([transition[0] for transition in roam(env, obs, 12)])


def test_a_spawned_process_steps_an_environment_it_is_given():
    env, obs = begun()
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=steer, args=(there, env, obs))
    process.start()
    assert here.poll(100)
    np.testing.assert_array_equal(here.recv(), [transition[0] for transition in roam(env, obs, 12)])
    process.join()
    assert process.exitcode == 0


def make_single(**settings):
    import entropy_env  # noqa: F401

    return gymnasium.make("entropy_env/Swarm-v0", max_steps=3, **settings)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_single_robots_run_in_workers(method):
    robots = SubprocVecEnv([make_single] * 2, start_method=method)
    try:
        robots.seed(0)
        assert robots.reset().shape == (2, 36)
        for _ in range(3):
            obs, _, dones, infos = robots.step(np.ones((2, 2)))
        assert dones.all()
        assert all(info["TimeLimit.truncated"] for info in infos)
        assert not np.array_equal(obs[0], infos[0]["terminal_observation"])
    finally:
        robots.close()


@pytest.mark.filterwarnings("ignore:.*(minimum|maximum) value is -?infinity")
def test_stable_baselines_accepts_the_gymnasium_environment(recwarn):
    check_env(make_single().unwrapped)
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("on_goal", MODES)
@pytest.mark.parametrize(
    ("algorithm", "policy"),
    [(PPO, "MlpPolicy"), (RecurrentPPO, "MlpLstmPolicy"), (SAC, "MlpPolicy"), (TD3, "MlpPolicy")],
)
def test_algorithms_learn_and_a_seed_gives_the_same_weights(algorithm, policy, on_goal):
    runs = []
    for _ in range(2 if on_goal == "respawn" else 1):
        model = small(algorithm, make(on_goal=on_goal, max_steps=9), policy)
        untrained = weights(model)
        model.learn(200)
        runs.append(weights(model))
    assert np.isfinite(runs[0]).all()
    assert not np.array_equal(runs[0], untrained)
    np.testing.assert_array_equal(runs[0], runs[-1])
    assert {"r", "l", "t"} == model.ep_info_buffer[0].keys()
    assert len(model.ep_success_buffer) > 0


class Listener(BaseCallback):
    """Keeps what every step of a rollout told, before the algorithm adds to the rewards."""

    def __init__(self):
        super().__init__()
        self.steps = []

    def _on_step(self):
        self.steps.append((self.locals["rewards"].copy(), self.locals["infos"]))
        return True


def test_values_are_bootstrapped_at_time_limits_and_nowhere_else():
    env, listener = VecNormalize(make(max_steps=20, goal_radius=0.6), norm_reward=False), Listener()
    model = small(PPO, env, n_steps=60, batch_size=60, learning_rate=0.0)
    model.learn(60 * LANES, callback=listener)
    cut = arrived = 0
    for stored, (rewards, infos) in zip(model.rollout_buffer.rewards, listener.steps, strict=True):
        for lane, info in enumerate(infos):
            expected = rewards[lane]
            if info.get("TimeLimit.truncated"):
                last, cut = torch.as_tensor(info["terminal_observation"])[None], cut + 1
                expected += model.gamma * model.policy.predict_values(last).item()
            arrived += info.get("TimeLimit.truncated") is False
            assert stored[lane] == pytest.approx(expected, abs=1e-5)
    assert cut
    assert arrived


def test_normalised_observations_include_the_last():
    raw, obs = begun()
    normal = VecNormalize(pickle.loads(pickle.dumps(raw)), norm_reward=False)
    normal.reset(), raw.reset()
    ends = 0
    for _ in range(26):
        actions = seek(obs)
        obs, _, dones, infos = raw.step(actions)
        theirs, _, _, their_infos = normal.step(actions)
        np.testing.assert_allclose(theirs, normal.normalize_obs(obs), atol=1e-6)
        for lane in np.flatnonzero(dones):
            last, ends = normal.normalize_obs(infos[lane]["terminal_observation"]), ends + 1
            np.testing.assert_allclose(their_infos[lane]["terminal_observation"], last, atol=1e-6)
    assert ends > LANES


def test_the_figures_are_those_of_a_vec_monitor_which_warns_that_it_replaces_them(tmp_path):
    env, _ = begun()
    with pytest.warns(UserWarning, match="already wrapped with a `Monitor` wrapper"):
        monitored = VecMonitor(pickle.loads(pickle.dumps(env)), str(tmp_path / "monitor.csv"))
    obs, ends = env.reset(), 0
    monitored.reset()
    for _ in range(60):
        actions = seek(obs)
        obs, _, dones, infos = env.step(actions)
        theirs = monitored.step(actions)[3]
        for lane in np.flatnonzero(dones):
            ends += 1
            assert theirs[lane]["episode"]["r"] == pytest.approx(infos[lane]["episode"]["r"], abs=1e-5)
            assert theirs[lane]["episode"]["l"] == infos[lane]["episode"]["l"]
    monitored.close()
    assert len((tmp_path / "monitor.csv").read_text().splitlines()) == ends + 2


def test_stacked_frames_end_with_the_last_observation_and_begin_afresh():
    env, obs = begun()
    stacked = VecFrameStack(pickle.loads(pickle.dumps(env)), 2)
    obs = env.reset()
    np.testing.assert_array_equal(stacked.reset(), np.hstack([np.zeros_like(obs), obs]))
    ends = 0
    for _ in range(26):
        before, actions = obs, seek(obs)
        obs, _, dones, infos = env.step(actions)
        both, _, _, their_infos = stacked.step(actions)
        np.testing.assert_array_equal(both, np.hstack([before * ~dones[:, None], obs]))
        for lane in np.flatnonzero(dones):
            last, ends = infos[lane]["terminal_observation"], ends + 1
            np.testing.assert_array_equal(their_infos[lane]["terminal_observation"], np.hstack([before[lane], last]))
    assert ends > LANES


FILMED = {
    "SwarmVecEnv": lambda: make(max_steps=25, seed=0, render_mode="rgb_array"),
    "DummyVecEnv": lambda: DummyVecEnv([lambda: make_single(render_mode="rgb_array")] * 2),
}


@pytest.mark.parametrize("make_env", FILMED.values(), ids=FILMED)
def test_a_video_is_recorded(make_env, tmp_path, monkeypatch):
    """Without moviepy, whose place is taken at the one call that writes."""
    written = []

    class Clip:
        def __init__(self, frames, fps):
            self.frames, self.fps = frames, fps

        def write_videofile(self, path):
            written.append((path, np.array(self.frames), self.fps))

    for name in ("moviepy", "moviepy.video", "moviepy.video.io", "moviepy.video.io.ImageSequenceClip"):
        module = types.ModuleType(name)
        module.ImageSequenceClip = Clip
        monkeypatch.setitem(sys.modules, name, module)
    recorder = VecVideoRecorder(make_env(), str(tmp_path), lambda step: step == 0, video_length=3)
    roam(recorder, recorder.reset(), 4)
    recorder.close()
    [(path, frames, fps)] = written
    assert path.startswith(str(tmp_path))
    assert fps == 10
    assert len(frames) == 4
    assert frames.dtype == np.uint8
    assert all(np.any(one != other) for one, other in itertools.pairwise(frames))


def test_a_recorded_video_plays(tmp_path):
    pytest.importorskip("moviepy", reason="VecVideoRecorder wants moviepy")
    env, _ = begun(render_mode="rgb_array")
    recorder = VecVideoRecorder(env, str(tmp_path), lambda step: step == 0, video_length=3)
    roam(recorder, recorder.reset(), 4)
    recorder.close()
    [video] = tmp_path.glob("*.mp4")
    assert imageio_ffmpeg.count_frames_and_secs(str(video)) == (4, pytest.approx(0.4))


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: VecNormalize(env, training=False, norm_reward=False)])
def test_policies_are_evaluated_without_complaint(wrap, deterministic):
    env = wrap(make(max_steps=9, seed=0))
    model = small(PPO, env)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        returns, lengths = evaluate_policy(
            model, env, n_eval_episodes=10, deterministic=deterministic, return_episode_rewards=True
        )
    assert len(returns) == len(lengths) == 10
    assert all(0 < length <= 9 for length in lengths)
    assert np.isfinite(returns).all()


def test_evaluation_believes_the_figures_of_the_lanes():
    env = make(max_steps=9, seed=0, on_goal="terminate")
    transition = []

    def listen(local, _):
        transition.append(local["info"].get("episode"))

    class Seeker:
        def predict(self, obs, **_):
            return seek(obs), None

    returns, lengths = evaluate_policy(
        Seeker(), env, n_eval_episodes=2 * LANES, callback=listen, return_episode_rewards=True
    )
    ended = [episode for episode in transition if episode]
    assert returns == [episode["r"] for episode in ended]
    assert lengths == [episode["l"] for episode in ended]
    assert min(lengths) < 9


def test_a_saved_model_goes_on_with_an_environment(tmp_path):
    env = VecNormalize(make(max_steps=9))
    model = small(PPO, env).learn(100)
    model.save(tmp_path / "model")
    env.save(str(tmp_path / "normal.pkl"))
    obs = env.reset()
    again = VecNormalize.load(str(tmp_path / "normal.pkl"), make(max_steps=9))
    for loaded in (PPO.load(tmp_path / "model", env=again), PPO.load(tmp_path / "model")):
        np.testing.assert_array_equal(weights(loaded), weights(model))
        loaded.set_env(again)
        np.testing.assert_array_equal(
            loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0]
        )
        loaded.learn(100, reset_num_timesteps=False)
        assert not np.array_equal(weights(loaded), weights(model))


def test_a_picture_has_a_tile_for_every_world():
    for num_worlds, rows, columns, least, most in ((1, 1, 1, 900, 960), (2, 2, 1, 400, 480), (3, 2, 2, 400, 480)):
        env, _ = begun(num_worlds=num_worlds, render_mode="rgb_array")
        images = env.get_images()
        assert len(images) == num_worlds
        height, width, _ = images[0].shape
        assert least <= width <= most
        picture = env.render()
        assert picture.shape == env.render("rgb_array").shape == (height * rows, width * columns, 3)
        assert picture.dtype == np.uint8
        for k, image in enumerate(images):
            top, left = height * (k // columns), width * (k % columns)
            np.testing.assert_array_equal(picture[top : top + height, left : left + width], image)
        assert all(np.any(images[0] != image) for image in images[1:])
        env.close()
        env.close()


def test_a_window_shows_the_first_world(monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env, obs = begun(render_mode="human")
    drawn = []
    with monkeypatch.context() as patched:
        from entropy_env.render import Renderer

        draw = Renderer.draw
        patched.setattr(Renderer, "draw", lambda self, state, *rest: drawn.append(state) or draw(self, state, *rest))
        assert env.render() is None
        assert env.render("human") is None
    assert len(drawn) == 2
    np.testing.assert_array_equal(drawn[0].position, env._worlds.state.position[0])
    roam(env, obs, 2)
    with pytest.warns(UserWarning, match="has to be the same as the environment render mode"):
        assert env.render("rgb_array") is None
    env.close()


def test_nothing_is_drawn_without_a_render_mode():
    env, _ = begun()
    with pytest.warns(UserWarning, match="no `render_mode` was passed"):
        assert env.render() is None
    with pytest.warns(UserWarning, match="nothing is drawn"):
        assert env.get_images() == []
    env.close()
    with pytest.raises(ValueError, match=r"render_mode='ansi' must be None or one of human, rgb_array"):
        make(render_mode="ansi")


def test_attributes_and_methods_are_those_of_all_lanes():
    env, _ = begun()
    assert env.get_attr("num_agents") == [AGENTS] * LANES
    assert env.get_attr("difficulty", [0, 4]) == [1, 1]
    assert env.get_attr("render_mode", 2) == [None]
    assert env.has_attr("difficulty")
    assert not env.has_attr("no_such_thing")
    env.set_attr("note", "here", range(LANES))
    assert env.note == "here"
    assert env.env_is_wrapped(Monitor) == [True] * LANES
    assert env.env_is_wrapped(gymnasium.Wrapper, [1]) == [False]
    one, other = env.env_method("snapshot", indices=[1, 2])
    assert one is other
    assert env.env_method("set_difficulty", difficulty=2) == [None] * LANES
    with pytest.raises(AttributeError, match="no_such_thing"):
        env.get_attr("no_such_thing")
    for call in (
        lambda: env.get_attr("difficulty", LANES),
        lambda: env.env_method("set_difficulty", 3, indices=[0, LANES]),
        lambda: env.env_is_wrapped(Monitor, [-LANES - 1]),
        lambda: env.set_attr("note", "", [LANES]),
    ):
        with pytest.raises(IndexError, match=f"must be lanes from 0 to {LANES - 1}"):
            call()
    assert env.difficulty == 2
    with pytest.raises(ValueError, match=r"set_attr\('note'\) for some lanes: lanes share their worlds"):
        env.set_attr("note", "", [0, 1])
    with pytest.raises(ValueError, match=r"env_method\('set_difficulty'\) for some lanes: lanes share their worlds"):
        env.env_method("set_difficulty", 3, indices=[1])
    assert env.difficulty == 2


def test_what_is_wrong_is_named():
    env = make(seed=0)
    with pytest.raises(RuntimeError, match="no episode has begun"):
        env.step(np.zeros((LANES, 2)))
    env.reset()
    with pytest.raises(ValueError, match=r"the array of actions has shape \(2,\), expected \(6, 2\)"):
        env.step(np.zeros(2))
    with pytest.raises(ValueError, match=r"expected \(6, 2\)"):
        env.step(np.zeros((WORLDS, AGENTS, 2)))
    bad = np.zeros((LANES, 2))
    bad[4, 1] = np.nan
    with pytest.raises(ValueError, match=r"the array of actions is not finite: nan at \[4, 1\]"):
        env.step(bad)
    with pytest.raises(ValueError, match="no array of numbers"):
        env.step([["left", "right"]] * LANES)
    for wrong, message in (
        ({"dtt": 0.1}, "unknown keyword 'dtt'; did you mean 'dt'"),
        ({"scenario": "moon"}, "moon"),
        ({"difficulty": 5}, "difficulty"),
        ({"on_goal": "stop"}, "on_goal"),
        ({"engine": "cuda"}, "engine='cuda' must be one of"),
        ({"num_worlds": 0}, "0 must be a whole number from 1"),
        ({"num_agents": 0}, "num_agents"),
        ({"reward": "none"}, "unknown reward 'none'"),
        ({"layout": {}}, "layout: give a Scenario of your own"),
    ):
        with pytest.raises(ValueError, match=message):
            make(**wrong)


def test_settings_are_those_of_the_other_environments():
    env, _ = begun(num_rays=8, velocity_frame="world", max_wheel_speed=0.5, reward="v3")
    spec = SwarmSpec(num_rays=8)
    assert env.observation_space.shape == (spec.obs_dim,)
    obs, rewards, *_ = env.step(np.ones((LANES, 2)))
    np.testing.assert_allclose(np.hypot(*obs[:, spec.slice("velocity")].T), 0.5, rtol=1e-5)
    assert np.all(rewards < 0)
    assert isinstance(make(engine="jax")._worlds.engine, type(make_engine(Swarm(), 1, engine="jax")))


def test_the_missing_extra_is_named():
    code = "import sys; sys.modules['stable_baselines3'] = None; import entropy_env.adapters.sb3"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "ModuleNotFoundError: SwarmVecEnv needs Stable-Baselines3" in result.stderr
    assert "pip install 'entropy-env[sb3]'" in result.stderr


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
