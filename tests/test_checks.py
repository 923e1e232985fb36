"""What is out of range is refused by name, in both engines and every adapter, and changes nothing."""

import copy
import functools

import gymnasium
import jax
import numpy as np
import pytest
from helpers.worlds import ENGINES

import entropy_env  # noqa: F401
from entropy_env import Swarm, SwarmSpec, checks, make_engine, make_layout, swarm_v0, vector
from entropy_env.adapters.sb3 import SwarmVecEnv
from entropy_env.rewards import TERMS
from entropy_env.scenarios.custom import Custom, check_layout, spec_for
from entropy_env.types import INT_PARAMS, PARAM_NAMES, SwarmParams

ENV = Swarm(SwarmSpec(num_agents=3, num_rays=4), Custom(4))
SMALL = Swarm(SwarmSpec(num_agents=3, num_rays=4), difficulty=4)
FORCE = Swarm(SwarmSpec(num_agents=3, num_rays=4, drive="force"))
ADAPTERS = {
    "pettingzoo": functools.partial(swarm_v0.parallel_env, 3),
    "gymnasium": functools.partial(gymnasium.make, "entropy_env/Swarm-v0"),
    "vector": functools.partial(gymnasium.make_vec, "entropy_env/Swarm-v0", num_envs=2),
    "sb3": functools.partial(SwarmVecEnv, 2, 3, seed=0),
}
MAP = {
    "size": (8.0, 6.0), "walls": [[[2, 0], [2, 1]]], "boxes": [[7, 5, 0.2, 0.2]], "discs": [[5, 5, 0.2]],
    "spawns": [[1, 1, 0], [1, 3, 0], [4, 3, 1]], "goals": [[7, 1], [7, 3], [6, 2]],
}  # fmt: skip


def beside(allowed):
    """The least and greatest numbers of a range, and some just outside."""
    least, most = allowed.limits
    if allowed.whole:
        return [least, most], [least - 1, most + 1, least + 0.5]
    outside = [np.nextafter(np.float32(least), np.float32(-1e30)), np.nextafter(np.float32(most), np.float32(1e30))]
    return [least, most], [*map(float, outside), np.nan, np.inf, -np.inf]


def make(engine, env=SMALL, num_envs=2, **settings):
    worlds = make_engine(env, num_envs, env.resolve_params(max_steps=5), engine, **settings)
    worlds.reset(np.array([1, 2], np.uint32))
    return worlds


def test_every_parameter_and_count_has_a_range():
    weights = {f"reward_{name}" for name in TERMS}
    assert checks.PARAMS.keys() | weights == set(PARAM_NAMES)
    assert {checks.range_of(name) for name in weights} == {checks.WEIGHT}
    assert {name for name, allowed in checks.PARAMS.items() if allowed.whole} == INT_PARAMS
    checks.check_params(SwarmParams().by_keyword())


@pytest.mark.parametrize("name", [name for name in PARAM_NAMES if name != "reward_team"])  # see the test of words
def test_parameters_are_taken_up_to_their_limits_and_no_further(name):
    inside, outside = beside(checks.range_of(name))
    for value in inside:
        kind = int if name in INT_PARAMS else np.float64
        assert ENV.make_params(**{name: kind(value), "agent_radius" if name != "agent_radius" else "dt": 0.1})
    engines = [make_engine(SMALL, 2, SMALL.resolve_params(), engine) for engine in ENGINES]
    for value in outside:
        for given, shown in ((value, f"{name}="), (np.array([inside[0], value]), rf"{name}\[1\]=")):
            with pytest.raises(ValueError, match=rf"^{shown}.* must be ") as refusal:
                SMALL.make_params(**{name: given})
            assert str(refusal.value).endswith(f"must be {checks.range_of(name)}")
            for engine in engines:
                before = engine.params
                with pytest.raises(ValueError, match=f"^{shown}.* must be "):
                    engine.params = before.replace(**{name: given})
                assert engine.params is before


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_adapters_refuse_parameters_by_name(adapter):
    for settings in ({"dt": 1e30}, {"max_wheel_speed": 1e38}, {"max_steps": 2**31}, {"max_steps": 10**400}):
        [(name, value)] = settings.items()
        with pytest.raises(ValueError) as refusal:
            ADAPTERS[adapter](**settings)
        assert str(refusal.value) == f"{name}={value!r} must be {checks.PARAMS[name]}"
    with pytest.raises(ValueError, match=r"^substeps=100000 must be a whole number from 1 to 1000$"):
        ADAPTERS[adapter](substeps=100_000)
    with pytest.raises(ValueError, match=r"as fast as 7466.* at most 100 m/s"):
        ADAPTERS[adapter](drive="force", motor_force=1000.0, mass=0.1)


