import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from worlds import KEY, Lanes, numpy_tree, take

from entropy_env import vector
from entropy_env.env import Swarm
from entropy_env.types import SwarmSpec

pytestmark = pytest.mark.core

N, RAYS, STEPS = 3, 4, 30
MODES = ["terminate", "respawn", "next_goal"]
ENDINGS = ("episode_return", "episode_length", "success", "final_obs")


@functools.cache
def swarm(on_goal, difficulty=1):
    return Swarm(SwarmSpec(num_agents=N, num_rays=RAYS, on_goal=on_goal, num_goals=3), Lanes(difficulty))


@functools.cache
def compiled(env, num_envs, method):
    return jax.jit(getattr(vector.batch(env, num_envs), method))


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
def played(on_goal, num_envs=7):
    env = swarm(on_goal)
    return play(env, num_envs, env.make_params())


def slow_step(env, state, action, next_layout, params):
    """What one world must do: step, respawn, then reset where it is over. Results, state to go on with, its obs."""
    final_obs, state, reward, terminated, truncated, info = single(env, "step")(KEY(0), state, action, params)
    goals_reached = np.asarray(state.goals_reached)
    if env.spec.on_goal == "respawn":
        state = single(env, "respawn")(state, params)
    if state.done:
        state = env.start(next_layout)
    obs = single(env, "observe")(state, params)
    return numpy_tree((final_obs, reward, terminated, truncated, info, goals_reached)), state, np.asarray(obs)


@pytest.mark.parametrize("on_goal", MODES)
def test_a_batch_does_what_single_worlds_do_one_by_one(on_goal):
    """Observations, rewards, endings and statistics, with reset and respawn in the same step."""
    env = swarm(on_goal)
    params, motors = env.make_params(), actions(7)
    first, history = played(on_goal)
    worlds = [take(history[0][0].worlds, e) for e in range(7)]
    np.testing.assert_allclose(first, [single(env, "observe")(world, params) for world in worlds], atol=1e-6)
    total, length = np.zeros((7, N)), np.zeros((7, N), int)
    resets = respawns = 0
    for t, (before, (obs, after, reward, terminated, truncated, info)) in enumerate(history):
        for e in range(7):
            active = np.asarray(worlds[e].active)
            slow, worlds[e], slow_obs = slow_step(env, worlds[e], motors[t, e], take(before.next_layout, e), params)
            final_obs, slow_reward, slow_terminated, slow_truncated, slow_info, goals_reached = slow
            np.testing.assert_allclose(obs[e], slow_obs, atol=1e-5)
            np.testing.assert_allclose(info["final_obs"][e], final_obs, atol=1e-5)
            np.testing.assert_allclose(reward[e], slow_reward, atol=1e-5)
            np.testing.assert_array_equal(terminated[e], slow_terminated)
            np.testing.assert_array_equal(truncated[e], slow_truncated)
            np.testing.assert_array_equal(info["collision"][e], slow_info["collision"])
            np.testing.assert_array_equal(info["active"][e], active)
            total[e] += slow_reward
            length[e] += active
            ended = slow_terminated | slow_truncated
            success = goals_reached > 0 if on_goal == "next_goal" else slow_terminated
            np.testing.assert_allclose(info["episode_return"][e][ended], total[e][ended], atol=1e-4)
            np.testing.assert_array_equal(info["episode_length"][e][ended], length[e][ended])
            np.testing.assert_array_equal(info["success"][e][ended], success[ended])
            total[e][ended], length[e][ended] = 0, 0
            resets += int(worlds[e].step == 0)
            respawns += np.sum(slow_terminated & np.asarray(worlds[e].active) & (worlds[e].step > 0))
        np.testing.assert_allclose(after.worlds.position, [world.position for world in worlds], atol=1e-5)
    assert resets > 10
    assert (respawns > 10) is (on_goal == "respawn")


@pytest.mark.parametrize("on_goal", MODES)
def test_endings_are_exclusive_and_both_kinds_occur(on_goal):
    _, history = played(on_goal)
    terminated, truncated = (np.stack([results[i] for _, results in history]) for i in (3, 4))
    assert not np.any(terminated & truncated)
    assert np.any(truncated) and np.any(terminated) is np.bool_(on_goal != "next_goal")
    success = np.stack([results[-1]["success"] for _, results in history])
    assert np.any(success[terminated | truncated]) and not np.all(success[terminated | truncated])
    for name in ENDINGS:
        assert len(history[0][1][-1][name]) == 7


@pytest.mark.parametrize(("on_goal", "num_envs"), [*[(mode, 7) for mode in MODES], ("respawn", 1), ("respawn", 3)])
def test_the_returned_observation_is_that_of_the_returned_worlds(on_goal, num_envs):
    env = swarm(on_goal)
    _, history = played(on_goal, num_envs)
    for _, (obs, after, *_) in history:
        np.testing.assert_allclose(obs, observer(env)(after.worlds, env.make_params()), atol=1e-6)
        assert not np.any(obs[~after.worlds.active])


def test_a_batch_of_any_size_keeps_all_worlds_going():
    """65 worlds are drawn in chunks of two and observed again in parts of nine; all at once at the time limit."""
    env = swarm("terminate")
    params = env.make_params(max_steps=2)
    _, history = play(env, 65, params, 8)
    for t, (_, (obs, after, _, terminated, truncated, _)) in enumerate(history):
        np.testing.assert_allclose(obs, observer(env)(after.worlds, params), atol=1e-6)
        assert np.all(after.worlds.active.any(axis=1)) and not np.any(after.worlds.done)
        assert np.any(truncated) == (t % 2 == 1)


