"""`relay` and `lookout`: what there is to say, and who arrives with whom. Teams of maps given by hand."""

import functools
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.compilation import quick_jit
from helpers.worlds import make_world

from entropy_env import Swarm, SwarmSpec, make_layout
from entropy_env.scenarios import LEVELS, SCENARIOS, lookout, make_scenario
from entropy_env.scenarios.custom import pad_layout, spec_for
from entropy_env.types import HEARD, TOKENS, SwarmParams
from entropy_env.vector import batch
from entropy_env.vocabulary import Word

PARAMS = SwarmParams()
WORLDS, CROWD = 12, 32
ROBOT, SPEED = PARAMS.agent_radius, PARAMS.max_wheel_speed * PARAMS.dt  # m, m a step


def said(token, payload):
    """The 36 numbers of an action, (..., N, 36)."""
    scores = jnp.where(jnp.arange(TOKENS) == token[..., None], 1.0, -1.0)
    return jnp.concatenate([scores, payload], axis=-1)


def turned(offset, heading):
    """Offsets (..., 2) of a robot's frame, in that in which its heading (...) is."""
    cos, sin = np.cos(heading), np.sin(heading)
    return np.stack([offset[..., 0] * cos - offset[..., 1] * sin, offset[..., 0] * sin + offset[..., 1] * cos], -1)


def to_goal(state, rng):
    """Motors (..., N, 2) that lead to everybody's own goal, somehow."""
    away = np.asarray(state.goal if state.heading.ndim == 1 else jax.vmap(lambda s: s.goal)(state)) - state.position
    bearing = np.arctan2(away[..., 1], away[..., 0]) - state.heading
    bearing = np.arctan2(np.sin(bearing), np.cos(bearing))
    drive = np.minimum(np.maximum(np.cos(bearing), 0), np.linalg.norm(away, axis=-1) / 0.2)
    return np.stack([drive - bearing, drive + bearing], axis=-1) + rng.normal(0, 0.3, (*bearing.shape, 2))


@functools.cache
def relay(on_goal):
    """A crowded environment and its parameters, and compiled `reset`, `step` from motors, where all tell the truth, and
    `heard`.
    """
    env = Swarm(SwarmSpec(CROWD, num_rays=1, on_goal=on_goal, num_goals=2, comm_neighbours=CROWD), "relay")
    worlds, params = batch(env, WORLDS), env.make_params(max_steps=150)
    truth = jax.vmap(env.scenario.truth, (0, None, None))

    @jax.jit
    def step(key, state, motors):
        words = said(*truth(state.worlds, params, env.spec))
        return worlds.step(key, state, jnp.concatenate([motors, words], axis=-1), params)

    @jax.jit
    def heard(state):
        return jax.vmap(env.heard, (0, None))(state, params)

    return env, params, jax.jit(functools.partial(worlds.reset, params=params)), step, heard


def play_relay(on_goal, num_steps=120):
    """Yield (state before, observations, state, flags) of steps towards the goals."""
    _, _, reset, step, _ = relay(on_goal)
    (_, state), rng = reset(jax.random.key(3)), np.random.default_rng(3)
    for t in range(num_steps):
        motors = np.clip(to_goal(state.worlds, rng), -1, 1).astype(np.float32)
        obs, after, _, terminated, _, info = step(jax.random.key(t), state, motors)
        yield state.worlds, np.asarray(obs), after.worlds, np.asarray(terminated), jax.device_get(info)
        state = after


def test_in_relay_a_word_tells_for_whom_it_is_and_where_the_goal_is():
    """The partner's slot is at most 0.100 m from its listener, each other at least 0.105 m, and the goal is exact."""
    env, params, _, _, heard = relay("respawn")
    spec, mine, others, off = env.spec, [], [], []
    for _, obs, state, _, _ in play_relay("respawn", 60):
        who = np.asarray(heard(state))
        slots = obs[..., spec.slice("inbox")].reshape(*obs.shape[:2], -1, HEARD).astype(float)
        facing = np.arctan2(slots[..., 3], slots[..., 2])
        there = [
            slots[..., :2] * params.comm_range + turned(slots[..., k : k + 2] * params.goal_scale, facing)
            for k in (5, 7)
        ]
        distance, partner = np.linalg.norm(there[0], axis=-1), np.arange(spec.num_agents)[:, None] ^ 1
        own = (who == partner) & (who >= 0)
        mine.append(distance[own])
        others.append(distance[~own & (who >= 0)])
        goal = turned(np.asarray(jax.vmap(lambda s: s.goal)(state) - state.position), -np.asarray(state.heading))
        off.append(np.linalg.norm(there[1] - goal[:, :, None], axis=-1)[own])
        assert np.all(np.rint(slots[..., 4][who >= 0] * (TOKENS - 1)) == Word.FOUND_TARGET)
    mine, others, off = (np.concatenate(each) for each in (mine, others, off))
    assert len(mine) > 10_000
    assert mine.max() <= 0.1 + 1e-5
    assert others.min() >= 0.105
    assert off.max() < 2e-5