@pytest.mark.parametrize("value", ["0.1", None, 1j, np.complex64(1), [1, [2]], np.array(["1"])])
def test_what_is_no_number_is_no_parameter(value):
    with pytest.raises(TypeError, match=r"^dt=.* must be a number"):
        SMALL.make_params(dt=value)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_force_that_makes_too_fast_is_refused_by_the_engine_too(engine):
    worlds = make_engine(FORCE, 2, FORCE.resolve_params(), engine)
    for force in (1e4, np.array([1.0, 1e4])):
        with pytest.raises(ValueError, match=r"as fast as 7466.* at most 100 m/s"):
            worlds.params = worlds.params.replace(motor_force=force)
    worlds.params = worlds.params.replace(motor_force=100.0)


def test_traced_parameters_are_not_looked_at():
    assert jax.jit(lambda dt: SMALL.make_params(dt=dt).dt)(1e30) == np.float32(1e30)
    assert jax.jit(lambda force: FORCE.make_params(motor_force=force).motor_force)(1e9) == np.float32(1e9)


@pytest.mark.parametrize("name", checks.SPEC)
def test_counts_are_taken_up_to_their_limits_from_any_kind_of_integer(name):
    (least, most), outside = beside(checks.SPEC[name])
    for value in (least, most, np.int64(most), np.uint32(least)):
        spec = SwarmSpec(**{name: value})
        assert type(getattr(spec, name)) is int
        assert spec == SwarmSpec(**{name: int(value)})
    for value in (*outside, True, "3", 3.0, np.float64(3)):
        with pytest.raises(ValueError) as refusal:
            SwarmSpec(**{name: value})
        assert str(refusal.value) == f"{name}={value!r} must be {checks.SPEC[name]}"


def test_numpy_numbers_are_numbers():
    env = Swarm(SwarmSpec(np.int64(3)), "open", np.int32(2))
    assert type(env.scenario.difficulty) is int
    for engine in ENGINES:
        assert make_engine(env, np.int64(2), env.resolve_params(dt=np.float64(1e-3)), engine).num_envs == 2
    assert vector.batch(env, np.int64(2)) == vector.batch(env, 2)
    parallel = swarm_v0.parallel_env(np.int64(3), difficulty=np.int64(2), max_steps=np.int64(7), num_rays=np.int16(4))
    parallel.set_difficulty(np.int64(1))
    parallel.reset(seed=0, options={"difficulty": np.int64(2)})
    for value in (0, 2**40, 2.0, "2", None):
        with pytest.raises(ValueError, match=f"^num_envs={value!r} must be a whole number from 1 to 1000000$"):
            make_engine(env, value)


def with_one(array, value, at=-1):
    """A copy with another number in one place."""
    changed = np.array(array)
    changed.reshape(-1)[at] = value
    return changed


def bad_layouts(layout):
    """Layouts of two worlds with a number that is refused, and what is said."""
    for name, allowed in checks.LAYOUT.items():
        if getattr(layout, name).size:
            for value in beside(allowed[-1])[1] + [1e30]:
                yield (
                    layout.replace(**{name: with_one(getattr(layout, name), value)}),
                    rf"layout\.{name}\[1.*\]=.* must be",
                )
    yield (
        layout.replace(spawns=with_one(layout.spawns, -0.1, 0)),
        r"layout\.spawns\[0, 0, 0\]=.*not inside the arena of",
    )


