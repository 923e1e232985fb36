"""Copies, snapshots and processes: a `SwarmVecEnv` goes on exactly, wherever it is taken."""

import multiprocessing
import pickle
import subprocess
import sys

import cloudpickle
import numpy as np
import pytest
from helpers.lanes import (
    AGENTS,
    LANES,
    MODES,
    WORLDS,
    assert_same,
    assert_same_course,
    begun,
    make,
    make_single,
    roam,
    seek,
)
from stable_baselines3.common.vec_env import SubprocVecEnv


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


@pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
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
