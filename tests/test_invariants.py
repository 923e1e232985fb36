"""What holds after every step, for any actions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import symmetry
from helpers.worlds import (
    KEY,
    SLOTS,
    check_nobody_passed_a_wall,
    check_valid,
    generator,
    hundred,
    piles,
    stack,
    wrapped,
)
from hypothesis import given
from hypothesis import strategies as st

from entropy_env.env import Swarm
from entropy_env.physics import top_speed
from entropy_env.scenarios import SCENARIOS
from entropy_env.types import SwarmSpec

pytestmark = pytest.mark.core

DT = 0.1  # s
WORLDS = 8  # a batch; two of each difficulty
DRIVES = ("kinematic", "force")
ENVS = {drive: Swarm(dataclasses.replace(symmetry.SPEC, drive=drive)) for drive in DRIVES}
HUNDRED = SwarmSpec(num_agents=100, num_rays=1, on_goal="next_goal", num_goals=1, **dict.fromkeys(SLOTS, 3))


@functools.cache
def chaser(env, steps):
    """Everyone drives at full speed to a point, or wildly with some probability; the history of WORLDS worlds."""

    def step(state, key, target, wild, params):
        k_wild, k_motors = jax.random.split(key)
        offset = target[None] - state.position
        turn = 3 * wrapped(jnp.arctan2(offset[:, 1], offset[:, 0]) - state.heading)
        if env.spec.drive == "force":  # whose left motor turns the robot left, and ever faster
            turn = (state.angular_velocity - turn) / 10
        action = jnp.clip(1 + jnp.stack([-turn, turn], axis=-1), -1, 1)
        motors = jax.random.uniform(k_motors, action.shape, jnp.float32, -2, 2)
        action = jnp.where(jax.random.uniform(k_wild, action.shape[:1], jnp.float32)[:, None] < wild, motors, action)
        return env.step(key, state, action, params)[1]

    def run(state, seed, target, wild, params):
        def advance(state, key):
            state = jax.vmap(step, (0, 0, 0, None, None))(state, jax.random.split(key, WORLDS), target, wild, params)
            return state, state.position

        return jax.lax.scan(advance, state, jax.random.split(KEY(seed), steps))

    return jax.jit(run)


def chase(env, state, where, wild=0.0, seed=0, steps=40, **params):
    """The last state, and positions (1 + steps, WORLDS, N, 2). where: (2,) or (WORLDS, 2), over the arena's size."""
    target = jnp.asarray(np.asarray(where, np.float32) * np.asarray(state.layout.size))
    last, history = chaser(env, steps)(state, seed, target, jnp.float32(wild), env.make_params(**params))
    return last, np.concatenate([state.position[None], history]).astype(np.float64)


def speeds(drive, factor):
    """Parameters of robots that are so many times as fast as the default."""
    return {"motor_force": 10 * factor} if drive == "force" else {"max_wheel_speed": factor}


places = st.tuples(*[st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1, width=32)] * 2)
seeds = st.integers(0, 2**16)


@pytest.mark.parametrize("drive", DRIVES)
@pytest.mark.parametrize("name", SCENARIOS)
@given(seed=seeds, where=places, wild=st.sampled_from([0.0, 0.3, 1.0]), speed=st.sampled_from([1.0, 0.3, 3.0]))
def test_whatever_ten_agents_do_they_stay_apart_and_on_their_side_of_every_wall(name, drive, seed, where, wild, speed):
    start = generator(symmetry.SPEC, name, WORLDS)(seed)
    assert np.all(start.layout.valid)
    last, history = chase(ENVS[drive], start, where, wild, seed, **speeds(drive, speed))
    check_valid(start.layout, history)
    assert np.all(last.active)


@pytest.mark.parametrize("drive", DRIVES)
def test_a_hundred_agents_in_one_corner_do_not_overlap(drive):
    env = Swarm(dataclasses.replace(HUNDRED, drive=drive))
    state = stack([hundred(env, np.random.default_rng(i)) for i in range(WORLDS)])
    where = [(0, 0), (1, 1), (1, 0), (0.57, 0.3), (0.5, 0.5), (0.7, 0.25), (0, 0.5), (0.55, 0.85)]
    crowded, history = chase(env, state, where, steps=60)
    check_valid(state.layout, history)
    _, history = chase(env, crowded, where[::-1], wild=0.5, steps=60)
    check_valid(state.layout, history)


