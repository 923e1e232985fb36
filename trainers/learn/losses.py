"""Losses over arrays. A mask (...,) leaves idle lanes out of every mean."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the mean of x where the mask is set, (), or 0 if it is set nowhere."""
    return jnp.sum(jnp.where(mask, x, 0.0)) / jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1)


def masked_standardize(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Scale x to zero mean and unit variance where the mask is set. Returns 0 elsewhere."""
    mean = masked_mean(x, mask)
    std = jnp.sqrt(masked_mean(jnp.square(x - mean), mask))
    return jnp.where(mask, (x - mean) / (std + 1e-8), 0.0)


def clipped_policy_loss(
    log_prob: jax.Array, old_log_prob: jax.Array, advantage: jax.Array, mask: jax.Array, clip: float
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Compute PPO's clipped loss (Schulman et al. 2017, eq. 7).

    Returns the loss, and the metrics `approx_kl` (Schulman 2020, k3) and `clip_fraction`.
    """
    log_ratio = log_prob - old_log_prob
    ratio = jnp.exp(log_ratio)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)
    metrics = {
        "approx_kl": masked_mean(ratio - 1 - log_ratio, mask),
        "clip_fraction": masked_mean((jnp.abs(ratio - 1) > clip).astype(jnp.float32), mask),
    }
    return -masked_mean(surrogate, mask), metrics


def value_loss(value: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Return half the mean squared error, ()."""
    return 0.5 * masked_mean(jnp.square(value - target), mask)


def explained_variance(value: jax.Array, target: jax.Array, mask: jax.Array) -> jax.Array:
    """Return the explained variance, (): 1 for a perfect critic, 0 for one that is no better than a constant."""
    residual = target - value
    spread = masked_mean(jnp.square(target - masked_mean(target, mask)), mask)
    unexplained = masked_mean(jnp.square(residual - masked_mean(residual, mask)), mask)
    return 1 - unexplained / jnp.maximum(spread, 1e-8)
