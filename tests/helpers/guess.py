"""The smallest functional environment."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from gymnasium import spaces


@dataclasses.dataclass(frozen=True)
class Guess:
    """One step: one of three alternatives is shown, and choosing it earns 1. `breaks` names what is wrong."""

    num_envs: int = 8
    breaks: str = ""
    action_space = spaces.Discrete(3)
    default_params = ()

    def reset(self, key: jax.Array, params: Any) -> tuple[jax.Array, jax.Array]:
        shown = jax.random.randint(key, (self.num_envs, 1), 0, 3)
        return self.look(shown), shown

    def look(self, shown: jax.Array) -> jax.Array:
        return jax.nn.one_hot(shown, 3, dtype=jnp.int32 if self.breaks == "obs" else jnp.float32)

    def step(self, key: jax.Array, shown: jax.Array, action: jax.Array, params: Any) -> tuple:
        reward = (action == shown).astype(jnp.float32)
        ended = jnp.ones_like(shown, bool)
        info = {
            "final_obs": self.look(shown),
            "acted": ended,
            "episode_return": reward,
            "episode_length": jnp.ones_like(shown),
        }
        obs, state = self.reset(key, params)
        if self.breaks == "reward":
            reward = reward[:, 0]
        if self.breaks == "state":
            state = state.astype(jnp.float32)
        if self.breaks == "final_obs":
            del info["final_obs"]
        if self.breaks == "results":
            return obs, state, reward, ended, info
        return obs, state, reward, ended, ~ended, info