def bad_states(state):
    """States with a number that is refused, and what is said."""
    for name, allowed in checks.STATE.items():
        for value in beside(allowed)[1] if not allowed.whole else [-1]:
            yield state.replace(**{name: with_one(getattr(state, name), value)}), rf"state\.{name}\[1.*\]=.* must be"
    yield (
        state.replace(position=with_one(state.position, 8.5)),
        r"state\.position\[1, 2\]=.*not inside the arena of \[8",
    )
    yield (
        state.replace(heading=with_one(state.heading, 1e9)),
        r"heading\[1, 2\]=1000000000 must be from -1e\+06 to 1e\+06",
    )
    yield state.replace(rounding=with_one(state.rounding, np.nan)), "rounding"
    for layout, message in bad_layouts(state.layout):
        if "not inside" not in message:
            yield state.replace(layout=layout), message


def bad_actions(shape):
    """Nonsense, and what is said."""
    numbers = "no array of numbers"
    yield from (
        (None, f"{numbers}: None, expected shape"),
        ("fast", f"{numbers}: 'fast'"),
        (np.full(shape, "1"), numbers),
    )
    yield from ((np.zeros(shape, complex), numbers), (np.full(shape, None), numbers), ([[0.0], [0.0, 1.0]], numbers))
    yield from ((np.zeros((*shape, 1)), "has shape"), (0.5, "has shape"))