def same_layout(a, b):
    """(E,) bool: whose layouts did not change."""
    return np.all(a.spawns == b.spawns, axis=(1, 2, 3)) & np.all(a.goals == b.goals, axis=(1, 2, 3))


@pytest.mark.parametrize("num_envs", [1, 3, 7, 65])
def test_next_layouts_are_redrawn_round_robin_and_reuse_is_counted(num_envs):
    """Worlds of 65 are over every second step, but a next layout is drawn again within 33 steps at best."""
    env = swarm("terminate" if num_envs == 65 else "respawn")
    params = env.make_params(max_steps=2)
    cycle = 33 if num_envs == 65 else num_envs
    _, history = play(env, num_envs, params, 2 * cycle + 2)
    spent, reuses, since = np.zeros(num_envs, bool), 0, np.zeros(num_envs, int)
    for before, (_, after, *_) in history:
        over = after.worlds.step == 0
        start = take(before.next_layout, over)
        assert np.all(same_layout(take(after.worlds.layout, over), start))
        reuses += np.sum(over & spent)
        spent |= over
        redrawn = ~same_layout(after.next_layout, before.next_layout)
        assert redrawn.sum() <= -(-num_envs // 64)
        spent[redrawn] = False
        since = np.where(spent, since + 1, 0)
        assert since.max() <= cycle
        assert after.layout_reuses == reuses
    assert (reuses > 0) is (num_envs > 2)


def test_every_reset_brings_a_new_layout_where_episodes_are_longer_than_the_cycle():
    env = swarm("respawn")
    _, history = played("respawn")
    assert history[-1][1][1].layout_reuses == 0
    layouts = [state.worlds.layout.spawns for state, _ in history if np.all(state.worlds.step == 0)]
    assert len(layouts) == -(-STEPS // 9) and len({layout.tobytes() for layout in layouts}) == len(layouts)
    assert len({spawns.tobytes() for spawns in layouts[0]}) == 7, "worlds differ"
    assert env.scenario.max_steps[0] == 9


def test_each_world_keeps_its_own_params_across_resets():
    env = swarm("respawn", difficulty=3)
    params = env.make_params(
        difficulty=[1, 2, 3, 1, 2, 3, 1], max_steps=[1, 2, 3, 4, 5, 6, 7], reward_time=np.arange(7.0)
    )
    _, history = play(env, 7, params, 15)
    resets = np.zeros(7, int)
    for _, (_, after, reward, _, truncated, info) in history:
        np.testing.assert_array_equal(after.worlds.layout.size[:, 0], [4, 5, 6, 4, 5, 6, 4])
        np.testing.assert_array_equal(after.next_layout.size[:, 0], [4, 5, 6, 4, 5, 6, 4])
        expected = np.where(info["active"], -np.arange(7.0)[:, None], 0)
        np.testing.assert_allclose(info["reward_terms"]["time"], expected)
        resets += after.worlds.step == 0
        assert reward.shape == truncated.shape == (7, N)
    np.testing.assert_array_equal(resets, 15 // np.arange(1, 8))


def test_an_agent_waits_for_a_clear_pose_and_comes_back():
    """Agent 0 arrives while agent 1 stands on all its poses, and returns in the step in which that one drives off."""
    env = swarm("respawn")
    params = env.make_params(max_steps=50)
    _, state = compiled(env, 7, "reset")(KEY(0), params)
    worlds, row = state.worlds, np.array([[2.0, 0.5, 0.0]] * 3, np.float32)
    layout = worlds.layout.replace(
        spawns=worlds.layout.spawns.at[0, 0].set(row),
        goals=worlds.layout.goals.at[0, 0].set(jnp.array([[1.0, 0.5]] * 3)),
    )
    position = worlds.position.at[0].set(jnp.array([[1.0, 0.5], [2.0, 0.55], [1.0, 3.0]]))
    worlds = worlds.replace(layout=layout, position=position, heading=worlds.heading.at[0].set(0.0))
    state = state.replace(worlds=worlds)
    seen = []
    for t in range(5):
        drive_off = jnp.zeros((7, N, 2)).at[0, 1].set(1.0 if t >= 2 else 0.0)
        obs, state, reward, terminated, _, info = compiled(env, 7, "step")(KEY(t), state, drive_off, params)
        back = bool(state.worlds.active[0, 0])
        seen.append((bool(terminated[0, 0]), bool(info["active"][0, 0]), back))
        assert bool(np.any(obs[0, 0])) is back
        np.testing.assert_allclose(obs, observer(env)(state.worlds, params), atol=1e-6)
        if not info["active"][0, 0]:
            assert reward[0, 0] == 0 and info["episode_length"][0, 0] == 0
    assert seen == [
        (True, True, False),
        (False, False, False),
        (False, False, False),
        (False, False, True),
        (False, True, True),
    ]
    assert state.worlds.goal_index[0, 0] == 1


def test_steps_trace_once_whatever_the_params():
    env = swarm("respawn")
    worlds, traces = vector.batch(env, 3), []

    def step(*args):
        traces.append(1)
        return worlds.step(*args)

    step = jax.jit(step)
    _, state = compiled(env, 3, "reset")(KEY(0), env.make_params())
    for t, values in enumerate(
        ({}, {"max_steps": 5}, {"max_wheel_speed": np.float64(2)}, {"reward_time": jnp.float32(1)})
    ):
        state = step(KEY(t), state, jnp.zeros((3, N, 2)), env.make_params(**values))[1]
    assert len(traces) == 1


def test_a_batch_needs_a_world():
    with pytest.raises(ValueError, match="num_envs=0"):
        vector.batch(swarm("respawn"), 0)
