"""`max_steps="never"`: nothing is truncated, and an agent's goals never run out."""

import functools

import jax
import numpy as np
import pytest

from entropy_env import Swarm, SwarmSpec, make_engine, swarm_v0
from entropy_env.scenarios import SCENARIOS
from entropy_env.scenarios.custom import check_layout
from entropy_env.types import Layout

BODIES = ("size", "walls", "wall_mask", "boxes", "box_mask", "discs", "disc_mask", "key")


def fresh_layout(env: Swarm, layout: Layout, goals_reached: int, params) -> Layout:
    """The layout with the rows of all agents that have reached so many goals."""
    agents = np.arange(env.spec.num_agents, dtype=np.int32)
    spawns, goals = _fresh_rows(env, layout, agents, np.int32(goals_reached), params)
    return layout.replace(spawns=np.array(spawns), goals=np.array(goals))


@functools.partial(jax.jit, static_argnums=0)
def _fresh_rows(env, layout, agents, goals_reached, params):
    return jax.vmap(env.fresh_row, (None, 0, None, None))(layout, agents, goals_reached, params)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_fresh_rows_stand_clear_of_the_walls_there_are(scenario):
    env = Swarm(SwarmSpec(6, num_rays=1, on_goal="respawn"), scenario, difficulty=3)
    for level in (1, 2, 3):
        params = env.make_params(difficulty=level)
        layout = jax.device_get(env.generate(jax.random.key(level), params))
        seen = [layout.spawns]
        for turn in (1, 2):
            fresh = fresh_layout(env, layout, turn * env.spec.num_goals, params)
            check_layout(fresh, params)
            assert all(np.abs(fresh.spawns - rows).max() > 0.01 for rows in seen), "the same row again"
            seen.append(fresh.spawns)


@pytest.mark.parametrize("engine", ["jax", "numba"])
@pytest.mark.parametrize("on_goal", ["respawn", "next_goal"])
def test_a_row_that_is_used_up_is_drawn_anew_for_the_same_walls(engine, on_goal):
    env = Swarm(SwarmSpec(3, num_rays=4, on_goal=on_goal), "rooms")
    params = env.make_params(max_steps="never")
    worlds = make_engine(env, 2, params, engine)
    worlds.reset(0)
    first, num_goals, turns = worlds.state.layout, env.spec.num_goals, 0
    for _ in range(2 * num_goals + 4):
        state = worlds.state
        worlds.state = state.replace(position=np.asarray(jax.vmap(type(state).goal.fget)(state)))
        obs = worlds.step(np.zeros((2, 3, 2))).obs.copy()
        after = worlds.state
        np.testing.assert_allclose(obs, worlds.observe(), atol=1e-6, err_msg="other goals are seen than there are")
        for name in BODIES:
            np.testing.assert_array_equal(getattr(after.layout, name), getattr(first, name))
        for e, i in np.ndindex(2, 3):
            turn = int(after.goals_reached[e, i]) // num_goals
            layout = jax.tree.map(lambda leaf, e=e: leaf[e], first)
            rows = layout if turn == 0 else fresh_layout(env, layout, turn * num_goals, params)
            np.testing.assert_allclose(after.layout.spawns[e, i], rows.spawns[i], atol=1e-5)
            np.testing.assert_allclose(after.layout.goals[e, i], rows.goals[i], atol=1e-5)
            turns = max(turns, turn)
    assert turns == 2


@pytest.mark.parametrize("engine", ["jax", "numba"])
def test_with_a_time_limit_rows_come_again(engine):
    env = Swarm(SwarmSpec(2, num_rays=4, on_goal="next_goal"))
    worlds = make_engine(env, 1, env.make_params(max_steps=1000), engine)
    worlds.reset(0)
    first = worlds.state.layout
    for _ in range(env.spec.num_goals + 1):
        state = worlds.state
        worlds.state = state.replace(position=np.asarray(jax.vmap(type(state).goal.fget)(state)))
        worlds.step(np.zeros((1, 2, 2)))
    assert np.all(worlds.state.goals_reached > env.spec.num_goals)
    np.testing.assert_array_equal(worlds.state.layout.goals, first.goals)


@pytest.mark.parametrize("engine", ["jax", "numba"])
def test_other_parameters_leave_rows_that_would_not_fit(engine):
    env = Swarm(SwarmSpec(2, num_rays=4, on_goal="next_goal"), "rooms", difficulty=2)
    worlds = make_engine(env, 1, env.make_params(max_steps="never", difficulty=1), engine)
    worlds.reset(0)
    first = worlds.state.layout
    worlds.params = env.make_params(max_steps="never", difficulty=2)  # whose walls are others
    for _ in range(env.spec.num_goals):
        state = worlds.state
        worlds.state = state.replace(position=np.asarray(jax.vmap(type(state).goal.fget)(state)))
        worlds.step(np.zeros((1, 2, 2)))
    assert np.all(worlds.state.goals_reached == env.spec.num_goals)
    np.testing.assert_array_equal(worlds.state.layout.goals, first.goals)


@pytest.mark.parametrize("engine", ["jax", "numba"])
def test_the_clock_of_a_world_without_a_limit_does_not_run_over(engine):
    env = Swarm(SwarmSpec(2, num_rays=4, on_goal="respawn"))
    worlds = make_engine(env, 1, env.make_params(max_steps="never"), engine)
    worlds.reset(0)
    worlds.state = worlds.state.replace(step=np.full(1, 2**31 - 3, np.int32))
    for _ in range(4):
        assert not worlds.step(np.zeros((1, 2, 2))).truncated.any()
    assert worlds.state.step == 2**31 - 2


def test_a_loop_that_never_resets_goes_on_with_v2s_preset():
    env = swarm_v0.parallel_env(num_agents=4, preset="v2", max_steps="never", num_rays=4)
    env.reset(seed=0)
    for step in range(520):
        _, _, _, truncated, _ = env.step({agent: np.ones(2, np.float32) for agent in env.agents})
        assert len(env.agents) == 4 and not any(truncated.values()), step


def test_another_word_is_refused():
    with pytest.raises(ValueError, match=r"max_steps='nver' must be a whole number from 1 to .*, or 'never'"):
        swarm_v0.parallel_env(max_steps="nver")