def refused(kind, call, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_refusal_of_an_engine_changes_nothing(engine):
    """Both step on, over the ends of episodes, exactly as if nobody had asked."""
    env = Swarm(SwarmSpec(num_agents=3, num_rays=4, on_goal="respawn"), "obstacles")
    worlds, alone = make(engine, env), make(engine, env)
    action = np.random.default_rng(0).uniform(-1, 1, (12, 2, 3, 2))
    for t in range(12):
        if t == 3:
            state, layout = worlds.state, worlds.state.layout
            before = worlds.snapshot()
            for bad, message in bad_states(state):
                refused(ValueError, functools.partial(setattr, worlds, "state", bad), message)
            for bad, message in bad_layouts(layout):
                refused(ValueError, functools.partial(worlds.reset_to, bad), message)
            for bad, message in bad_actions((2, 3, 2)):
                refused(ValueError, functools.partial(worlds.step, bad), message)
            refused(ValueError, lambda: setattr(worlds, "params", worlds.params.replace(dt=np.nan)), "dt=nan")
            refused(ValueError, lambda: worlds.reset(-1), "seed=-1")
            after = worlds.snapshot()
            assert all(np.array_equal(after[name], before[name]) for name in before)
        transition, expected = worlds.step(action[t]), alone.step(action[t])
        for name, value in vars(expected).items():
            np.testing.assert_array_equal(getattr(transition, name), value, name)


def action_of(adapter, env, rng):
    if adapter == "pettingzoo":
        return {agent: rng.uniform(-1, 1, 2) for agent in env.agents}
    shape = {"gymnasium": (2,), "vector": (2, 2), "sb3": (6, 2)}[adapter]
    return rng.uniform(-1, 1, shape)


def play(adapter, env, rng, disturb=lambda: None):
    """All that two episodes tell."""
    transition = [env.reset()] if adapter == "sb3" else [env.reset(seed=1)]
    for t in range(8):
        if t == 2:
            disturb()
        transition.append(env.step(action_of(adapter, env, rng)))
        if t == 4 and adapter in ("pettingzoo", "gymnasium"):
            transition.append(env.reset())
    transition.append(env.reset())
    return transition


def wrong_calls(adapter, env):
    """Refused calls, and what is said."""
    bare = env if adapter == "sb3" else env.unwrapped
    for value in (9, 0, "hard", None, 1.5):
        yield lambda value=value: bare.set_difficulty(value), f"difficulty={value!r} must be a whole number from 1 to 4"
        if adapter != "sb3":
            yield lambda value=value: env.reset(seed=5, options={"difficulty": value}), f"difficulty={value!r} must be"
    if adapter in ("pettingzoo", "gymnasium"):
        one = {"size": (8, 6), "spawns": [[1, 1]] * 3, "goals": [[7, 5]] * 3}
        some = slice(3 if adapter == "pettingzoo" else 1)
        good = {name: MAP[name][some] if name in ("spawns", "goals") else MAP[name] for name in MAP}
        for changes in (
            {"size": (1e30, 6)},
            {"boxes": [[7, 5, np.inf, 1]]},
            {"goals": [*good["goals"][:-1], [np.nan, 1]]},
        ):
            layout = good | changes
            yield lambda layout=layout: env.reset(seed=5, options={"difficulty": 2, "layout": layout}), " must be from"
        yield lambda: env.reset(seed=5, options={"layout": "home"}), "layout='home' must be a Layout"
        if adapter == "pettingzoo":
            yield lambda: env.reset(options={"layout": one}), "overlaps agent_0's at .* by 0.2 m"
    actions = bad_actions({"pettingzoo": (2,), "gymnasium": (2,), "vector": (2, 2), "sb3": (6, 2)}[adapter])
    for action, message in actions:
        if adapter == "pettingzoo":
            action = dict.fromkeys(env.agents, action)
        yield lambda action=action: env.step(action), message
    if adapter == "pettingzoo":
        for action in (None, np.zeros((3, 2)), 1):
            yield lambda action=action: env.step(action), "must be a mapping from every agent to its action"


def same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            if name != "episode":  # with the time of day
                same(one[name], other[name])
    elif isinstance(one, list | tuple) or (isinstance(one, np.ndarray) and one.dtype == object):
        for a, b in zip(one, other, strict=True):
            same(a, b)
    else:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_refusal_of_an_adapter_changes_nothing(adapter, engine):
    settings = {"engine": engine, "max_steps": 5, "num_rays": 4, "scenario": "obstacles"}
    env, alone = ADAPTERS[adapter](**settings), ADAPTERS[adapter](**settings)
    bare = env if adapter == "sb3" else env.unwrapped
    world = getattr(bare, "_world", None) or bare._worlds

    def disturb():
        state, params, level, simulator = world.state, world.params, world.difficulty, world.engine
        for call, message in wrong_calls(adapter, env):
            refused(ValueError, call, message)
        refused(ValueError, lambda: setattr(world.engine, "params", params.replace(dt=1e30)), "dt=1e")
        refused(ValueError, lambda: setattr(world.engine, "state", state.replace(step=state.step - 100)), "step")
        jax.tree.map(np.testing.assert_array_equal, world.state, state)
        assert (world.params, world.difficulty, world.engine) == (params, level, simulator)

    same(play(adapter, env, np.random.default_rng(0), disturb), play(adapter, alone, np.random.default_rng(0)))


def test_maps_are_refused_by_name():
    make_layout(**MAP)
    for name, numbers in MAP.items():
        for value in (np.nan, np.inf, -1e30, 1e30):
            with pytest.raises(ValueError, match=rf"^{name}\[.*\]=.* must be from .* m$|rad$"):
                make_layout(**MAP | {name: with_one(np.array(numbers, float), value)})
    with pytest.raises(ValueError, match=r"^layout\.boxes\[0, 3\]=nan must be from 1e-06 to 2000 m$"):
        check_layout(make_layout(**MAP).replace(boxes=np.array([[7, 5, 0.2, np.nan]], np.float32)), SwarmParams())
    empty = make_layout(**MAP)
    empty = empty.replace(boxes=np.full((1, 4), np.nan, np.float32), box_mask=np.zeros(1, bool))
    check_layout(empty, SwarmParams())


def depth_of(refusal):
    return float(str(refusal.value).split(" m")[-2].split()[-1])


@pytest.mark.parametrize("deep", [1e-6, 9e-6, 1e-3])
def test_starts_overlap_nothing_by_however_little(deep):
    """Exact contact passes."""
    touching = {"size": (8, 6), "goals": [[7, 1], [7, 3]], "agent_radius": 0.125, "wall_half_thickness": 0.0625}
    params = SwarmParams(
        agent_radius=touching.pop("agent_radius"), wall_half_thickness=touching.pop("wall_half_thickness")
    )
    bodies = {
        "agent_0's": {}, "walls[0]": {"walls": [[[0.8125, 0], [0.8125, 2]]]}, "boxes[0]": {"boxes": [[1, 1.25, 0.5, 0.125]]},
        "discs[0]": {"discs": [[1.5, 1, 0.375]]}, "discs[1]": {"discs": [[5, 5, 0.1], [1, 0.75, 0.125]]},
        "not inside the arena": {"spawns": [[0.125, 1], [3, 1]]},
    }  # fmt: skip
    moves = {
        "agent_0's": (1, 0, -1), "walls[0]": (0, 0, -1), "boxes[0]": (0, 1, 1), "discs[0]": (0, 0, 1), "discs[1]": (0, 1, -1),
        "not inside the arena": (0, 0, -1),
    }  # fmt: skip
    for name, changes in bodies.items():
        agent, axis, sign = moves[name]
        second = [1.25, 1] if name == "agent_0's" else [3, 1]
        spawns = np.array(changes.get("spawns", [[1, 1], second]), float)
        layout = touching | changes
        check_layout(make_layout(**layout | {"spawns": spawns}), params)
        spawns[agent, axis] += sign * deep
        with pytest.raises(ValueError) as refusal:
            check_layout(make_layout(**layout | {"spawns": spawns}), params)
        assert str(refusal.value).startswith(f"agent_{agent}: its spawn ")
        assert name in str(refusal.value)
        assert depth_of(refusal) == pytest.approx(deep, abs=2e-7)


def test_of_many_starts_the_two_that_overlap_are_found():
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40)), axis=-1).reshape(-1, 2) * 0.25 + 0.25
    starts = rng.permutation(grid)
    params = SwarmParams(agent_radius=0.125)
    check_layout(make_layout((11, 11), spawns=starts, goals=starts), params)
    starts[700] = starts[1200] + [0.1, 0.05]
    apart = np.linalg.norm(starts[:, None] - starts, axis=-1)
    (one, other), *more = np.argwhere(np.triu(apart < 0.25 - 1e-6, 1))
    assert len(more) > 1
    with pytest.raises(ValueError, match=rf"^agent_{other}: its spawn .* overlaps agent_{one}'s at .* by .* m$"):
        check_layout(make_layout((11, 11), spawns=starts, goals=grid), params)


