import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.worlds import KEY, Lanes, make_world, stack

from entropy_env.env import Swarm
from entropy_env.rewards import TERMS
from entropy_env.types import PARAM_NAMES, SwarmParams, SwarmSpec

pytestmark = pytest.mark.core

N, RAYS, REACH = 3, 4, 0.25
LIDAR, VELOCITY, GOAL = map(SwarmSpec(num_rays=RAYS).slice, ("lidar", "velocity", "goal"))
FORWARD, STAND = [1.0, 1.0], [0.0, 0.0]
APART = [[1.0, 1.0], [1.0, 3.0], [1.0, 5.0]]  # m, three agents out of each other's way


@functools.cache
def swarm(on_goal="terminate", **spec):
    goals = {} if on_goal == "terminate" else {"num_goals": 3}
    return Swarm(SwarmSpec(num_agents=N, num_rays=RAYS, on_goal=on_goal, **goals, **spec))


@functools.cache
def compiled(env, method):
    return jax.jit(getattr(env, method))


def step(env, state, action, **params):
    action = jnp.asarray(np.broadcast_to(np.asarray(action, np.float32), (N, 2)))
    return compiled(env, "step")(KEY(0), state, action, env.make_params(**params))


def three(env, distances=(4.0, 4.0, 4.0), heading=0.0, position=APART, **fields):
    """Three agents, each with its goal straight along x at a distance, m."""
    position = np.array(position)
    return make_world(env, position, heading, goal=position + np.stack([distances, np.zeros(3)], axis=-1), **fields)


def arrays(flags):
    return np.asarray(flags).tolist()


def test_observation_is_lidar_then_velocity_then_goal_in_the_body_frame():
    env = swarm()
    wheels = [[0.3, 0.7], [-0.5, -0.5], [0.8, -0.8]]
    goal = np.add(APART, [[1, 2], [2, 0], [0, -1]])
    state = make_world(env, APART, [np.pi / 2, 0, np.pi], goal=goal, wheel_speed=wheels)
    params = env.make_params(max_wheel_speed=0.8, wheel_base=0.2, goal_scale=5.0)
    obs = compiled(env, "observe")(state, params)
    assert obs.shape == (N, env.spec.obs_dim)
    assert obs.dtype == jnp.float32
    lidar = compiled(env, "lidar")(state, params)
    np.testing.assert_allclose(obs[:, LIDAR], lidar, atol=1e-6)
    np.testing.assert_allclose(lidar[0], [1.8 / 3, 0.9 / 3, 0.9 / 3, 1], atol=1e-6)
    np.testing.assert_allclose(obs[:, VELOCITY], [[0.5 / 0.8, 0.25], [-0.5 / 0.8, 0], [0, -1]], atol=1e-6)
    np.testing.assert_allclose(obs[:, GOAL], [[0.4, -0.2], [0.4, 0], [0, 0.2]], atol=1e-6)


def test_velocity_in_the_world_frame_is_in_metres_per_second():
    env = swarm(velocity_frame="world")
    state = make_world(env, APART, [np.pi / 2, 0, np.pi / 6], wheel_speed=[[0.3, 0.7], [-0.5, -0.5], [1, 1]])
    obs = compiled(env, "observe")(state, env.make_params(max_wheel_speed=0.8))
    expected = [[0, 0.5], [-0.5, 0], [np.sqrt(0.75), 0.5]]
    np.testing.assert_allclose(obs[:, VELOCITY], expected, atol=1e-6)


def test_step_observes_the_state_it_returns():
    env = swarm()
    obs, state, *_ = step(env, three(env), [0.4, 1.0])
    np.testing.assert_allclose(obs, compiled(env, "observe")(state, env.make_params()), atol=1e-6)
    np.testing.assert_allclose(obs[:, VELOCITY], [[0.7, 0.3]] * 3, atol=1e-6)


def test_inactive_rows_are_zero():
    env = swarm()
    state = three(env, active=[True, False, True])
    obs, after, reward, terminated, truncated, info = step(env, state, FORWARD, max_steps=1, reward="v3")
    for rows in (obs, reward, terminated, truncated, *info["reward_terms"].values(), info["reached"]):
        assert not np.any(np.asarray(rows)[1])
    assert not np.any(compiled(env, "observe")(after, env.make_params())[1])
    assert np.all(np.any(np.asarray(obs)[[0, 2]], axis=1))
    assert np.all(np.asarray(reward)[[0, 2]])


