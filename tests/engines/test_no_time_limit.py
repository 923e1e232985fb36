"""`max_steps="never"`: nothing is truncated, and an agent's goals never run out."""

import copy
import functools

import jax
import numpy as np
import pytest
from helpers.compilation import quick_jit
from helpers.worlds import ENGINES, SLOW_JAX

from entropy_env import Swarm, SwarmSpec, make_engine, make_layout, swarm_v0
from entropy_env.checks import NEVER
from entropy_env.scenarios import SCENARIOS
from entropy_env.scenarios.custom import check_layout
from entropy_env.types import Layout, SwarmState

BODIES = ("size", "walls", "wall_mask", "boxes", "box_mask", "discs", "disc_mask", "key")


def in_rooms(on_goal="respawn"):
    return Swarm(SwarmSpec(3, num_rays=4, on_goal=on_goal), "rooms")


def fresh_layout(env: Swarm, layout: Layout, goals_reached: int, params) -> Layout:
    """The layout with the rows of all agents that have reached so many goals."""
    agents = np.arange(env.spec.num_agents, dtype=np.int32)
    spawns, goals = _fresh_rows(env, layout, agents, np.int32(goals_reached), params)
    return layout.replace(spawns=np.array(spawns), goals=np.array(goals))


def arrive(worlds, times):
    """Bring everybody to its goal, so many times."""
    for _ in range(times):
        state = worlds.state
        worlds.state = state.replace(position=np.asarray(_goals(state)))
        obs = worlds.step(np.zeros((*state.heading.shape, 2))).obs.copy()
        np.testing.assert_allclose(obs, worlds.observe(), atol=1e-6, err_msg="other goals are seen than there are")


_goals = jax.jit(jax.vmap(SwarmState.goal.fget))


@functools.partial(jax.jit, static_argnums=0)
def _fresh_rows(env, layout, agents, goals_reached, params):
    return jax.vmap(env.fresh_row, (None, 0, None, None))(layout, agents, goals_reached, params)


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if "respawn" in SCENARIOS[name].endings])
def test_fresh_rows_stand_clear_of_the_walls_there_are(scenario):
    env = Swarm(SwarmSpec(6, num_rays=1, on_goal="respawn"), scenario, difficulty=3)
    generate = quick_jit(env.generate)
    for level in (1, 2, 3):
        params = env.make_params(difficulty=level)
        layout = jax.device_get(generate(jax.random.key(level), params))
        seen = [layout]
        for turn in (1, 2):
            fresh = fresh_layout(env, layout, turn * env.spec.num_goals, params)
            check_layout(fresh, params)
            for before in seen:
                assert np.abs(fresh.spawns[..., 2] - before.spawns[..., 2]).max() > 0.01, "the same headings again"
                if scenario != "circle":  # whose places are fixed
                    assert np.abs(fresh.spawns[..., :2] - before.spawns[..., :2]).max() > 0.01, "the same places again"
                    assert np.abs(fresh.goals - before.goals).max() > 0.01, "the same goals again"
            seen.append(fresh)


@pytest.mark.parametrize("engine", SLOW_JAX)  # JAX draws for both
@pytest.mark.parametrize("on_goal", ["respawn", pytest.param("next_goal", marks=pytest.mark.slow)])
def test_a_row_that_is_used_up_is_drawn_anew_for_the_same_walls(engine, on_goal):
    env = in_rooms(on_goal)
    params = env.make_params(max_steps="never")
    worlds = make_engine(env, 2, params, engine)
    worlds.reset(0)
    first, num_goals, turns = worlds.state.layout, env.spec.num_goals, 0
    for _ in range(2 * num_goals + 4):
        arrive(worlds, 1)
        after = worlds.state
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


@pytest.mark.parametrize("engine", ENGINES)
def test_with_a_time_limit_rows_come_again(engine):
    env = Swarm(SwarmSpec(2, num_rays=4, on_goal="next_goal"))
    worlds = make_engine(env, 2, env.make_params(max_steps=np.array([1000, NEVER])), engine)
    worlds.reset(0)
    first = worlds.state.layout
    arrive(worlds, env.spec.num_goals + 1)
    assert np.all(worlds.state.goals_reached > env.spec.num_goals)
    np.testing.assert_array_equal(worlds.state.layout.goals[0], first.goals[0])
    assert np.all(np.any(worlds.state.layout.goals[1] != first.goals[1], axis=(-1, -2)))


@pytest.mark.parametrize("engine", ENGINES)
def test_goals_given_by_hand_come_again(engine):
    env = Swarm(SwarmSpec(1, num_rays=4, on_goal="next_goal", num_goals=2))
    layout = make_layout((8, 6), spawns=[[1, 1]], goals=[[[3, 1], [5, 1]]])
    worlds = make_engine(env, 1, env.make_params(max_steps="never"), engine)
    worlds.reset_to(jax.tree.map(lambda leaf: np.asarray(leaf)[None], layout))
    arrive(worlds, 5)
    assert worlds.state.goals_reached == 5
    np.testing.assert_array_equal(worlds.state.layout.goals[0], layout.goals)


@pytest.mark.parametrize("engine", ENGINES)
def test_copies_and_snapshots_draw_the_same_rows(engine):
    env = in_rooms()
    worlds = make_engine(env, 2, env.make_params(max_steps="never"), engine)
    worlds.reset(0)
    arrive(worlds, 3)
    others = [copy.deepcopy(worlds), make_engine(env, 2, worlds.params, engine)]
    others[1].restore(worlds.snapshot())
    arrive(worlds, env.spec.num_goals)
    for other in others:
        arrive(other, env.spec.num_goals)
        jax.tree.map(np.testing.assert_array_equal, other.state, worlds.state)


@pytest.mark.parametrize("engine", ENGINES)
def test_other_parameters_leave_rows_that_would_not_fit(engine):
    env = Swarm(SwarmSpec(2, num_rays=4, on_goal="next_goal"), "rooms", difficulty=2)
    worlds = make_engine(env, 1, env.make_params(max_steps="never", difficulty=1), engine)
    worlds.reset(0)
    first = worlds.state.layout
    worlds.params = env.make_params(max_steps="never", difficulty=2)  # whose walls are others
    arrive(worlds, env.spec.num_goals)
    assert np.all(worlds.state.goals_reached == env.spec.num_goals)
    np.testing.assert_array_equal(worlds.state.layout.goals, first.goals)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_clock_of_a_world_without_a_limit_does_not_run_over(engine):
    env = in_rooms()
    worlds = make_engine(env, 2, env.make_params(max_steps="never"), engine)
    worlds.reset(0)
    worlds.state = worlds.state.replace(step=np.full(2, 2**31 - 3, np.int32))
    for _ in range(4):
        assert not worlds.step(np.zeros((2, 3, 2))).truncated.any()
    np.testing.assert_array_equal(worlds.state.step, 2**31 - 2)


def test_a_loop_that_never_resets_goes_on_with_v2s_preset():
    env = swarm_v0.parallel_env(num_agents=4, preset="v2", max_steps="never", num_rays=4)
    env.reset(seed=0)
    for step in range(520):
        _, _, _, truncated, _ = env.step({agent: np.ones(2, np.float32) for agent in env.agents})
        assert len(env.agents) == 4 and not any(truncated.values()), step


def test_another_word_is_refused():
    with pytest.raises(ValueError, match=r"max_steps='nver' must be a whole number from 1 to .*, or 'never'"):
        swarm_v0.parallel_env(max_steps="nver")