def on_a_map(layout):
    """Three robots in a world that is as the layout has it, and draws none."""
    return Swarm(spec_for(layout, Swarm(SwarmSpec(3, num_rays=4)).spec), Custom())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_world_on_a_map_given_by_hand_begins_again_on_it(engine):
    layout = make_layout(**MAP | {"goals": [[1.3, 1], [7, 3], [6, 2]]})
    env = on_a_map(layout)
    other = layout.replace(spawns=layout.spawns + np.float32([0.5, 0.5, 0]))
    both = jax.tree.map(lambda *leaves: np.stack(leaves), layout, other)
    worlds = make_engine(env, 2, env.resolve_params(max_steps=5), engine, autoreset=True)
    first = worlds.reset_to(both).copy()
    before = worlds.snapshot()
    with pytest.raises(RuntimeError, match=r"scenario 'custom' draws no maps: give one, with reset_to\(layout\)"):
        worlds.reset(3)
    assert all(np.array_equal(worlds.snapshot()[name], before[name]) for name in before)
    for t in range(1, 13):
        transition = worlds.step(np.ones((2, 3, 2)))
        assert transition.over.all() == (t % 5 == 0)
        if transition.over.all():
            np.testing.assert_allclose(transition.obs, first, atol=1e-6)
            np.testing.assert_array_equal(worlds.state.layout.spawns, both.spawns)
    # on the map of a state that is taken over, and after a copy
    swapped = jax.tree.map(lambda leaf: leaf[::-1].copy(), worlds.state)
    fresh = make_engine(env, 2, env.resolve_params(max_steps=5), engine, autoreset=True)
    for taker in (worlds, fresh):
        taker.state = swapped
        taken = copy.deepcopy(taker) if engine == "numba" else taker
        while not taken.step(np.ones((2, 3, 2))).over.all():
            pass
        np.testing.assert_array_equal(taken.state.layout.spawns, both.spawns[::-1])
        np.testing.assert_array_equal(taken.state.position, both.spawns[::-1, :, 0, :2])


