"""Robots that all drive at full speed to a point, with either engine."""

import functools

import jax
import numpy as np
from helpers.worlds import KEY

from entropy_env.engines import make_engine

DRIVES = ("kinematic", "force")
WORLDS = 8  # a batch; two of each difficulty


def engine_at(env, state, num_threads=1, **params):
    """A Numba engine that goes on from a batched state, and never resets."""
    engine = make_engine(env, len(state.step), env.resolve_params(**params), "numba", False, num_threads)
    engine.state = state
    return engine


def towards(state, target, drive="kinematic"):
    """Motors (..., N, 2) at full speed to a target (..., 1, 2) m."""
    offset = target - np.asarray(state.position)
    angle = np.arctan2(offset[..., 1], offset[..., 0]) - np.asarray(state.heading)
    turn = 3 * np.arctan2(np.sin(angle), np.cos(angle))
    if drive == "force":  # whose left motor turns the robot left, and ever faster
        turn = (np.asarray(state.angular_velocity) - turn) / 10
    return np.clip(1 + np.stack([-turn, turn], axis=-1), -1, 1)


def speeds(drive, factor):
    """Parameters of robots that are so many times as fast as the default."""
    return {"motor_force": 10 * factor} if drive == "force" else {"max_wheel_speed": factor}


def chase(engine, env, state, where, wild=0.0, seed=0, steps=40, **params):
    """The last state, and positions (1 + steps, WORLDS, N, 2), of robots that chase a point, or drive about wildly.

    where: (2,) or (WORLDS, 2), the point over the arena's size. wild: the probability of random motors, in every step.
    """
    target = (np.asarray(where, np.float32) * np.asarray(state.layout.size))[:, None]
    advance = {"numba": _in_numba, "jax": _in_jax}[engine](env, state, params)
    rng, history = np.random.default_rng(seed), [np.asarray(state.position)]
    for _ in range(steps):
        motors = rng.uniform(-2, 2, (*state.heading.shape, 2))
        chosen = rng.random(state.heading.shape)[..., None] < wild
        state = advance(state, np.where(chosen, motors, towards(state, target, env.spec.drive)).astype(np.float32))
        history.append(np.asarray(state.position))
    return state, np.stack(history).astype(np.float64)


def _in_numba(env, state, params):
    """A function from a state, here always the last one, and motors to the next state."""
    worlds = engine_at(env, state, **params)

    def advance(state, motors):
        worlds.step(motors)
        return worlds.state

    return advance


def _in_jax(env, state, params):
    """The same in JAX, from any state."""
    step, params = _stepper(env), env.make_params(**params)
    return lambda state, motors: step(state, motors, params)[1]


@functools.cache
def _stepper(env):
    return jax.jit(jax.vmap(functools.partial(env.step, KEY(0)), (0, 0, None)))


def one_step(engine, env, state, action):
    """Observations of who took part, the state, rewards and collision flags, as `helpers.symmetry` compares them."""
    if engine == "jax":
        obs, end, reward, _, _, info = _stepper(env)(state, action, env.make_params())
        return obs, end, reward, info["collision"]
    worlds = engine_at(env, jax.tree.map(np.array, state))
    step = worlds.step(np.asarray(action))
    return step.obs.copy(), worlds.state, step.reward.copy(), step.collision.copy()
