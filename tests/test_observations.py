"""Components of observations and of the global state, and the fields of the state, by name in both engines."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.worlds import ENGINES, KEY, make_world, numpy_tree, stack

from entropy_env.engines import make_engine
from entropy_env.engines.numba_engine import observations as numba_observations
from entropy_env.env import Swarm
from entropy_env.observations import GLOBAL_STATE, OBSERVATION
from entropy_env.spaces import observation_space, state_space
from entropy_env.types import Component, SwarmSpec, SwarmState

SPECS = [SwarmSpec(3, num_rays=1), SwarmSpec(3), SwarmSpec(3, num_rays=8, drive="force", velocity_frame="world")]
CLOSE = {"rtol": 1e-5, "atol": 2e-5}


def moving(env, worlds=4):
    """Robots on their way, half of them at speed, some of them inactive; a batch."""
    rng, states, force = np.random.default_rng(0), [], env.spec.drive == "force"
    for _ in range(worlds):
        places = np.array([[1, 1], [4, 3], [7, 5]]) + rng.uniform(-0.5, 0.5, (3, 2))
        goal = rng.uniform(0.5, 5.5, (3, 2))
        state = make_world(env, places, rng.uniform(-3, 3, 3), goal=goal, active=rng.random(3) < 0.7)
        motion = {"velocity": (3, 2), "angular_velocity": (3,)} if force else {"wheel_speed": (3, 2)}
        fields = {name: rng.uniform(-0.7, 0.7, shape).astype(np.float32) for name, shape in motion.items()}
        states.append(state.replace(**fields))
    return numpy_tree(stack(states))


@pytest.mark.parametrize("spec", SPECS)
def test_slices_cover_the_row_exactly_and_in_the_order_of_the_table(spec):
    columns = np.arange(spec.obs_dim)
    np.testing.assert_array_equal(np.concatenate([columns[spec.slice(name)] for name in OBSERVATION]), columns)
    columns = np.arange(spec.state_dim)
    np.testing.assert_array_equal(np.concatenate([columns[spec.state_slice(name)] for name in GLOBAL_STATE]), columns)


def test_the_usual_observation_has_its_parts_where_users_know_them():
    spec = SwarmSpec()
    assert (spec.obs_dim, spec.state_dim, SwarmSpec(drive="force").state_dim) == (36, 8, 9)
    parts = {"lidar": slice(0, 32), "velocity": slice(32, 34), "goal": slice(34, 36)}
    nothing = dict.fromkeys(("inbox", "partner", "role"), slice(36, 36))  # where nobody talks
    assert {name: spec.slice(name) for name in OBSERVATION} == parts | nothing


@pytest.mark.parametrize("spec", SPECS)
def test_spaces_have_the_bounds_of_the_components(spec):
    space = observation_space(spec)
    assert space.shape == (spec.obs_dim,)
    for name, component in OBSERVATION.items():
        part = spec.slice(name)
        assert np.all(space.low[part] == component.low)
        assert np.all(space.high[part] == component.high)
    assert (OBSERVATION["lidar"].low, OBSERVATION["lidar"].high) == (0, 1)
    assert np.all(np.isinf(space.low[spec.slice("goal")]))
    space = state_space(spec)
    assert space.shape == (3 * spec.state_dim,)
    assert not np.any(space.bounded_below | space.bounded_above)


@pytest.mark.parametrize("spec", SPECS)
def test_both_engines_read_the_same_from_every_component(spec):
    env = Swarm(spec)
    worlds = [make_engine(env, 4, engine=name) for name in ENGINES]
    state, params = moving(env), env.make_params()
    for engine in worlds:
        engine.state = state
    for name, component in OBSERVATION.items():
        if not component.width_in(env.spec):  # such as words, where nobody talks
            continue
        ours, theirs = (engine.observe()[..., spec.slice(name)] for engine in worlds)
        read = jax.vmap(lambda world, component=component: component.read(world, params, spec))(state)
        np.testing.assert_allclose(ours, np.where(state.active[..., None], read, 0), **CLOSE, err_msg=name)
        np.testing.assert_allclose(theirs, np.where(state.active[..., None], read, 0), **CLOSE, err_msg=name)
    for name, component in GLOBAL_STATE.items():
        read = jax.vmap(lambda world, component=component: component.read(world, spec))(state)
        for engine in worlds:
            rows = engine.global_state().reshape(4, 3, spec.state_dim)[..., spec.state_slice(name)]
            np.testing.assert_allclose(rows, np.where(state.active[..., None], read, 0), **CLOSE, err_msg=name)


def crowding(state, params, spec):
    """How many others there are."""
    others = jnp.sum(state.active) - state.active
    return others[:, None].astype(jnp.float32)


def test_a_component_is_added_by_one_row_of_the_table(monkeypatch):
    monkeypatch.setitem(OBSERVATION, "crowding", Component(1, crowding, low=0.0))
    env = Swarm(SwarmSpec(3, num_rays=2))
    assert (env.spec.obs_dim, env.spec.slice("crowding")) == (7, slice(6, 7))
    assert observation_space(env.spec).low[env.spec.slice("crowding")] == 0
    worlds = make_engine(env, 2, engine="jax")
    np.testing.assert_array_equal(worlds.reset(0)[..., env.spec.slice("crowding")], np.full((2, 3, 1), 2.0))


def test_a_component_without_columns_is_not_read(monkeypatch):
    monkeypatch.setitem(OBSERVATION, "nothing", Component(lambda spec: 0, lambda *seen: 1 / 0))
    env = Swarm(SwarmSpec(3, num_rays=3))
    assert jax.eval_shape(env.reset, KEY(0), env.make_params())[0].shape == (3, 7)


@pytest.mark.parametrize(("table", "place"), [(OBSERVATION, "observation"), (GLOBAL_STATE, "global state")])
@pytest.mark.parametrize("engine", ["auto", "numba"])
def test_a_component_that_numba_lacks_is_an_error_at_construction(table, place, engine, monkeypatch):
    monkeypatch.setitem(table, "crowding", Component(1, crowding))
    with pytest.raises(ValueError, match=f"'crowding' of the {place} is known to the JAX engine, but not to the Numba"):
        make_engine(Swarm(), 1, engine=engine)


def test_a_component_that_numba_alone_has_is_an_error_at_construction(monkeypatch):
    monkeypatch.setitem(numba_observations.READERS, "crowding", None)
    with pytest.raises(
        ValueError, match="'crowding' of the observation is known to the Numba engine, but not to the JAX"
    ):
        make_engine(Swarm(), 1, engine="numba")


def test_a_reader_that_gives_another_shape_than_its_component_says_is_named(monkeypatch):
    monkeypatch.setitem(OBSERVATION, "crowding", Component(2, crowding))
    env = Swarm(SwarmSpec(3, num_rays=5))
    with pytest.raises(ValueError, match=r"'crowding' gives shape \(3, 1\), its component says \(3, 2\)"):
        jax.eval_shape(env.reset, KEY(0), env.make_params())


def test_unknown_names_are_refused_with_the_nearest_one():
    with pytest.raises(ValueError, match="no component 'goals'; did you mean 'goal'"):
        SwarmSpec().slice("goals")
    with pytest.raises(ValueError, match="no component 'heading': choose from position, direction, velocity, goal"):
        SwarmSpec().state_slice("heading")


def test_a_specification_alone_knows_its_widths():
    """In a new process, where nothing else has been imported."""
    code = "from entropy_env.types import SwarmSpec; print(SwarmSpec().obs_dim)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "36\n"


def test_the_public_specification_knows_its_components_at_once():
    code = "from entropy_env import SwarmSpec; print(SwarmSpec().obs_dim)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "36\n"


def wild(state):
    """The same worlds with another value in every number and flag of an agent, all inactive so that they respawn."""
    rng, fields = np.random.default_rng(0), {}
    for field in dataclasses.fields(SwarmState):
        old = getattr(state, field.name)
        if field.name not in ("layout", "step", "over", "active", "rounding", "position", "goal_index", "words"):
            fields[field.name] = rng.integers(1, 3, old.shape).astype(old.dtype)
    noise = np.spacing(np.float32(1)) / 4
    far = state.position + np.float32([1.0, 1.0])
    return state.replace(
        **fields, position=far, active=np.zeros_like(state.active), rounding=np.full_like(state.rounding, noise)
    )


@pytest.mark.parametrize("drive", ["kinematic", pytest.param("force", marks=pytest.mark.slow)])
def test_every_field_of_a_robot_that_starts_anew_is_what_it_is_at_rest(drive):
    """In both engines, after a respawn and after a reset, whatever the fields were before."""
    env = Swarm(SwarmSpec(3, num_rays=1, drive=drive, on_goal="respawn"))
    first = make_engine(env, 2, engine="numba")
    first.reset(0)
    start = first.state
    rest = numpy_tree(jax.jit(jax.vmap(env.start))(start.layout))
    back = numpy_tree(jax.jit(jax.vmap(env.respawn, (0, None)))(wild(start), env.make_params()))
    assert back.active.all() and not np.array_equal(back.goals_reached, rest.goals_reached)
    for name in ENGINES:
        worlds = make_engine(env, 2, engine=name, autoreset=False)  # which draws nothing, so it compiles less
        worlds.state = wild(start)
        transition = worlds.step(np.zeros((2, 3, 2), np.float32))
        assert transition.obs.any(axis=-1).all(), "they all respawned"
        for field in dataclasses.fields(SwarmState):
            if field.name not in ("layout", "step", "words"):  # nobody talks
                found = getattr(worlds.state, field.name)
                np.testing.assert_array_equal(found, getattr(back, field.name), f"{name}, respawned: {field.name}")
                assert found.dtype == getattr(rest, field.name).dtype
        worlds.reset_to(start.layout)
        for field in dataclasses.fields(SwarmState):
            if field.name not in ("layout", "words"):
                found = getattr(worlds.state, field.name)
                np.testing.assert_array_equal(found, getattr(rest, field.name), f"{name}, reset: {field.name}")
