"""Collect experience from a batch of worlds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from trainers.envs.contract import NEEDED, OPTIONAL, BatchedEnv


class Transitions(struct.PyTreeNode):
    """T steps of E worlds with N lanes each."""

    obs: jax.Array  # (T, E, N, D)
    action: jax.Array  # (T, E, N, A), or (T, E, N) for one choice
    log_prob: jax.Array  # (T, E, N)
    reward: jax.Array  # (T, E, N)
    terminated: jax.Array  # (T, E, N) bool
    truncated: jax.Array  # (T, E, N) bool
    acted: jax.Array  # (T, E, N) bool, the lane's agent took part in this step
    final_value: jax.Array  # (T, E, N) value of the last observation where truncated, else 0
    info: dict[str, jax.Array]  # (T, E, N) each, by the names in `info` that learners report

    @property
    def done(self) -> jax.Array:
        """Whether an episode ended, (T, E, N) bool."""
        return self.terminated | self.truncated


REPORTED = *NEEDED[2:], *OPTIONAL  # of `info`


def collect(
    key: jax.Array, env: BatchedEnv, env_params: Any, env_state: Any, obs: jax.Array, num_steps: int,
    act: Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]], value: Callable[[jax.Array], jax.Array],
) -> tuple[Any, jax.Array, Transitions]:  # fmt: skip
    """Step the worlds `num_steps` times.

    act: maps a key and obs (E, N, D) to actions (E, N, ...) and their log probabilities (E, N). value: maps obs to values
    (E, N); used only for the last observations of truncated episodes. Returns the new state, its obs and the transitions.
    """

    def step(carry, key):
        env_state, obs = carry
        k_act, k_env = jax.random.split(key)
        action, log_prob = act(k_act, obs)
        next_obs, env_state, reward, terminated, truncated, info = env.step(k_env, env_state, action, env_params)
        final_value = jax.lax.cond(
            jnp.any(truncated),
            lambda final_obs: jnp.where(truncated, value(final_obs), 0.0),
            lambda final_obs: jnp.zeros_like(reward),
            info["final_obs"],
        )
        kept = {name: info[name] for name in (*REPORTED, "counted") if name in info}
        return (env_state, next_obs), Transitions(
            obs, action, log_prob, reward, terminated, truncated, info["acted"], final_value, kept
        )

    (env_state, obs), transitions = jax.lax.scan(step, (env_state, obs), jax.random.split(key, num_steps))
    return env_state, obs, transitions
