"""Robots that all drive at full speed to a point, with either engine."""

import functools

import jax
import jax.numpy as jnp
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


def towards(xp, state, target, drive="kinematic"):
    """Motors (..., N, 2) at full speed to a target (..., 1, 2) m. xp: numpy or jax.numpy."""
    offset = target - state.position
    angle = xp.arctan2(offset[..., 1], offset[..., 0]) - state.heading
    turn = 3 * xp.arctan2(xp.sin(angle), xp.cos(angle))
    if drive == "force":  # whose left motor turns the robot left, and ever faster
        turn = (state.angular_velocity - turn) / 10
    return xp.clip(1 + xp.stack([-turn, turn], axis=-1), -1, 1)


def speeds(drive, factor):
    """Parameters of robots that are so many times as fast as the default."""
    return {"motor_force": 10 * factor} if drive == "force" else {"max_wheel_speed": factor}


def chase(engine, env, state, where, wild=0.0, seed=0, steps=40, **params):
    """The last state, and positions (1 + steps, WORLDS, N, 2), of robots that chase a point, or drive about wildly.

    where: (2,) or (WORLDS, 2), the point over the arena's size. wild: the probability of random motors, in every step.
    """
    target = (np.asarray(where, np.float32) * np.asarray(state.layout.size))[:, None]
    last, history = {"numba": _chase_in_numba, "jax": _chase_in_jax}[engine](
        env, state, target, wild, seed, steps, params
    )
    return last, np.concatenate([np.asarray(state.position)[None], history]).astype(np.float64)


def _chase_in_numba(env, state, target, wild, seed, steps, params):
    worlds, rng, history = engine_at(env, state, **params), np.random.default_rng(seed), []
    for _ in range(steps):
        state = worlds.state
        motors = rng.uniform(-2, 2, (*state.heading.shape, 2))
        chosen = rng.random(state.heading.shape)[..., None] < wild
        worlds.step(np.where(chosen, motors, towards(np, state, target, env.spec.drive)))
        history.append(worlds.state.position)
    return worlds.state, np.stack(history)


def _chase_in_jax(env, state, target, wild, seed, steps, params):
    return _chaser(env, steps)(state, seed, jnp.asarray(target), jnp.float32(wild), env.make_params(**params))


@functools.cache
def _chaser(env, steps):
    def step(state, key, target, wild, params):
        k_wild, k_motors = jax.random.split(key)
        motors = jax.random.uniform(k_motors, (env.spec.num_agents, 2), jnp.float32, -2, 2)
        chosen = jax.random.uniform(k_wild, (env.spec.num_agents, 1), jnp.float32) < wild
        return env.step(key, state, jnp.where(chosen, motors, towards(jnp, state, target, env.spec.drive)), params)[1]

    def run(state, seed, target, wild, params):
        def advance(state, key):
            state = jax.vmap(step, (0, 0, 0, None, None))(state, jax.random.split(key, WORLDS), target, wild, params)
            return state, state.position

        return jax.lax.scan(advance, state, jax.random.split(KEY(seed), steps))

    return jax.jit(run)


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