def test_global_state_lists_every_active_agent_in_order():
    env = swarm()
    wheels = [[0.3, 0.7], [0, 0], [1, -1]]
    state = make_world(env, APART, [np.pi / 2, 1, np.pi], goal=[[2, 2], [3, 3], [4, 4]], wheel_speed=wheels)
    found = compiled(env, "global_state")(state.replace(active=jnp.array([True, False, True])))
    expected = [[1, 1, 0, 1, 0.5, 0.4, 2, 2], [0] * 8, [1, 5, -1, 0, 0, -2, 4, 4]]
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, np.ravel(expected), atol=1e-6)


def test_reward_terms_against_arithmetic_by_hand():
    """One drives 0.1 m ahead, one stays and leans on the border, one arrives."""
    env = swarm()
    position = [[1.0, 1.0], [0.1, 3.0], [1.0, 5.0]]
    state = three(env, (2.0, 4.0, 0.3), heading=[0, np.pi, 0], position=position)
    weights = {f"reward_{name}": 2.0 for name in TERMS}
    _, _, reward, _, _, info = step(env, state, FORWARD, **weights)
    terms = {name: np.asarray(values) / 2 for name, values in info["reward_terms"].items()}
    assert set(terms) == {"distance", "progress", "reached", "collision", "time"}
    np.testing.assert_allclose(terms["distance"], [-0.19, -0.4, -0.02], atol=1e-5)
    np.testing.assert_allclose(terms["progress"], [0.1, 0, 0.1], atol=1e-4)
    np.testing.assert_array_equal(terms["reached"], [0, 0, 1])
    np.testing.assert_array_equal(terms["collision"], [0, -1, 0])
    np.testing.assert_array_equal(terms["time"], [-1, -1, -1])
    np.testing.assert_allclose(reward, 2 * np.sum(list(terms.values()), axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("shaped", [0.1 - 0.005, -0.05 - 0.005, 0.1 + 1 - 0.005]),
        ("v3", [-0.19, -0.4, 10 - 0.02]),
    ],
)
def test_reward_presets(preset, expected):
    env = swarm()
    position = [[1.0, 1.0], [0.1, 3.0], [1.0, 5.0]]
    state = three(env, (2.0, 4.0, 0.3), heading=[0, np.pi, 0], position=position)
    _, _, reward, _, _, info = step(env, state, FORWARD, reward=preset)
    np.testing.assert_allclose(reward, expected, atol=1e-4)
    np.testing.assert_allclose(reward, sum(np.asarray(term) for term in info["reward_terms"].values()), atol=1e-6)


def test_shaped_is_the_default_and_single_weights_override_a_preset():
    env = swarm()
    assert env.make_params() == env.make_params(reward="shaped") != env.make_params(reward="v3")
    params = env.make_params(reward="v3", reward_time=0.5)
    assert (params.reward_time, params.reward_reached) == (0.5, 10)


def test_driving_away_costs_what_driving_near_gains():
    env = swarm()
    _, _, _, _, _, info = step(env, three(env), [-1.0, -1.0])
    np.testing.assert_allclose(info["reward_terms"]["progress"], -0.1, atol=1e-5)


@pytest.mark.parametrize(("agent_radius", "goal_radius"), [(0.1, 0.15), (0.1, 0.4), (0.2, 0.15)])
def test_a_goal_is_reached_nearer_than_both_radii(agent_radius, goal_radius):
    env, reach = swarm(), agent_radius + goal_radius
    state = three(env, (reach - 1e-4, reach + 1e-4, -reach + 1e-4))
    _, _, _, terminated, _, info = step(env, state, STAND, agent_radius=agent_radius, goal_radius=goal_radius)
    assert arrays(info["reached"]) == arrays(terminated) == [True, False, True]


