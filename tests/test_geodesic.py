"""The shortest ways around walls: their lengths against the tangent graph, the reward for them, what a critic is told."""

import dataclasses
import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.worlds import ENGINES, KEY, RADIUS, SLOW_JAX, numpy_tree, take

from entropy_env import Swarm, SwarmSpec, make_engine, make_layout, swarm_v0
from entropy_env.geodesic import reach
from entropy_env.observations import NEAREST
from entropy_env.scenarios.custom import Custom, pad_layout, spec_for
from entropy_env.task import Task
from entropy_env.types import FAR_AWAY
from trainers.evaluation.shortest_path import shortest_paths

GROWN = RADIUS + 0.05  # m, half the thickness of a wall grown by a robot
TO_CENTRE = types.SimpleNamespace(agent_radius=RADIUS, wall_half_thickness=0.05, reach=0.0)  # for the tangent graph
MAZE = SwarmSpec(num_agents=6, num_rays=1, num_goals=2, on_goal="respawn", geodesic=True)
WEIGHTS = np.array([1.0, 2.0, 3.0], np.float32)  # of the term, in each world
TERM = "geodesic"


def make_worlds(engine, scenario="maze", spec=MAZE, **params):
    """Three worlds of any difficulty. Those of one scenario share compiled code."""
    env = Swarm(spec, scenario, difficulty=4)
    return make_engine(env, 3, env.resolve_params(**{"reward_geodesic": WEIGHTS, "difficulty": 1} | params), engine)


@functools.cache
def drawn(scenario, difficulty):
    """A simulator, its parameters and the layouts of three worlds."""
    worlds = make_worlds("numba", scenario, difficulty=difficulty)
    worlds.reset(difficulty)
    return worlds.env, worlds.env.make_params(), jax.tree.map(jnp.asarray, worlds.state.layout)


@functools.partial(jax.jit, static_argnums=0)
def charted(env, layouts, params):
    """Layouts with their ways, found anew."""
    return jax.vmap(env.chart, (0, None))(layouts, params)


reach_all = jax.jit(jax.vmap(reach, (0, None, None, 0)))  # from points (E, 1, N, 2), in E worlds
distance = jax.jit(Swarm.geodesic_distance, static_argnums=0)


@jax.jit
def lengths(layouts, params, points):
    """From points (E, T, N, 2) to the goals of the first T columns, (E, T, N) m."""

    def one(layout, points):
        columns = jnp.arange(points.shape[0], dtype=jnp.int32)
        return jax.vmap(lambda g, at: reach(layout, params, jnp.full(len(at), g), at[None])[0][0])(columns, points)

    return jax.vmap(one)(layouts, points)


def exact(layout, points, columns=slice(None)):
    """The same for one world, (T, N) m, with the tangent graph."""
    layout = numpy_tree(layout)
    pairs = zip(np.moveaxis(layout.goals, 1, 0)[columns], points, strict=True)
    found = []
    for goals, at in pairs:
        spawns = np.concatenate([at, np.zeros((*at.shape[:-1], 1))], axis=-1)
        found.append(shortest_paths(layout.replace(spawns=spawns[:, None], goals=goals[:, None]), TO_CENTRE))
    return np.array(found)


HANDMADE = Swarm(SwarmSpec(num_agents=1, num_walls=4, num_boxes=1, num_discs=1, geodesic=True), Custom())


@functools.partial(jax.jit, static_argnums=0)
def _measure(env, layout, params):
    layout = env.chart(layout, params)
    return env.geodesic_distance(env.start(layout), params)[0], layout.valid


def on_map(start, goal, size=(8.0, 6.0), **bodies):
    """The length from a start to a goal on a map made by hand, and whether the layout is valid."""
    layout = pad_layout(make_layout(size, spawns=[start], goals=[goal], **bodies), HANDMADE.spec)
    way, valid = _measure(HANDMADE, jax.tree.map(jnp.asarray, layout), HANDMADE.make_params())
    return float(way), bool(valid)