@pytest.mark.parametrize("on_goal", ["respawn", "next_goal"])
def test_pairs_arrive_together_and_start_again_together(on_goal):
    arrived = alone = waited = 0
    for before, _, after, terminated, info in play_relay(on_goal):
        reached = info["reached"]
        for flags in (reached, terminated, after.active, after.goal_index, after.goals_reached):
            flags = np.asarray(flags)
            np.testing.assert_array_equal(flags[:, ::2], flags[:, 1::2])
        np.testing.assert_array_equal(terminated, reached if on_goal != "next_goal" else np.zeros_like(reached))
        np.testing.assert_array_equal(info["success"][terminated], True)
        assert "counted" not in info
        away = np.linalg.norm(np.asarray(jax.vmap(lambda s: s.goal)(before) - before.position), axis=-1)
        assert away[reached].max(initial=0) < PARAMS.agent_radius + PARAMS.goal_radius + SPEED
        there = away < PARAMS.agent_radius + PARAMS.goal_radius - 1.5 * SPEED
        alone += np.sum((there[:, ::2] != there[:, 1::2]) & ~reached[:, ::2])
        arrived, waited = arrived + reached.sum(), waited + np.sum(~np.asarray(after.active))
    assert arrived > 100
    assert alone > 100, "no robot came to its goal before its partner"
    assert (waited > 0) == (on_goal == "respawn"), "no pair had to wait for a place"


def test_both_of_a_pair_start_again_or_neither():
    env = Swarm(SwarmSpec(10, num_rays=1, on_goal="respawn", num_goals=1), "relay")
    # 2 would start where 0 does, and 5 where 6, who is there, stands: 3 and 4 have free places and wait with them. So 8
    # may start where 4 would.
    places = np.array([[1, 1], [2, 1], [1, 1], [3, 1], [4, 1], [1, 3], [1.1, 3], [3, 3], [4, 1], [5, 1]])
    state = make_world(env, places, active=[False] * 6 + [True] * 2 + [False] * 2)
    after = jax.jit(env.respawn)(state, env.make_params())
    assert np.flatnonzero(after.active).tolist() == [0, 1, 6, 7, 8, 9]


@pytest.mark.parametrize("name", ["relay", "lookout"])
def test_odd_numbers_are_refused(name):
    with pytest.raises(ValueError, match=f"num_agents=5 must be even in scenario '{name}'"):
        Swarm(SwarmSpec(5), name)


@pytest.mark.parametrize("on_goal", ["respawn", "next_goal"])
def test_scouts_do_not_start_again(on_goal):
    with pytest.raises(ValueError, match=f"on_goal='{on_goal}': scenario 'lookout' takes only terminate"):
        Swarm(SwarmSpec(4, on_goal=on_goal), "lookout")


def test_scenarios_of_talk_choose_how_robots_talk():
    for name, comm_range, max_steps in (
        ("relay", (10, 8, 5, 4), (200, 200, 300, 400)),
        ("lookout", (20,) * 4, make_scenario("lookout").max_steps),
    ):
        env = Swarm(SwarmSpec(4), name, 4)
        params = env.make_params(difficulty=np.array(LEVELS))
        assert env.spec.comm_neighbours == 8
        np.testing.assert_array_equal(params.comm_range, comm_range)
        np.testing.assert_array_equal(params.max_steps, max_steps)
        assert np.all(params.reward_team == 1)
        assert np.all(params.weight("bandwidth") == 0)
        silent = Swarm(SwarmSpec(4, comm_neighbours=0, team_rewards=False), name)
        assert silent.spec.action_dim == 2
        assert not silent.spec.teams