def test_terminate_takes_agents_out_one_by_one_and_ends_the_world_with_the_last():
    env = swarm()
    state = three(env, (0.3, 0.5, 0.5))
    seen = []
    for _ in range(4):
        obs, state, _, terminated, truncated, info = step(env, state, FORWARD)
        seen.append((arrays(terminated), arrays(state.active), bool(state.over)))
        assert not np.any(truncated)
        assert arrays(info["reached"]) == arrays(terminated)
        assert arrays(np.any(obs, axis=1)) == [
            a or t for a, t in zip(arrays(state.active), arrays(terminated), strict=True)
        ]
    assert seen == [
        ([True, False, False], [False, True, True], False),
        ([False, False, False], [False, True, True], False),
        ([False, True, True], [False, False, False], True),
        ([False, False, False], [False, False, False], True),
    ]
    assert arrays(state.goals_reached) == [1, 1, 1]


def test_an_agent_that_left_is_gone_for_the_others_at_once():
    env = swarm()
    state = three(env, (0.3, 4, 4), position=[[1, 1], [1.6, 1], [1, 5]], heading=[0, np.pi, 0])
    obs, *_ = step(env, state, [FORWARD, STAND, STAND])
    np.testing.assert_allclose(obs[1, LIDAR][0], (1.5) / 3, atol=1e-5)


def test_next_goal_ends_nothing_and_turns_to_the_next_goal():
    env = swarm("next_goal")
    goal = np.array(APART)[:, None] + np.array([[0.3, 0], [0.3, 1], [2, 0]])
    state = make_world(env, APART, goal=goal)
    for index, near in ((1, True), (1, False), (1, False)):
        obs, state, _, terminated, truncated, info = step(env, state, FORWARD if near else STAND)
        assert not np.any(terminated)
        assert not np.any(truncated)
        assert np.all(state.active)
        assert not state.over
        assert arrays(info["reached"]) == [near] * 3
        assert arrays(state.goal_index) == [index] * 3
        if near:
            np.testing.assert_allclose(info["reward_terms"]["progress"], 0.1, atol=1e-5)
        np.testing.assert_allclose(obs[:, GOAL], [[0.02, 0.1]] * 3, atol=1e-5)
    assert arrays(state.goals_reached) == [1, 1, 1]
    wrapping = state.replace(goal_index=jnp.full(3, 2, jnp.int32), position=jnp.asarray(goal[:, 2], jnp.float32))
    _, state, *_ = step(env, wrapping, STAND)
    assert arrays(state.goal_index) == [0, 0, 0]
    assert arrays(state.goals_reached) == [2, 2, 2]


def rows(poses):
    """Spawns (N, 3, 3): the same poses for every agent, in the row of its own y."""
    return jnp.asarray([[[x, y, h] for x, h in poses] for _, y in APART], jnp.float32)


def with_spawns(state, spawns):
    return state.replace(layout=state.layout.replace(spawns=spawns))


def test_respawn_ends_the_agents_own_episode_and_brings_it_back_at_its_next_pose():
    env = swarm("respawn")
    state = with_spawns(three(env, (0.3, 4, 4)), rows([(1, 0), (3, 1), (5, 2)]))
    _, state, reward, terminated, truncated, _ = step(env, state, FORWARD)
    assert arrays(terminated) == [True, False, False]
    assert not np.any(truncated)
    assert arrays(state.active) == [False, True, True]
    assert not state.over
    assert arrays(state.goal_index) == [0, 0, 0]
    back = compiled(env, "respawn")(state, env.make_params())
    assert np.all(back.active)
    assert arrays(back.goal_index) == [1, 0, 0]
    assert arrays(back.goals_reached) == [1, 0, 0]
    np.testing.assert_allclose(back.position[0], [3, 1])
    np.testing.assert_allclose(back.heading[0], 1)
    np.testing.assert_array_equal(back.wheel_speed[0], 0)
    for name in ("position", "heading", "wheel_speed"):
        np.testing.assert_array_equal(getattr(back, name)[1:], getattr(state, name)[1:])
    assert back.step == state.step
    assert np.all(reward[1:] < 1)
    assert reward[0] > 1