def bend(leg, height, radius):
    """m, from a point over a circle, centred `leg` m away and `height` m above it, and down the same way."""
    distance = np.hypot(leg, height)
    lean = np.arctan2(height, leg) + np.arcsin(radius / distance)
    return 2 * np.sqrt(distance**2 - radius**2) + 2 * radius * lean


@pytest.mark.parametrize("difficulty", [1, 4])
@pytest.mark.parametrize("scenario", ["maze", "rooms", "corridor", "obstacles"])
def test_lengths_are_those_of_the_tangent_graph(scenario, difficulty):
    """To 2 %, or 2 cm. They are in fact true to 0.5 %."""
    _, params, layouts = drawn(scenario, difficulty)
    points = jnp.moveaxis(layouts.spawns[..., :2], 2, 1)
    found = np.asarray(lengths(layouts, params, points))
    assert np.all(layouts.valid)
    for world in range(len(found)):
        truth = exact(take(layouts, world), np.asarray(points)[world])
        np.testing.assert_array_less(np.abs(found[world] - truth), np.maximum(0.02 * truth, 0.02))


def test_around_the_end_of_a_wall_a_box_and_a_disc():
    assert on_map((2, 3), (6, 3)) == (4, True)
    tolerance = {"abs": 0.01}
    way, _ = on_map((2, 3), (6, 3), walls=[((4, 0), (4, 3.5))])
    assert way == pytest.approx(bend(2, 0.5, GROWN), **tolerance)
    way, _ = on_map((2, 3.01), (6, 3.01), discs=[(4, 3, 1)])
    assert way == pytest.approx(bend(2, -0.01, 1 + RADIUS), **tolerance)
    way, _ = on_map((2, 3), (6, 3), boxes=[(4, 3, 0.5, 1)])
    assert way == pytest.approx(bend(1.5, 1, RADIUS) + 1, **tolerance)


@pytest.mark.parametrize("largest", [0.1, 0.5, 2.5])
def test_lengths_among_discs_of_any_size_are_those_of_the_tangent_graph(largest):
    """Also from places that touch a disc. They are in fact true to 0.1 %."""
    rng, size, discs, points = np.random.default_rng(0), np.array([10, 8]), np.empty((0, 3)), []
    while len(discs) < 5:
        disc = np.array([*rng.uniform(0, size), largest * rng.uniform(0.4, 1)])
        apart = np.hypot(*(discs[:, :2] - disc[:2]).T) - discs[:, 2] - disc[2]
        border = np.concatenate([disc[:2], size - disc[:2]]) - disc[2]
        if np.all(apart > 0.25) and np.all((border > 0.25) | (border < 0)):
            discs = np.concatenate([discs, disc[None]])
    while len(points) < 40:  # a start and a goal beside the same disc
        x, y, radius = discs[rng.integers(5)]
        turn, gap = rng.uniform(0, 2 * np.pi) + np.array([0, rng.uniform(0, 1.5)]), rng.choice([1e-4, 0.01, 0.3], 2)
        pair = np.array([x, y]) + (radius + RADIUS + gap)[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
        clear = np.hypot(*np.moveaxis(discs[:, None, :2] - pair, -1, 0)) - discs[:, None, 2] > RADIUS + 1e-5
        if np.all(clear) and np.all((pair > 0.11) & (pair < size - 0.11)):
            points.append(pair)
    points, goals = np.moveaxis(points, 1, 0)
    plain = make_layout(size, spawns=points, goals=goals, discs=discs)
    env = Swarm(spec_for(plain, Swarm(SwarmSpec(40, num_rays=1, geodesic=True), Custom()).spec), Custom())
    layouts = charted(
        env, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], pad_layout(plain, env.spec)), env.make_params()
    )
    found = np.asarray(
        reach_all(layouts, env.make_params(), jnp.zeros(40, jnp.int32), points[None, None].astype(np.float32))[0]
    )
    truth = exact(take(layouts, 0), points[None])
    np.testing.assert_array_less(np.abs(found[0] - truth), np.maximum(0.02 * truth, 0.02))