def test_only_scenarios_of_talk_know_what_to_say():
    assert [name for name in SCENARIOS if SCENARIOS[name].tells] == ["relay", "lookout"]
    env = Swarm(SwarmSpec(2), "open")
    with pytest.raises(NotImplementedError, match="scenario 'open' has no ground truth"):
        env.scenario.truth(make_world(env, [[1, 1], [2, 2]]), env.make_params(), env.spec)


@functools.cache
def drawn(level):
    """Charted layouts of `lookout` and their first states, with the environment and its parameters."""
    env, generate = lookout_generator()
    params = env.make_params(difficulty=level)
    layouts = generate(jax.random.split(jax.random.key(level), 64), params)
    return env, params, jax.tree.map(np.asarray, layouts)


@functools.cache
def lookout_generator():
    env = Swarm(SwarmSpec(16, num_rays=4, geodesic=True), "lookout", 4)
    return env, quick_jit(jax.vmap(env.generate, (0, None)))


@functools.cache
def ways_from():
    """Compiled: the lengths (E, N) m of the shortest ways from places (E, N, 2) m to the goals of layouts."""
    env, _ = lookout_generator()

    def length(layout, place, params):
        return env.geodesic_distance(env.start(layout).replace(position=place), params)

    return quick_jit(jax.vmap(length, (0, 0, None)))


def mouths(layouts, level):
    """The far mouths of the open and of the closed corridors, (E, 2) m each."""
    far = 3 + lookout.LENGTHS[level - 1]
    lower_closed = layouts.boxes[:, 3, 1] < 2.5
    return [np.stack([np.full(len(y), far), y], -1) for y in np.where([lower_closed, ~lower_closed], 4.0, 1.0)]


@pytest.mark.parametrize("level", LEVELS)
def test_two_corridors_join_the_rooms_of_lookout_and_one_is_closed(level):
    _, _, layouts = drawn(level)
    length = (4.5, 5.0, 5.5, 6.0)[level - 1]
    assert np.all(layouts.valid)
    assert np.all(layouts.box_mask)
    np.testing.assert_allclose(layouts.size, np.broadcast_to([6 + length, 5], layouts.size.shape))
    low, high = layouts.boxes[..., :2] - layouts.boxes[..., 2:], layouts.boxes[..., :2] + layouts.boxes[..., 2:]
    np.testing.assert_allclose(low[:, :3, 0], 3, atol=1e-5)
    np.testing.assert_allclose(high[:, :, 0], 3 + length, atol=1e-5)
    np.testing.assert_allclose(low[:, 3, 0], 3 + length - 0.3, atol=1e-5)
    edges = np.stack([low[:, :3, 1], high[:, :3, 1]], -1).reshape(-1, 6)
    np.testing.assert_allclose(edges, np.broadcast_to([0, 0.7, 1.3, 3.7, 4.3, 5], edges.shape), atol=1e-5)
    closed = np.stack([low[:, 3, 1], high[:, 3, 1]], -1)
    lower = closed[:, 0] < 2.5
    np.testing.assert_allclose(closed, np.where(lower[:, None], [[0.7, 1.3]], [[3.7, 4.3]]), atol=1e-5)


def test_either_corridor_is_closed_half_of_the_time():
    env = Swarm(SwarmSpec(2), "lookout")
    layouts = quick_jit(jax.vmap(env.generate, (0, None)))(jax.random.split(jax.random.key(0), 4096), env.make_params())
    assert abs(np.mean(layouts.boxes[:, 3, 1] < 2.5) - 0.5) < 0.03  # almost 4 deviations


@pytest.mark.parametrize("level", LEVELS)
def test_scouts_see_both_far_mouths_and_carriers_are_to_cross(level):
    env, _, layouts = drawn(level)
    far, scouts = 3 + lookout.LENGTHS[level - 1], env.spec.num_scouts
    spawns, goals = layouts.spawns[:, :, 0, :2], layouts.goals[:, :, 0]
    assert scouts == 8
    assert np.all(spawns[:, :scouts, 0] > far + ROBOT)  # in a room without obstacles, so nothing is between
    for mouth in mouths(layouts, level):
        away = np.linalg.norm(spawns[:, :scouts] - mouth[:, None], axis=-1)
        assert 2.2 < away.max() <= 2.5
    np.testing.assert_array_equal(goals[:, :scouts], spawns[:, :scouts])
    for points, back in ((spawns, 0), (goals, far + 2)):
        x, y = points[:, scouts:, 0] - back, points[:, scouts:, 1]
        assert np.all((x > 0) & (x < 1))
        assert np.all((y > 1.5) & (y < 3.5))