@pytest.mark.parametrize("drive", DRIVES)
@given(seed=seeds)
def test_a_pile_comes_apart_gradually(drive, seed):
    """With motors all but off, by no jump; then wholly, as all drive about."""
    state = stack(piles(ENVS[drive], np.random.default_rng(seed)))
    state, history = chase(ENVS[drive], state, (0, 0), **speeds(drive, 1e-7))
    assert np.max(np.linalg.norm(np.diff(history, axis=0), axis=-1)) < 0.101
    for _ in range(2):
        state, history = chase(ENVS[drive], state, (0.5, 0.5), wild=1.0, seed=seed)
    check_valid(state.layout, history[-1:])


@functools.cache
def stepper(drive):
    return jax.jit(jax.vmap(functools.partial(ENVS[drive].step, KEY(0)), (0, 0, None)))


@pytest.mark.parametrize("drive", DRIVES)
@pytest.mark.parametrize("name", SCENARIOS)
@given(seed=seeds, where=places, wild=st.sampled_from([0.0, 1.0]))
def test_agents_put_anywhere_even_into_walls_never_pass_one(name, drive, seed, where, wild):
    start = generator(symmetry.SPEC, name, WORLDS)(seed)
    anywhere = np.random.default_rng(seed).uniform(0, 1, (WORLDS, 10, 2)) * np.asarray(start.layout.size)[:, None]
    start = start.replace(position=jnp.asarray(anywhere, jnp.float32))
    dt = {"kinematic": DT, "force": 0.01}[drive]  # 0.1 m at most in a step
    _, history = chase(ENVS[drive], start, where, wild, seed, dt=dt)
    env = ENVS[drive]
    longest = dt * float(top_speed(env.make_params(dt=dt), env.spec))
    assert np.max(np.linalg.norm(np.diff(history, axis=0), axis=-1)) < 1.1 * longest
    check_nobody_passed_a_wall(start.layout, history, margin=longest)


@functools.cache
def common(drive, seed):
    return symmetry.common_states(ENVS[drive], seed, lambda state, where: chase(ENVS[drive], state, where)[0])


def step(state, action, drive):
    """As `symmetry` wants it."""
    obs, end, reward, _, _, info = stepper(drive)(state, action, ENVS[drive].make_params())
    return obs, end, reward, info["collision"]


STEPS = {drive: functools.partial(step, drive=drive) for drive in DRIVES}


@pytest.mark.parametrize("drive", DRIVES)
@given(seed=seeds)
def test_agent_order_does_not_matter(drive, seed):
    order = np.random.default_rng(seed).permutation(10)
    symmetry.compare(STEPS[drive], common(drive, seed), symmetry.reordered(order), order, crush_tolerance=1e-5)


@pytest.mark.parametrize("drive", DRIVES)
@given(seed=seeds)
def test_a_mirrored_world_steps_as_the_mirror_image(drive, seed):
    symmetry.compare(STEPS[drive], common(drive, seed), symmetry.mirror, mirrored=True)


@pytest.mark.parametrize("drive", DRIVES)
@given(seed=seeds)
def test_a_rotated_square_world_steps_as_the_rotated_image(drive, seed):
    symmetry.compare(STEPS[drive], common(drive, seed), symmetry.rotate)


@pytest.mark.parametrize("drive", DRIVES)
def test_a_crush_seldom_tells_left_from_right(drive):
    off = [symmetry.compare(STEPS[drive], common(drive, seed), symmetry.mirror, mirrored=True) for seed in range(40)]
    assert sum(off) <= 3, "of 1600 agents"


@pytest.mark.parametrize("drive", DRIVES)
@given(seed=seeds)
def test_inactive_agents_neither_move_nor_touch_nor_are_seen(drive, seed):
    symmetry.compare_with_inactive(STEPS[drive], common(drive, seed), seed)
