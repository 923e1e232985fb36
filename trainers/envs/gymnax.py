"""Environments of gymnax 1.0 as batched environments. One agent is one lane.

from trainers.envs.gymnax import GymnaxWorlds, make
env = GymnaxWorlds(make("CartPole-v1"), num_envs=16)
obs, state = env.reset(key, env.default_params)
"""

from __future__ import annotations

import dataclasses
from functools import partial
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

try:
    import gymnax
    from gymnax.environments.environment import Environment
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"environments of gymnax need gymnax ({error}): pip install 'entropy-env[gymnax]'", name=error.name
    ) from error


def make(name: str) -> Environment:
    """Make a registered environment, such as CartPole-v1. Raises ValueError for an unknown name."""
    if name not in gymnax.registered_envs:
        raise ValueError(f"gymnax has no environment {name!r}: choose from {', '.join(gymnax.registered_envs)}")
    return gymnax.make(name)[0]


class GymnaxState(struct.PyTreeNode):
    """E worlds of one agent."""

    worlds: Any  # (E, ...), gymnax's state
    episode_return: jax.Array  # (E, 1), so far
    episode_length: jax.Array  # (E, 1) int32, so far


@dataclasses.dataclass(frozen=True)
class GymnaxWorlds:
    """`num_envs` worlds of a gymnax environment. Pure and not jitted.

    It resets worlds itself, each with its own key, and keeps the last observation as `final_obs`. The time limit is
    gymnax's `is_truncated`; an episode that also ends by itself in that step is terminated alone. Observations are made
    flat and float32. Actions of a Box are given in [-1, 1] and stretched to its bounds.
    """

    env: Environment
    num_envs: int

    def __post_init__(self) -> None:
        if not hasattr(Environment, "is_truncated"):
            raise ImportError(
                f"gymnax {version('gymnax')} is too old, this needs 1.0: pip install 'entropy-env[gymnax]'"
            )
        space = self.action_space
        if hasattr(space, "low") and not np.all(np.isfinite([*np.ravel(space.low), *np.ravel(space.high)])):
            raise ValueError(f"the action space {space} of {self.env.name} must have finite bounds")

    @property
    def default_params(self) -> Any:
        """The environment's parameters, as arrays."""
        return jax.tree.map(_strong, self.env.default_params)

    @property
    def action_space(self) -> Any:
        """See `OpenEnv`."""
        return self.env.action_space(self.env.default_params)

    @property
    def own_shape(self) -> tuple[int, ...] | None:
        """The shape of an observation before it is made flat. None if it is no array."""
        seen, _ = jax.eval_shape(self.env.reset_env, jax.random.key(0), self.default_params)
        return getattr(seen, "shape", None)

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, GymnaxState]:
        """See `BatchedEnv`."""
        obs, worlds = jax.vmap(self._begin, (0, None))(jax.random.split(key, self.num_envs), params)
        lanes = self.num_envs, 1
        return obs[:, None], GymnaxState(worlds, jnp.zeros(lanes, jnp.float32), jnp.zeros(lanes, jnp.int32))

    def step(self, key: jax.Array, state: GymnaxState, action: jax.Array, params: Any) -> tuple:
        """See `BatchedEnv`."""
        keys = jax.random.split(key, self.num_envs)
        stepped = jax.vmap(partial(self._step, params))(keys, state.worlds, action[:, 0])
        obs, worlds, reward, terminated, truncated, final_obs = stepped
        reward, terminated, truncated = reward[:, None], terminated[:, None], truncated[:, None]
        episode_return, episode_length = state.episode_return + reward, state.episode_length + 1
        info = {
            "final_obs": final_obs[:, None],
            "acted": jnp.ones_like(terminated),
            "episode_return": episode_return,
            "episode_length": episode_length,
        }
        ended = terminated | truncated
        state = GymnaxState(worlds, jnp.where(ended, 0.0, episode_return), jnp.where(ended, 0, episode_length))
        return obs[:, None], state, reward, terminated, truncated, info

    def _begin(self, key: jax.Array, params: Any) -> tuple[jax.Array, Any]:
        obs, world = self.env.reset_env(key, params)
        return _flat(obs), jax.tree.map(_strong, world)

    def _step(self, params: Any, key: jax.Array, world: Any, action: jax.Array) -> tuple:
        """Step one world, and reset it if its episode ends."""
        k_step, k_reset = jax.random.split(key)
        seen, stepped, reward, terminated, _ = self.env.step_env(k_step, world, self._own(action), params)
        truncated = self.env.is_truncated(stepped, params) & ~terminated
        final_obs, (obs, fresh) = _flat(seen), self._begin(k_reset, params)
        over = terminated | truncated
        next_world = jax.tree.map(lambda new, old: jnp.where(over, new, old).astype(new.dtype), fresh, stepped)
        results = jnp.where(over, obs, final_obs), next_world, jnp.asarray(reward, jnp.float32).reshape(())
        return *results, terminated, truncated, final_obs

    def _own(self, action: jax.Array) -> jax.Array:
        """Return an action as the environment takes it."""
        space = self.action_space
        if not hasattr(space, "low"):
            return action
        low, high = jnp.asarray(space.low, jnp.float32), jnp.asarray(space.high, jnp.float32)
        return low + (jnp.clip(action, -1.0, 1.0) + 1) / 2 * (high - low)


def _strong(x: Any) -> jax.Array:
    """Return an array whose type is its own, not that of a Python number."""
    return jnp.asarray(x, jnp.result_type(jnp.asarray(x)))


def _flat(obs: Any) -> jax.Array:
    return jnp.ravel(jnp.asarray(obs)).astype(jnp.float32)
