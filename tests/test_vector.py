import collections
import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.compilation import quick_environment, quick_jit
from helpers.worlds import KEY, Lanes, numpy_tree, take

from entropy_env import spread, vector
from entropy_env.env import Swarm
from entropy_env.types import SwarmSpec

pytestmark = pytest.mark.core

N, RAYS, STEPS = 3, 4, 40
ON_GOAL = [
    "respawn",
    "next_goal",
    pytest.param("terminate", marks=pytest.mark.slow),
]  # respawn does what terminate does
SIZES = {"terminate": 3, "respawn": 7, "next_goal": 1}  # worlds, odd to tell chunks apart; few, as each is compiled
TRACES = collections.Counter()


@functools.cache
def swarm(on_goal):
    return Swarm(SwarmSpec(num_agents=N, num_rays=RAYS, on_goal=on_goal, num_goals=3), Lanes(3))


def make_params(env, num_envs, **values):
    """Shared by all worlds, but for `respawn`, whose worlds have their own difficulty, time limit and reward."""
    values = {"difficulty": 1, "max_steps": 9, "reward_time": 0.005} | values
    if env.spec.on_goal == "respawn":
        values = {name: np.resize(value, num_envs) for name, value in values.items()}
    return env.make_params(**values)


def of_world(params, e):
    return jax.tree.map(lambda value: value[e] if value.ndim else value, params)


@functools.cache
def compiled(env, num_envs, method):
    def run(*args):
        TRACES[env, num_envs, method] += 1
        return getattr(vector.batch(env, num_envs), method)(*args)

    return quick_jit(run) if method == "reset" else jax.jit(run)


@functools.cache
def single(env, method):
    return jax.jit(getattr(env, method))


@functools.cache
def observer(env):
    return jax.jit(jax.vmap(env.observe, (0, None)))