def test_more_scouts_than_fit_are_refused():
    with pytest.raises(
        ValueError, match="num_agents=18 is more than scenario 'lookout' holds at difficulty 1: at most 16"
    ):
        Swarm(SwarmSpec(18), "lookout")


def test_a_closed_corridor_is_seen_from_inside_and_from_neither_room():
    env = Swarm(SwarmSpec(16, num_rays=4), "lookout", 4)
    look = jax.jit(jax.vmap(lambda state, params: env.lidar(state, params)[:, 0], (0, None)))
    for level in LEVELS:
        _, params, layouts = drawn(level)
        state = jax.vmap(env.start)(layouts.replace(ways=None))
        state = state.replace(heading=jnp.zeros_like(state.heading), active=state.active & (jnp.arange(16) == 0))
        for mouth, reading in zip(mouths(layouts, level), (1.0, (1 - 0.3 - 0.1) / 3), strict=True):
            for place, expected in ((mouth - [1, 0], reading), (mouth * [0, 1] + [3, 0], 1.0)):
                state = state.replace(position=jnp.asarray(np.repeat(place[:, None], 16, axis=1), jnp.float32))
                np.testing.assert_allclose(look(state, params)[:, 0], expected, atol=1e-5)


@pytest.mark.parametrize("level", LEVELS)
def test_time_is_that_of_the_longest_way_and_a_quarter_and_who_turns_back_is_late(level):
    _, params, layouts = drawn(level)
    length, limit = lookout.LENGTHS[level - 1], make_scenario("lookout").max_steps[level - 1]
    longest = lookout.longest_way(length, PARAMS)
    assert limit == math.ceil(1.25 * longest / SPEED)
    direct = ways_from()(layouts, layouts.spawns[:, :, 0, :2], params)
    assert np.all(direct[:, :8] == 0)
    carriers = np.asarray(direct)[:, 8:]
    assert 0.95 * longest < carriers.max() <= 1.001 * longest

    _, closed_mouth = mouths(layouts, level)
    place = closed_mouth - [0.3 + PARAMS.lidar_range + ROBOT, 0]  # from where one sees that it is closed
    place = np.repeat(place[:, None], 16, axis=1).astype(np.float32)
    back = np.asarray(ways_from()(layouts, place, params))[:, 8:]
    corner = np.stack([np.full(len(place), 3.0), closed_mouth[:, 1] + np.sign(2.5 - closed_mouth[:, 1]) * 0.2], -1)
    there = np.linalg.norm(layouts.spawns[:, 8:, 0, :2] - corner[:, None], axis=-1) + place[:, :1, 0] - 3
    late = there + back > limit * SPEED
    assert late.mean() > (0.7 if level == 1 else 0.999)
    inside = (closed_mouth - [0.45, 0])[:, None].repeat(16, axis=1).astype(np.float32)
    around = np.asarray(ways_from()(layouts, inside, params))[:, 8:]
    assert around.min() > 2 * length + 3, "the closed corridor is open"


@functools.cache
def small():
    """Worlds of 6 robots of `lookout`, and compiled `reset` and `step`."""
    env = Swarm(SwarmSpec(6, num_rays=1), "lookout")
    worlds, params = batch(env, 8, autoreset=False), env.make_params(max_steps=25)
    return (
        env,
        params,
        jax.jit(functools.partial(worlds.reset, params=params)),
        jax.jit(functools.partial(worlds.step, params=params)),
    )


def test_scouts_tell_where_the_open_corridor_ends_and_the_others_are_silent():
    env, params, reset, _ = small()
    state = reset(jax.random.key(0))[1].worlds
    state = state.replace(active=state.active.at[:, 1].set(False))
    token, payload = jax.jit(jax.vmap(env.scenario.truth, (0, None, None)), static_argnums=2)(state, params, env.spec)
    assert token.dtype == jnp.int32
    assert payload.dtype == jnp.float32
    np.testing.assert_array_equal(token, np.tile([Word.FOUND_TARGET, 0, Word.FOUND_TARGET, 0, 0, 0], (8, 1)))
    assert not np.any(np.asarray(payload)[:, [1, 3, 4, 5]])
    assert not np.any(payload[..., :2])
    told = state.position + turned(np.asarray(payload[..., 2:]) * 10, np.asarray(state.heading))
    expected = mouths(state.layout, 1)[0][:, None]
    np.testing.assert_allclose(told[:, [0, 2]], np.broadcast_to(expected, (8, 2, 2)), atol=1e-5)
    assert len(np.unique(expected[..., 1])) == 2