@pytest.mark.parametrize("radius", [0.1, 0.3, 1.0, 3.0])
def test_a_gap_between_discs_is_closed_if_it_is_2_cm_narrower_than_a_robot(radius):
    for gap, passes in ((0.205, True), (0.18, False)):
        width = 4 * radius + gap
        discs = [(radius, 4, radius), (width - radius, 4, radius)]
        layout = make_layout((width, 8), spawns=[(width / 2, 0.5)], goals=[(width / 2, 7.5)], discs=discs)
        swarm = functools.partial(swarm_v0.parallel_env, 1, layout=layout, geodesic=True)
        if passes:
            swarm()
        else:
            with pytest.raises(ValueError, match="cannot be reached"):
                swarm()


def test_a_mouth_of_36_cm_is_passed_and_a_gap_that_no_robot_fits_is_not():
    for gap, passes in ((0.36, True), (0.17, False)):
        edge = gap / 2 + 0.05
        way, valid = on_map((2, 3.5), (6, 3.5), walls=[((4, 0), (4, 3 - edge)), ((4, 3 + edge), (4, 6))])
        assert valid == passes
        assert (way < FAR_AWAY) == passes
        if passes:
            assert way == pytest.approx(bend(2, 0.5 - edge, GROWN), abs=0.01)


def test_a_wall_given_twice_and_a_round_post_keep_their_corners():
    wall = ((4, 0), (4, 3.5))
    assert on_map((2, 3), (6, 3), walls=[wall, wall, ((1, 5), (1, 5))]) == on_map((2, 3), (6, 3), walls=[wall])
    way, _ = on_map((3, 3), (5, 3), walls=[((4, 2.99), (4, 2.99))])
    assert way == pytest.approx(bend(1, -0.01, GROWN), abs=0.005)


def test_a_way_to_a_goal_in_a_wall_ends_beside_it():
    way, valid = on_map((2, 3), (3.96, 3), walls=[((4, 2), (4, 4))])
    assert valid
    assert way == pytest.approx(2 - GROWN, abs=1e-3)


def test_the_way_back_is_as_long():
    env, params, layouts = drawn("maze", 2)
    there = jnp.moveaxis(layouts.spawns[..., :2], 2, 1)
    back = layouts.replace(
        goals=layouts.spawns[..., :2], spawns=jnp.concatenate([layouts.goals, layouts.spawns[..., 2:]], axis=-1)
    )
    back = charted(env, back, params)
    found = lengths(layouts, params, there), lengths(back, params, jnp.moveaxis(layouts.goals, 2, 1))
    np.testing.assert_allclose(*found, atol=1e-4)


@pytest.mark.parametrize("scenario", ["maze", "obstacles"])
def test_a_mirrored_world_has_the_same_lengths(scenario):
    env, params, layouts = drawn(scenario, 1)
    points = jnp.moveaxis(layouts.spawns[..., :2], 2, 1)
    width = layouts.size[:, 0]

    def across(x, columns):
        mirrored = width.reshape(-1, *(1,) * (x.ndim - 1)) - x[..., :1]
        return jnp.concatenate([mirrored, x[..., 1:]], axis=-1) if columns else mirrored

    names = ("walls", "boxes", "discs", "spawns", "goals")
    image = layouts.replace(**{name: across(getattr(layouts, name), True) for name in names})
    image = charted(env, image, params)
    expected = lengths(layouts, params, points)
    np.testing.assert_allclose(lengths(image, params, across(points, True)), expected, atol=1e-4)