def waiting(env, **fields):
    """Agent 0 is out; its poses are at x = 1, 3, 5 m on y = 1 m, and its next goal is the second, far from them."""
    state = three(env, active=[False, True, True], **fields)
    state = with_spawns(state, rows([(1, 0), (3, 1), (5, 2)]))
    return state.replace(layout=state.layout.replace(goals=jnp.full_like(state.layout.goals, 5.5)))


@pytest.mark.parametrize(
    ("others", "x", "active"),
    [
        ([[7.0, 3.0], [7.0, 5.0]], 3, True),
        ([[3.1, 1.1], [7.0, 5.0]], 5, True),
        ([[3.0, 1.19], [5.0, 0.85]], 1, True),
        ([[3.0, 1.21], [5.0, 0.85]], 3, True),
    ],
)
def test_respawn_takes_the_first_clear_pose_from_the_next_goal_on(others, x, active):
    env = swarm("respawn")
    state = waiting(env, position=[[1, 1], *others])
    back = compiled(env, "respawn")(state, env.make_params())
    np.testing.assert_allclose(back.position[0], [x, 1])
    assert bool(back.active[0]) is active
    assert back.goal_index[0] == 1


def test_nobody_respawns_on_the_goal_it_is_bound_for():
    env = swarm("respawn")
    state = waiting(env, position=[[1, 1], [7.0, 3.0], [7.0, 5.0]])
    state = state.replace(
        layout=state.layout.replace(goals=state.layout.goals.at[0, 1].set(jnp.array([3.2, 1.0], jnp.float32)))
    )
    back = compiled(env, "respawn")(state, env.make_params())
    np.testing.assert_allclose(back.position[0], [5, 1])


def test_an_agent_waits_while_no_pose_is_clear():
    env = swarm("respawn")
    state = with_spawns(waiting(env, position=[[1, 1], [3, 1.1], [1, 5]]), rows([(3, 0), (3.05, 1), (2.95, 2)]))
    waits = compiled(env, "respawn")(state, env.make_params())
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), waits, state))
    obs, after, reward, terminated, truncated, _ = step(env, waits, FORWARD, max_steps=1)
    assert not np.any(obs[0])
    assert reward[0] == 0
    assert not terminated[0]
    assert not truncated[0]
    assert truncated[1]
    cleared = after.replace(position=after.position.at[1, 0].set(6.0))
    assert arrays(compiled(env, "respawn")(cleared, env.make_params()).active) == [True] * 3


def test_of_two_agents_that_want_one_place_the_first_gets_it():
    env = swarm("respawn")
    state = waiting(env).replace(active=jnp.array([True, False, False]))
    shared = jnp.broadcast_to(jnp.array([[4.0, 3.0, 0.0]] * 3, jnp.float32), (3, 3, 3))
    back = compiled(env, "respawn")(with_spawns(state, shared), env.make_params())
    assert arrays(back.active) == [True, True, False]


@pytest.mark.parametrize("on_goal", ["terminate", "respawn", "next_goal"])
def test_the_time_limit_truncates_everyone_still_going_and_ends_the_world(on_goal):
    env = swarm(on_goal)
    state = three(env, active=[True, True, False])
    for t in range(1, 4):
        _, state, _, terminated, truncated, _ = step(env, state, STAND, max_steps=3)
        assert not np.any(terminated)
        assert arrays(truncated) == ([True, True, False] if t == 3 else [False] * 3)
        assert bool(state.over) is (t == 3)
        assert state.step == t


def test_reaching_the_goal_on_the_last_step_is_terminated_alone():
    env = swarm()
    _, state, _, terminated, truncated, _ = step(env, three(env, (0.3, 4, 4)), FORWARD, max_steps=1)
    assert arrays(terminated) == [True, False, False]
    assert arrays(truncated) == [False, True, True]
    assert bool(state.over)


def test_step_never_resets():
    env = swarm()
    _, state, *_ = step(env, three(env), FORWARD, max_steps=1)
    _, after, *_ = step(env, state, FORWARD, max_steps=1)
    np.testing.assert_allclose(after.position, np.add(APART, [0.2, 0]), atol=1e-5)
    assert after.step == 2


def test_step_is_a_pure_function_that_draws_nothing_from_its_key():
    env = swarm()
    state, action = three(env), jnp.full((N, 2), 0.5)
    results = [compiled(env, "step")(KEY(seed), state, action, env.make_params()) for seed in (0, 1)]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), *results))