def actions(num_envs, steps=STEPS, seed=0):
    """Mostly ahead, so that goals are reached."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(0.7, 0.5, (steps, num_envs, N, 2)), -1, 1).astype(np.float32)


def play(env, num_envs, params, steps=STEPS):
    """Every (state before, results of the step) as NumPy, and the first observation."""
    obs, state = compiled(env, num_envs, "reset")(KEY(0), params)
    first, history = np.asarray(obs), []
    for t, action in enumerate(actions(num_envs, steps)):
        results = compiled(env, num_envs, "step")(KEY(t), state, jnp.asarray(action), params)
        history.append((numpy_tree(state), numpy_tree(results)))
        state = results[1]
    return first, history


@functools.cache
def played(on_goal):
    env = swarm(on_goal)
    return play(env, SIZES[on_goal], make_params(env, SIZES[on_goal]))


def slow_step(env, state, action, next_layout, params):
    """What one world must do: step, respawn, then reset where it is over. Results, state to go on with, its obs."""
    final_obs, state, reward, terminated, truncated, info = single(env, "step")(KEY(0), state, action, params)
    goals_reached = np.asarray(state.goals_reached)
    if env.spec.on_goal == "respawn":
        state = single(env, "respawn")(state, params)
    if state.over:
        state = env.start(next_layout)
    obs = single(env, "observe")(state, params)
    return numpy_tree((final_obs, reward, terminated, truncated, info, goals_reached)), state, np.asarray(obs)


@pytest.mark.parametrize("on_goal", ON_GOAL)
def test_a_batch_does_what_single_worlds_do_one_by_one(on_goal):
    """Observations, rewards, endings and statistics, with reset and respawn in the same step."""
    env, num_envs = swarm(on_goal), SIZES[on_goal]
    params = [of_world(make_params(env, num_envs), e) for e in range(num_envs)]
    first, history = played(on_goal)
    motors = actions(num_envs)
    worlds = [take(history[0][0].worlds, e) for e in range(num_envs)]
    np.testing.assert_allclose(
        first, [single(env, "observe")(*both) for both in zip(worlds, params, strict=True)], atol=1e-6
    )
    total, length = np.zeros((num_envs, N)), np.zeros((num_envs, N), int)
    resets = respawns = 0
    for t, (before, (obs, after, reward, terminated, truncated, info)) in enumerate(history):
        for e in range(num_envs):
            active, layout = np.asarray(worlds[e].active), take(before.next_layout, e)
            slow, worlds[e], slow_obs = slow_step(env, worlds[e], motors[t, e], layout, params[e])
            final_obs, slow_reward, slow_terminated, slow_truncated, slow_info, goals_reached = slow
            np.testing.assert_allclose(obs[e], slow_obs, atol=1e-5)
            np.testing.assert_allclose(info["final_obs"][e], final_obs, atol=1e-5)
            np.testing.assert_allclose(reward[e], slow_reward, atol=1e-5)
            np.testing.assert_array_equal(terminated[e], slow_terminated)
            np.testing.assert_array_equal(truncated[e], slow_truncated)
            for name in ("collision", "reached"):
                np.testing.assert_array_equal(info[name][e], slow_info[name])
            np.testing.assert_array_equal(info["goals_reached"][e], goals_reached)
            np.testing.assert_array_equal(info["acted"][e], active)
            total[e] += slow_reward
            length[e] += active
            ended = slow_terminated | slow_truncated
            success = goals_reached > 0 if on_goal == "next_goal" else slow_terminated
            np.testing.assert_allclose(info["episode_return"][e][ended], total[e][ended], atol=1e-4)
            np.testing.assert_array_equal(info["episode_length"][e][ended], length[e][ended])
            np.testing.assert_array_equal(info["success"][e][ended], success[ended])
            total[e][ended], length[e][ended] = 0, 0
            resets += int(worlds[e].step == 0)
            respawns += int(np.sum(slow_terminated & np.asarray(worlds[e].active) & (worlds[e].step > 0)))
        np.testing.assert_allclose(after.worlds.position, [world.position for world in worlds], atol=1e-5)
    assert resets >= 4 * num_envs
    assert (respawns > 10) is (on_goal == "respawn")


@pytest.mark.parametrize("on_goal", SIZES)
def test_endings_are_exclusive_and_both_kinds_occur(on_goal):
    _, history = played(on_goal)
    terminated, truncated = (np.stack([results[i] for _, results in history]) for i in (3, 4))
    assert not np.any(terminated & truncated)
    assert np.any(truncated)
    assert np.any(terminated) is np.bool_(on_goal != "next_goal")


@pytest.mark.parametrize("on_goal", SIZES)
def test_the_returned_observation_is_that_of_the_returned_worlds(on_goal):
    env = swarm(on_goal)
    _, history = played(on_goal)
    for _, (obs, after, *_) in history:
        np.testing.assert_allclose(obs, observer(env)(after.worlds, env.make_params()), atol=1e-6)
        assert not np.any(obs[~after.worlds.active])


def test_a_batch_of_any_size_keeps_all_worlds_going():
    """65 worlds are drawn in chunks of two and observed again in parts of nine; all at once at the time limit."""
    env = swarm("terminate")
    params = make_params(env, 65, max_steps=2)
    _, history = play(env, 65, params, 8)
    for t, (_, (obs, after, _, _, truncated, _)) in enumerate(history):
        np.testing.assert_allclose(obs, observer(env)(after.worlds, params), atol=1e-6)
        assert np.all(after.worlds.active.any(axis=1))
        assert not np.any(after.worlds.over)
        assert np.any(truncated) == (t % 2 == 1)


def same_layout(a, b):
    """(E,) bool: whose layouts did not change."""
    return np.all(a.spawns == b.spawns, axis=(1, 2, 3)) & np.all(a.goals == b.goals, axis=(1, 2, 3))


@pytest.mark.parametrize(("on_goal", "num_envs"), [*SIZES.items(), ("terminate", 65)])
def test_next_layouts_are_redrawn_round_robin_and_reuse_is_counted(on_goal, num_envs):
    """Worlds are over every second step; of 65, two a step are drawn again, of fewer, one."""
    env, cycle = swarm(on_goal), 33 if num_envs == 65 else num_envs
    _, history = play(env, num_envs, make_params(env, num_envs, max_steps=2), 2 * cycle + 2)
    spent, reuses, age = np.zeros(num_envs, bool), 0, np.zeros(num_envs, int)
    for before, (_, after, *_) in history:
        over = after.worlds.step == 0
        assert np.all(same_layout(take(after.worlds.layout, over), take(before.next_layout, over)))
        reuses += np.sum(over & spent)
        spent |= over
        redrawn = ~same_layout(after.next_layout, before.next_layout)
        assert redrawn.sum() <= -(-num_envs // 64)
        spent[redrawn] = False
        age = np.where(spent, age + 1, 0)
        assert age.max() <= cycle
        assert after.layout_reuses.sum() == reuses
    assert bool(reuses > 0) is (num_envs > 2)


def test_every_reset_brings_a_new_layout_where_episodes_are_longer_than_the_cycle():
    _, history = played("respawn")
    assert history[-1][1][1].layout_reuses.sum() == 0
    layouts = [state.worlds.layout.spawns for state, _ in history if np.all(state.worlds.step == 0)]
    assert len(layouts) == -(-STEPS // 9)
    assert len({spawns.tobytes() for layout in layouts for spawns in layout}) == 7 * len(layouts)


def test_each_world_keeps_its_own_params_across_resets():
    env, levels = swarm("respawn"), [1, 2, 3, 1, 2, 3, 1]
    params = make_params(env, 7, difficulty=levels, max_steps=np.arange(1, 8), reward_time=np.arange(7.0))
    _, history = play(env, 7, params, 15)
    resets = np.zeros(7, int)
    for _, (_, after, _, _, _, info) in history:
        np.testing.assert_array_equal(after.worlds.layout.size[:, 0], 3.0 + np.array(levels))
        np.testing.assert_array_equal(after.next_layout.size[:, 0], 3.0 + np.array(levels))
        np.testing.assert_allclose(info["reward_terms"]["time"], np.where(info["acted"], -np.arange(7.0)[:, None], 0))
        resets += after.worlds.step == 0
    np.testing.assert_array_equal(resets, 15 // np.arange(1, 8))


def test_staggered_worlds_start_at_different_times_and_reach_the_limit_one_by_one():
    env = swarm("terminate")
    params = make_params(env, 65, max_steps=40)
    _, state = quick_jit(vector.batch(env, 65, stagger=True).reset)(KEY(0), params)
    clock = np.asarray(state.worlds.step)
    assert clock.min() >= 0
    assert clock.max() < 40
    assert len(np.unique(clock)) > 20
    truncated = compiled(env, 65, "step")(KEY(0), state, jnp.zeros((65, N, 2), jnp.float32), params)[4]
    np.testing.assert_array_equal(np.all(truncated, axis=1), clock == 39)
    assert not np.any(compiled(env, 65, "reset")(KEY(0), params)[1].worlds.step)


def test_an_agent_waits_for_a_clear_pose_and_comes_back():
    """Agent 0 arrives while agent 1 stands on all its poses, and returns in the step in which that one drives off."""
    env = swarm("respawn")
    params = make_params(env, 7, max_steps=50)
    _, state = compiled(env, 7, "reset")(KEY(0), params)
    worlds, goals = state.worlds, np.full((N, 3, 2), 3.8, np.float32)
    goals[0] = [1.0, 0.5]
    layout = worlds.layout.replace(
        spawns=worlds.layout.spawns.at[0, 0].set(jnp.array([2.0, 0.5, 0.0], jnp.float32)),
        goals=worlds.layout.goals.at[0].set(goals),
    )
    position = worlds.position.at[0].set(jnp.array([[1.0, 0.5], [2.0, 0.55], [1.0, 3.0]], jnp.float32))
    worlds = worlds.replace(layout=layout, position=position, heading=worlds.heading.at[0].set(0.0))
    state = state.replace(worlds=worlds)
    seen = []
    for t in range(5):
        drive_off = jnp.zeros((7, N, 2), jnp.float32).at[0, 1].set(1.0 if t >= 2 else 0.0)
        obs, state, reward, terminated, _, info = compiled(env, 7, "step")(KEY(t), state, drive_off, params)
        back = bool(state.worlds.active[0, 0])
        seen.append((bool(terminated[0, 0]), bool(info["acted"][0, 0]), back))
        assert bool(np.any(obs[0, 0])) is back
        np.testing.assert_allclose(obs, observer(env)(state.worlds, params), atol=1e-6)
        if not info["acted"][0, 0]:
            assert reward[0, 0] == 0
            assert info["episode_length"][0, 0] == 0
    assert seen == [
        (True, True, False),
        (False, False, False),
        (False, False, False),
        (False, False, True),
        (False, True, True),
    ]
    assert state.worlds.goal_index[0, 0] == 1


def test_steps_trace_once_whatever_the_params():
    env = swarm("terminate")
    _, state = compiled(env, 3, "reset")(KEY(0), make_params(env, 3))
    for values in ({}, {"max_steps": 5}, {"max_wheel_speed": np.float64(2)}, {"reward_time": jnp.float32(1)}):
        action, params = jnp.zeros((3, N, 2), jnp.float32), make_params(env, 3, **values)
        state = compiled(env, 3, "step")(KEY(0), state, action, params)[1]
    assert TRACES[env, 3, "step"] == TRACES[env, 3, "reset"] == 1


@pytest.mark.parametrize("num_envs", [0, -1, 2.0])
def test_a_batch_needs_a_whole_number_of_worlds(num_envs):
    with pytest.raises(ValueError, match=f"num_envs={num_envs}"):
        vector.batch(swarm("respawn"), num_envs)


SPREAD = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
import numpy as np
from helpers.worlds import Lanes
from entropy_env import spread, vector
from entropy_env.env import Swarm
from entropy_env.types import SwarmSpec

env = Swarm(SwarmSpec(num_agents=3, num_rays=4, on_goal="respawn", num_goals=3), Lanes(3))
params = env.make_params(difficulty=np.array([1, 2, 3, 1]), max_steps=9)
worlds, part = spread.SpreadSwarm(env, 4, tuple(jax.devices())), vector.batch(env, 2)
key, action = jax.random.key(0), jax.random.uniform(jax.random.key(1), (20, 4, 3, 2))
obs, state = jax.jit(worlds.reset)(key, params)
assert len(state.worlds.position.sharding.device_set) == 2
step = jax.jit(worlds.step)
played = []
for each in action:
    obs, state, reward, terminated, truncated, info = step(key, state, each, params)
    played.append((obs, reward, terminated, truncated, info["final_obs"]))
for device in range(2):
    own, rows = jax.random.fold_in(key, device), slice(2 * device, 2 * device + 2)
    some = params.replace(difficulty=params.difficulty[rows])
    obs, state = jax.jit(part.reset)(own, some)
    alone = jax.jit(part.step)
    for each, transition in zip(action, played, strict=True):
        obs, state, reward, terminated, truncated, info = alone(own, state, each[rows], some)
        for found, expected in zip(transition, (obs, reward, terminated, truncated, info["final_obs"]), strict=True):
            np.testing.assert_allclose(found[rows], expected, atol=1e-5)
print("equal")
"""


def test_worlds_spread_over_devices_do_what_each_part_does_alone():
    """In a process of its own, as the number of devices is fixed when JAX starts."""
    done = subprocess.run(
        [sys.executable, "-c", SPREAD],
        cwd=Path(__file__).parent,
        env=os.environ | quick_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "equal\n", done.stderr


@pytest.mark.parametrize(
    ("num_envs", "allowed"), [(3, "multiple of the 2 devices"), (0, "whole number"), (2.0, "whole")]
)
def test_worlds_that_devices_cannot_share_evenly_are_refused(num_envs, allowed):
    with pytest.raises(ValueError, match=f"num_envs={num_envs} must be a {allowed}"):
        spread.SpreadSwarm(swarm("respawn"), num_envs, (jax.devices()[0],) * 2)


def test_the_old_name_of_spread_worlds_warns():
    with pytest.warns(DeprecationWarning, match=r"spread\.SpreadSwarm"):
        assert vector.SpreadSwarm is spread.SpreadSwarm
