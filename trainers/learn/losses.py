"""Losses over arrays; a mask (...,) leaves idle lanes out of every mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """() mean of x where mask is set, 0 if nowhere."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1)


def masked_standardize(x: jax.Array, mask: jax.Array) -> jax.Array:
    """x with zero mean and unit variance over the mask, 0 elsewhere."""
    mean = masked_mean(x, mask)
    std = jnp.sqrt(masked_mean(jnp.square(x - mean), mask))
    return jnp.where(mask, (x - mean) / (std + 1e-8), 0.0)


def clipped_policy_loss(
    log_prob: jax.Array, old_log_prob: jax.Array, advantage: jax.Array, mask: jax.Array, clip: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """PPO's surrogate (Schulman et al. 2017, eq. 7), with `approx_kl` (Schulman 2020, k3) and `clip_fraction`."""
    log_ratio = log_prob - old_log_prob
    ratio = jnp.exp(log_ratio)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
    metrics = {
        "approx_kl": masked_mean(ratio - 1 - log_ratio, mask),
        "clip_fraction": masked_mean((jnp.abs(ratio - 1) > clip).astype(jnp.float32), mask),
    }
    return -masked_mean(surrogate, mask), metrics


def value_loss(value: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Half the mean squared error."""
    return 0.5 * masked_mean(jnp.square(value - target), mask)


def explained_variance(value: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """() 1 for a perfect critic, 0 for one no better than a constant."""
    residual = target - value
    spread = masked_mean(jnp.square(target - masked_mean(target, mask)), mask)
    unexplained = masked_mean(jnp.square(residual - masked_mean(residual, mask)), mask)
    return 1 - unexplained / jnp.maximum(spread, 1e-8)