def test_scouts_never_arrive_and_leave_with_the_last_carrier():
    env, _, reset, step = small()
    rng, state = np.random.default_rng(0), reset(jax.random.key(1))[1]
    assert env.spec.is_scout.tolist() == [True] * 3 + [False] * 3
    ended = 0
    for t in range(25):
        worlds = state.worlds
        goal = np.asarray(jax.vmap(lambda s: s.goal)(worlds))
        # scouts always stand on what their goals would be; some carriers are put on theirs
        put = (rng.random((8, 6)) < 0.15) | env.spec.is_scout
        put[0, 3:] = False
        worlds = worlds.replace(position=jnp.where(put[..., None], goal, worlds.position))
        action = np.zeros((8, 6, env.spec.action_dim), np.float32)
        obs, state, _, terminated, truncated, info = step(jax.random.key(t), state.replace(worlds=worlds), action)
        active = np.asarray(worlds.active)
        there = put & active & ~env.spec.is_scout
        np.testing.assert_array_equal(info["reached"], there)
        np.testing.assert_array_equal(info["success"] & terminated, there)
        left = np.any((active & ~there)[:, 3:], axis=1, keepdims=True)
        np.testing.assert_array_equal(terminated, there | (env.spec.is_scout & active & ~left))
        np.testing.assert_array_equal(info["counted"], np.tile(~env.spec.is_scout, (8, 1)))
        np.testing.assert_array_equal(truncated, active & left & (t == 24))
        np.testing.assert_array_equal(state.worlds.over, ~left[:, 0] | (t == 24))
        np.testing.assert_array_equal(state.worlds.goals_reached[:, :3], 0)
        assert not np.any(obs[:, :3, env.spec.slice("goal")])
        ended += np.sum(terminated[:, :3])
    assert ended >= 12


def test_a_curriculum_counts_carriers_in_new_levels_alone():
    from trainers.curriculum.learnability import LearnableWorlds
    from trainers.curriculum.worlds import StagedParams, StagedState, StagedWorlds

    env = Swarm(SwarmSpec(4, num_rays=1), "lookout")
    action, key = jnp.zeros((2, 4, env.spec.action_dim)), jax.random.key(0)
    params = env.make_params(difficulty=np.ones(2, int))
    worlds = LearnableWorlds(env, 2, num_levels=2)
    reset, step = jax.jit(worlds.reset), jax.jit(worlds.step)
    _, state = reset(key, params)
    counted = step(key, state.replace(replayed=jnp.array([True, False])), action, params)[-1]["counted"]
    np.testing.assert_array_equal(counted, [[False] * 4, [False, False, True, True]])

    staged = StagedWorlds(types.SimpleNamespace(reset=reset, step=step))
    given = StagedParams(params, jnp.array([True, False]))
    counted = staged.step(key, StagedState(state, params.difficulty), action, given)[-1]["counted"]
    np.testing.assert_array_equal(counted, [[False, False, True, True], [False] * 4])


MAP = {"size": (4.0, 3.0), "spawns": [[1.0, 1.0], [3.0, 1.0]], "goals": [[1.0, 2.0], [3.0, 2.0]]}


def test_a_map_keeps_its_teams_where_teams_matter():
    for team, expected in (({}, [0, 0]), ({"team": [3, 0]}, [3, 0])):
        layout = make_layout(**MAP, **team)
        for teams in (True, False):
            spec = spec_for(layout, Swarm(SwarmSpec(2, team_rewards=teams)).spec)
            padded = pad_layout(layout, spec).team
            assert padded.tolist() == expected if teams else padded is None


@pytest.mark.parametrize(
    ("team", "message"),
    [
        ([0], r"team has shape \(1,\), expected \(2,\)"),
        ([0, -1], r"team\[1\]=-1 must be a whole number from 0"),
        ([0.5, 1], r"team\[0\]=0.5 must be a whole number"),
        ([0, np.nan], r"team\[1\]=nan must be a whole number"),
        ([0, "red"], "team must be an array of numbers"),
    ],
)
def test_a_wrong_team_is_shown(team, message):
    with pytest.raises(ValueError, match=message):
        make_layout(**MAP, team=team)