@pytest.mark.parametrize("shape", [(2,), (N,), (1, 2), (2, 3), (N, 1), (N, 3), (N + 1, 2), (2, N, 2)])
def test_step_refuses_an_action_of_another_shape(shape):
    env = swarm()
    with pytest.raises(ValueError, match=r"action.* expected \(3, 2\)"):
        env.step(KEY(0), three(env), jnp.asarray(np.zeros(shape, np.float32)), env.make_params())


def test_reset_starts_everyone_at_rest_on_its_first_spawn_bound_for_its_first_goal():
    env = swarm("respawn")
    params = env.make_params()
    obs, state = compiled(env, "reset")(KEY(3), params)
    np.testing.assert_array_equal(state.position, state.layout.spawns[:, 0, :2])
    np.testing.assert_array_equal(state.heading, state.layout.spawns[:, 0, 2])
    np.testing.assert_array_equal(state.goal, state.layout.goals[:, 0])
    assert np.all(state.active)
    assert not np.any(state.wheel_speed)
    assert state.step == 0
    assert not state.over
    assert state.layout.valid
    np.testing.assert_allclose(obs, compiled(env, "observe")(state, params), atol=1e-6)
    again, _ = compiled(env, "reset")(KEY(3), params)
    other, _ = compiled(env, "reset")(KEY(4), params)
    on_same, _ = compiled(env, "reset_to")(state.layout, params)
    np.testing.assert_array_equal(again, obs)
    np.testing.assert_allclose(on_same, obs, atol=1e-6)
    assert np.any(other != obs)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"max_whel_speed": 1}, "did you mean 'max_wheel_speed'"),
        ({"colour": 1}, "colour.*choose from dt, "),
        ({"reward_reach": 1}, "did you mean 'reward_reached'"),
        ({"reward": "dense"}, "dense.*shaped, v3"),
        ({"dt": 0.0}, "dt=0.0"),
        ({"max_steps": 0}, "max_steps=0"),
        ({"max_steps": 2.5}, "max_steps=2.5"),
        ({"wheel_base": -1}, "wheel_base=-1"),
        ({"motor_tau": -0.1}, "motor_tau=-0.1"),
        ({"wall_half_thickness": -0.1}, "wall_half_thickness=-0.1"),
        ({"lidar_range": np.nan}, "lidar_range=nan"),
        ({"reward_time": np.inf}, "reward_time=inf"),
        ({"difficulty": 0}, "difficulty=0"),
        ({"difficulty": 5}, "difficulty=5"),
        ({"difficulty": 2}, "difficulty=2.*difficulty=1"),
        ({"agent_radius": np.array([0.1, -0.1])}, "agent_radius"),
        ({"agent_radius": 0.3}, "num_agents=3 .* at most"),
    ],
)
def test_make_params_refuses_and_says_why(given, hint):
    with pytest.raises(ValueError, match=hint):
        swarm().make_params(**given)


@pytest.mark.parametrize("value", ["fast", [1, [2]], {}])
def test_make_params_wants_numbers(value):
    with pytest.raises(TypeError, match="max_wheel_speed"):
        swarm().make_params(max_wheel_speed=value)


def test_make_params_casts_every_value_to_a_strong_type():
    for params in (swarm().make_params(), swarm().make_params(dt=1, max_steps=np.int64(7), goal_radius=jnp.int32(1))):
        for name, value in params.by_keyword().items():
            assert value.dtype == (jnp.int32 if name in ("max_steps", "difficulty", "comm_delay") else jnp.float32)
            assert not value.weak_type


def counted(function):
    """The function under jit, and a list that grows with every trace."""
    traces = []

    def traced(*args):
        traces.append(1)
        return function(*args)

    return jax.jit(traced), traces