def test_a_map_used_again_by_intent_is_not_counted_as_short_of_layouts():
    layout = make_layout(**MAP)
    env = on_a_map(layout)
    worlds = make_engine(env, 2, env.resolve_params(max_steps=1), "jax")
    worlds.reset_to(jax.tree.map(lambda leaf: np.stack([leaf, leaf]), layout))
    for _ in range(3):
        assert worlds.step(np.zeros((2, 3, 2))).done.all()
    assert not worlds.snapshot()["layout_reuses"].any()


@pytest.mark.parametrize("adapter", ["pettingzoo", "gymnasium"])
def test_an_adapter_without_the_map_it_needs_says_so(adapter):
    env = ADAPTERS[adapter](scenario=Custom())
    with pytest.raises(RuntimeError, match=r"draws no maps: give one, .*reset\(options={'layout': layout}\)"):
        env.reset()


def test_an_action_of_nonsense_is_named_by_the_pure_functions_too():
    params = SMALL.make_params()
    _, state = jax.eval_shape(SMALL.reset, jax.random.key(0), params)
    for action, message in bad_actions((3, 2)):
        refused(ValueError, lambda action=action: SMALL.step(jax.random.key(0), state, action, params), message)


@pytest.mark.parametrize(
    ("bodies", "named"),
    [
        ({"walls": [[[0, 0], [13, 6]]]}, r"walls\[0, 1\]=\[13.0, 6.0\]"),
        ({"boxes": [[1, 5, 0.2, 0.2], [6, 3, 0.5, 9]]}, r"boxes\[1\]"),
        ({"discs": [[1, 5, 8.5]]}, r"discs\[0\]"),
        ({"discs": [[-5, 3, 0.5]]}, r"discs\[0\]=\[-5.0, 3.0, 0.5\]"),
    ],
)
def test_a_body_that_is_large_or_far_beside_its_arena_is_refused(bodies, named):
    with pytest.raises(ValueError, match=named + ".* than the arena's longer side, 8 m"):
        make_layout(size=(8, 6), spawns=[[1, 1]], goals=[[2, 2]], **bodies)
    make_layout(size=(16, 16), spawns=[[1, 1]], goals=[[2, 2]], **bodies)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("goal", [np.nan, 0.5, -1, 8])
def test_a_goal_that_is_none_is_refused(engine, goal):
    worlds = make_engine(Swarm(SwarmSpec(num_agents=2, on_goal="respawn")), 1, engine=engine)
    worlds.reset(seed=0)
    index = np.full((1, 2), goal)
    with pytest.raises(ValueError, match=r"state.goal_index\[0, 0\]=.* must be a whole number from 0 to 7"):
        worlds.state = worlds.state.replace(goal_index=index)
    worlds.step(np.zeros((1, 2, 2)))


@pytest.mark.parametrize("engine", ENGINES)
def test_states_of_other_types_are_cast_and_damaged_snapshots_refused(engine):
    worlds = make_engine(Swarm(SwarmSpec(num_agents=2, on_goal="respawn")), 1, engine=engine)
    worlds.reset(seed=0)
    state = worlds.state
    worlds.state = state.replace(active=state.active.astype(float), goal_index=state.goal_index.astype(float))
    worlds.step(np.zeros((1, 2, 2)))
    snapshot = worlds.snapshot()
    for name, value in (("seed", "a"), ("seed", np.zeros(2)), ("draws", None), ("draws", np.zeros(7))):
        with pytest.raises(ValueError, match=rf"snapshot\['{name}'\]"):
            worlds.restore(snapshot | {name: value})
    worlds.step(np.zeros((1, 2, 2)))


@pytest.mark.parametrize("value", [True, np.True_, np.array([True, False])])
@pytest.mark.parametrize("name", ["max_steps", "max_wheel_speed", "lidar_range"])
def test_a_truth_value_is_no_number(name, value):
    with pytest.raises(TypeError, match=f"{name}=.* must be a number"):
        Swarm(SwarmSpec(num_agents=2)).resolve_params(**{name: value})