def test_whoever_goes_where_the_way_bends_next_gains_every_metre_and_arrives():
    _, params, layouts = drawn("maze", 1)
    spawns, columns = layouts.spawns[:, :, 0, :2], jnp.zeros(6, jnp.int32)

    def look(points):
        return [each[:, 0] for each in reach_all(layouts, params, columns, points[:, None])]

    points, (left, bends) = spawns, look(spawns)
    whole, travelled = left, 0
    for _ in range(400):
        ahead = bends - points
        far = jnp.sqrt(jnp.sum(ahead * ahead, axis=-1, keepdims=True))
        move = jnp.minimum(far, 0.05)
        points = points + ahead / jnp.maximum(far, 1e-6) * move
        before, (left, bends), travelled = left, look(points), travelled + move[..., 0]
        np.testing.assert_allclose(before - left, move[..., 0], atol=6e-3)
    np.testing.assert_allclose(travelled, whole, rtol=0.01)
    np.testing.assert_allclose(points, layouts.goals[:, :, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("scenario", "drive", "on_goal"),
    [
        ("maze", "kinematic", "respawn"),
        pytest.param("obstacles", "force", "next_goal", marks=pytest.mark.slow),
        pytest.param("corridor", "kinematic", "terminate", marks=pytest.mark.slow),
    ],
)
def test_both_engines_pay_the_same(scenario, drive, on_goal):
    num_goals = 1 if on_goal == "terminate" else 2
    spec = dataclasses.replace(MAZE, drive=drive, on_goal=on_goal, num_goals=num_goals)
    numba, jitted = (make_worlds(name, scenario, spec, difficulty=2, max_steps=120) for name in ENGINES)
    for engine in (numba, jitted):
        engine.reset(1)
    rng, column, paid = np.random.default_rng(0), list(numba.env.terms).index(TERM), 0
    for _ in range(150):
        action = np.clip(rng.normal(0.5, 0.6, (3, 6, 2)), -1, 1).astype(np.float32)
        jitted.state = numba.state
        found, other = numba.step(action), jitted.step(action)
        terms, others = found.reward_terms[..., column], other.reward_terms[..., column]
        np.testing.assert_allclose(terms, others, atol=1e-4)
        np.testing.assert_allclose(found.reward, found.reward_terms.sum(axis=-1), atol=1e-4)
        assert np.all(terms[~found.acted] == 0)
        assert np.all(np.abs(terms) < WEIGHTS[:, None] * 0.3)
        paid += np.abs(terms).sum()
    assert paid > 10


def test_the_term_is_what_the_way_became_shorter_towards_the_goal_before_a_switch():
    env = Swarm(dataclasses.replace(MAZE, on_goal="next_goal"), "maze", difficulty=4)
    params, layout = env.make_params(reward_geodesic=1.0), take(drawn("maze", 1)[2], 0)
    place = layout.goals[:, 0] - jnp.array([[0.26, 0.0]])
    state = env.start(layout).replace(position=place, heading=jnp.zeros(6))
    step = jax.jit(env.step)
    before = distance(env, state, params)
    _, after, _, _, _, info = step(KEY(0), state, jnp.ones((6, 2)), params)
    assert info["reached"].all()
    assert np.all(after.goal_index == 1)
    gained = before - distance(env, after.replace(goal_index=state.goal_index), params)
    np.testing.assert_allclose(info["reward_terms"][TERM], gained, atol=1e-6)
    np.testing.assert_allclose(gained, 0.1, atol=1e-3)
    idle = state.replace(active=jnp.zeros(6, bool))
    assert np.all(step(KEY(0), idle, jnp.ones((6, 2)), params)[5]["reward_terms"][TERM] == 0)


def test_without_the_option_there_is_nothing_of_it():
    env = Swarm(SwarmSpec(num_agents=2), "maze")
    params = env.make_params(reward_geodesic=0.0)
    layout = jax.jit(env.generate)(KEY(0), params)
    assert layout.ways is None and env.spec.num_corners == 0 and TERM not in env.terms
    assert params.own_weights == {}
    state = env.start(layout)
    for ask in (env.geodesic_distance, env.privileged):
        with pytest.raises(ValueError, match=r"SwarmSpec\(geodesic=True\)"):
            ask(state, params)
    with pytest.raises(ValueError, match=r"reward_geodesic=1.5 needs geodesic=True"):
        env.make_params(reward_geodesic=1.5)
    with pytest.raises(ValueError, match="'geodesic' is a built-in term"):
        SwarmSpec(reward_terms={TERM: lambda outcome, params: 0.0})
    with pytest.raises(ValueError, match="geodesic='yes' must be True, False or None"):
        SwarmSpec(geodesic="yes")


def test_a_weight_switches_the_option_on_unless_it_is_off_by_hand():
    env, params = Task.of("maze", reward_geodesic=0.5, num_agents=2).resolve()
    assert env.spec.geodesic and env.spec.num_corners == 24
    assert params.weight(TERM) == 0.5 and params.by_keyword()["reward_geodesic"] == 0.5
    assert not Task.of("maze", reward_geodesic=0.0).resolve()[0].spec.geodesic
    assert Task.of("maze").but(reward_geodesic=0.5).spec.geodesic
    assert Task.load(Task.of("maze", reward_geodesic=0.5).written()) == Task.of("maze", reward_geodesic=0.5)
    assert Swarm(SwarmSpec(geodesic=True)).make_params().weight(TERM) == 0
    with pytest.raises(ValueError, match=r"reward_geodesic=0.5 needs geodesic=True"):
        swarm_v0.parallel_env(scenario="maze", geodesic=False, reward_geodesic=0.5)
    world = swarm_v0.parallel_env(num_agents=2, scenario="maze", reward_geodesic=0.5)
    world.reset(seed=0)
    *_, infos = world.step({agent: np.ones(2, np.float32) for agent in world.agents})
    assert all(np.isfinite(info["reward_terms"][TERM]) for info in infos.values())


CELL = [((5, 2), (7, 2)), ((7, 2), (7, 4)), ((7, 4), (5, 4)), ((5, 4), (5, 2))]


def test_a_walled_in_goal_is_an_error_that_names_it():
    layout = {"size": (8, 6), "walls": CELL, "spawns": [(1, 1), (1, 2)], "goals": [(2, 5), (6, 3)]}
    with pytest.raises(
        ValueError, match=r"agent_1: its goal \[6.0, 3.0\] cannot be reached from its spawn \[1.0, 2.0\]"
    ):
        swarm_v0.parallel_env(num_agents=2, layout=layout, reward_geodesic=1.0)
    swarm_v0.parallel_env(num_agents=2, layout=layout)  # without the option it is played


@pytest.mark.parametrize("engine", ENGINES)
def test_a_walled_in_goal_pays_nothing(engine):
    env = Swarm(SwarmSpec(num_agents=2, num_walls=4, geodesic=True), Custom())
    layout = make_layout((8, 6), walls=CELL, spawns=[(1, 1), (6, 2.5)], goals=[(6, 3), (6, 3.5)])
    worlds = make_engine(env, 1, env.resolve_params(reward_geodesic=1.0), engine)
    worlds.reset_to(jax.tree.map(lambda leaf: np.asarray(leaf)[None], layout))
    assert not worlds.valid.any()
    column = list(env.terms).index(TERM)
    terms = np.array([worlds.step(np.full((1, 2, 2), 0.4)).reward_terms[0, :, column] for _ in range(20)])
    assert np.all(terms[:, 0] == 0)
    assert np.all(np.abs(terms[:, 1]) < 0.1)


def check_ways(env, layouts, params):
    """Hold the ways of layouts to those that are found anew."""
    expected = numpy_tree(charted(env, jax.tree.map(jnp.asarray, layouts), params).ways)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), layouts.ways, expected)