def test_no_parameter_value_and_no_kind_of_number_traces_again():
    env = Swarm(SwarmSpec(num_agents=N, num_rays=RAYS), difficulty=2)
    state, action = three(env), jnp.zeros((N, 2))
    run, traces = counted(functools.partial(env.step, KEY(0)))
    for kind in (int, float, np.float32, np.float64, np.int32, jnp.float32, jnp.int32, np.array):
        run(state, action, env.make_params(wheel_base=kind(1), max_steps=kind(7), reward_time=kind(0)))
    other = {"difficulty": 2, "agent_radius": 0.12, "damping": 0.25, "reward_team": 0}
    for name in PARAM_NAMES:
        run(state, action, env.make_params(**{name: other.get(name, 1)}))
    run(state, action, SwarmParams(**vars(env.make_params())))
    assert len(traces) == 1


def test_params_may_differ_per_world():
    env = swarm()
    values = {"max_wheel_speed": np.array([0.5, 1.0]), "reward_time": np.array([0.1, 0.2]), "max_steps": [1, 2]}
    params = env.make_params(**values)
    axes = jax.tree.map(lambda value: 0 if value.ndim else None, params)
    batched = jax.jit(jax.vmap(env.step, (None, 0, None, axes)))
    together = batched(KEY(0), stack([three(env)] * 2), jnp.ones((N, 2)), params)
    for i in range(2):
        alone = step(env, three(env), FORWARD, **{name: value[i] for name, value in values.items()})
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-6)
    assert arrays(together[4][:, 0]) == [True, False]


def test_max_steps_defaults_to_what_the_difficulty_needs():
    class Slow(Lanes):
        max_steps = (10, 20, 30, 40)

    env = Swarm(SwarmSpec(num_agents=N), Slow(3))
    assert env.make_params().max_steps == 30
    assert env.make_params(difficulty=1).max_steps == 10
    assert env.make_params(difficulty=1, max_steps=5).max_steps == 5
    assert arrays(env.make_params(difficulty=[3, 1]).max_steps) == [30, 10]
    assert jax.jit(lambda level: env.make_params(difficulty=level).max_steps)(2) == 20


def test_equal_swarms_are_one_static_argument():
    spec = SwarmSpec(num_agents=N, num_rays=RAYS)
    a, b = Swarm(spec), Swarm(SwarmSpec(num_agents=N, num_rays=RAYS), "open", difficulty=1)
    assert a == b
    assert hash(a) == hash(b)
    others = [Swarm(dataclasses.replace(spec, num_rays=5)), Swarm(spec, difficulty=2), Swarm(spec, Lanes(1))]
    assert all(a != other for other in others)
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def dim(env, x):
        traces.append(env)
        return x * env.spec.obs_dim

    assert dim(a, 1.0) == dim(b, 1.0)
    assert len(traces) == 1
    dim(others[0], 1.0)
    assert len(traces) == 2


def test_swarm_fills_in_what_the_scenario_needs():
    spec = Swarm(SwarmSpec(num_agents=4, num_walls=3)).spec
    assert (spec.num_goals, spec.num_walls, spec.num_boxes, spec.num_discs) == (1, 3, 0, 0)
    assert Swarm(SwarmSpec(num_agents=4, on_goal="respawn")).spec.num_goals > 1
    assert (spec.obs_dim, spec.action_dim) == (36, 2)


@pytest.mark.parametrize(
    ("build", "hint"),
    [
        (lambda: Swarm(scenario="opne"), "did you mean 'open'"),
        (lambda: Swarm(difficulty=5), "difficulty=5"),
        (lambda: Swarm(SwarmSpec(num_agents=5000)), "num_agents=5000.*at most"),
        (lambda: Swarm(SwarmSpec(num_walls=1), "rooms"), "num_walls=1 is too few"),
        (lambda: SwarmSpec(num_agents=0), "num_agents=0"),
        (lambda: SwarmSpec(num_rays=2.0), "num_rays=2.0"),
        (lambda: SwarmSpec(num_agents=True), "num_agents=True"),
        (lambda: SwarmSpec(num_goals=0), "num_goals=0"),
        (lambda: SwarmSpec(on_goal="stop"), "on_goal='stop'.*terminate"),
        (lambda: SwarmSpec(velocity_frame="robot"), "velocity_frame='robot'"),
        (lambda: SwarmSpec(neighbour_search="tree"), "neighbour_search='tree' must be one of dense, grid, auto"),
    ],
)
def test_construction_refuses_and_says_why(build, hint):
    with pytest.raises(ValueError, match=hint):
        build()
