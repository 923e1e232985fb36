"""What holds after every step, for any actions, with either engine and either drive."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import symmetry
from helpers.chase import DRIVES, WORLDS, chase, one_step, speeds
from helpers.worlds import SLOTS, check_nobody_passed_a_wall, check_valid, generator, hundred, piles, stack
from hypothesis import given
from hypothesis import strategies as st

from entropy_env.env import Swarm
from entropy_env.physics import top_speed
from entropy_env.scenarios import SCENARIOS
from entropy_env.types import SwarmSpec

CASES = [
    ("numba", "kinematic"),
    ("numba", "force"),
    ("jax", "kinematic"),
    pytest.param("jax", "force", marks=pytest.mark.slow),  # see `helpers.worlds.SLOW_JAX`
]
pytestmark = [pytest.mark.core, pytest.mark.parametrize(("engine", "drive"), CASES)]

DT = 0.1  # s
ENVS = {drive: Swarm(dataclasses.replace(symmetry.SPEC, drive=drive)) for drive in DRIVES}
# so many slots that loops over them are not unrolled, which takes longer to compile
HUNDRED = SwarmSpec(num_agents=100, num_rays=1, on_goal="next_goal", num_goals=1, **dict.fromkeys(SLOTS, 5))

places = st.tuples(*[st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1, width=32)] * 2)
seeds = st.integers(0, 2**16)


@pytest.mark.parametrize("name", SCENARIOS)
@given(seed=seeds, where=places, wild=st.sampled_from([0.0, 0.3, 1.0]), speed=st.sampled_from([1.0, 0.3, 3.0]))
def test_whatever_ten_agents_do_they_stay_apart_and_on_their_side_of_every_wall(
    engine, name, drive, seed, where, wild, speed
):
    start = generator(symmetry.SPEC, name, WORLDS)(seed)
    assert np.all(start.layout.valid)
    last, history = chase(engine, ENVS[drive], start, where, wild, seed, **speeds(drive, speed))
    check_valid(start.layout, history)
    assert np.all(last.active)
    assert np.linalg.norm(history[-1] - history[0], axis=-1).max() > 0.1


@pytest.mark.parametrize("speed", [1.0, 3.0])
def test_a_hundred_agents_in_one_corner_do_not_overlap(engine, drive, speed):
    env = Swarm(dataclasses.replace(HUNDRED, drive=drive))
    state = stack([hundred(env, np.random.default_rng(i)) for i in range(WORLDS)])
    where = [(0, 0), (1, 1), (1, 0), (0.57, 0.3), (0.5, 0.5), (0.7, 0.25), (0, 0.5), (0.55, 0.85)]
    crowded, history = chase(engine, env, state, where, steps=60, max_steps=1000)
    check_valid(state.layout, history)
    _, history = chase(engine, env, crowded, where[::-1], wild=0.5, steps=60, max_steps=1000, **speeds(drive, speed))
    check_valid(state.layout, history)


@given(seed=seeds)
def test_a_pile_comes_apart_gradually(engine, drive, seed):
    """With motors all but off, by no jump; then wholly, as all drive about."""
    state = stack(piles(ENVS[drive], np.random.default_rng(seed)))
    state, history = chase(engine, ENVS[drive], state, (0, 0), **speeds(drive, 1e-7))
    assert np.max(np.linalg.norm(np.diff(history, axis=0), axis=-1)) < 0.101
    for _ in range(2):
        state, history = chase(engine, ENVS[drive], state, (0.5, 0.5), wild=1.0, seed=seed)
    check_valid(state.layout, history[-1:])


@pytest.mark.parametrize("name", SCENARIOS)
@given(seed=seeds, where=places, wild=st.sampled_from([0.0, 1.0]))
def test_agents_put_anywhere_even_into_walls_never_pass_one(engine, name, drive, seed, where, wild):
    start = generator(symmetry.SPEC, name, WORLDS)(seed)
    anywhere = np.random.default_rng(seed).uniform(0, 1, (WORLDS, 10, 2)) * np.asarray(start.layout.size)[:, None]
    start = start.replace(position=jnp.asarray(anywhere, jnp.float32))
    env, dt = ENVS[drive], {"kinematic": DT, "force": 0.01}[drive]  # 0.1 m at most in a step
    _, history = chase(engine, env, start, where, wild, seed, dt=dt)
    longest = dt * float(top_speed(env.make_params(dt=dt), env.spec))
    assert np.max(np.linalg.norm(np.diff(history, axis=0), axis=-1)) < 1.1 * longest
    check_nobody_passed_a_wall(start.layout, history, margin=longest)


@functools.cache
def common(engine, drive, seed):
    env = ENVS[drive]
    return symmetry.common_states(env, seed, lambda state, where: chase(engine, env, state, where)[0])


def step_of(engine, drive):
    """As `symmetry` wants it."""
    return functools.partial(one_step, engine, ENVS[drive])


@given(seed=seeds)
def test_agent_order_does_not_matter(engine, drive, seed):
    order = np.random.default_rng(seed).permutation(10)
    tolerance = {"jax": 1e-5, "numba": 1e-3}[engine]  # Numba adds up contacts in the order of the agents
    given, image = common(engine, drive, seed), symmetry.reordered(order)
    symmetry.compare(step_of(engine, drive), given, image, order, crush_tolerance=tolerance)


@given(seed=seeds)
def test_a_mirrored_world_steps_as_the_mirror_image(engine, drive, seed):
    symmetry.compare(step_of(engine, drive), common(engine, drive, seed), symmetry.mirror, mirrored=True)


@given(seed=seeds)
def test_a_rotated_square_world_steps_as_the_rotated_image(engine, drive, seed):
    symmetry.compare(step_of(engine, drive), common(engine, drive, seed), symmetry.rotate)


def test_a_crush_seldom_tells_left_from_right(engine, drive):
    off = [
        symmetry.compare(step_of(engine, drive), common(engine, drive, seed), symmetry.mirror, mirrored=True)
        for seed in range(40)
    ]
    assert sum(off) <= {"jax": 3, "numba": 8}[engine], "of 1600 agents"  # Numba adds up contacts agent by agent


@given(seed=seeds)
def test_inactive_agents_neither_move_nor_touch_nor_are_seen(engine, drive, seed):
    symmetry.compare_with_inactive(step_of(engine, drive), common(engine, drive, seed), seed)
