"""What the gymnax and JaxMARL adapters share: their keywords, and a step of one world with auto-reset."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropy_env.env import Info, Swarm
from entropy_env.scenarios import Scenario
from entropy_env.task import Task
from entropy_env.types import SwarmParams, SwarmState, cast_params
from entropy_env.vector import REDRAW_PERIOD, VectorSwarm, in_parts, param_axes, pick_params

StepResult = tuple[jax.Array, SwarmState, jax.Array, jax.Array, jax.Array, Info]


def make_swarm(
    num_agents: int, scenario: str | Scenario = "open", difficulty: int = 1, preset: str | None = None, **settings: Any
) -> tuple[Swarm, SwarmParams]:
    """Return the simulator and its parameters as plain numbers. preset, settings: see `Task.of`."""
    swarm, params = Task.of(scenario, difficulty, preset, num_agents=num_agents, **settings).resolve()
    return swarm, jax.tree.map(lambda value: np.asarray(value).item(), params)


def step(
    env: Swarm, key: jax.Array, state: SwarmState, action: jax.Array, params: SwarmParams, autoreset: bool
) -> StepResult:
    """Step one world by one control period, with the results of `VectorSwarm.step` but no `episode_return` or `_length`.

    With `autoreset` a world that is over is reset in the same step, to a layout drawn from the second half of `key`.
    Under `vmap` all worlds become one batch, in which only the worlds that are over draw a layout. With a plain
    `lax.cond`, `vmap` would make all of them draw in every step.
    """
    one = jax.tree.map(lambda leaf: leaf[None], (key, state, action))
    transition = _many(env, autoreset)(*one, cast_params(params))
    return jax.tree.map(lambda leaf: leaf[0], transition)


def _many(env: Swarm, autoreset: bool) -> Callable[..., StepResult]:
    """Return `_step_many` with its own rule for `vmap`, which turns many batches into one larger batch."""
    run = jax.custom_batching.custom_vmap(functools.partial(_step_many, env, autoreset))

    @run.def_vmap
    def rule(times: int, batched: Any, keys: jax.Array, worlds: SwarmState, actions: jax.Array, params: SwarmParams):
        count = actions.shape[int(batched[2])]

        def merge(leaf: jax.Array, batched: bool) -> jax.Array:
            leaf = leaf if batched else jnp.broadcast_to(leaf, (times, *leaf.shape))
            return leaf.reshape(times * count, *leaf.shape[2:])

        def merge_param(leaf: jax.Array, batched: bool) -> jax.Array:
            if leaf.ndim == 0:
                return leaf
            one_for_all = leaf.ndim == 1 and batched
            return merge(jnp.broadcast_to(leaf[:, None], (times, count)) if one_for_all else leaf, batched)

        merged = jax.tree.map(merge, (keys, worlds, actions), tuple(batched[:3]))
        transition = _many(env, autoreset)(*merged, jax.tree.map(merge_param, params, batched[3]))
        transition = jax.tree.map(lambda leaf: leaf.reshape(times, count, *leaf.shape[1:]), transition)
        return transition, jax.tree.map(lambda _: True, transition)

    return run


def _step_many(
    env: Swarm, autoreset: bool, keys: jax.Array, worlds: SwarmState, actions: jax.Array, params: SwarmParams
) -> StepResult:
    """Do as `step`, for E worlds."""
    batch = VectorSwarm(env, len(actions), autoreset=False)
    _, state = batch.reset_to(jax.tree.map(lambda leaf: leaf[None], worlds.layout), params)
    obs, state, reward, terminated, truncated, info = batch.step(keys[0], state.replace(worlds=worlds), actions, params)
    worlds = state.worlds
    for name in ("episode_return", "episode_length"):
        del info[name]
    if autoreset:
        worlds, obs = _begin_again(env, keys, worlds, obs, info["over"], params)
    return obs, worlds, reward, terminated, truncated, info


def _begin_again(
    env: Swarm, keys: jax.Array, worlds: SwarmState, obs: jax.Array, over: jax.Array, params: SwarmParams
) -> tuple[SwarmState, jax.Array]:
    """Reset the worlds that are `over` (E,) bool, in parts of the batch, because few end in the same step."""
    axes = param_axes(params)

    def renew(carry, index):
        worlds, obs = carry
        reset_keys = jax.vmap(_reset_key)(keys[index])
        fresh_obs, fresh = jax.vmap(env.reset, (0, axes))(reset_keys, pick_params(params, index))
        place = jnp.where(over[index], index, len(over))  # drops worlds of this part that are not over
        worlds = jax.tree.map(lambda old, new: old.at[place].set(new, mode="drop"), worlds, fresh)
        return worlds, obs.at[place].set(fresh_obs, mode="drop")

    return in_parts(over, REDRAW_PERIOD, renew, (worlds, obs))


def _reset_key(key: jax.Array) -> jax.Array:
    """Return the key that the base classes of gymnax and JaxMARL reset with, in a step with this key."""
    return jax.random.split(key)[1]