@pytest.mark.parametrize("engine", SLOW_JAX)  # JAX draws for both
def test_new_goals_in_a_world_without_an_end_get_new_ways(engine):
    env, params, _ = drawn("maze", 1)
    spec = dataclasses.replace(MAZE, on_goal="next_goal")
    worlds = make_worlds(engine, spec=spec, max_steps="never")
    worlds.reset(0)
    first = worlds.state.layout
    for _ in range(2):
        state = worlds.state
        goal = np.take_along_axis(state.layout.goals, state.goal_index[..., None, None], axis=2)[:, :, 0]
        worlds.state = dataclasses.replace(state, position=goal)
        assert worlds.step(np.zeros((3, 6, 2))).reached.all()
    assert np.all(worlds.state.layout.goals != first.goals)
    check_ways(env, worlds.state.layout, params)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_snapshot_goes_on_with_the_same_ways(engine):
    worlds, other = (make_worlds(engine, max_steps=5) for _ in range(2))
    worlds.reset(3)
    worlds.step(np.ones((3, 6, 2)))
    other.restore(worlds.snapshot())
    for _ in range(12):
        one, two = worlds.step(np.ones((3, 6, 2))), other.step(np.ones((3, 6, 2)))
        np.testing.assert_array_equal(one.reward_terms, two.reward_terms)


