"""Advantage estimates over arrays."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def gae(
    reward: jax.Array, value: jax.Array, next_value: jax.Array, terminated: jax.Array, done: jax.Array,
    *, discount: float, lam: float,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Compute generalised advantage estimates (Schulman et al. 2016, eq. 16).

    All inputs are (T, ...). next_value is the value of the observation after the step, before any reset. `terminated`
    counts it as 0. `done` (terminated or truncated) ends the sum. Returns advantages and value targets, (T, ...).
    """
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value

    def backwards(later, step):
        delta, done = step
        advantage = delta + discount * lam * jnp.where(done, 0.0, later)
        return advantage, advantage

    _, advantage = jax.lax.scan(backwards, jnp.zeros_like(delta[0]), (delta, done), reverse=True)
    return advantage, advantage + value