def test_a_critic_is_told_what_a_loop_finds():
    env, params, layouts = drawn("maze", 1)
    layout, rng = take(layouts, 1), np.random.default_rng(0)
    active = np.array([True, True, False, True, True, False])
    state = env.start(layout).replace(
        heading=jnp.asarray(rng.uniform(-3, 3, 6), jnp.float32), active=jnp.asarray(active), step=jnp.array(90)
    )
    table = np.asarray(jax.jit(env.privileged)(state, params))
    assert table.shape == (6, 4 + 4 * NEAREST)
    position, heading = np.asarray(state.position, float), np.asarray(state.heading, float)
    found = reach_all(layouts, params, state.goal_index, jnp.broadcast_to(state.position, (3, 1, 6, 2)))
    left, bends = (np.asarray(each[1, 0]) for each in found)
    for i in range(6):
        if not active[i]:
            assert np.all(table[i] == 0)
            continue
        turn = np.array([[np.cos(heading[i]), np.sin(heading[i])], [-np.sin(heading[i]), np.cos(heading[i])]])
        expected = [left[i] / 10, *turn @ (bends[i] - position[i]) / 10, 1 - 90 / float(params.max_steps)]
        others = sorted((np.hypot(*(position[j] - position[i])), j) for j in range(6) if active[j] and j != i)
        for _, j in others[:NEAREST]:
            facing = turn @ [np.cos(heading[j]), np.sin(heading[j])]
            expected += [*turn @ (position[j] - position[i]) / 10, *facing]
        expected += [0] * (table.shape[1] - len(expected))
        np.testing.assert_allclose(table[i], expected, atol=1e-5)
    alone = Swarm(SwarmSpec(num_agents=1, geodesic=True), "open")
    free = alone.make_params(max_steps="never")
    _, state = jax.jit(alone.reset)(KEY(0), free)
    told = np.asarray(jax.jit(alone.privileged)(state, free))[0]
    np.testing.assert_allclose(told[0], np.hypot(*(state.goal - state.position)[0]) / 10, rtol=1e-5)
    assert told[3] == 1 and np.all(told[4:] == 0)


def test_a_batch_draws_the_next_layouts_with_their_ways():
    env, params, _ = drawn("maze", 1)
    worlds = make_worlds("jax", max_steps=2)
    worlds.reset(0)
    first = worlds._vector_state.next_layout
    for _ in range(6):
        worlds.step(np.ones((3, 6, 2)))
    state = worlds._vector_state
    assert np.all(state.next_layout.goals != first.goals)
    for layouts in (state.worlds.layout, state.next_layout):
        check_ways(env, layouts, params)


def test_parameters_of_each_world_count():
    terms = []
    for name in ENGINES:
        worlds = make_worlds(name)
        worlds.reset(0)
        worlds.state = jax.tree.map(lambda leaf: np.repeat(leaf[:1], 3, axis=0), worlds.state)
        terms.append(worlds.step(np.ones((3, 6, 2))).reward_terms[..., list(worlds.env.terms).index(TERM)])
        np.testing.assert_allclose(terms[-1], WEIGHTS[:, None] * terms[-1][0], atol=1e-5)
        assert terms[-1].any()
    np.testing.assert_allclose(*terms, atol=1e-4)
